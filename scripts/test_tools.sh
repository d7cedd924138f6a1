#!/usr/bin/env bash
# Installs what some tests need beside Python: a Redis server, a browser, and `ip` for hosts of their own. Where it can't,
# it says so and fails, since those tests would be skipped in silence; SKIP_TEST_TOOLS=1 does without.
set -euo pipefail

declare -A package=([redis-server]=redis-server [chromium]=chromium [ip]=iproute2)
missing=()
for command in "${!package[@]}"; do type -P "$command" >/dev/null || missing+=("${package[$command]}"); done
[[ ${#missing[@]} -gt 0 ]] || exit 0

without() {
  echo "test-tools: ${missing[*]} $1; SKIP_TEST_TOOLS=1 skips the tests that need them" >&2
  [[ ${SKIP_TEST_TOOLS:-} == 1 ]] || exit 1
  exit 0
}

if [[ $(id -u) != 0 ]] || ! type -P apt-get >/dev/null; then
  without "not there, and not installed: that needs root and apt-get"
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y --no-install-recommends "${missing[@]}"; }
{ install || { apt-get update && install; }; } >/dev/null 2>&1 || without "could not be installed"

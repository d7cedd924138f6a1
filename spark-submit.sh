#!/usr/bin/env bash
# Submits a job: ./spark-submit.sh --help
set -euo pipefail
home=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
python=${DSSM_PYTHON:-$home/.venv/bin/python}
if [ ! -x "$python" ]; then
    echo "error: $python not found; run 'make setup' first" >&2
    exit 2
fi
if [ -x "$home/scripts/java_home.sh" ]; then
    JAVA_HOME=$("$home/scripts/java_home.sh" "$python")
    export JAVA_HOME
fi
export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m dssm.submit "$@"

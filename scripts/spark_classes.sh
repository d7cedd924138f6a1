#!/usr/bin/env bash
# Archives the classes that the driver of a Spark job loads, so that Java finds them parsed and verified: the next job
# takes about a quarter less time to begin. Without the archive, or with another Java than its own, jobs run as well.
#
#   scripts/spark_classes.sh [ENVIRONMENT]    .venv by default; leaves spark-classes.jsa there
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
env=${1:-$root/.venv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

rm -f "$env"/spark-classes.jsa*
java=$(scripts/java_home.sh "$env/bin/python")
demo=(--config conf/demo.yaml --set "data=$work/data")
"$env/bin/python" -m dssm.demo "${demo[@]}" --events 4000 --clients 200 --posts 100
JAVA_HOME=$java PYTHONPATH=$root MASTER='local[2]' \
  SPARK_SUBMIT_OPTS="-XX:ArchiveClassesAtExit=$work/classes.jsa -Xlog:disable" \
  "$env/bin/python" scripts/archived_job.py "data=$work/data" "root=$work/runs" "item_table.metastore=$work/metastore_db"
mv "$work/classes.jsa" "$env/spark-classes.jsa.new" # maybe from another file system
mv "$env/spark-classes.jsa.new" "$env/spark-classes.jsa"

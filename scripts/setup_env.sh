#!/usr/bin/env bash
# Makes a Python 3.11 environment of the lock files, or brings it up to date; leaves one that is alone, in 0.1 s.
#
#   scripts/setup_env.sh            .venv: everything but Airflow
#   scripts/setup_env.sh airflow    .venv-airflow: requirements/airflow.lock
#   scripts/setup_env.sh deepmatch  .venv-deepmatch: requirements/deepmatch.lock
#
# An environment is a stack of layers. Each leaves a stamp, a copy of what it was made from, so only a layer whose
# recipe changed is made again, and one that was interrupted is resumed.
#
# Reads: PYTHON (which Python 3.11), CC and CXX, HOROVOD_GPU_OPERATIONS (NCCL on a machine with GPUs; once
# built, it need not be given again) and pip's own settings.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
case ${1:-main} in
  main) name=.venv layers="build core horovod engines dev project classes" ;;
  airflow) name=.venv-airflow layers="build airflow" ;;
  deepmatch) name=.venv-deepmatch layers="build deepmatch" ;;
  *) echo "setup: no environment is named '$1'; known: main, airflow, deepmatch" >&2 && exit 2 ;;
esac
env=$root/$name
log=$env/setup.log
stamps=$env/stamps
unset PYTHONPATH PYTHONHOME # another Spark's packages would pass for installed ones

say() { echo "setup: $*" >&2; }
refuse() { say "$*" && exit 2; }

# What each layer is made from ----------------------------------------------------------------------------------

pins() { grep -hs '==' "$@" || true; }
names() { pins "$@" | sed 's/==.*//' | sort -u; }

gpu_operations() { # as given, else as built
  echo "${HOROVOD_GPU_OPERATIONS-$(grep -hs '^HOROVOD_GPU_OPERATIONS=' "$stamps"/horovod{,.before} | head -n 1 | cut -d= -f2)}"
}

java_of_jobs() { # what scripts/java_home.sh finds, without starting it: its path, and what it says of its release
  local java=${JAVA_HOME:+$JAVA_HOME/bin/java}
  if [[ -f $stamps/java ]]; then pins requirements/java.lock && return; fi
  [[ -x $java ]] || java=$(type -P java) || return 0
  java=$(readlink -f "$java")
  echo "$java $(cat "${java%/bin/java}/release" 2>/dev/null | cksum)"
}

recipe() {
  case $1 in
    horovod) pins requirements/horovod.lock && grep -h '^tensorflow==' requirements/core.lock \
      && echo "HOROVOD_GPU_OPERATIONS=$(gpu_operations)" ;;
    python) echo 3.11 ;;
    project) cat setup.py ;;
    classes) echo "$(grep -hs '^pyspark==' requirements/core.lock) of $(java_of_jobs), $(cksum <scripts/spark_classes.sh) $(cksum <scripts/archived_job.py)" ;;
    *) pins "requirements/$1.lock" ;;
  esac
}

is_current() { [[ -f $stamps/$1 && $(recipe "$1") == "$(<"$stamps/$1")" ]]; }

# False as well for an environment that was copied or moved: its scripts start the other one's Python.
has_python() {
  [[ -x $env/bin/python && -f $env/bin/pip && -f $env/pyvenv.cfg && $(<"$env/pyvenv.cfg") == *"version = 3.11."* ]] \
    && head -n 3 "$env/bin/pip" | grep -qF "$env/bin/"
}

outdated() {
  local layer
  has_python || { echo "python $layers" && return; }
  for layer in $layers; do is_current "$layer" || echo "$layer"; done
}

# What must be there before anything is downloaded --------------------------------------------------------------

is_python_311() { [[ $("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == 3.11 ]]; }

find_python() { # prints the path of a Python 3.11 outside any virtual environment
  local candidate
  while read -r candidate; do
    if is_python_311 "$candidate"; then
      "$candidate" -c 'import sys; print(sys._base_executable)' && return
    fi
  done < <(if [[ -n ${PYTHON:-} ]]; then type -P "$PYTHON"; else type -aP python3.11 python3 python; fi)
  return 1
}

require_python() {
  [[ $(uname -sm) == "Linux x86_64" ]] || refuse "the locked packages are for Linux on x86_64, but this is $(uname -sm)."
  if ! python=$(find_python); then
    local found=${PYTHON:-python3}
    refuse "Python 3.11 is needed, but $found is $("$found" --version 2>/dev/null || echo 'not there'):" \
      "install python3.11 and python3.11-venv, or name one: make PYTHON=/path/to/python3.11."
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null \
    || refuse "$python cannot make virtual environments (no ensurepip): install python3.11-venv."
}

first_of() { # prints the first of the commands that exists
  local command
  for command; do type -P "$command" && return; done
  return 1
}

require_compiler() {
  local cc cxx
  if ! { cxx=${CXX:-$(first_of c++ g++ clang++)} && cc=${CC:-$(first_of cc gcc clang)} && first_of make gmake >/dev/null; }; then
    refuse "Horovod is built here and needs a C++ compiler and make: install g++ and make."
  fi
  $cxx -std=c++17 -x c++ -fsyntax-only - <<<'#include <string>' 2>/dev/null \
    || refuse "Horovod is built here and needs C++17, which $cxx does not compile: install g++ 9 or newer."
  $cc -x c -fsyntax-only - <<<'#include <stdlib.h>' 2>/dev/null \
    || refuse "Horovod is built here and needs C, which $cc does not compile: install gcc and libc6-dev."
}

require_headers() {
  local of=${python:-$env/bin/python} headers
  headers=$("$of" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [[ -f $headers/Python.h ]] \
    || refuse "Annoy is compiled here and needs Python's headers, but there is no $headers/Python.h: install python3.11-dev."
}

require() {
  [[ $1 != *python* ]] || require_python
  [[ $1 != *horovod* ]] || require_compiler
  [[ $1 != *engines* ]] || require_headers
}

# How each layer is made ----------------------------------------------------------------------------------------

pip() { "$env/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

install_locked() { pip install --no-deps --no-build-isolation "$@"; } # sources are built by the locked setuptools

make_python() {
  find "$env" -mindepth 1 -maxdepth 1 ! -name 'setup.*' -exec rm -rf {} + && "$python" -m venv "$env"
}

# pip keeps the wheels that it builds, whatever TensorFlow they were built against: hence no cache.
build_horovod() {
  PATH=$env/bin:$PATH MAKEFLAGS=-j$(nproc) CMAKE_TOOLCHAIN_FILE=$root/scripts/horovod.cmake \
    HOROVOD_GPU_OPERATIONS=$(gpu_operations) \
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
    HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
    install_locked --no-cache-dir --no-binary horovod --force-reinstall -r requirements/horovod.lock \
    && TF_CPP_MIN_LOG_LEVEL=3 "$env/bin/python" -c 'import horovod.tensorflow as hvd
if not hvd.gloo_built(): raise SystemExit("Horovod was built without Gloo")'
}

# Uninstalls what the layer's last lock held and no lock holds now.
drop_orphans() {
  local orphans layer
  orphans=$(comm -13 <(for layer in $layers; do names "requirements/$layer.lock"; done | sort) <(names "$stamps/$1.before"))
  [[ -z $orphans ]] || xargs "$env/bin/python" -m pip uninstall --yes <<<"$orphans"
}

make_layer() { # make_layer LAYER LAST: the last layer of a run also checks that everything fits
  case $1 in
    python) make_python ;;
    horovod) build_horovod ;;
    project) install_locked --editable . ;;
    classes) timeout --foreground -k 10 600 scripts/spark_classes.sh "$env" || printf 'left out, jobs run as well (why: %s/setup.log) … ' "$name" >&8 ;;
    *) drop_orphans "$1" && install_locked -r "requirements/$1.lock" ;;
  esac && { [[ $1 != "$2" ]] || pip check; }
}

title() {
  case $1 in
    python) echo "$name with $("$python" --version)" ;;
    build) echo "pip, setuptools, CMake" ;;
    core) echo "TensorFlow, Spark, Petastorm" ;;
    horovod) echo "Horovod, built against TensorFlow (two minutes on two cores)" ;;
    engines) echo "faiss, Annoy, Milvus, Redis, FastAPI, MLflow" ;;
    dev) echo "pytest, ruff, mypy" ;;
    java) echo "Java 17, as a wheel (the system has none)" ;;
    airflow) echo "Airflow" ;;
    deepmatch) echo "DeepMatch" ;;
    project) echo "dssm itself" ;;
    classes) echo "Spark's classes, archived by a small job, for jobs to begin sooner" ;;
  esac
}

# step LAYER COMMAND…: runs the command into the log; prints how long it took, or the log's errors and its end.
step() {
  local layer=$1 began=$SECONDS from
  shift
  printf 'setup: %s … ' "$(title "$layer")" >&2
  from=$(($(wc -l <"$log") + 1))
  if ! "$@" >>"$log" 2>&1; then
    echo "failed" >&2
    tail -n "+$from" "$log" | grep -m 5 -E '(error|Error): |Error [0-9]' >&2 || true
    echo "  …" >&2
    tail -n "+$from" "$log" | tail -n 12 >&2
    say "these lines are from $name/setup.log; the next run goes on from here." && exit 1
  fi
  echo "$((SECONDS - began)) s" >&2
}

# ---------------------------------------------------------------------------------------------------------------

if [[ $name == .venv ]] && { [[ -f $stamps/java ]] || ! scripts/java_home.sh --system >/dev/null; }; then
  layers="${layers/ project/ java project}"
fi
todo=$(outdated)
[[ -n $todo ]] || exit 0
require "$todo"

exec 8>&2 # steps write to the log
trap 'echo >&8; say "interrupted; the next run goes on from here." 2>&8; exit 130' INT TERM
mkdir -p "$env"
exec 9>"$env/setup.lock"
flock --nonblock 9 || { say "another run is setting up $name; waiting for it." && flock 9; }
todo=$(outdated)
[[ -n $todo ]] || exit 0
if [[ $todo != python* ]] && ! pip --version >/dev/null 2>&1; then todo="python $layers"; fi
require "$todo"

: >"$log"
[[ $todo == python* ]] || "$env/bin/python" scripts/drop_incomplete.py >>"$log"
mkdir -p "$stamps"
for layer in $todo; do
  [[ ! -f $stamps/$layer ]] || mv "$stamps/$layer" "$stamps/$layer.before"
  step "$layer" make_layer "$layer" "${todo##*[[:space:]]}"
  mkdir -p "$stamps"
  recipe "$layer" >"$stamps/$layer.new" && mv "$stamps/$layer.new" "$stamps/$layer" && rm -f "$stamps/$layer.before"
done

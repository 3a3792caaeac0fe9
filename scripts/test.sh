#!/usr/bin/env bash
# usage: scripts/test.sh [--fast|--native] [pytest arguments]
#
# Sets up .venv if need be, checks lint, format and types, and runs all tests in two processes.
#   --fast            only the tests without a mark (slow: whole trainings and programs; gpu), for
#                     while you write: under two minutes on two quiet cores
#   --native          the engine in C and the C kernels only, also for ARM in an emulator, for
#                     WebAssembly and in Chromium; as root where there is apt-get it installs what
#                     that needs, else it says what is missing, and those tests are skipped
#   pytest arguments  choose tests (tests/data -k audio) or the number of processes (-n 0: this
#                     one, for --pdb)
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
marks=()
if [ "${1-}" = --fast ]; then marks=(-m "not slow and not gpu"); shift; fi
if [ "${1-}" = --native ]; then
  shift
  set -- tests/native tests/kernels/cpu "$@"
  for tool in make:make cc:gcc aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64:qemu-user \
    node:nodejs emcc:emscripten chromium:chromium; do
    command -v "${tool%%:*}" > /dev/null || missing="${missing-} ${tool#*:}"
  done
  case "${missing-}" in *aarch64*) missing="$missing libc6-dev-arm64-cross" ;; esac
  if [ -n "${missing-}" ]; then
    install="apt-get install -q -y --no-install-recommends$missing"
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
      apt-get update -q && $install || echo "test.sh: not installed:$missing" >&2
    else
      echo "test.sh: not here:$missing; their tests will be skipped; as root: $install" >&2
    fi
  fi
  native=1
fi
scripts/setup.sh
if [ -n "${native-}" ]; then
  set -- -rs "$@" # which are skipped, and why
fi
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --quiet --check .
.venv/bin/mypy
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
# A file stays in one process: its tests share fixtures.  In order, the many short files of the last
# folders fill up what the long ones leave.
exec .venv/bin/python -m pytest -q --durations=15 -p no:cacheprovider \
  -n 2 --dist loadfile --no-loadscope-reorder "${marks[@]}" "$@"

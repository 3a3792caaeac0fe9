#!/usr/bin/env bash
# usage: scripts/test.sh [pytest arguments]
#
# Sets up .venv if need be and runs all tests in two processes; arguments choose some (e.g.
# tests/data -k audio) or the number of processes (-n 0: this one, for --pdb).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
# A file stays in one process: its tests share fixtures.  In order, the many short files of the last
# folders fill up what the long ones leave.
exec .venv/bin/python -m pytest -q --durations=15 -p no:cacheprovider \
  -n 2 --dist loadfile --no-loadscope-reorder "$@"

#!/usr/bin/env bash
# usage: scripts/test.sh [pytest arguments]
#
# Sets up .venv if need be and runs all tests; arguments choose some (e.g. tests/data -k audio).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
exec .venv/bin/python -m pytest -q --durations=15 -p no:cacheprovider "$@"

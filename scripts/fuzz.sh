#!/usr/bin/env bash
# usage: scripts/fuzz.sh [--minutes N] [--reader NAME] [--seed S] [--list] [--help]
#
# Gives damaged files to every reader (tests/fuzz) in an environment of scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
case ${1-} in -h|--help) [ -x "$python" ] || python=python3 ;; esac  # help needs no environment
[ -x "$python" ] || { scripts/setup.sh; python=.venv/bin/python; }
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
exec nice -n 10 "$python" -m tests.fuzz "$@"

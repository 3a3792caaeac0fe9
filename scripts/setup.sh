#!/usr/bin/env bash
# usage: scripts/setup.sh [--python PYTHON] [--wheels FOLDER]
#
# Makes .venv in the project's root with everything pinned in scripts/pins.txt, and the project
# itself.  A second run takes seconds.  Needs Python 3.11 to 3.13 with its headers and a C++
# compiler; no root.
#   --python PYTHON   interpreter to use (default: that of an earlier .venv, else the first of
#                     python3, python3.12, python3.11, python3.13 that fits)
#   --wheels FOLDER   install from packages in FOLDER only, for a machine without a network; filled
#                     on one of the same kind (system, Python) that has been set up with a network,
#                     by .venv/bin/python -m pip download --no-build-isolation
#                     -r scripts/pins.txt -d FOLDER
#                     which brings along what the pinned ones need (torch for GPUs: NVIDIA's)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv
pins=$root/scripts/pins.txt
python= wheels=

fail() { printf 'setup: error: %s\n' "$*" >&2; exit 2; }
say() { printf 'setup: %s\n' "$*" >&2; }

while [ $# -gt 0 ]; do
  case $1 in
    --python) [ $# -ge 2 ] || fail "--python needs an interpreter"; python=$2; shift 2 ;;
    --wheels) [ $# -ge 2 ] || fail "--wheels needs a folder"; wheels=$2; shift 2 ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) fail "unknown option $1 (see --help)" ;;
  esac
done

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

if [ -n "$python" ]; then
  command -v "$python" >/dev/null || fail "$python: no such interpreter"
  fits "$python" || fail "$python is $("$python" -V 2>&1); Python 3.11, 3.12 or 3.13 is needed"
elif [ -x "$venv/bin/python" ] && fits "$venv/bin/python"; then
  python=$venv/bin/python
else
  for candidate in python3 python3.12 python3.11 python3.13; do
    if command -v "$candidate" >/dev/null && fits "$candidate"; then python=$candidate; break; fi
  done
  [ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found (python3 is $(python3 -V 2>&1 || echo missing)); \
install one, or name it with --python"
fi
if [ -n "$wheels" ]; then
  [ -d "$wheels" ] || fail "--wheels $wheels: no such folder"
  wheels=$(cd "$wheels" && pwd)
  missing=$("$python" - "$pins" "$wheels" <<'END'
import pathlib, re, sys

def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()

pins = [line.strip() for line in open(sys.argv[1]) if "==" in line and line[0] != "#"]
# A local version ("+cpu") fits a pin without one.
files = [
    normal(re.sub(r"(\+|%2B)[\w.]+", "", file.name))
    for file in pathlib.Path(sys.argv[2]).iterdir()
    if file.name.endswith((".whl", ".tar.gz", ".zip"))
]
for pin in pins:
    start = normal(pin.replace("==", "-"))
    if not any(re.match(re.escape(start) + "-(?:.*-whl|tar-gz|zip)$", file) for file in files):
        print(pin, end=" ")
END
)
  [ -z "$missing" ] || fail "--wheels $wheels: no file for these versions of scripts/pins.txt: \
${missing% }; fill it on a machine with a network (--help says how)"
fi

# What the environment depends on: if this is unchanged there is nothing to do.
kernels=$root/cress_svcd/kernels/cpu
state="$("$python" -V) $(cat "$pins" "$root"/{setup.py,pyproject.toml,scripts/setup.sh} \
  "$kernels"/build.py "$kernels"/csrc/* | cksum) $root"
if [ -f "$venv/.setup" ] && [ "$(cat "$venv/.setup")" = "$state" ] && [ -x "$venv/bin/cress-svcd" ]
then
  say "$venv is up to date"
  exit 0
fi

# fairseq and our kernels are compiled: say so before gigabytes are downloaded.
compiler=${CXX:-c++}
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
printf '#include <Python.h>\n#include <vector>\nint main() { return 0; }\n' >"$probe/probe.cpp"
command -v "$compiler" >/dev/null || fail "no C++ compiler ($compiler): fairseq is built from source; \
install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or set CXX"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
"$compiler" -I"$include" -c "$probe/probe.cpp" -o "$probe/probe.o" 2>"$probe/log" || fail "$compiler cannot \
compile against Python ($(head -n 1 "$probe/log")); install the headers of $("$python" -V) (Debian, Ubuntu: \
apt install python3-dev)"

if [ ! -x "$venv/bin/python" ] || ! fits "$venv/bin/python" ||
   [ "$("$venv/bin/python" -V)" != "$("$python" -V)" ]; then
  say "making $venv with $("$python" -V)"
  "$python" -m venv --clear "$venv" || fail "'$python -m venv' failed (Debian, Ubuntu: apt install python3-venv)"
fi
rm -f "$venv/.setup"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
[ -z "$wheels" ] || pip+=(--no-index --find-links "$wheels")

say "installing torch and what builds fairseq (versions: scripts/pins.txt)"
"${pip[@]}" --constraint "$pins" torch numpy cython setuptools wheel pdm-backend
say "building fairseq and installing the rest; this takes a few minutes the first time"
# Without build isolation: in isolation pip would download a second torch.  The C++ parts that only
# non-autoregressive models use need little optimisation.
CFLAGS="-O1 -g0 ${CFLAGS:-}" "${pip[@]}" --no-build-isolation --requirement "$pins"
say "installing cress_svcd"
rm -f "$kernels"/*.so
# Without --use-pep517 older versions of pip call 'setup.py develop', which calls pip again without
# these options: it would look for setuptools on the network.
"${pip[@]}" --no-build-isolation --use-pep517 --no-deps --editable "$root"
ls "$kernels"/*.so >/dev/null 2>&1 || say "NOTICE: the C kernels could not be compiled; packed models \
will run on torch alone ('$venv/bin/python -m cress_svcd.kernels.cpu.build' says why)"
# fairseq looks for '--user-dir cress_svcd' next to itself, from any working directory.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
ln -sfn "$root/cress_svcd" "$site/cress_svcd"
"$venv/bin/cress-svcd" --help >/dev/null
printf '%s' "$state" >"$venv/.setup"
say "done: $venv (activate it with '. .venv/bin/activate')"

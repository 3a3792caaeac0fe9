"""Compile the C kernels; run by setup.py, and by hand after a change of compiler or sources.

    python -m cress_svcd.kernels.cpu.build

Uses the compiler that CC names, or ``cc``; CFLAGS are appended.  Nothing but the standard library
is imported here, since setup.py runs this file by its path.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "csrc"
LIBRARY = "libcress_kernels.so"
FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # a fused multiply-add would round differently from training
)


class BuildError(Exception):
    """There is no compiler, or it failed."""


def source_digest() -> str:
    """Names the sources on disk, to tell a library that was built from others."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def compiler() -> list[str]:
    """The command that compiles C.

    Raises:
        BuildError: it is not installed.
    """
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise BuildError(f"no C compiler ({command[0]}); install one, or name it in CC")
    return command


def build(folder: Path = HERE) -> Path:
    """Compile all sources to ``folder``/LIBRARY, replacing an older one at once.

    Raises:
        BuildError: no compiler, or it failed; holds the end of what it said.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        made = Path(scratch) / LIBRARY
        command = [
            *compiler(),
            *FLAGS,
            f'-DSOURCE_DIGEST="{source_digest()}"',
            *shlex.split(os.environ.get("CFLAGS", "")),
            *(str(path) for path in sorted(SOURCES.glob("*.c"))),
            "-o",
            str(made),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"{shlex.join(command[:1])} failed:\n{result.stderr[-2000:]}")
        os.replace(made, folder / LIBRARY)  # running processes keep the old file
    return folder / LIBRARY


def main() -> int:
    try:
        path = build()
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stderr.write(f"built {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

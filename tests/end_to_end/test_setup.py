"""The script that sets up the environment, as far as it must end before it makes anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = re.findall(r"^(\S+)==(\S+)$", (ROOT / "scripts" / "pins.txt").read_text(), re.MULTILINE)


@pytest.fixture
def project(tmp_path) -> Path:
    """What the script reads, in a folder that has not been set up."""
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    for file in ("scripts/setup.sh", "scripts/pins.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    kernels = root / "cress_svcd" / "kernels" / "cpu"
    shutil.copytree(ROOT / "cress_svcd" / "kernels" / "cpu" / "csrc", kernels / "csrc")
    shutil.copy(ROOT / "cress_svcd" / "kernels" / "cpu" / "build.py", kernels)
    return root


@pytest.fixture
def refused(project):
    """Runs the script, which must fail and leave everything as it was; returns its message."""

    def run(*options, **environment) -> str:
        before = sorted(project.rglob("*"))
        result = subprocess.run(
            ["bash", project / "scripts" / "setup.sh", *map(str, options)],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert result.returncode == 2 and not result.stdout
        assert sorted(project.rglob("*")) == before
        (message,) = result.stderr.splitlines()
        assert message.startswith("setup: error: ")
        return message

    return run


def fill(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def wheels() -> list[str]:
    """A file name for each pin, as indices spell them."""
    files = [
        f"{name.replace('-', '_')}-{version}-cp311-cp311-manylinux_2_28_x86_64.whl"
        for name, version in PINS
        if name not in ("torch", "fairseq-fixed", "antlr4-python3-runtime")
    ]
    versions = dict(PINS)
    return [
        *files,
        f"torch-{versions['torch']}+cpu-cp311-cp311-linux_x86_64.whl",
        f"fairseq-fixed-{versions['fairseq-fixed']}.tar.gz",
        f"antlr4-python3-runtime-{versions['antlr4-python3-runtime']}.zip",
    ]


def test_of_another_python(refused, tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" != -V ] || echo Python 3.9.1\n[ "$1" = -V ]\n')
    old.chmod(0o755)
    assert "is Python 3.9.1; Python 3.11, 3.12 or 3.13 is needed" in refused("--python", old)


def test_of_a_python_that_is_not_there(refused):
    assert "/nonexistent: no such interpreter" in refused("--python", "/nonexistent")


def test_without_a_compiler(refused):
    said = refused("--python", sys.executable, CXX="/nonexistent")
    assert "no C++ compiler (/nonexistent)" in said and "set CXX" in said


@pytest.mark.parametrize("option", ["--python", "--wheels"])
def test_without_a_value(refused, option):
    assert f"{option} needs" in refused(option)


class TestWheels:
    def test_of_a_folder_that_is_not_there(self, refused):
        said = refused("--python", sys.executable, "--wheels", "/nonexistent")
        assert "--wheels /nonexistent: no such folder" in said

    def test_what_is_missing_is_listed(self, refused, tmp_path):
        names = [name for name in wheels() if not name.startswith(("numpy-", "fairseq", "torch-"))]
        # Neither another package nor another version will do.
        names += ["torch-2.1.0-cp311-cp311-linux_x86_64.whl", "numpy_financial-1-py3-none-any.whl"]
        folder = fill(tmp_path / "wheels", names)
        absent = [pin for pin in PINS if pin[0] in ("torch", "numpy", "fairseq-fixed")]
        missing = " ".join("==".join(pin) for pin in absent)
        said = refused("--python", sys.executable, "--wheels", folder)
        assert f"no file for these versions of scripts/pins.txt: {missing};" in said

    def test_a_full_one_passes(self, refused, tmp_path):
        folder = fill(tmp_path / "wheels", wheels())
        # What is looked at next.
        options = ["--python", sys.executable, "--wheels", folder]
        assert "no C++ compiler" in refused(*options, CXX="/nonexistent")


def test_the_default_interpreters_are_those_of_the_help():
    text = (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    (tried,) = re.findall(r"for candidate in (.*); do", text)
    assert f"first of\n#                     {', '.join(tried.split())} that fits" in text

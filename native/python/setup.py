"""Compiles the engine into the wheel; all else is in pyproject.toml.

The sources are those of native/ and of the package's C kernels; a source distribution takes them
along.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
OWN = HERE / "engine"  # of a source distribution
ROOT = OWN if OWN.is_dir() else HERE.parents[1]
SOURCES = ("native/Makefile", "native/include", "native/src", "cress_svcd/kernels/cpu/csrc")
LIBRARY = "libcress.so"


class BuildEngine(build_ext):
    """A plain shared library, which knows nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], LIBRARY))

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            made = f"{folder}/{LIBRARY}"
            command = ["make", "-s", "-C", str(ROOT / "native"), f"BUILD={folder}", "LDFLAGS=-s"]
            try:
                subprocess.run([*command, made], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise SystemExit(
                    f"error: the engine cannot be compiled ({error}); make and a C compiler "
                    "are needed"
                ) from None
            shutil.copy(made, target)


class Wheel(bdist_wheel):
    """Of any Python 3, for this kind of machine."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Source(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for name in SOURCES:
            target = Path(base_dir) / "engine" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target)
            else:
                shutil.copy(ROOT / name, target)


with tempfile.TemporaryDirectory() as scratch:  # an earlier build's may hold modules that are gone
    setup(
        ext_modules=[Extension("cress_runtime.libcress", sources=[])],
        cmdclass={"build_ext": BuildEngine, "bdist_wheel": Wheel, "sdist": Source},
        options={"build": {"build_base": scratch}},
    )

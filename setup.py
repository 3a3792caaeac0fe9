"""What a build makes beyond copying the package: the C kernels, and the files that it ships.

All else is in pyproject.toml.
"""

import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
KERNELS = "cress_svcd/kernels/cpu"
BUILD = runpy.run_path(str(ROOT / KERNELS / "build.py"))
SHIPPED = runpy.run_path(str(ROOT / "cress_svcd" / "shipped.py"))


class BuildKernels(build_ext):
    """Compile the C kernels, a plain shared library; go on without them where that fails."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{KERNELS}/{BUILD['LIBRARY']}"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.build_lib) / KERNELS
        try:
            BUILD["build"](target)
        except BUILD["BuildError"] as error:
            sys.stderr.write(
                f"NOTICE: cress_svcd is installed without its C kernels: {error}\n"
                "NOTICE: packed models then run on torch's integer product, slower and with eight "
                "times the memory; later: python -m cress_svcd.kernels.cpu.build\n"
            )


class BuildPackage(build_py):
    """Take policies, training configurations, recipes and the demo's text into the package
    (``cress_svcd.shipped``)."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()  # a checkout has them next to the package
            return
        package = Path(self.build_lib) / "cress_svcd"
        # Of an earlier build from this folder: it may hold modules that are gone.
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for kind, folder in SHIPPED["FOLDERS"].items():
            pattern = shutil.ignore_patterns("*.md", "__pycache__")
            shutil.copytree(ROOT / folder, package / "shipped_files" / kind, ignore=pattern)


setup(
    ext_modules=[Extension("cress_svcd.kernels.cpu.libcress_kernels", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPackage},
)

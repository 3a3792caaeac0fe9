"""Packaging of cress_svcd.  ``scripts/setup.sh`` makes a working environment with pinned
versions."""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

KERNELS = "cress_svcd/kernels/cpu"
BUILD = runpy.run_path(str(Path(__file__).with_name("cress_svcd") / "kernels" / "cpu" / "build.py"))


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


setup(
    name="cress_svcd",
    version="0.1.0",
    description="1-bit speech translation (SVCD) as a fairseq plug-in",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["cress_svcd", "cress_svcd.*"]),
    package_data={"cress_svcd": ["**/*.yaml", "**/*.c", "**/*.h"]},
    install_requires=[
        "torch>=2.6",
        "torchaudio>=2.6",  # fairseq asks for it; nothing of ours needs it
        "fairseq-fixed>=0.12.3.1,<0.13",
        "numpy>=1.26",
        "pandas>=2.0",
        "sacrebleu>=2.3",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "sentencepiece>=0.2",
        "protobuf>=4",  # for the format of sentencepiece's models
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "espeakng-loader>=0.2.4",
        "kaldi-native-fbank>=1.23",
        "matplotlib>=3.8",
        "editdistance>=0.8",
        "pyyaml>=6.0",
        "tensorboard>=2.14",
        "tqdm>=4.65",
    ],
    ext_modules=[Extension("cress_svcd.kernels.cpu.libcress_kernels", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels},
    extras_require={"test": ["pytest>=8", "pytest-timeout", "pytest-xdist>=3.7", "hypothesis>=6"]},
    entry_points={"console_scripts": ["cress-svcd = cress_svcd.cli.main:main"]},
    zip_safe=False,
)

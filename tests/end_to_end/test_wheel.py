"""The project as people install it: a wheel in an environment of its own, used without the sources.

Torch, fairseq and the rest come from this environment: the new one has links to them.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cress_svcd import kernels
from cress_svcd.cli.main import COMMANDS
from cress_svcd.shipped import FOLDERS, shipped_files

ROOT = Path(__file__).parents[2]
PACKED = ROOT / "tests" / "golden" / "packed.pt.gz"


def run(*command, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, **options
    )
    assert result.returncode == 0, f"{command}: {result.stdout[-1000:]}{result.stderr[-3000:]}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what the project's folder has of it, as pip builds it."""
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("cress_svcd", *FOLDERS.values()):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    run(*pip, "--no-build-isolation", "--no-index", "-w", folder, sources)
    (file,) = folder.glob("*.whl")
    return file


def test_sources_as_a_package_index_keeps_them_make_the_same_wheel(wheel, tmp_path):
    """From a source distribution, as setuptools packs it."""
    sources = tmp_path / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", ".*", "demo", "runs", "build")
    shutil.copytree(ROOT, sources, ignore=ignored)
    code = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", code, tmp_path, cwd=sources)
    (archive,) = tmp_path.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    run(*pip, "--no-build-isolation", "--no-index", "-w", tmp_path, archive)
    (again,) = tmp_path.glob("*.whl")
    names = [set(zipfile.ZipFile(file).namelist()) for file in (wheel, again)]
    assert names[0] == names[1]


class Environment:
    """A virtual environment with the wheel and, next to it, an empty folder to work in."""

    def __init__(self, root: Path, wheel: Path):
        venv.create(root, with_pip=False, symlinks=True)
        self.python, self.empty = root / "bin" / "python", root / "empty"
        self.empty.mkdir()
        paths = {"base": str(root), "platbase": str(root)}
        self.packages = Path(sysconfig.get_path("purelib", vars=paths))
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if entry.name == "fairseq":  # looks for --user-dir next to itself: it must stand here
                shutil.copytree(entry, self.packages / entry.name)
            elif "cress_svcd" not in entry.name and not (self.packages / entry.name).exists():
                (self.packages / entry.name).symlink_to(entry)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)
        run(*pip, "install", "--no-deps", "--no-index", wheel)

    def __call__(self, *command) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        result = run(self.python.parent / command[0], *command[1:], cwd=self.empty, env=environment)
        return result.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("installed"), wheel)


def test_it_holds_policies_configurations_and_recipes_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for kind in FOLDERS:
        start = f"cress_svcd/shipped_files/{kind}/"
        found = {Path(name).stem for name in names if name.startswith(start)}
        assert shipped_files(kind).keys() <= found
    assert "cress_svcd/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cress_svcd"}


def test_the_package_and_its_kernels_are_those_of_the_wheel(installed):
    code = (
        "import cress_svcd; from cress_svcd import kernels;"
        "print(cress_svcd.__file__, *kernels.backends())"
    )
    file, *backends = installed("python", "-c", code).split()
    assert Path(file).is_relative_to(installed.packages)
    assert backends == list(kernels.backends())


def test_a_policy_is_found_by_its_name(installed):
    code = (
        "from cress_svcd.quantization.presets import find_policy;"
        "print(find_policy('cross_attention'))"
    )
    assert "encoder_attn" in installed("python", "-c", code)


def test_fairseq_finds_the_plug_in(installed):
    options = "--user-dir cress_svcd --task speech_and_text_translation --arch quant_transformer"
    code = (
        "import sys; from fairseq import options\n"
        "args = options.parse_args_and_arch(options.get_training_parser(), sys.argv[1:])\n"
        "print(args.arch, sys.modules['cress_svcd'].__file__)"
    )
    words = installed("python", "-c", code, "data", *options.split()).split()
    assert words[0] == "quant_transformer" and Path(words[1]).is_relative_to(installed.packages)


def test_every_command_explains_itself(installed):
    code = (
        "from cress_svcd.cli.main import *\n"
        "for name in COMMANDS: print(build_command_parser(name).format_help())"
    )
    text = installed("python", "-c", code)
    assert all(f"usage: cress-svcd {name}" in text for name in COMMANDS)
    listed = installed("cress-svcd", "--help")
    assert all(name in listed for name in COMMANDS)


def test_a_recipe_is_found_by_its_name(installed):
    assert "mustc = " in installed("cress-svcd", "recipe", "en-de", "--list")


def test_a_recording_is_translated_by_a_packed_file(installed, tmp_path):
    (tmp_path / "packed.pt").write_bytes(gzip.decompress(PACKED.read_bytes()))
    noise = np.random.default_rng(1).normal(0, 0.1, 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    options = ("--output-format", "jsonl", "--no-segmentation")
    text = installed(
        "cress-svcd", "translate", tmp_path / "packed.pt", tmp_path / "noise.wav", *options
    )
    assert json.loads(text)["end"] == 1

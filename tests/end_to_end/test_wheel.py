"""The project as people install it: a wheel in an environment of its own, used without the sources.

Torch, fairseq and the rest come from this environment: the new one has links to them.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from cress_svcd import kernels
from cress_svcd.cli.main import COMMANDS
from cress_svcd.inference.packed_checkpoint import read_packed
from cress_svcd.shipped import FOLDERS, shipped_files
from tests.helpers.dry_run import printed_commands

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BUILD = (*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index")
SEARCH = ("--beam", "3", "--max-len-b", "20")  # of the stored translations


def run(*command, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, **options
    )
    assert result.returncode == 0, f"{command}: {result.stdout[-1000:]}{result.stderr[-3000:]}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what the project's folder has of it, as pip builds it.

    There was a build before, of a package with one module more.
    """
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("cress_svcd", *FOLDERS.values()):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    platform = f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    before = sources / "build" / platform / "cress_svcd"
    before.mkdir(parents=True)
    (before / "gone.py").touch()
    run(*BUILD, "-w", folder, sources)
    assert (before / "shipped.py").is_file()  # it was built there again
    (file,) = folder.glob("*.whl")
    return file


def test_sources_as_a_package_index_keeps_them_make_the_same_wheel(wheel, tmp_path):
    """From a source distribution, as setuptools packs it."""
    sources = tmp_path / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", ".*", "runs", "build")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {*ignored(folder, names), *({"demo"} if folder == str(ROOT) else ())}

    shutil.copytree(ROOT, sources, ignore=left_out)
    code = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", code, tmp_path, cwd=sources)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        files = file.getnames()
    folders = {name.split("/")[1] for name in files if name.count("/") > 1}
    assert not [name for name in files if name.endswith((".pt", ".flac"))]  # scripts/examples
    assert folders == {"cress_svcd", "cress_svcd.egg-info", "configs", "scripts"}
    run(*BUILD, "-w", tmp_path, archive)
    (again,) = tmp_path.glob("*.whl")
    names = [set(zipfile.ZipFile(file).namelist()) for file in (wheel, again)]
    assert names[0] == names[1]


def test_it_holds_policies_configurations_and_recipes_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for kind in FOLDERS:
        start = f"cress_svcd/shipped_files/{kind}/"
        found = {Path(name).stem for name in names if name.startswith(start)}
        assert shipped_files(kind).keys() <= found
    assert "cress_svcd/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cress_svcd"}


def test_it_holds_no_module_of_an_earlier_build(wheel):
    assert "cress_svcd/gone.py" not in zipfile.ZipFile(wheel).namelist()


class Environment:
    """A virtual environment with the wheel and, next to it, a folder to work in."""

    def __init__(self, root: Path, wheel: Path):
        venv.create(root, with_pip=False, symlinks=True)
        self.python, self.folder = root / "bin" / "python", root / "work"
        self.folder.mkdir()
        paths = {"base": str(root), "platbase": str(root)}
        self.packages = Path(sysconfig.get_path("purelib", vars=paths))
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if entry.name == "fairseq":  # looks for --user-dir next to itself: it must stand here
                shutil.copytree(entry, self.packages / entry.name)
            elif "cress_svcd" not in entry.name and not (self.packages / entry.name).exists():
                (self.packages / entry.name).symlink_to(entry)
        for program in distribution("fairseq-fixed").entry_points:  # as pip writes them
            file = self.python.parent / program.name
            file.write_text(
                f"#!{self.python}\nfrom {program.module} import {program.attr}\n{program.attr}()\n"
            )
            file.chmod(0o755)
        run(*PIP, "--python", self.python, "install", "--no-deps", "--no-index", wheel)

    def __call__(self, *command) -> str:
        programs = str(self.python.parent)
        environment = {
            key: value
            for key, value in os.environ.items()
            if key != "PYTHONPATH" and not key.startswith("CRESS_SVCD_")
        }
        environment["PATH"] = os.pathsep.join([programs, environment["PATH"]])
        program = shutil.which(command[0], path=environment["PATH"])
        return run(program, *command[1:], cwd=self.folder, env=environment).stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    """With stored models in its folder, and in ``data`` their vocabulary and a recording."""
    environment = Environment(tmp_path_factory.mktemp("installed"), wheel)
    for name in ("full", "svcd", "packed"):
        file = environment.folder / f"{name}.pt"
        file.write_bytes(gzip.decompress((GOLDEN / f"{name}.pt.gz").read_bytes()))
    data = environment.folder / "data"
    data.mkdir()
    for name, content in read_packed(environment.folder / "packed.pt")["vocabulary"].items():
        (data / name).write_bytes(content.numpy().tobytes())
    time = np.arange(24_000) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (200 + 400 * time) * time)  # tones that rise
    soundfile.write(data / "sweep.wav", wave.astype(np.float32), 16_000, subtype="FLOAT")
    row = {"id": "1", "audio": "sweep.wav", "n_frames": "24000", "tgt_text": "das Haus."}
    row["src_text"] = "the house."
    text = "".join("\t".join(fields) + "\n" for fields in (row, row.values()))
    (data / "test.tsv").write_text(text, encoding="utf-8")
    return environment


@dataclass
class Outcome:
    """Of one command of a series."""

    status: int
    output: str
    errors: str


# Each as its script does it, all in one process: to start one takes seconds.
SERIES = """
import contextlib, io, json, sys
from importlib.metadata import entry_points
(program,) = entry_points(group="console_scripts", name="cress-svcd")
main, found = program.load(), {}
for name, words in json.loads(sys.argv[1]).items():
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    found[name] = status, output.getvalue(), errors.getvalue()
import cress_svcd
from cress_svcd import kernels
here = [name for name, backend in kernels.backends().items() if backend.available]
print(json.dumps([cress_svcd.__file__, here, found]))
"""


@pytest.fixture(scope="module")
def series(installed) -> tuple[str, list[str], dict[str, Outcome]]:
    """File of the package, back ends that are available to it, and outcomes of commands."""
    commands = {
        "pack": "pack svcd.pt --data data -o again.pt --json sizes.json",
        "unpack": "unpack again.pt -o unpacked.pt",
        "pack again": "pack unpacked.pt --data data -o round.pt",
        "kernels": "report again.pt --kernels --device cpu --json kernels.json",
        "policy": "report full.pt --data data --split test --quant-policy cross_attention "
        "--json layers.json",
        "configuration": "pretrain-hubert data -o o --config hubert_base --set units.clusters=1",
        "recipe": "recipe en-de --dry-run --set mustc=MUSTC",
        "demo": "recipe demo --dry-run",
        "help": "--help",
        **{f"help of {name}": f"{name} --help" for name in COMMANDS},
    }
    words = {name: shlex.split(command) for name, command in commands.items()}
    printed = installed("python", "-c", SERIES, json.dumps(words))
    file, backends, found = json.loads(printed.splitlines()[-1])
    outcomes = {name: Outcome(*outcome) for name, outcome in found.items()}
    failed = {name: one.errors for name, one in outcomes.items() if one.status}
    refused = {"configuration"}
    assert failed.keys() == refused, [failed[name][-1000:] for name in failed.keys() - refused]
    return file, backends, outcomes


def written(installed: Environment, name: str):
    return json.loads((installed.folder / name).read_text(encoding="utf-8"))


def test_the_package_and_its_kernels_are_those_of_the_wheel(installed, series):
    file, backends, _ = series
    assert Path(file).is_relative_to(installed.packages)
    assert {"reference", "torch", "cpu"} <= set(backends)  # cpu: what was compiled for the wheel


def test_every_command_explains_itself(series):
    _, _, outcomes = series
    for name, summary in COMMANDS.items():
        text = outcomes[f"help of {name}"].output
        assert text.startswith(f"usage: cress-svcd {name}") and f"\n  cress-svcd {name} " in text
        listed = " ".join(outcomes["help"].output.split())
        assert f"{name} {summary}" in listed


def test_a_checkpoint_is_packed_into_the_stored_file(installed, series):
    _, _, outcomes = series
    stored, again = (read_packed(installed.folder / name) for name in ("packed.pt", "again.pt"))
    # The stored one is of before packed files named no path of their training.
    stored["cfg"]["task"] |= {"data": "", "save_dir": "", "feature_cache": "", "restore_file": ""}
    stored["cfg"]["model"]["quant_policy"] = ""
    assert {**again["packed"], "digest": ""} == {**stored["packed"], "digest": ""}
    assert again["cfg"]["model"] == stored["cfg"]["model"]
    assert stored["cfg"]["task"].items() <= again["cfg"]["task"].items()
    assert again["model"].keys() == stored["model"].keys()
    for name, tensor in stored["model"].items():
        torch.testing.assert_close(again["model"][name], tensor, rtol=0, atol=0)
    sizes = written(installed, "sizes.json")
    assert sizes["quantized_layers"] == len(EXPECTED["layers of svcd"])
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in stored["model"].values()}
    assert sizes["bytes"] == sum(tensors.values())  # tied tables once
    assert f"{sizes['bits_per_weight']:.3f} bits a weight" in outcomes["pack"].output


def test_a_packed_file_is_unpacked(installed, series):
    _, _, outcomes = series
    assert outcomes["unpack"].output == "unpacked.pt: 10 layers unpacked\n"
    state = torch.load(installed.folder / "unpacked.pt", weights_only=True)
    layers = json.loads(state["cfg"]["model"]["quantization_map"])
    assert sorted(layers) == EXPECTED["layers of svcd"]
    # Packed again, signs, scales and all else are what they were.
    before, after = (
        read_packed(installed.folder / name)["model"] for name in ("again.pt", "round.pt")
    )
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_kernels_are_reported(installed, series):
    _, _, outcomes = series
    rows = written(installed, "kernels.json")["kernels"]
    signs = [row for row in rows if row["operation"] == "sign_gemm" and row["m"] == 1]
    assert [row["shape"] for row in signs] == ["32x32", "48x32", "32x48"]
    assert sum(row["layers"] for row in signs) == len(EXPECTED["layers of svcd"])
    assert {row["kernel"] for row in signs} == {"cpu/sign_gemm"}
    listed = outcomes["kernels"].output.split("back ends here:\n")[1]
    assert re.findall(r"^  (\w+): ", listed, re.MULTILINE) == list(kernels.backends())


def test_a_policy_is_found_by_its_name(installed, series):
    report = written(installed, "layers.json")
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    layers = {f"decoder.layers.0.encoder_attn.{name}" for name in names}
    assert {row["name"] for row in report["layers"]} == layers and report["sentences"] == 1


def test_a_configuration_is_found_by_its_name(installed, series):
    """The shipped file, for a value of ours in it is refused."""
    _, _, outcomes = series
    file = installed.packages / "cress_svcd" / "shipped_files" / "train" / "hubert_base.yaml"
    assert outcomes["configuration"].status == 2
    assert f"{file}: key units.clusters: 1; expected" in outcomes["configuration"].errors


def test_a_recipe_is_found_by_its_name(series):
    _, _, outcomes = series
    assert outcomes["recipe"].output.startswith("# 1 prepare: ")
    commands = printed_commands(outcomes["recipe"].output)
    first = ["cress-svcd", "prepare-mustc", "MUSTC", "-o", "runs/en-de/data", "--tgt-lang", "de"]
    assert commands[0][: len(first)] == first
    programs = {command[0] for command in commands}
    assert programs == {"cress-svcd", "fairseq-train", "fairseq-generate"}


def test_the_demo_has_its_text_and_its_configuration(installed, series):
    """Its first stage runs; what else it names of the project's files is found."""
    installed("cress-svcd", "recipe", "demo", "--to-stage", "1", "--set", "out=demo")
    text = installed.folder / "demo" / "text"
    lines = [len((text / f"train.{side}").read_text().splitlines()) for side in ("en", "de")]
    assert lines == [11_000, 11_000]
    commands = printed_commands(series[2]["demo"].output)
    script = Path(commands[0][1])
    assert script.is_file() and script.is_relative_to(installed.packages)
    options = ("-o", "hubert", "--config", "configs/train/hubert_demo.yaml", "--set")
    refused = installed(
        "bash",
        "-c",
        f"cress-svcd pretrain-hubert data {shlex.join(options)} units.clusters=1 2>&1; :",
    )
    assert "shipped_files/train/hubert_demo.yaml: key units.clusters: 1; expected" in refused


def test_a_recording_is_translated_by_a_packed_file(installed):
    options = ("--output-format", "jsonl", "--no-segmentation", "--device", "cpu", *SEARCH)
    found = json.loads(
        installed("cress-svcd", "translate", "packed.pt", "data/sweep.wav", *options)
    )
    ((text, score),) = EXPECTED["translation packed"]
    assert (found["text"], found["end"]) == (text, 1.5)
    assert found["score"] == pytest.approx(score, rel=5e-3)


def test_fairseq_generates_with_the_plug_in_from_a_packed_file(installed):
    task = ("--user-dir", "cress_svcd", "--task", "speech_and_text_translation", "--cpu")
    options = ("--gen-subset", "test", "--path", "packed.pt", *SEARCH)
    printed = installed("fairseq-generate", "data", *task, *options)
    fields = [line.split("\t") for line in printed.splitlines() if line.startswith("D-")]
    ((text, score),) = EXPECTED["translation packed"]
    assert [(number, found) for number, _, found in fields] == [("D-0", text)]
    assert float(fields[0][1]) == pytest.approx(score, rel=5e-3)


def test_hydra_finds_the_configurations_as_the_docs_say(installed):
    """The command of the page, which prints what it would train with."""
    page = (ROOT / "docs" / "mustc.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^fairseq-hydra-train[^`]*?shipped_folder[^`]*", page, re.MULTILINE)
    found = yaml.safe_load(installed("bash", "-c", f"{command.rstrip()} --cfg job"))
    then = yaml.safe_load((ROOT / "configs" / "train" / "st_base.yaml").read_text(encoding="utf-8"))
    assert found["model"]["_name"] == then["model"]["_name"] == "hubert_transformer"
    assert found["optimization"]["lr"] == then["optimization"]["lr"]
    assert found["task"]["data"] == "data/en-de" and then["task"]["data"] == "???"

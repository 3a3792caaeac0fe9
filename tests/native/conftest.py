"""The engine, built once, and models for it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
import torch

from cress_svcd.cli.main import main
from cress_svcd.translation.segmentation.learnt import NUMBERS, SEGMENTER, Head
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint

NATIVE = Path(__file__).parents[2] / "native"
EXAMPLES = NATIVE.parent / "scripts" / "examples"


@pytest.fixture(scope="session")
def compiler():
    if not shutil.which("make") or not shutil.which("cc"):
        pytest.skip("no C compiler or no make")


@pytest.fixture(scope="session")
def engine(compiler, tmp_path_factory):
    """The command ``cress``."""
    folder = tmp_path_factory.mktemp("engine")
    subprocess.run(["make", "-s", "-C", NATIVE, f"BUILD={folder}"], check=True)
    return folder / "cress"


@pytest.fixture(scope="session")
def translate(engine):
    """Hypotheses (score, text) of recordings, a list for each, by the engine."""

    def run(model, inputs, *options) -> list[list[tuple[float, str]]]:
        command = [engine, "translate", model, *inputs, "--output-format", "jsonl"]
        command += ["--no-segmentation", *options]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
        found: list[list[tuple[float, str]]] = []
        for line in done.stdout.splitlines():
            record = json.loads(line)
            if "hypothesis" not in record:
                found.append([])
            found[-1].append((record["score"], record["text"]))
        return found

    return run


@pytest.fixture(scope="session")
def exampled(tmp_path_factory):
    """The German model of the examples, exported."""
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    path = tmp_path_factory.mktemp("exampled") / "en-de.cress"
    assert main(["export", str(EXAMPLES / "en-de.pt"), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def voice(tmp_path_factory):
    """The first recording of the examples, as a WAV file."""
    path = tmp_path_factory.mktemp("voice") / "voice-1.wav"
    wave, rate = soundfile.read(EXAMPLES / "voice-1.flac", dtype="int16")
    soundfile.write(path, wave, rate)
    return path


def add_segmenter(checkpoint: Path) -> None:
    """A segmenter of random weights, which hears speech here and there."""
    state = torch.load(checkpoint, weights_only=False)
    dim = state["model"]["encoder.hubert.encoder.layer_norm.weight"].numel()
    head = Head(dim, 16)
    generator = torch.Generator().manual_seed(3)
    for parameter in head.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    values = (dim, 16, 0.5, 0.1, 0.3, 0)
    numbers = dict(zip(NUMBERS, values, strict=True))
    state[SEGMENTER] = {"version": 1, "tensors": head.state_dict(), "numbers": numbers}
    torch.save(state, checkpoint)


@pytest.fixture(scope="session")
def exported(prepared, hubert, tmp_path_factory):
    """Packs and exports the checkpoint of a name in RULES, or "full", with options; each once.

    Returns the paths of both files."""
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    folder = tmp_path_factory.mktemp("exported")
    full = make_checkpoint(folder / "full.pt", prepared, hubert)
    add_segmenter(full)

    def make(name, *options) -> tuple[Path, Path]:
        checkpoint = folder / f"{name}.pt"
        if name != "full" and not checkpoint.exists():
            quantize(checkpoint, prepared, full, RULES[name])
        stem = f"{name}{''.join(options)}"
        packed, exported = folder / f"{stem}.packed.pt", folder / f"{stem}.cress"
        if not exported.exists():
            assert main(["pack", str(checkpoint), "-o", str(packed), *options]) == 0
            assert main(["export", str(packed), "-o", str(exported)]) == 0
        return packed, exported

    return make

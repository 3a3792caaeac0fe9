"""The engine for 64-bit ARM, run by an emulator: kernels against the formula, whole translations.

Skipped without a compiler and the emulator; ``scripts/test.sh --native`` installs both.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.kernels.cpu import build
from tests.native.conftest import NATIVE

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
OLD, NEW = "cortex-a53", "max"  # without products of bytes, and with all that there is
KERNELS = Path(__file__).parents[1] / "kernels" / "cpu"
NUMBERS = {OLD: "0 4 checked", NEW: "0 4 5 6 checked"}  # of instruction sets, see runtime.h

pytestmark = pytest.mark.skipif(
    not shutil.which(COMPILER) or not shutil.which(EMULATOR),
    reason=f"no {COMPILER} or no {EMULATOR}: apt-get install gcc-aarch64-linux-gnu qemu-user",
)


def emulated(processor, program, *arguments) -> subprocess.CompletedProcess:
    command = [EMULATOR, "-cpu", processor, program, *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("processor", [OLD, NEW])
def test_all_kernels_agree_with_the_formula(processor, tmp_path):
    sources = [*sorted(build.SOURCES.glob("*.c")), KERNELS / "sanitize.c"]
    flags = ["-O2", "-std=gnu11", "-ffp-contract=off", "-static", "-pthread"]
    made = tmp_path / "kernels"
    subprocess.run(
        [COMPILER, *flags, f"-I{build.SOURCES}", *sources, "-lm", "-o", made], check=True
    )
    done = emulated(processor, made)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == NUMBERS[processor]


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """The command ``cress`` for ARM."""
    folder = tmp_path_factory.mktemp("arm")
    command = ["make", "-s", "-j2", "-C", NATIVE, f"CC={COMPILER}", "AR=aarch64-linux-gnu-ar"]
    subprocess.run(
        [*map(str, command), "LDFLAGS=-static", f"BUILD={folder}", f"{folder}/cress"], check=True
    )
    return folder / "cress"


@pytest.mark.parametrize("name", ["full", "everything"])
def test_it_translates_as_here(arm, exported, engine, prepared, release, tmp_path, name):
    options = ("--allow-full", "--dtype", "fp32") if name == "full" else ()
    _, cress = exported(name, *options)
    spec = read_manifest(prepared / "tst-COMMON.tsv")["audio"][0]
    wave = read_audio(spec, root=release / "en-de" / "data")
    soundfile.write(tmp_path / "speech.wav", wave, 16000)
    arguments = ["translate", cress, tmp_path / "speech.wav", "--max-len-b", "12"]
    arguments = [*map(str, arguments), "--output-format", "jsonl", "--threads", "2"]
    here = subprocess.run([engine, *arguments], capture_output=True, text=True, check=True)
    expected = json.loads(here.stdout.splitlines()[0])
    found = {}
    for isa in ("portable", "neon", "neon_dotprod", "neon_i8mm"):
        done = emulated(NEW, arm, *arguments, "--isa", isa)
        assert done.returncode == 0, done.stderr
        found[isa] = json.loads(done.stdout.splitlines()[0])
        assert found[isa]["text"] == expected["text"]
        assert found[isa]["score"] == pytest.approx(expected["score"], abs=1e-2)
    # Sums of integers are the same whichever way they are added.
    assert len({json.dumps(one) for one in found.values()}) == 1
    assert emulated(OLD, arm, *arguments, "--isa", "neon_dotprod").returncode == 2


def test_the_fastest_is_chosen_that_the_processor_has(arm, exported):
    for processor, fastest in ((OLD, "neon"), (NEW, "neon_i8mm")):
        assert emulated(processor, arm, "--version").stdout.split()[-1] == fastest
    _, cress = exported("everything")
    refused = emulated(OLD, arm, "translate", cress, "--isa", "neon_i8mm", "-")
    assert refused.returncode == 2
    assert "found neon_i8mm, and this processor has portable neon" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

"""The engine for WebAssembly, run by node: kernels against the formula, a whole translation.

Skipped without emscripten and node; ``scripts/test.sh --native`` installs both.
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

KERNELS = Path(__file__).parents[1] / "kernels" / "cpu"


@pytest.fixture(scope="module")
def emscripten(tmp_path_factory):
    """``emcc``, where it works."""
    if not shutil.which("emcc") or not shutil.which("node"):
        pytest.skip("no emcc or no node: apt-get install emscripten nodejs")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    probe = ["emcc", "-O2", folder / "probe.c", "-o", folder / "probe.js"]
    with pytest.MonkeyPatch.context() as patch:
        # As native/Makefile does: a module of Debian's emscripten.
        patch.setenv("NODE_PATH", "/usr/share/nodejs", prepend=":")
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"emcc does not work here: {done.stderr[-200:]}")
        yield "emcc"


def by_node(program, *arguments) -> subprocess.CompletedProcess:
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    # Older emscriptens would fetch a file's path.
    newer = int(version.stdout.strip("v\n").partition(".")[0]) >= 18
    command = ["node", *["--no-experimental-fetch"] * newer, program, *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_all_kernels_agree_with_the_formula(emscripten, tmp_path):
    sources = [*sorted(build.SOURCES.glob("*.c")), KERNELS / "sanitize.c"]
    flags = ["-O2", "-std=gnu11", "-msimd128", "-ffp-contract=off", "-sALLOW_MEMORY_GROWTH"]
    made = tmp_path / "kernels.js"
    subprocess.run([emscripten, *flags, f"-I{build.SOURCES}", *sources, "-o", made], check=True)
    done = by_node(made)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip() == "0 7 checked"


def test_it_translates_as_here(
    emscripten, exported, engine, prepared, release, tmp_path, monkeypatch
):
    _, cress = exported("everything")
    make = ["make", "-s", "-j2", "-C", NATIVE, "wasm", f"BUILD={tmp_path}"]
    monkeypatch.delenv("NODE_PATH")
    subprocess.run([*map(str, make)], check=True, capture_output=True)
    spec = read_manifest(prepared / "tst-COMMON.tsv")["audio"][0]
    wave = read_audio(spec, root=release / "en-de" / "data")
    soundfile.write(tmp_path / "speech.wav", wave, 16000)
    arguments = ["translate", cress, tmp_path / "speech.wav", "--max-len-b", "12"]
    arguments = [*map(str, arguments), "--output-format", "jsonl"]
    here = subprocess.run([engine, *arguments], capture_output=True, text=True, check=True)
    done = by_node(tmp_path / "cress.js", *arguments)
    assert done.returncode == 0, done.stderr[-500:]
    expected, found = (json.loads(run.stdout.splitlines()[0]) for run in (here, done))
    assert found["text"] == expected["text"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-2)
    plain = by_node(tmp_path / "cress.js", *arguments, "--isa", "portable")
    assert plain.stdout == done.stdout


NAMES = """
import { nameOf } from MODULE;
for (const address of ["https://a.org/b%20c.cress?d=1#e", "https://a.org/100%.cress", "https://a.org/"])
  console.log(nameOf(address));
"""


def test_any_address_of_a_model_has_a_name(tmp_path):
    if not shutil.which("node"):
        pytest.skip("no node: apt-get install nodejs")
    shutil.copytree(NATIVE / "page", tmp_path / "page")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    program = tmp_path / "names.js"
    program.write_text(NAMES.replace("MODULE", '"./page/model_file.js"'))
    done = by_node(program)
    assert done.stdout.splitlines() == ["b c.cress", "100%.cress", "https://a.org/"], done.stderr

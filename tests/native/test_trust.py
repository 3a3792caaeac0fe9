"""Damaged files and several threads, under sanitizers."""

import subprocess
from pathlib import Path

import pytest
import soundfile

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from tests.native import damage
from tests.native.conftest import NATIVE

pytestmark = pytest.mark.slow
DAMAGED = 25  # of each kind; damage.py takes more


@pytest.fixture(scope="module")
def built(engine, tmp_path_factory):
    """The folder of a build with a sanitizer."""

    def build(sanitizer) -> Path:
        flags = f"-O1 -g -fsanitize={sanitizer} -fno-sanitize-recover=all"
        folder = tmp_path_factory.mktemp(sanitizer.partition(",")[0])
        (folder / "probe.c").write_text("int main(void) { return 0; }\n")
        probe = ["cc", *flags.split(), folder / "probe.c", "-o", folder / "probe"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip(f"cc has no -fsanitize={sanitizer}")
        made = [f"BUILD={folder}", f"CFLAGS={flags}", folder / "cress", folder / "libcress.a"]
        subprocess.run([*map(str, ["make", "-s", "-j2", "-C", NATIVE, *made])], check=True)
        return folder

    return build


@pytest.fixture(scope="module")
def speech(prepared, release, tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    spec = read_manifest(prepared / "tst-COMMON.tsv")["audio"][0]
    soundfile.write(path, read_audio(spec, root=release / "en-de" / "data"), 16000)
    return path


def test_damaged_files_are_an_error_or_translate(built, exported, speech, tmp_path):
    _, cress = exported("everything", "--int8-embeddings", "--int8-convolutions")
    engine = built("address,undefined") / "cress"
    results, bad = damage.run(engine, cress, speech, DAMAGED, 1, tmp_path)
    assert not bad
    assert results["model", "refused"] > 5 and results["wav", "refused"] > 5
    assert sum(results.values()) == 2 * DAMAGED


def test_two_translators_share_a_model(built, exported, speech, tmp_path):
    _, cress = exported("everything")
    folder, source = built("thread"), Path(__file__).with_name("two_translators.c")
    made = tmp_path / "two_translators"
    command = ["cc", "-g", "-fsanitize=thread", f"-I{NATIVE / 'include'}", source]
    command += [folder / "libcress.a", "-lm", "-pthread", "-o", made]
    subprocess.run([*map(str, command)], check=True)
    done = subprocess.run([made, cress, speech], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and not done.stderr

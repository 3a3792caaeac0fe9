"""The engine with a model of several target languages."""

import subprocess

import pytest
import soundfile

from cress_svcd.cli.main import main
from cress_svcd.data.audio import parse_audio_spec, read_audio
from cress_svcd.data.config import DataConfig
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.translation.translator import Translator
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint


@pytest.fixture(scope="module")
def files(two_languages, hubert, tmp_path_factory):
    """The packed file and the exported one."""
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    folder = tmp_path_factory.mktemp("two_exported")
    full = make_checkpoint(folder / "full.pt", two_languages, hubert)
    quantize(folder / "svcd.pt", two_languages, full, RULES["svcd"])
    packed, exported = folder / "packed.pt", folder / "two.cress"
    assert main(["pack", str(folder / "svcd.pt"), "-o", str(packed)]) == 0
    assert main(["export", str(packed), "-o", str(exported)]) == 0
    return packed, exported


@pytest.fixture(scope="module")
def recordings(two_languages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    root = DataConfig(two_languages / "config.yaml").absolute_audio_root
    paths = []
    for number, audio in enumerate(read_manifest(two_languages / "dev_de.tsv")["audio"][:4]):
        paths.append(folder / f"{number}.wav")
        wave = read_audio(parse_audio_spec(f"{root}/{audio}"))
        soundfile.write(paths[-1], wave, 16_000, "FLOAT")
    return paths


def test_words_are_those_of_torch_in_each_language(files, recordings, translate):
    packed, exported = files
    texts = {}
    for language in ("de", "ro"):
        found = translate(exported, recordings, "--tgt-lang", language)
        texts[language] = [segments[0][1] for segments in found]
        for path in (packed, exported):
            translator = Translator.load(
                path, target_lang=language, device="cpu", segmentation=None
            )
            expected = translator.translate_batch(recordings)
            assert texts[language] == [one.text for one in expected]
            scores = [segments[0][0] for segments in found]
            assert scores == pytest.approx([one.score for one in expected], abs=1e-3)
    assert texts["de"] != texts["ro"]


@pytest.mark.parametrize("given", [[], ["--tgt-lang", "fr"]])
def test_without_a_language_of_it_one_line_lists_them(files, recordings, engine, given):
    command = [engine, "translate", files[1], recordings[0], *given]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 2
    found = ", found fr" if given else ""
    assert done.stderr == (
        f"cress: error: --tgt-lang: the model translates to de, ro: choose one{found}\n"
    )


def test_a_model_of_one_language_has_nothing_to_choose(exported, engine, recordings):
    _, model = exported("svcd")
    command = [engine, "translate", model, recordings[0], "--tgt-lang", "de"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--tgt-lang de: the model has one language; leave it out" in done.stderr


def test_the_file_says_that_a_reader_must_know_of_languages(files, exported):
    assert b'"version":"2"' in files[1].read_bytes()[:100_000]
    assert b'"version":"1"' in exported("svcd")[1].read_bytes()[:100_000]

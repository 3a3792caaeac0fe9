"""One model, several target languages: translating with it, from Python, the command and a file."""

import pytest

from cress_svcd.cli.main import main
from cress_svcd.data.audio import parse_audio_spec, read_audio
from cress_svcd.data.config import DataConfig
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.serving.models import load_models
from cress_svcd.serving.problems import Problem
from cress_svcd.translation.recording_translator import EVERY
from cress_svcd.translation.translator import Translator
from tests.helpers.fairseq_commands import generate_command, run_series
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint

SEARCH = {"device": "cpu", "beam": 3, "max_len_b": 20, "segmentation": None}
LANGUAGES = ("de", "ro")


@pytest.fixture(scope="module")
def model(two_languages, hubert, tmp_path_factory):
    """Random weights that listen, and read text."""
    folder = tmp_path_factory.mktemp("two_model")
    return make_checkpoint(folder / "full.pt", two_languages, hubert, "--mt-finetune")


@pytest.fixture(scope="module")
def packed(model, two_languages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_packed")
    quantize(folder / "quantised.pt", two_languages, model, RULES["svcd"])
    path = folder / "packed.pt"
    assert main(["pack", str(folder / "quantised.pt"), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def recording(two_languages) -> str:
    root = DataConfig(two_languages / "config.yaml").absolute_audio_root
    return f"{root}/{parse_audio_spec(read_manifest(two_languages / 'dev.tsv')['audio'][0]).path}"


def test_each_language_has_its_words_which_are_those_of_fairseq_generate(
    model, two_languages, tmp_path
):
    root = DataConfig(two_languages / "config.yaml").absolute_audio_root
    common = ["--gen-subset", "dev", "--batch-size", "1", "--tgt-lang"]
    commands = {
        language: generate_command(two_languages, model, *common, language)
        for language in LANGUAGES
    }
    found = {}
    for language, outcome in run_series(commands, tmp_path).items():
        lines = [line.split("\t") for line in outcome.output.splitlines() if line[:2] == "D-"]
        generated = {int(number[2:]): text for number, _, text in lines}
        assert sorted(generated) == list(range(12)), outcome.output[-2000:]
        translator = Translator.load(model, target_lang=language, **SEARCH)
        audio = read_manifest(two_languages / f"dev_{language}.tsv")["audio"][:4]
        waves = [read_audio(parse_audio_spec(f"{root}/{each}")) for each in audio]
        found[language] = [each.text for each in translator.translate_batch(waves)]
        assert found[language] == [generated[number] for number in range(4)]
    assert found["de"] != found["ro"]


def test_word_times_are_of_a_decoder_that_began_with_the_tag(model, recording):
    for language in LANGUAGES:
        translator = Translator.load(model, target_lang=language, word_times=True, **SEARCH)
        found = translator.translate(recording)
        assert " ".join(word.text for word in found.words) == found.text


def test_a_packed_file_translates_to_each(packed, recording, capsys, tmp_path):
    words = {}
    for language in LANGUAGES:
        command = ["translate", packed, recording, "--tgt-lang", language, "--no-segmentation"]
        command += ["--max-len-b", "20"]
        assert main([*map(str, command), "--device", "cpu", "-o", str(tmp_path / language)]) == 0
        words[language] = (tmp_path / language).read_text(encoding="utf-8")
        translator = Translator.load(packed, target_lang=language, **{**SEARCH, "beam": 5})
        assert translator.translate(recording).text == words[language].strip("\n")
    assert words["de"] != words["ro"]


@pytest.mark.parametrize("given", [[], ["--tgt-lang", "fr"]])
def test_without_a_language_of_it_one_line_lists_them(packed, recording, capsys, given):
    assert main(["translate", str(packed), recording, *given]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    expected = "translates to de, ro" + (", not to fr" if given else "")
    assert f"{packed} {expected}: choose one with --tgt-lang" in line


def test_text(model):
    found = {
        code: Translator.load(model, target_lang=code, **SEARCH).translate_text(["the man"])
        for code in LANGUAGES
    }
    assert found["de"][0].text != found["ro"][0].text


def test_a_model_of_one_language_takes_its_own_and_no_other(prepared, hubert, tmp_path):
    model = make_checkpoint(tmp_path / "model.pt", prepared, hubert)
    assert Translator.load(model, **SEARCH).languages == ["de"]
    assert Translator.load(model, target_lang="de", **SEARCH).target_lang == "de"
    with pytest.raises(ConfigError, match=r"translates to de, not to ro"):
        Translator.load(model, target_lang="ro", **SEARCH)


def load(path):
    """As a server does."""
    return Translator.load(path, device="cpu", target_lang=EVERY)


@pytest.fixture(scope="module")
def models(packed):
    """What a server has of the file."""
    return load_models([f"two={packed}"], load)


class TestServed:
    def test_one_for_each_language(self, models):
        cards = [model.card() for model in models]
        assert [card["id"] for card in cards] == ["two-de", "two-ro"]
        assert [card["language"] for card in cards] == ["de", "ro"]
        assert len({id(model.translator.model) for model in models}) == 1

    @pytest.mark.parametrize(
        "name, language, expected",
        [
            ("", "ro", "two-ro"),
            ("two", "ro", "two-ro"),
            ("two-ro", "", "two-ro"),
            ("", "", "two-de"),
        ],
    )
    def test_the_language_chooses(self, models, name, language, expected):
        assert models.choose(name, language).name == expected

    @pytest.mark.parametrize(
        "name, language, message",
        [
            ("two", "", "the model two translates to de, ro: choose one by language"),
            ("two", "fr", "the model two translates to de, ro, not to 'fr'"),
            ("two-ro", "de", "the model two-ro translates to ro, not to 'de'"),
            ("", "fr", "no model here translates to 'fr'; expected de, ro"),
        ],
    )
    def test_none_is_chosen(self, models, name, language, message):
        with pytest.raises(Problem, match=message):
            models.choose(name, language)

    def test_a_name_that_is_taken(self, packed):
        with pytest.raises(ConfigError, match="two models are named two-ro"):
            load_models([f"two={packed}", f"two-ro={packed}"], load)


class TestScoredRecordings:
    def test_of_a_language(self, packed, two_languages, tmp_path):
        pytest.importorskip("mweralign", reason="pip install 'cress_svcd[score]'")
        found = {}
        for language in LANGUAGES:
            manifest, scores = two_languages / f"dev_{language}.tsv", tmp_path / f"{language}.json"
            command = ["score", "--recordings", packed, "--manifest", manifest, "--json", scores]
            command += ["--device", "cpu", "--max-len-b", "5", "--beam", "1"]
            assert main([str(word) for word in command]) == 0
            found[language] = scores.read_text(encoding="utf-8")
        assert found["de"] != found["ro"]

    def test_of_all_at_once(self, packed, two_languages, capsys):
        pytest.importorskip("mweralign", reason="pip install 'cress_svcd[score]'")
        command = ["score", "--recordings", packed, "--manifest", two_languages / "dev.tsv"]
        assert main([str(word) for word in command]) == 2
        assert "dev.tsv: is of de, ro; score one language at a time" in capsys.readouterr().err

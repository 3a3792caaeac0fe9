"""The Python class: words, cuts, where the vocabulary comes from, what is refused."""

import contextlib
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fairseq.dataclass.configs import GenerationConfig
from fairseq_cli import generate

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import AudioError, CheckpointError, ConfigError, CressError, OutputError
from cress_svcd.quantization import Policy, apply_policy
from cress_svcd.quantization.packing import packed_layers
from cress_svcd.translation import repetition
from cress_svcd.translation.result import Translation, join
from cress_svcd.translation.segmentation import Segmentation
from cress_svcd.translation.translator import Translator, write_vocabulary
from tests.helpers.fairseq_commands import generate_command
from tests.helpers.hubert_files import make_hubert
from tests.helpers.packed_layers import pack_model
from tests.helpers.translation_model import make_checkpoint

RATE = 16_000
SEARCH = {"beam": 3, "max_len_b": 12, "device": "cpu"}


@pytest.fixture(scope="module")
def checkpoint(prepared, hubert, tmp_path_factory):
    return make_checkpoint(
        tmp_path_factory.mktemp("model") / "model.pt",
        prepared,
        hubert,
        "--st-training",
        "--mt-finetune",
    )


@pytest.fixture(scope="module")
def translator(checkpoint):
    return Translator.load(checkpoint, **SEARCH)


@pytest.fixture(scope="module")
def waves(prepared, release):
    """The first eight sentences of the test set."""
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"][:8]
    return [read_audio(spec, root=release / "en-de" / "data") for spec in specs]


def hypotheses(output: str) -> dict[int, tuple[float, str]]:
    """Score and words of each D- line of fairseq-generate."""
    found = re.findall(r"^D-(\d+)\t(\S+)\t(.*)$", output, re.MULTILINE)
    return {int(number): (float(score), text) for number, score, text in found}


@pytest.mark.parametrize("text", [False, True], ids=["speech", "text"])
def test_the_words_and_scores_are_those_of_fairseq_generate(
    checkpoint, translator, prepared, release, capsys, monkeypatch, text
):
    # fairseq-generate leaves loops as they are.
    monkeypatch.setattr(repetition, "repeats_itself", lambda *_: False)
    flags = ["--text-input"] if text else []
    command = generate_command(prepared, checkpoint, "--max-len-b", "12", *flags)
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    generate.cli_main()
    expected = hypotheses(capsys.readouterr().out)
    frame = read_manifest(prepared / "tst-COMMON.tsv")
    if text:
        found = translator.translate_text(frame["src_text"])
    else:
        root = release / "en-de" / "data"
        found = translator.translate_batch([read_audio(spec, root=root) for spec in frame["audio"]])
    assert len(expected) == len(found) == 12
    assert len({one.text for one in found}) >= 4
    for number, one in enumerate(found):
        score, words = expected[number]
        assert one.text == words
        assert one.score == pytest.approx(score, abs=1e-4)


def test_batches_do_not_matter(checkpoint, translator, waves):
    expected = translator.translate_batch(waves)
    assert len({one.text for one in expected}) > 2
    for batch_seconds in (0, 3, 1000):
        other = Translator.load(checkpoint, **SEARCH, batch_seconds=batch_seconds)
        for a, b in zip(other.translate_batch(waves), expected, strict=True):
            assert (a.text, a.tokens, a.end) == (b.text, b.tokens, b.end)
            assert a.score == pytest.approx(b.score, abs=1e-4)


def test_a_file_a_tensor_and_channels_are_the_same_recording(translator, waves, tmp_path):
    wave = waves[0]
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    expected = translator.translate(wave)
    assert expected.tokens and expected.end == pytest.approx(len(wave) / RATE)
    assert translator.translate(tmp_path / "a.wav") == expected
    assert translator.translate(str(tmp_path / "a.wav")) == expected
    assert translator.translate(torch.from_numpy(wave)) == expected
    assert translator.translate(np.stack([wave, wave])) == expected


def test_other_rates_are_resampled(translator, waves, tmp_path):
    low = waves[0][::2]
    soundfile.write(tmp_path / "low.wav", low, RATE // 2, subtype="FLOAT")
    found = translator.translate(tmp_path / "low.wav")
    assert found == translator.translate(low, sampling_rate=RATE // 2)
    assert found.end == pytest.approx(len(waves[0]) / RATE, abs=0.01)
    with pytest.raises(ValueError, match="own sampling rate"):
        translator.translate(tmp_path / "low.wav", sampling_rate=RATE)


@pytest.fixture(scope="module")
def long(waves):
    """Sentences with pauses between them, and where each begins and ends, in seconds."""
    generator = np.random.default_rng(1)
    parts, places, position = [], [], 0.0
    for wave in waves:
        parts += [np.zeros(RATE, np.float32), wave]
        places.append((position + 1, position + 1 + len(wave) / RATE))
        position = places[-1][1]
    wave = np.concatenate(parts)
    return wave + 1e-4 * generator.standard_normal(len(wave)).astype(np.float32), places


class TestLongRecordings:
    def test_each_sentence_is_a_segment_with_its_times(self, translator, long):
        wave, places = long
        found = translator.translate(wave)
        assert len(found.segments) == len(places)
        for segment, (start, stop) in zip(found.segments, places):
            assert start - 0.3 < segment.start < segment.end < stop + 0.3
        assert found.text == " ".join(s.text for s in found.segments if s.text)
        assert (found.start, found.end) == (found.segments[0].start, found.segments[-1].end)

    def test_a_segment_is_translated_as_if_it_were_alone(self, translator, checkpoint, long):
        wave, _ = long
        segment = translator.translate(wave).segments[3]
        whole = Translator.load(checkpoint, **SEARCH, segmentation=None)
        alone = whole.translate(wave[round(segment.start * RATE) : round(segment.end * RATE)])
        assert alone.tokens == segment.tokens and len(alone.segments) == 1

    def test_a_file_is_cut_like_its_samples(self, translator, long, tmp_path):
        wave, _ = long
        np.save(tmp_path / "long.npy", wave)
        assert translator.translate(tmp_path / "long.npy") == translator.translate(wave)

    def test_the_options_reach_the_cutting(self, checkpoint, long):
        wave, _ = long
        options = Segmentation(max_seconds=2, min_seconds=0.5)
        cut = Translator.load(checkpoint, **SEARCH, segmentation=options).translate(wave)
        assert max(segment.end - segment.start for segment in cut.segments) <= 2

    def test_nothing_said_gives_no_words(self, translator):
        found = translator.translate(np.zeros(3 * RATE))
        assert found == Translation("", 0.0, (), 0.0, 0.0, ())


def test_scores_are_joined_by_tokens():
    parts = [
        Translation("a b c", -1.0, ("a", "b", "c"), 0, 1),
        Translation("d", -3.0, ("d",), 2, 3),
    ]
    whole = join(parts)
    assert (whole.text, whole.score, whole.tokens) == ("a b c d", -1.5, ("a", "b", "c", "d"))


def test_empty_sentences_stay_empty(translator):
    found = translator.translate_text(["", "the man sees water.", "   "])
    assert [bool(one.tokens) for one in found] == [False, True, False]
    assert found[1] == translator.translate_text(["the man\tsees  water."])[0]
    assert translator.translate_text([]) == [] and translator.translate_batch([]) == []


def test_unknown_letters_are_no_obstacle(translator):
    assert len(translator.translate_text(["漢字 ☃ мир", "a"])) == 2


def test_half_precision_says_nearly_the_same(checkpoint, translator, waves):
    half = Translator.load(checkpoint, **SEARCH, fp16=True)
    assert next(half.model.parameters()).dtype == torch.float16
    pairs = zip(half.translate_batch(waves), translator.translate_batch(waves))
    assert sum(a.text == b.text for a, b in pairs) >= len(waves) - 3


@pytest.mark.parametrize("normalize", [False, True])
def test_the_normalisation_of_the_config_is_respected(prepared, waves, tmp_path, normalize):
    data = shutil.copytree(prepared, tmp_path / "data")
    config = yaml.safe_load((data / "config.yaml").read_text())
    (data / "config.yaml").write_text(yaml.safe_dump({**config, "standardize_audio": normalize}))
    make_hubert(tmp_path / "hubert.pt", {"extractor_mode": "layer_norm"}, {"normalize": normalize})
    path = make_checkpoint(tmp_path / "model.pt", data, tmp_path / "hubert.pt")
    translator = Translator.load(path, **SEARCH)
    # Both within the range in which a corpus's loudness is left as it is.
    unit = waves[0] / np.sqrt(np.mean(np.square(waves[0])))
    scores = [translator.translate(factor * unit).score for factor in (0.05, 0.25)]
    assert (abs(scores[0] - scores[1]) < 1e-3) is normalize


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_packed_layers_use_the_back_end(checkpoint, translator, waves, backend):
    found = []
    for name in (backend, "reference"):
        other = Translator.load(checkpoint, **SEARCH)
        rule = {"match": "decoder.layers.*.fc?", "method": "svcd", "bits": 1}
        apply_policy(other.model, Policy.from_dict({"rules": [rule]}))
        pack_model(other.model)
        other = Translator(
            other.model,
            other.task,
            GenerationConfig(beam=3, max_len_b=12),
            other.device,
            backend=name,
        )
        assert {layer.backend for layer in packed_layers(other.model).values()} == {name}
        found.append(other.translate_batch(waves[:3]))
    for a, b in zip(*found):
        assert a.text == b.text and a.score == pytest.approx(b.score, abs=1e-3)
    assert found[0] != translator.translate_batch(waves[:3])


def test_a_back_end_for_a_model_without_packed_layers_is_told(checkpoint, caplog):
    Translator.load(checkpoint, **SEARCH, backend="reference")
    assert "no packed layers" in caplog.text


def test_static_steps_say_the_same(checkpoint, waves, monkeypatch):
    monkeypatch.setattr(repetition, "repeats_itself", lambda *_: False)  # no second batch
    static, eager = (
        Translator.load(checkpoint, **SEARCH, decoder=name) for name in ("static", "eager")
    )
    expected = eager.translate_batch(waves)
    for _ in range(3):  # the encoder is captured the second time, and replayed
        for a, b in zip(static.translate_batch(waves), expected, strict=True):
            assert a.text == b.text and a.score == pytest.approx(b.score, abs=1e-4)
    assert [layers.captured for _, layers in static.generator.model._encoder.parts] == [1, 1]
    assert static.generator.model.decoded_by == "steps of a CUDA graph, not captured"
    assert eager.generator.model.decoded_by.startswith("eager")


def test_threads_are_set(checkpoint):
    before = torch.get_num_threads()
    try:
        Translator.load(checkpoint, **SEARCH, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class TestVocabulary:
    """The checkpoint's own data folder is gone, or another is asked for."""

    FILES = ("config.yaml", "*.model", "*dict*", "spm*")

    @pytest.fixture
    def moved(self, prepared, hubert, tmp_path):
        """A checkpoint whose folder has been moved; returns (checkpoint, new folder)."""
        data = shutil.copytree(prepared, tmp_path / "old")
        path = make_checkpoint(tmp_path / "model.pt", data, hubert)
        return path, data.rename(tmp_path / "new")

    def test_missing(self, moved):
        with pytest.raises(ConfigError, match=r"no config.yaml in .*old nor in .*--data"):
            Translator.load(moved[0], **SEARCH)

    def test_named(self, moved, translator, waves):
        path, data = moved
        found = Translator.load(path, **SEARCH, data=data).translate(waves[0])
        assert found == translator.translate(waves[0])

    def test_next_to_the_checkpoint(self, moved, translator, waves):
        path, data = moved
        for pattern in self.FILES:
            for file in data.glob(pattern):
                shutil.copy(file, path.parent)
        found = Translator.load(path, **SEARCH).translate(waves[0])
        assert found == translator.translate(waves[0])

    def test_another_folder(self, checkpoint, tmp_path):
        with pytest.raises(ConfigError, match=r"no config.yaml in .*empty; name the folder"):
            Translator.load(checkpoint, **SEARCH, data=tmp_path / "empty")

    def test_of_another_dictionary(self, checkpoint, prepared, tmp_path):
        data = shutil.copytree(prepared, tmp_path / "data")
        config = yaml.safe_load((data / "config.yaml").read_text())
        path = data / config["vocab_filename"]
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[5], lines[6] = lines[6], lines[5]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(CressError, match="dictionary"):
            Translator.load(checkpoint, **SEARCH, data=data)


class TestRefusals:
    def test_speech_for_a_model_of_text(self, prepared, waves, tmp_path):
        path = make_checkpoint(tmp_path / "text.pt", prepared, None)
        text_model = Translator.load(path, **SEARCH)
        assert not text_model.has_speech_encoder
        with pytest.raises(ConfigError, match="trained on text only"):
            text_model.translate(waves[0])
        assert text_model.translate_text(["the man sees water."])[0].tokens

    @pytest.mark.parametrize(
        "content",
        [b"", b"these are my notes\n", "truncated", {"a": 1}, torch.zeros(3), [1, 2]],
        ids=["empty", "text", "truncated", "dictionary", "tensor", "list"],
    )
    def test_files_that_are_no_checkpoints(self, checkpoint, tmp_path, content):
        path = tmp_path / "bad.pt"
        if content == "truncated":
            path.write_bytes(checkpoint.read_bytes()[:-3000])
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(CheckpointError, match="bad.pt"):
            Translator.load(path, **SEARCH)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="nowhere.pt"):
            Translator.load(tmp_path / "nowhere.pt", **SEARCH)

    def test_a_checkpoint_of_another_task(self, hubert):
        with pytest.raises(CheckpointError, match="task hubert_pretraining; expected one of"):
            Translator.load(hubert, **SEARCH)

    @pytest.mark.parametrize(
        "option",
        [
            {"beam": 0},
            {"max_len_b": 0},
            {"no_repeat_ngram_size": -1},
            {"lenpen": float("nan")},
            {"lenpen": float("inf")},
            {"threads": 0},
            {"batch_seconds": -1},
            {"batch_seconds": float("nan")},
            {"device": "abacus"},
            {"backend": "abacus"},
            {"backend": "gpu"},
            {"decoder": "abacus"},
        ],
        ids=str,
    )
    def test_options(self, checkpoint, option):
        with pytest.raises(ConfigError, match=next(iter(option))):
            Translator.load(checkpoint, **{**SEARCH, **option})

    def test_a_gpu_where_there_is_none(self, checkpoint, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="no GPU"):
            Translator.load(checkpoint, device="cuda")

    def test_samples_that_are_not_finite(self, translator, waves):
        with pytest.raises(AudioError, match="NaN"):
            translator.translate(np.full_like(waves[0], np.nan))
        one = np.arange(len(waves[0])) == 7
        flawed, mended = (np.where(one, value, waves[0]) for value in (np.nan, 0))
        assert translator.translate(flawed).text == translator.translate(mended).text


def test_no_room_for_a_packed_vocabulary_is_told(full_disk):
    files = {"spm.model": torch.zeros(5_000, dtype=torch.uint8)}
    with contextlib.ExitStack() as stack:
        with full_disk(1_000), pytest.raises(OutputError, match="TMPDIR names another"):
            write_vocabulary(files, stack)

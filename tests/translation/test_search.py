"""What no search may repeat, and what is found besides the words."""

import concurrent.futures
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.models.attention import call_quantized_projections
from cress_svcd.quantization import Policy, apply_policy
from cress_svcd.translation import repetition
from cress_svcd.translation.search import NoRepeat
from cress_svcd.translation.translator import Translator
from tests.helpers.packed_layers import pack_model
from tests.helpers.translation_model import make_checkpoint

EOS, PAD, ENTRIES = 2, 1, 9
SEARCH = {"beam": 3, "max_len_b": 12, "device": "cpu"}


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 4),
    st.integers(0, 12).flatmap(
        lambda length: st.lists(
            st.lists(st.integers(3, 6), min_size=length, max_size=length), min_size=2, max_size=2
        )
    ),
)
def test_what_would_repeat_is_banned_and_nothing_else(size, rows):
    step = len(rows[0])
    tokens = torch.full((2, 20), PAD)  # fairseq has room for what is to come
    tokens[:, 0] = EOS
    tokens[:, 1 : step + 1] = torch.tensor(rows, dtype=torch.long).reshape(2, step)
    given_lprobs = torch.zeros(2, ENTRIES)
    found = NoRepeat(size)(tokens, given_lprobs, 1, 2, step)
    for row, before in enumerate(rows):
        for entry in range(ENTRIES):
            ngram = [*before, entry][-size:]
            grams = [before[i : i + size] for i in range(len(before) - size + 1)]
            banned = len(ngram) == size and ngram in grams
            assert (found[row, entry] == -math.inf) == banned, (before, entry)


@pytest.fixture(scope="module")
def checkpoint(prepared, hubert, tmp_path_factory):
    """It has a CTC head, and was trained on speech and text, as its options say."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    return make_checkpoint(
        path, prepared, hubert, "--ctc-head", "--st-training", "--mt-finetune", "--decoder-layers=3"
    )


@pytest.fixture(scope="module")
def waves(prepared, release):
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"][:6]
    return [read_audio(spec, root=release / "en-de" / "data") for spec in specs]


@pytest.fixture(scope="module")
def plain(checkpoint, waves):
    return Translator.load(checkpoint, **SEARCH).translate_batch(waves)


def check_words(one):
    assert one.text.split() and [word.text for word in one.words] == one.text.split()
    times = [time for word in one.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= one.start and times[-1] <= one.end + 1e-3


@pytest.mark.parametrize("decoder", ["eager", "static"])
def test_words_have_times(checkpoint, waves, plain, decoder):
    translator = Translator.load(checkpoint, **SEARCH, word_times=True, decoder=decoder)
    for _ in range(2):
        for one, expected in zip(translator.translate_batch(waves), plain, strict=True):
            assert one.text == expected.text and not expected.words
            if one.text:
                check_words(one)


@pytest.mark.gpu
@pytest.mark.parametrize("fp16", [False, True])
def test_words_have_times_on_a_gpu(checkpoint, waves, fp16):
    """Where steps are captured, the hypothesis goes through the decoder once more."""
    options = {**SEARCH, "device": "cuda", "fp16": fp16, "decoder": "static"}
    translator = Translator.load(checkpoint, **options, word_times=True, transcripts=True)
    for _ in range(3):
        for one in translator.translate_batch(waves):
            if one.text:
                check_words(one)
            assert [word.text for word in one.transcript_words] == one.transcript.split()
    assert translator.generator.model.decoded_by == "CUDA graphs"


def test_words_of_packed_layers_have_times(checkpoint, waves):
    translator = Translator.load(checkpoint, **SEARCH, word_times=True)
    rule = {"match": "decoder.layers.*", "method": "svcd", "bits": 1}
    apply_policy(translator.model, Policy.from_dict({"rules": [rule]}))
    pack_model(translator.model)
    call_quantized_projections(translator.model)
    found = translator.translate_batch(waves)
    assert any(one.text for one in found)
    for one in found:
        if one.text:
            check_words(one)


def test_batches_do_not_matter(checkpoint, waves):
    one, other = (
        Translator.load(checkpoint, **SEARCH, word_times=True, transcripts=True, batch_seconds=size)
        for size in (0, 1000)
    )
    for a, b in zip(one.translate_batch(waves), other.translate_batch(waves), strict=True):
        assert (a.text, a.words, a.transcript) == (b.text, b.words, b.transcript)


def test_attention_is_that_of_the_hypothesis(checkpoint, waves, monkeypatch):
    """Rows of a token are a distribution over the frames of its own utterance."""
    translator = Translator.load(checkpoint, **SEARCH, word_times=True)
    matrices = []
    usual = translator.search._attention

    def watched(*given):
        matrices.extend(usual(*given))
        return matrices[-len(given[1]) :]

    translator.search._attention = watched
    monkeypatch.setattr(repetition, "repeats_itself", lambda *_: False)
    translator.translate_batch(waves)
    assert len(matrices) == len(waves) and len({matrix.shape[1] for matrix in matrices}) > 1
    for matrix in matrices:
        assert matrix.sum(axis=1) == pytest.approx(1, abs=1e-4)


class TestTranscripts:
    def test_they_come_with_the_translation(self, checkpoint, waves, plain):
        translator = Translator.load(checkpoint, **SEARCH, transcripts=True)
        found = translator.translate_batch(waves)
        assert [one.text for one in found] == [one.text for one in plain]
        assert len({one.transcript for one in found}) > 1
        for one in found:
            assert [word.text for word in one.transcript_words] == one.transcript.split()

    def test_or_alone(self, checkpoint, waves):
        both, alone = (
            Translator.load(checkpoint, **SEARCH, transcripts=True, translations=translations)
            for translations in (True, False)
        )
        expected = [one.transcript for one in both.translate_batch(waves)]
        found = alone.translate_batch(waves)
        assert [one.transcript for one in found] == expected
        assert {one.text for one in found} == {""}

    def test_a_model_without_a_head(self, prepared, hubert, tmp_path):
        path = make_checkpoint(tmp_path / "model.pt", prepared, hubert)
        with pytest.raises(ConfigError, match="no CTC head.*--ctc-head.*packed"):
            Translator.load(path, **SEARCH, transcripts=True)


class TestRepetition:
    """A hypothesis that repeats itself is decoded again."""

    @pytest.fixture
    def loops(self, monkeypatch):
        """Every hypothesis that is one of these."""
        texts: set[str] = set()
        monkeypatch.setattr(repetition, "repeats_itself", lambda text, tokens: text in texts)
        return texts

    def test_those_alone_and_with_nothing_twice(self, checkpoint, waves, loops):
        translator = Translator.load(checkpoint, **SEARCH, word_times=True)
        usual = translator.translate_batch(waves)
        longest = max(usual, key=lambda one: len(one.tokens)).text
        count = sum(one.text == longest for one in usual)
        loops.add(longest)
        for one, before in zip(translator.translate_batch(waves), usual, strict=True):
            assert one.decoded_again is (before.text == longest)
            if one.decoded_again:
                grams = list(zip(one.tokens, one.tokens[1:], one.tokens[2:]))
                assert len(set(grams)) == len(grams)
            else:
                assert one.text == before.text
            if one.text:
                check_words(one)
        assert translator.search.decoded_again == count > 0
        assert f"{count} translations repeated themselves" in translator.search.report()
        loops.clear()
        found = translator.translate_batch(waves)
        assert [one.text for one in found] == [one.text for one in usual]

    def test_text_as_well(self, checkpoint, loops):
        translator = Translator.load(checkpoint, **SEARCH)
        (usual,) = translator.translate_text(["the man sees water."])
        loops.add(usual.text)
        assert translator.translate_text(["the man sees water."])[0].decoded_again

    def test_nothing_is_said_of_nothing(self, checkpoint):
        assert Translator.load(checkpoint, **SEARCH).search.report() == ""

    @pytest.mark.parametrize("size", [1, 2])
    def test_an_option_forbids_it_from_the_start(self, checkpoint, waves, plain, size):
        translator = Translator.load(checkpoint, **SEARCH, no_repeat_ngram_size=size)
        found = translator.translate_batch(waves)
        for one in found:
            grams = list(zip(*(one.tokens[start:] for start in range(size))))
            assert len(set(grams)) == len(grams)
        assert [one.tokens for one in found] != [one.tokens for one in plain]


def test_text_for_a_model_of_speech(prepared, hubert, tmp_path):
    path = make_checkpoint(tmp_path / "model.pt", prepared, hubert)
    translator = Translator.load(path, **SEARCH)
    with pytest.raises(ConfigError, match="trained on speech only.*--mt-finetune"):
        translator.translate_text(["the man sees water."])


def test_threads_share_a_translator(checkpoint, waves, loops_of_one_thread):
    """What one thread's search forbids, or keeps, is not another's."""
    translator = Translator.load(checkpoint, **SEARCH, word_times=True)
    text = ["the man sees water.", "a house."] * 3
    speech = translator.translate_batch(waves)
    sentences = translator.translate_text(text)
    loops_of_one_thread.update(one.text for one in speech)
    expected = translator.translate_batch(waves)
    assert all(one.decoded_again for one in expected if one.text)
    assert [one.tokens for one in expected] != [one.tokens for one in speech]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        heard = [pool.submit(translator.translate_batch, waves) for _ in range(3)]
        read = [pool.submit(translator.translate_text, text) for _ in range(6)]
        assert all(one.result() == expected for one in heard)
        assert all(one.result() == sentences for one in read)


@pytest.fixture
def loops_of_one_thread(monkeypatch):
    """Hypotheses of these texts repeat themselves."""
    texts: set[str] = set()
    monkeypatch.setattr(repetition, "repeats_itself", lambda text, tokens: text in texts)
    return texts

"""Which words of unfinished speech stay, and that the next translations begin with them."""

import dataclasses
from pathlib import Path

import pytest

from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation
from cress_svcd.translation.search import Wanted
from cress_svcd.translation.stable_prefix import (
    AlignAtt,
    HoldBack,
    LocalAgreement,
    StablePrefix,
    whole_words,
)
from cress_svcd.translation.translator import Translator

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"


def translation(tokens: str, attended: tuple[float, ...] = ()) -> Translation:
    return Translation("", 0.0, tuple(tokens.split()), attended=attended)


def test_agreement_is_of_translations_in_a_row():
    stable = StablePrefix(LocalAgreement(2))
    assert stable.update(translation("▁der ▁Mann ▁sieht ."), 1.0) == ()
    assert stable.update(translation("▁der ▁Mann ▁sitzt ▁hier ."), 2.0) == ("▁der", "▁Mann")
    # What disagrees later takes nothing back.
    assert stable.update(translation("▁die ▁Frau ."), 3.0) == ("▁der", "▁Mann")


def test_the_last_tokens_are_held_back():
    stable = StablePrefix(HoldBack(2))
    assert stable.update(translation("▁der ▁Mann ▁sieht ."), 1.0) == ("▁der", "▁Mann")
    assert StablePrefix(HoldBack(9)).update(translation("▁der ▁Mann"), 1.0) == ()


def test_what_attends_to_the_last_sound_does_not_stay():
    stable = StablePrefix(AlignAtt(0.5))
    found = translation("▁der ▁Mann ▁sieht ▁das ▁Haus .", (0.2, 0.7, 1.6, 0.9, 1.9, 1.95))
    assert stable.update(found, 2.0) == ("▁der", "▁Mann")
    assert stable.update(found, 2.2) == ("▁der", "▁Mann", "▁sieht", "▁das")


def test_a_word_stays_as_a_whole_and_the_last_token_never():
    assert whole_words(["▁Ha", "us", "▁an"], 1) == 0
    assert whole_words(["▁Ha", "us", "▁an"], 2) == 2
    assert whole_words(["▁家", "很", "大"], 2) == 2  # no spaces between words
    stable = StablePrefix(AlignAtt(0.5))
    assert stable.update(translation("▁Haus ▁an", (0.1, 0.2)), 5.0) == ("▁Haus",)


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator.load(EXAMPLES / "en-de.pt", device="cpu", beam=3, max_len_b=30, threads=1)


@pytest.fixture(scope="module")
def segment() -> Segment:
    wave = read_audio(str(EXAMPLES / "voice-1.flac"))
    return Segment(wave[SAMPLE_RATE // 4 : 2 * SAMPLE_RATE], 1.0, 2.75)


def test_translations_begin_with_what_stays(translator, segment):
    """Alone and next to others that must begin with something else, or with nothing."""
    free = next(translator.translate_segments([segment], Wanted(attention=True)))[1]
    assert free.text == "Wo hat Anna die Frau getroffen?"
    assert len(free.attended) == len(free.tokens) and all(1 < at < 2.75 for at in free.attended)
    known = translator.task.tgt_dict.symbols[100:102]
    prefixes = [(), tuple(known[:1]), free.tokens[:2], tuple(known)]
    segments = [dataclasses.replace(segment, prefix=prefix) for prefix in prefixes]
    found = [one for _, one in translator.translate_segments(segments)]
    for one, prefix in zip(found, prefixes):
        assert one.tokens[: len(prefix)] == prefix
    assert found[0].tokens == found[2].tokens == free.tokens
    assert found[0].score == pytest.approx(free.score, abs=1e-2)  # 8-bit activations


def test_what_stays_may_repeat_itself(translator, segment):
    """The search that forbids repetition does not forbid what is given."""
    prefix = ("▁Wo", "▁hat") * 6
    repeated = dataclasses.replace(segment, prefix=prefix)
    found = next(translator.translate_segments([repeated]))[1]
    assert found.decoded_again and found.tokens[: len(prefix)] == prefix
    assert len(found.tokens) < 30

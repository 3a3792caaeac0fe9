"""Formats: whatever the words are, they are read back as they were."""

import json
import xml.etree.ElementTree as ElementTree

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.cli.output_arguments import OUTPUT_FORMATS, SUBTITLES
from cress_svcd.translation import subtitle_files
from cress_svcd.translation.output import FORMATS, FormatOptions
from cress_svcd.translation.result import Translation, Word, join
from cress_svcd.translation.subtitles import Cue

TT = "{http://www.w3.org/ns/ttml}"
HARD = r"a --> {\an8}b{x} \N <b>c</b> & &amp; \h d"


def test_the_command_names_the_formats():
    assert tuple(FORMATS) == OUTPUT_FORMATS
    assert tuple(name for name, form in FORMATS.items() if form.timed) == SUBTITLES


def ttml_lines(text: str) -> list[list[str]]:
    root = ElementTree.fromstring(text.encode())
    return [
        [paragraph.text or "", *(line.tail or "" for line in paragraph)]
        for paragraph in root.iter(f"{TT}p")
    ]


def test_srt():
    text = subtitle_files.render(
        [Cue(0, 1000, (HARD, "zwei")), Cue(3_599_999, 3_601_000, ("ü",))], "srt"
    )
    assert text == (
        "1\n00:00:00,000 --> 00:00:01,000\n"
        "a → {\u2060\\an8}b{x} \\N <\u2060b>c<\u2060/b> & &amp; \\h d\nzwei\n\n"
        "2\n00:59:59,999 --> 01:00:01,000\nü\n\n"
    )


def test_vtt():
    text = subtitle_files.render([Cue(0, 1000, (HARD, "zwei"))], "vtt")
    assert text == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.000\n"
        "a --&gt; {\\an8}b{x} \\N &lt;b&gt;c&lt;/b&gt; &amp; &amp;amp; \\h d\nzwei\n\n"
    )
    assert subtitle_files.render([], "vtt") == "WEBVTT\n\n"


def test_ttml():
    text = subtitle_files.render(
        [Cue(0, 1000, (HARD, "zwei")), Cue(2000, 3000, ("größer 漢",))], "ttml"
    )
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<tt xml:lang="" ')
    assert ttml_lines(text) == [[HARD, "zwei"], ["größer 漢"]]
    assert "größer 漢" in text
    assert [event.start for event in pysubs2.SSAFile.from_string(text)] == [0, 2000]


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=30))
def test_ttml_gives_every_text_back(text):
    line = text.strip() or "x"
    assert ttml_lines(subtitle_files.render([Cue(0, 1000, (line,))], "ttml")) == [[line]]


@pytest.mark.parametrize("name", SUBTITLES)
def test_subtitles_are_written_when_a_recording_is_complete(name):
    options = FormatOptions()
    form = FORMATS[name](options)
    assert form.add(Translation("Eins.", 0, (), 0.0, 2.0), 0, "x") == ""
    assert form.add(Translation("", 0, (), 2.0, 3.0), 1, "x") == ""
    assert form.add(Translation("x" * 40, 0, (), 3.0, 4.0), 2, "x") == ""
    text = form.finish(4.5)
    assert text.count("Eins.") == 1 and "x" * 40 in text
    # The header said less than there was: the last cue stays until 4.0, not 3.5.
    assert options.broken == {
        "cues": 2,
        "fast": 1,
        "long lines": 0,
        "many lines": 0,
        "long": 0,
        "short": 0,
    }
    assert "Eins." not in form.finish(4.5)


PART = Translation(
    "Der Mann.",
    -1.0,
    ("▁Der", "▁Mann", "."),
    1.0,
    2.0,
    words=(Word("Der", 1.0, 1.2), Word("Mann.", 1.2, 2.0)),
    transcript="The man.",
    transcript_words=(Word("The", 1.1, 1.3), Word("man.", 1.3, 1.9)),
)


class TestJsonLines:
    def record(self, part, **options):
        return json.loads(FORMATS["jsonl"](FormatOptions(**options)).add(part, 0, "x"))

    def test_only_what_was_asked_for(self):
        assert list(self.record(PART)) == [
            "source",
            "segment",
            "start",
            "end",
            "text",
            "score",
            "tokens",
        ]

    def test_words(self):
        assert self.record(PART, words=True)["words"] == [
            {"word": "Der", "start": 1.0, "end": 1.2},
            {"word": "Mann.", "start": 1.2, "end": 2.0},
        ]

    def test_the_transcript_stands_besides_the_translation(self):
        record = self.record(PART, transcript=True)
        assert (record["text"], record["transcript"]) == ("Der Mann.", "The man.")
        assert "transcript_words" not in record
        record = self.record(PART, words=True, transcript=True)
        assert record["transcript_words"][0] == {"word": "The", "start": 1.1, "end": 1.3}

    def test_what_was_decoded_again_says_so(self):
        part = Translation("a", 0.0, ("a",), decoded_again=True)
        assert self.record(part)["decoded_again"] is True
        assert "decoded_again" not in self.record(PART)


def test_the_transcript_takes_the_place_of_the_translation():
    options = FormatOptions(transcript=True)
    assert FORMATS["text"](options).add(PART, 0, "x") == "The man.\n"
    form = FORMATS["srt"](options)
    form.add(PART, 0, "x")
    assert form.finish(None) == "1\n00:00:01,100 --> 00:00:02,100\nThe man.\n\n"


def test_parts_are_joined():
    other = Translation("Ja.", -3.0, ("▁Ja.",), 3.0, 4.0, decoded_again=True, transcript="")
    whole = join([PART, other])
    assert whole.words == PART.words and whole.decoded_again
    assert whole.transcript == "The man." and whole.transcript_words == PART.transcript_words
    assert join([Translation("a", 0, ("a",), 0, 1)]).transcript is None

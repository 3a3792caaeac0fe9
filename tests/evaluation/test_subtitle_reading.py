"""Subtitles read from files of every kind, and what is refused with its line."""

import re

import pytest

from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.subtitle_reading import Cue, parse_subtitles, read_subtitles
from cress_svcd.evaluation.subtitle_score import measure_subtitles
from cress_svcd.translation.output import FORMATS
from cress_svcd.translation.result import Translation

TTML = '<tt xmlns="http://www.w3.org/ns/ttml"><body><div>{}</div></body></tt>'
SHOWN = ("Das & Haus <b> ist {groß} \\N &amp;", "Ja")


def test_files_are_read_back(tmp_path):
    srt = "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Das</i> Haus\r\nist groß.\r\n\r\n"
    (tmp_path / "a.srt").write_bytes(srt.encode())
    assert read_subtitles(tmp_path / "a.srt") == [Cue(1, 2.5, ("Das Haus", "ist groß."))]
    vtt = "WEBVTT\n\nNOTE x\n\none\n00:03.000 --> 00:04.000 align:left\nA &amp; B\n\n"
    (tmp_path / "a.vtt").write_text(f"{vtt}01:00:00.000 --> 01:00:01.000\nspät\n", encoding="utf-8")
    assert read_subtitles(tmp_path / "a.vtt") == [
        Cue(3, 4, ("A & B",)),
        Cue(3600, 3601, ("spät",)),
    ]


def test_what_only_looks_like_a_tag_is_text():
    text = "1\n00:00:01,000 --> 00:00:02,000\na <\u2060b> <b>c</b> 1 < 2\n"
    assert parse_subtitles(text) == [Cue(1, 2, ("a <b> c 1 < 2",))]


def test_cues_are_put_in_the_order_of_time_and_may_overlap():
    late, early = "2\n00:00:02,000 --> 00:00:08,000\nb\n\n", "1\n00:00:01,000 --> 00:00:03,000\na\n"
    assert parse_subtitles(late + early) == [Cue(1, 3, ("a",)), Cue(2, 8, ("b",))]


@pytest.mark.parametrize("form", ["srt", "vtt", "ttml"])
def test_what_translate_writes_is_read_back(tmp_path, form):
    subtitles = FORMATS[form]()
    parts = [Translation(text, 0.0, (), 3.0 * i + 1, 3.0 * i + 3) for i, text in enumerate(SHOWN)]
    written = [subtitles.add(part, i, "x") for i, part in enumerate(parts)]
    path = tmp_path / f"a.{form}"
    path.write_text("".join([*written, subtitles.finish(None)]), encoding="utf-8")
    found = read_subtitles(path)
    assert [cue.text for cue in found] == list(SHOWN)
    assert [cue.start for cue in found] == [1, 4]


def test_ttml_of_others(tmp_path):
    path = tmp_path / "a.TTML"
    path.write_text(
        TTML.format(
            '<p begin="5s" dur="1500ms">b <span>c<br/>d</span>\n  e<!-- no --></p>'
            '<p begin="00:00:01" end="00:00:02.250"/>'
        )
    )
    assert read_subtitles(path) == [Cue(1, 2.25, ()), Cue(5, 6.5, ("b c", "d e"))]


def test_a_cue_without_words_and_one_with_an_empty_line_in_it(tmp_path):
    path = tmp_path / "a.srt"
    cues = "1\n00:00:01,000 --> 00:00:02,000\n\n2\n00:00:03,000 --> 00:00:04,000\na\n\nb\n"
    path.write_text(cues)
    assert read_subtitles(path) == [Cue(1, 2, ()), Cue(3, 4, ("a", "b"))]
    blank = "WEBVTT\n\n00:01.000 --> 00:02.000\n&nbsp;\n"
    assert parse_subtitles(blank, escapes=True) == [Cue(1, 2, ())]
    assert measure_subtitles([(read_subtitles(path), read_subtitles(path))])["suber"] == 0


@pytest.mark.parametrize("content", ["", "WEBVTT\n\n"])
def test_nothing_heard(tmp_path, content):
    (tmp_path / "a.vtt").write_text(content)
    assert read_subtitles(tmp_path / "a.vtt") == []


TIMES = "00:00:01,000 --> 00:00:02,000"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.srt", "something else\n", "a.srt:1: 'something else' is no subtitle in it"),
        ("a.srt", b"\xff\xfe\x00", "a.srt: is not UTF-8"),
        ("a.srt", f"1\n{TIMES}\nx\n\n2\n00:00:09,000 --> 00:00:08,000\ny\n",
         "a.srt:6: from 9 to 8 s; expected times that rise"),
        ("a.vtt", "WEBVTT\n\n00:09.000 --> 00:08.000\ny\n", "a.vtt:3: from 9 to 8 s"),
        ("a.ttml", TTML.format('<p begin="9s" end="8s">y</p>'), "a.ttml: 'y': from 9 to 8 s"),
        ("a.srt", f"1\n{TIMES}\nx\n\n2\n00:00:03 --> 00:00:04\ny\n",
         "a.srt:6: '00:00:03 --> 00:00:04'; expected times as in 00:00:01,500"),
        ("a.srt", "1\n00:00:61,000 --> 00:01:02,000\nx\n", "a.srt:2: '00:00:61,000"),
        ("a.srt", f"{'9' * 5000}:00:00,000 --> 00:01:02,000\nx\n", "a.srt:1: '99999"),
        ("a.vtt", "WEBVTT\n\nwords alone\n", "a.vtt:3: 'words alone' is no subtitle"),
        ("a.srt", f"1\n{TIMES}\nx\n\n1\n{TIMES}\nx\n",
         "a.srt:6: the same words at the same time as in line 1"),
        ("a.ttml", TTML.format('<p begin="1s" end="2s">y</p>' * 2), "'y': stands there twice"),
        ("a.ttml", TTML.format('<p begin="x" end="2s">y</p>'), "'y': begin 'x'; expected a time"),
        ("a.ttml", TTML.format("<p>y</p>"), "'y': begin ''; expected a time"),
        ("a.ttml", "<tt>\n<p>", "a.ttml:2: is not TTML"),
        ("a.ttml", "<html/>", "a.ttml: its root is 'html'; expected TTML"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, name, content, message):
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_subtitles(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="c.srt: cannot be read"):
        read_subtitles(tmp_path / "c.srt")

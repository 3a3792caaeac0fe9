"""Manifests: what is written is read back, and what is broken is named by line."""

import os

import pytest

from cress_svcd.data.corpus.manifest import (
    COLUMNS,
    REQUIRED_COLUMNS,
    Segment,
    read_manifest,
    write_manifest,
)
from cress_svcd.data.dataset import PackedStrings
from cress_svcd.data.feature_cache import segments_digest
from cress_svcd.errors import ManifestError

HEADER = "\t".join(COLUMNS)
LOOK_LIKE = [
    "0012",
    "1e5",
    "NA",
    "null",
    "nan",
    "None",
    "no",
    "true",
    "1:30",
    "2024-01-01",
    "~",
    '"q',
]
ROW = "t_1\ta.wav:0:16000\t16000\tHallo\tspk.1\tHello\ten\tde"


def make(path, *lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def test_round_trip_keeps_every_character(tmp_path):
    texts = ['"quoted" \'', "a\u2028b\u0085c\x0bd", "naïve 漢字 🙂", " \u200b.", "NA", "#"]
    rows = [
        Segment(f"t_{i}", f"a b:{i}.wav:{i}:5", 5 + i, text, "s", text[::-1], "en", "de")
        for i, text in enumerate(texts)
    ]
    assert write_manifest(tmp_path / "a.tsv", rows) == len(rows)
    frame = read_manifest(tmp_path / "a.tsv")
    assert list(frame.columns) == list(COLUMNS)
    assert [Segment(**row) for row in frame.to_dict("records")] == rows
    assert frame["n_frames"].dtype == "int64"


def test_optional_columns_default_to_empty_and_order_is_free(tmp_path):
    header = "tgt_text\textra\tn_frames\taudio\tid"
    path = make(tmp_path / "a.tsv", header, "Hallo\tx\t7\ta.wav\tt_1")
    row = read_manifest(path).iloc[0].to_dict()
    assert row == vars(Segment("t_1", "a.wav", 7, "Hallo"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends_of_other_systems(tmp_path, end):
    path = make(tmp_path / "a.tsv", "\ufeff" + HEADER, ROW, end=end)
    row = read_manifest(path).iloc[0]
    assert (row["id"], row["tgt_lang"]) == ("t_1", "de")


@pytest.mark.parametrize("column", REQUIRED_COLUMNS)
def test_missing_column(tmp_path, column):
    header = [name for name in COLUMNS if name != column]
    path = make(tmp_path / "a.tsv", "\t".join(header), "\t".join("1" * len(header)))
    with pytest.raises(ManifestError, match=f"a.tsv:1: no column {column}; found"):
        read_manifest(path)


@pytest.mark.parametrize(
    "lines, message",
    [
        ([HEADER, ROW, ROW.replace("t_1", "t_2") + "\tx"], "a.tsv:3: 9 fields, expected 8"),
        ([HEADER, ROW, "", ROW.replace("t_1", "t_2")], "a.tsv:3: 1 fields, expected 8"),
        ([HEADER, ROW, ROW], "a.tsv:3: id 't_1' stands already in line 2"),
        ([HEADER, ROW.replace("t_1", "")], "a.tsv:2: empty id"),
        ([HEADER, ROW.replace("\t16000", "\t1.5")], "a.tsv:2: column n_frames: '1.5'"),
        ([HEADER, ROW.replace("\t16000", "\t0")], "a.tsv:2: column n_frames: '0'"),
        ([HEADER, ROW.replace("\t16000", "\t-5")], "a.tsv:2: column n_frames: '-5'"),
        ([HEADER, ROW.replace("a.wav:0", "a.wav:-7")], "a.tsv:2: column audio: .*offset -7"),
        ([HEADER, ROW.replace("a.wav:0:16000", "")], "a.tsv:2: column audio: empty"),
        ([HEADER + "\tid", ROW + "\tx"], "a.tsv:1: column id occurs twice"),
        ([HEADER], "a.tsv: no segments"),
        ([], "a.tsv: empty file"),
    ],
)
def test_broken_tables_are_named_by_line(tmp_path, lines, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(make(tmp_path / "a.tsv", *lines))


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.tsv"
    row = ROW.encode().replace(b"Hallo", b"Gr\xfc\xdfe")
    path.write_bytes(HEADER.encode() + b"\n" + row + b"\n")
    with pytest.raises(ManifestError, match="a.tsv:2: not UTF-8 .byte 0xfc"):
        read_manifest(path)


def test_any_bytes_are_a_name_of_a_recording(tmp_path):
    name = os.fsdecode(b"sub\xff/b\xe9.wav")
    write_manifest(tmp_path / "x.tsv", [Segment("t_1", f"{name}:0:5", 5, "größe")])
    assert b"sub\xff/b\xe9.wav:0:5" in (tmp_path / "x.tsv").read_bytes()
    frame = read_manifest(tmp_path / "x.tsv")
    assert (frame["audio"][0], frame["tgt_text"][0]) == (f"{name}:0:5", "größe")
    packed = PackedStrings(frame["audio"])
    assert packed[0] == frame["audio"][0] and segments_digest(frame)


def test_missing_file(tmp_path):
    with pytest.raises(ManifestError, match="absent.tsv: cannot be read"):
        read_manifest(tmp_path / "absent.tsv")


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\rb"])
def test_a_field_that_would_break_the_table_is_not_written(tmp_path, text):
    path = make(tmp_path / "a.tsv", "old")
    with pytest.raises(ManifestError, match="'t_1', column src_text"):
        write_manifest(path, [Segment("t_0", "a", 1, "x"), Segment("t_1", "a", 1, "x", "s", text)])
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_names_and_texts_stay_text_whatever_they_look_like(tmp_path):
    rows = [Segment(f"{i}{t}", f"{t}.wav", 1, t, t, t, t, t) for i, t in enumerate(LOOK_LIKE)]
    rows += [Segment(t, t, 1, t) for t in LOOK_LIKE]
    write_manifest(tmp_path / "a.tsv", rows)
    assert [Segment(**row) for row in read_manifest(tmp_path / "a.tsv").to_dict("records")] == rows


@pytest.mark.parametrize(
    "number",
    [
        "16000.0",
        "16,000",
        "16.000",
        "16 000",
        "1_6",
        "1e4",
        "0x10",
        "nan",
        "inf",
        "",
        "-0",
        "+5",
        "\u0661",
    ]
    + ["true", "00", "1" * 19, "1" * 5000],
)
def test_lengths_that_are_no_whole_numbers(tmp_path, number):
    path = make(tmp_path / "a.tsv", HEADER, ROW.replace("\t16000", f"\t{number}"))
    with pytest.raises(ManifestError, match="a.tsv:2: column n_frames: .*expected a positive"):
        read_manifest(path)


def test_leading_zeros_of_lengths(tmp_path):
    path = make(tmp_path / "a.tsv", HEADER, ROW.replace("\t16000", "\t0016000"))
    assert read_manifest(path)["n_frames"].tolist() == [16000]


@pytest.mark.parametrize(
    "place",
    ["0.5:16000", "0:16000.0", "0,5:1", "0:16,000", "1e3:5", "0:0x10", "0:1_000", "nan:5", "0:5s"]
    + ["0: 5", "16000", "0:", ":5", "0:5.5", "0:" + "1" * 19, "0:" + "1" * 5000],
)
def test_places_that_are_no_whole_numbers(tmp_path, place):
    path = make(tmp_path / "a.tsv", HEADER, ROW.replace("a.wav:0:16000", f"a.wav:{place}"))
    with pytest.raises(ManifestError, match="a.tsv:2: column audio: "):
        read_manifest(path)


@pytest.mark.parametrize(
    "name", ["a:b.wav", "12:30:45.wav", "x.wav:1.wav", "C:\\a.wav", "a: b", "t:5"]
)
def test_colons_in_names_of_audio(tmp_path, name):
    path = make(tmp_path / "a.tsv", HEADER, ROW.replace("a.wav:0:16000", name))
    assert read_manifest(path)["audio"].tolist() == [name]
    path = make(tmp_path / "a.tsv", HEADER, ROW.replace("a.wav:0:16000", f"{name}:0:5"))
    assert read_manifest(path)["audio"].tolist() == [f"{name}:0:5"]


@pytest.mark.parametrize("text", [" ", "\u200b", "\u00ad\ufeff", "\r"])
def test_a_text_without_a_visible_character_is_empty(tmp_path, text):
    path = make(tmp_path / "a.tsv", HEADER, ROW.replace("Hallo", text).replace("Hello", text))
    frame = read_manifest(path)
    assert (frame["tgt_text"][0], frame["src_text"][0], frame["speaker"][0]) == ("", "", "spk.1")

"""Rows of a release's YAML: what is read, in which style, and what is refused by line."""

import re
import unicodedata

import pytest
import yaml

from cress_svcd.data.corpus import segment_rows
from cress_svcd.data.corpus.segment_rows import Row, read_rows, segment_ids
from cress_svcd.errors import ReleaseError
from tests.helpers.mustc_release import rewrite


def test_ids_are_unique_where_stems_coincide():
    rows = [Row(wav, 0.0, 1.0, "") for wav in ["a/x.wav", "b/x.wav", "x.flac", "x.wav", "b_x.wav"]]
    ids = segment_ids(rows * 2)
    assert len(set(ids)) == len(ids) == 10
    assert ids[0] == "x_0" and ids[5] == "x_1"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("offset: 2.5,", "offset: x,", "row 7: offset is 'x'; expected a number"),
        ("offset: 2.5,", "offset: -2.5,", "row 7: offset is '-2.5'; expected"),
        ("offset: 2.5,", "", "row 7: offset is missing; expected"),
        (
            "duration: 0.4, offset: 2.5,",
            "duration: .nan, offset: 2.5,",
            "row 7: duration is '.nan'",
        ),
        ("duration: 0.4, offset: 2.5,", "duration: yes, offset: 2.5,", "row 7: duration is 'yes'"),
        ("offset: 2.5, rW: 9, uW: 0, speaker_id: spk.1, wav: ted_10.wav", "offset: 2.5", "no wav"),
        ("- {duration: 0.4, offset: 2.5", "- nothing\n- {duration: 0.4, offset: 2.5", "'nothing'"),
        ("offset: 2.5,", "offset: [2.5,", "is not valid YAML"),
        ("offset: 2.5,", "offset: \x012.5,", "is not valid YAML"),
    ],
)
def test_broken_rows_are_named_by_line(release, old, new, message):
    path = release.text_file("train", "yaml")
    path.write_text("# written by hand\n" + path.read_text())
    rewrite(path, old, new)
    with pytest.raises(ReleaseError, match=f"train.yaml:8: .*{message}"):
        read_rows(path)


@pytest.mark.parametrize(
    "content, message",
    [("", "no segments"), ("[]", "no segments"), ("{a: 1}", "a dict; expected a list")],
)
def test_yaml_without_rows(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ReleaseError, match=f"a.yaml: .*{message}"):
        read_rows(tmp_path / "a.yaml")


@pytest.fixture
def small_blocks(monkeypatch):
    """Rows are parsed ten at a time."""
    monkeypatch.setattr(segment_rows, "_YAML_ROWS_AT_ONCE", 10)


@pytest.mark.parametrize("flow", [True, False])
def test_yaml_in_other_styles(tmp_path, small_blocks, flow):
    # One object in all rows: PyYAML writes an anchor once and aliases (*id001) everywhere else.
    shared = {"a": [1]}
    items = [
        {"wav": f"t {i}: ü.wav", "offset": i, "duration": "1e-1", "speaker_id": i, "extra": shared}
        for i in range(35)
    ]
    text = yaml.dump(items, default_flow_style=flow, allow_unicode=flow)
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    expected = [Row(f"t {i}: ü.wav", i, 0.1, str(i)) for i in range(35)]
    assert read_rows(tmp_path / "a.yaml") == expected


def test_a_broken_row_behind_the_first_block(tmp_path, small_blocks):
    row = "- {duration: 1, offset: 2, wav: a.wav}\n"
    path = tmp_path / "a.yaml"
    path.write_text(row * 35 + "- {duration: 1, offset: 2, wav: [}\n" + row)
    with pytest.raises(ReleaseError, match="a.yaml:36: is not valid YAML"):
        read_rows(path)
    path.write_text(row * 35 + "- {duration: 1, wav: a.wav}\n" + row)
    with pytest.raises(ReleaseError, match="a.yaml:36: row 36: offset is missing"):
        read_rows(path)


def read_one(path, row: str) -> Row:
    path.write_text(f"- {{duration: 1, offset: 0, wav: a.wav}}\n- {row}\n", encoding="utf-8")
    return read_rows(path)[1]


NUMBERS = {
    "1.5": 1.5,
    "'1.5'": 1.5,
    "+1.5": 1.5,
    "1e1": 10.0,
    "1.5E-1": 0.15,
    ".5": 0.5,
    "5.": 5.0,
    "0123": 123.0,
    "010.50": 10.5,
    "-0.0": 0.0,
}


@pytest.mark.parametrize(
    "style", ["{{offset: {}, duration: 2, wav: a}}", "wav: a\n  duration: 2\n  offset: {}"]
)
def test_numbers_are_what_they_look_like(tmp_path, style):
    for text, seconds in NUMBERS.items():
        assert read_one(tmp_path / "a.yaml", style.format(text)).offset == seconds, text


NO_NUMBERS = [
    *("1:30", "1:30.5", "1_000", "0x10", "0o17", "0b11", "1.5s", "1 500", "1.500.000", "1'500"),
    *(
        ".inf",
        "-.inf",
        "nan",
        ".NaN",
        "inf",
        "1e999",
        "yes",
        "true",
        "null",
        "~",
        "''",
        "-1",
        "--1",
    ),
    *("2024-01-01", "'1,5'", "[1.5]", "{a: 1}", "\u0661", "!!float 1_0.5", "!!int 0x10"),
]


@pytest.mark.parametrize("key", ["offset", "duration"])
@pytest.mark.parametrize(
    "style", ["{{{key}: {text}, {other}, wav: a}}", "{key}: {text}\n  {other}\n  wav: a"]
)
def test_what_is_not_a_number_as_a_whole_is_refused_by_row(tmp_path, key, style):
    other = "duration: 1" if key == "offset" else "offset: 1"
    for text in NO_NUMBERS:
        row = style.format(key=key, text=text, other=other)
        with pytest.raises(ReleaseError, match=rf"a.yaml:2: row 2: {key} is .*expected a number"):
            read_one(tmp_path / "a.yaml", row)


@pytest.mark.parametrize(
    "row, found",
    [
        (
            "{duration: 1,500000, offset: 0,750000, wav: a}",
            "duration is '1,500000'; expected a num",
        ),
        ("{duration: 1.5, offset: 0,75, wav: a}", "offset is '0,75'; expected a number"),
        ("{duration: 1.5, offset: 1,000,75, wav: a}", "offset is '1,000'; expected a number"),
        ("{wav: a, duration: 1.5, offset: 0, 75}", "offset is '0, 75'; expected a number"),
        ("{wav: a, duration: 1, offset: , speaker_id: s}", "offset is ''; expected a number"),
        ("{wav: a,b.wav, duration: 1, offset: 0}", "wav is 'a,b.wav'; YAML ends it at the comma"),
        ("{speaker_id: Smith, John, wav: a, duration: 1, offset: 0}", "is 'Smith, John'; YAML"),
        ("{wav: a, duration: 1, offset: 0, offset: 5}", "the key offset stands twice"),
        ("{wav: [a], duration: 1, offset: 0}", "wav is .'a'.; expected a name"),
        ("{wav: a, duration: 1, offset: 0, speaker_id: {b: c}}", "speaker_id is .*expected a name"),
        ('{wav: "\u200b", duration: 1, offset: 0}', "no wav in"),
    ],
)
def test_values_that_a_comma_parts_are_refused_by_row(tmp_path, row, found):
    with pytest.raises(ReleaseError, match=f"a.yaml:2: row 2: .*{found}"):
        read_one(tmp_path / "a.yaml", row)


def test_other_keys_may_hold_anything(tmp_path):
    row = (
        "{rW: 9,5, note: , list: [1, 2], wav: a.wav, duration: 1, offset: 2, speaker_id: , x: {y}}"
    )
    assert read_one(tmp_path / "a.yaml", row) == Row("a.wav", 2.0, 1.0, "")


NAMES = [
    *("0012", "0123.wav", "1e5", "1_000", "1:30", "0x1F", "1.10", "12", ".5", ".inf", "nan", "NaN"),
    *("on", "off", "yes", "no", "y", "true", "False", "null", "NULL", "~", "NA", "=", "<<"),
    *("2024-01-01", "2001-12-14 21:59:43.10", "0o17", "1,5", "Smith, John", "#1", "a: b", "-"),
]


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_names_stay_text(tmp_path, quote):
    for name in NAMES:
        if not quote and re.search(r"[,#]|: |^-$", name):
            continue
        text = f"{quote}{name}{quote}"
        for row in (
            f"{{wav: {text}, duration: 1, offset: 2, speaker_id: {text}}}",
            f"wav: {text}\n  speaker_id: {text}\n  duration: 1\n  offset: 2",
        ):
            assert read_one(tmp_path / "a.yaml", row) == Row(name, 2.0, 1.0, name)


def test_aliases_and_merged_rows_are_understood(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "- &a {wav: 012, duration: 1, offset: 0, speaker_id: &s '' }\n"
        "- {<<: *a, offset: 5}\n- {speaker_id: *s, wav: b, duration: 1, offset: 2}\n"
    )
    assert read_rows(path) == [
        Row("012", 0.0, 1.0, ""),
        Row("012", 5.0, 1.0, ""),
        Row("b", 2.0, 1.0, ""),
    ]


def test_composed_and_decomposed_names_are_one_talk_and_one_speaker(tmp_path):
    names = [unicodedata.normalize(form, "\u00e9.wav") for form in ("NFC", "NFD")]
    rows = [
        read_one(tmp_path / "a.yaml", f"{{wav: {n}, duration: 1, offset: 0, speaker_id: {n}}}")
        for n in names
    ]
    assert [row.wav for row in rows] == names
    assert {row.speaker for row in rows} == {names[0]}
    assert segment_ids(rows) == ["\u00e9_0", "\u00e9_1"]


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_byte_order_marks_of_yaml(tmp_path, mark, encoding):
    part = mark + "- {wav: \u00e9.wav, duration: 1, offset: 0}\r\n"
    (tmp_path / "a.yaml").write_bytes((part * 2).encode(encoding))
    assert [row.wav for row in read_rows(tmp_path / "a.yaml")] == ["\u00e9.wav"] * 2


NESTED = {
    "brackets": "- " + "[" * 100_000,
    "brackets, a line each": "[\n" * 100_000,
    "brackets in rows": "- [\n" * 100_000,
    "dashes": "- " * 100_000 + "x",
    "more than Python takes": "- " + "[" * 900 + "]" * 900,
    "itself": "- &a [*a]",
    "ever more": "- &a [x]\n"
    + "".join(f"- &a{i} [{'*a, ' * 9}]\n- &a [{f'*a{i}, ' * 9}]\n" for i in range(9)),
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_what_is_nested_too_deeply(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ReleaseError, match="a.yaml:?[0-9]*: .*expected") as error:
        read_rows(path)
    assert len(str(error.value)) < 1000


def test_brackets_in_names_are_no_nesting(tmp_path):
    (tmp_path / "a.yaml").write_text("- {wav: 'a[1{.wav', offset: 0, duration: 1}\n" * 2_500)
    assert read_rows(tmp_path / "a.yaml") == [Row("a[1{.wav", 0.0, 1.0, "")] * 2_500

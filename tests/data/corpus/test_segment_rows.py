"""Rows of a release's YAML: what is read, in which style, and what is refused by line."""

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
        ("offset: 2.5,", "offset: -2.5,", "row 7: offset is -2.5; expected"),
        ("offset: 2.5,", "", "row 7: offset is None; expected"),
        ("duration: 0.4, offset: 2.5,", "duration: .nan, offset: 2.5,", "row 7: duration is nan"),
        ("duration: 0.4, offset: 2.5,", "duration: yes, offset: 2.5,", "row 7: duration is True"),
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
    line = "" if "\x01" in new else ":8"
    with pytest.raises(ReleaseError, match=f"train.yaml{line}: .*{message}"):
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
    with pytest.raises(ReleaseError, match="a.yaml:36: row 36: offset is None"):
        read_rows(path)

"""Names whose characters are composed or decomposed are the same name."""

import unicodedata

import pytest

from cress_svcd.data.corpus.names import composed, existing

NFC, NFD = (unicodedata.normalize(form, "t\u00e9l\u00e9") for form in ("NFC", "NFD"))


def test_composed():
    assert NFC != NFD
    assert composed(NFD) == composed(NFC) == NFC
    assert composed("a_1") == "a_1"


@pytest.mark.parametrize("there, asked", [(NFC, NFD), (NFD, NFC)])
def test_either_spelling_finds_the_file(tmp_path, there, asked):
    file = tmp_path / there / "data" / f"{there}.wav"
    file.parent.mkdir(parents=True)
    file.touch()
    assert existing(tmp_path / asked / "data" / f"{asked}.wav") == file
    assert existing(file) == file


def test_the_exact_name_comes_first(tmp_path):
    for name in (NFC, NFD):
        (tmp_path / name).touch()
    for name in (NFC, NFD):
        assert existing(tmp_path / name) == tmp_path / name


def test_what_is_not_there_stays(tmp_path):
    (tmp_path / "other").touch()
    for name in (NFC, NFD, f"x/{NFC}", "x/y"):
        assert existing(tmp_path / name) == tmp_path / name


def test_none_of_several_is_taken(tmp_path):
    ring = "\u00c5", "A\u030a"
    for name in ring:
        (tmp_path / name).touch()
    assert existing(tmp_path / "\u212b") == tmp_path / "\u212b"


def test_a_large_folder_is_not_listed_for_each_name(tmp_path, monkeypatch):
    (tmp_path / NFC).touch()
    monkeypatch.setattr("os.listdir", None)
    assert existing(tmp_path / NFD) == tmp_path / NFC


def test_a_name_that_is_partly_composed_finds_the_file(tmp_path):
    (tmp_path / NFC).touch()
    assert existing(tmp_path / f"{NFD[:-2]}{NFC[-1]}") == tmp_path / NFC
    (tmp_path / NFC).rename(tmp_path / f"{NFC[:2]}{NFD[3:]}")
    assert len(list(tmp_path.iterdir())) == 1
    assert existing(tmp_path / NFC).is_file() and existing(tmp_path / NFD).is_file()

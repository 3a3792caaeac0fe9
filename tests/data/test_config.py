"""Where the vocabulary of a checkpoint is looked for."""

from pathlib import Path

import pytest

from cress_svcd.data.config import DataConfig, find_data, load_dictionary
from cress_svcd.errors import ConfigError

CONFIG = "config.yaml"


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with runs/st/checkpoint.pt; the working directory is elsewhere."""
    project = tmp_path / "home" / "project"
    (project / "runs" / "st").mkdir(parents=True)
    (project / "runs" / "st" / "checkpoint.pt").touch()
    return project


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def prepared(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).touch()
    return folder


def found(project: Path, configured: str = "", given: Path | None = None) -> Path:
    return find_data(project / "runs" / "st" / "checkpoint.pt", configured, CONFIG, given).resolve()


@pytest.mark.parametrize("near", ["runs/st", "runs/st/data", "runs", "runs/data", ".", "data"])
def test_it_is_found_near_the_checkpoint(project, near):
    expected = prepared(project / near)
    assert found(project, "gone") == expected.resolve()


@pytest.mark.parametrize("far", ["..", "../data", "data/en-de", "runs/other", "runs/st/data/deep"])
def test_and_no_farther(project, far):
    prepared(project / far)
    with pytest.raises(ConfigError, match="its vocabulary is not found"):
        found(project, "gone")


@pytest.mark.parametrize(
    "recorded, where",
    [
        ("data/en-de", "data/en-de"),
        ("st/vocabulary", "runs/st/vocabulary"),
        ("vocabulary", "runs/st/vocabulary"),
        ("../../other", "other"),
    ],
)
def test_a_relative_folder_is_looked_for_from_those_of_the_checkpoint(project, recorded, where):
    expected = prepared(project / where)
    assert found(project, recorded) == expected.resolve()


def test_the_nearest_of_several(project, tmp_path):
    prepared(project)
    beside = prepared(project / "runs" / "st")
    assert found(project, "gone") == beside.resolve()
    from_project = prepared(project / "data" / "en-de")
    assert found(project, "data/en-de") == from_project.resolve()
    from_here = prepared(tmp_path / "elsewhere" / "data" / "en-de")
    assert found(project, "data/en-de") == from_here.resolve()
    absolute = prepared(tmp_path / "absolute")
    assert found(project, str(absolute)) == absolute.resolve()
    given = prepared(tmp_path / "given")
    assert found(project, str(absolute), given) == given.resolve()


def test_a_checkpoint_named_from_its_own_folder(project, monkeypatch):
    expected = prepared(project / "data")
    monkeypatch.chdir(project / "runs" / "st")
    assert find_data(Path("checkpoint.pt"), "gone", CONFIG, None).resolve() == expected.resolve()


def test_a_link_to_a_checkpoint(project, tmp_path):
    expected = prepared(project / "data")
    link = tmp_path / "elsewhere" / "best.pt"
    link.symlink_to(project / "runs" / "st" / "checkpoint.pt")
    assert find_data(link, "gone", CONFIG, None).resolve() == expected.resolve()
    here = prepared(tmp_path / "elsewhere" / "data")
    assert find_data(link, "gone", CONFIG, None).resolve() == here.resolve()


def test_without_a_recorded_folder_the_working_directory_is_none(project, tmp_path):
    prepared(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not found"):
        found(project, "")


def test_what_is_given_is_all_that_is_looked_at(project):
    prepared(project / "data")
    with pytest.raises(ConfigError, match=f"no {CONFIG} in nowhere; name the folder"):
        found(project, "data", Path("nowhere"))


def test_the_message_says_where_it_was_looked_for(project):
    with pytest.raises(
        ConfigError, match=f"no {CONFIG} in old nor in .*runs/st nor in the 2 folders"
    ):
        found(project, "old")


@pytest.mark.parametrize("content", [b"a one\n", b"a\n", b"\xff\xfe\xfa 1\n", b"a 1\na 1\n"])
def test_what_is_no_dictionary_is_told_in_one_line(tmp_path, content):
    (tmp_path / "dict.txt").write_bytes(content)
    with pytest.raises(ConfigError, match="dict.txt: is no fairseq dictionary") as refused:
        load_dictionary(tmp_path / "dict.txt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line, said",
    [("vocab_filename:", "no such file"), ("bpe_tokenizer: 3", "key bpe_tokenizer: 3; expected")],
)
def test_a_key_without_its_value(tmp_path, line, said):
    (tmp_path / CONFIG).write_text(f"use_audio_input: true\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        DataConfig(tmp_path / CONFIG)

"""``cress-svcd demo-text``, as it is called."""

import json

import pytest

from cress_svcd.cli.main import main

FILES = {
    *("train.en", "train.de", "dev.en", "dev.de", "tst-COMMON.en", "tst-COMMON.de"),
    *("mt.en", "mt.de", "summary.json"),
}


def demo_text(*options):
    return main(["demo-text", *map(str, options)])


@pytest.fixture
def made(tmp_path, capsys):
    """The folder of a small corpus, and what was printed."""
    folder = tmp_path / "demo" / "text"
    sizes = ("--train", 60, "--dev", 8, "--test", 9, "--mt-train", 10)
    assert demo_text("--tgt-lang", "de", "-o", folder, *sizes, "--seed", 4) == 0
    return folder, capsys.readouterr().out


def test_it_writes_aligned_files(made):
    folder, _ = made
    assert {path.name for path in folder.iterdir()} == FILES
    for split, size in (("train", 60), ("dev", 8), ("tst-COMMON", 9), ("mt", 10)):
        for language in ("en", "de"):
            text = (folder / f"{split}.{language}").read_text(encoding="utf-8")
            assert text.endswith("\n")
            assert len(text.splitlines()) == size


def test_it_prints_and_writes_the_figures(made):
    folder, printed = made
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["tgt_lang"], summary["seed"]) == ("de", 4)
    assert [row["sentences"] for row in summary["splits"].values()] == [60, 8, 9, 10]
    table = [line.split() for line in printed.splitlines()[1:5]]
    assert [row[:2] for row in table] == [
        ["train", "60"],
        ["dev", "8"],
        ["tst-COMMON", "9"],
        ["mt", "10"],
    ]
    assert str(folder) in printed


def test_no_text_pairs_no_file(tmp_path):
    sizes = ("--train", 20, "--dev", 2, "--test", 2, "--mt-train", 0)
    assert demo_text("--tgt-lang", "ro", "-o", tmp_path, *sizes) == 0
    assert not list(tmp_path.glob("mt.*"))


@pytest.mark.parametrize(
    "options, complaint",
    [
        (("--tgt-lang", "fr"), "choose one of de, ro"),
        (("--tgt-lang", "de", "--train", 0), "train: 0 sentences"),
        (("--tgt-lang", "de", "--mt-train", 10**7), "ask for less"),
    ],
)
def test_a_bad_option_is_told_and_nothing_written(tmp_path, capsys, options, complaint):
    assert demo_text(*options, "-o", tmp_path / "text") == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "text").exists()

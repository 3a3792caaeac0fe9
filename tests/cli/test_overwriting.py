"""No command writes over what it reads: each of them, by each of its options that name files."""

import argparse
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cress_svcd.cli.main import COMMANDS, build_command_parser, main
from cress_svcd.cli.overwriting import WRITTEN

FOLDERS = {"convolutions", "text_data"}
NAMES = {"FILE", "LOG", "JSON", "AUDIO", "OUTPUT", "SOURCE"}


def may_name_a_file(action: argparse.Action) -> bool:
    shown = action.metavar if isinstance(action.metavar, tuple) else [str(action.metavar)]
    words = {word for each in shown for word in re.split(r"\W+", each)}
    return action.dest not in FOLDERS and (action.type is Path or bool(words & NAMES))


def values(action: argparse.Action, filler: str) -> list[str]:
    """Words that the argument takes."""
    word = "1" if action.type is not None and action.type is not Path else filler
    if action.choices:
        word = str(next(iter(action.choices)))
    return [word] * (action.nargs if isinstance(action.nargs, int) else 1)


def cases() -> list:
    found = []
    for name in COMMANDS:
        actions = build_command_parser(name)._actions
        for output in actions:
            if output.dest in WRITTEN and output.nargs != 0:
                for read in actions:
                    if read.dest not in WRITTEN and may_name_a_file(read):
                        found.append((name, output.dest, read.dest))
    return found


def command_line(name: str, output: str, written: str, read: str, source: str) -> list[str]:
    """The command with what it requires, ``read`` naming ``source``, ``output`` naming
    ``written``."""
    words = {}
    for action in build_command_parser(name)._actions:
        if action.dest == read:
            word = f"x={source}" if "=" in str(action.metavar) and action.option_strings else source
            given = [word] * max(1, action.nargs if isinstance(action.nargs, int) else 1)
        elif action.dest == output:
            given = [written]
        elif action.required:
            given = values(action, f"{source}.{action.dest}")
        else:
            continue
        words[action.dest] = [*action.option_strings[-1:], *given]
    positional = [each for each in words.values() if not each[0].startswith("-")]
    options = [each for each in words.values() if each[0].startswith("-")]
    return [name, *sum(positional, []), *sum(options, [])]


def test_every_command_that_writes_a_file_is_gone_through():
    found = {name for name, *_ in cases()}
    assert found == COMMANDS.keys() - {"recipe", "serve"}  # which write none
    assert {("score", "json", read) for read in ("outputs", "manifest", "exact")} <= set(cases())
    assert {("curves", "png", "logs"), ("chart", "csv", "sizes")} <= set(cases())


@pytest.mark.parametrize("name, output, read", cases(), ids="-".join)
def test_an_output_that_is_an_input_is_refused(tmp_path, capsys, name, output, read):
    source = tmp_path / "input.x"
    source.write_text("what was there\n")
    spelt = f"{tmp_path}/../{tmp_path.name}/input.x"
    os.symlink(source, tmp_path / "symbolic.x")
    os.link(source, tmp_path / "hard.x")
    for written in (spelt, str(tmp_path / "symbolic.x"), str(tmp_path / "hard.x")):
        assert main(command_line(name, output, written, read, str(source))) == 2
        told = capsys.readouterr()
        assert told.err == (
            f"cress-svcd {name}: error: --{output} {written}: is read as well; name another file\n"
        )
        assert not told.out
    assert source.read_text() == (tmp_path / "hard.x").read_text() == "what was there\n"
    assert len(os.listdir(tmp_path)) == 3 and (tmp_path / "symbolic.x").is_symlink()


def error_of(capsys, *words) -> str:
    assert main(list(map(str, words))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name, output", sorted({case[:2] for case in cases()}), ids="-".join)
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(tmp_path, capsys, name, output):
    """Before anything is read, too: no input is there."""
    (tmp_path / "file").write_text("kept")
    written, source = f"{tmp_path}/file/out.x", f"{tmp_path}/nothing"
    assert main(command_line(name, output, written, "", source)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/file: cannot be written" in line and "Not a directory" in line
    if output in ("json", "csv", "png"):
        assert main(command_line(name, output, str(tmp_path), "", source)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"--{output} {tmp_path}: is a folder; name a file to write")
    assert os.listdir(tmp_path) == ["file"]


def test_two_outputs_are_two_files(tmp_path, capsys):
    log = tmp_path / "train.log"
    log.write_text("")
    for there in (False, True):
        if there:
            (tmp_path / "out.x").write_text("old")
        line = error_of(
            capsys,
            *("curves", log, "--csv", tmp_path / "out.x", "--png", f"{tmp_path}/./out.x"),
        )
        assert line.endswith("out.x: --csv writes there as well; name another file")


def test_what_stands_in_a_folder_that_is_read_is_not_written_over(tmp_path, capsys):
    manifest = tmp_path / "dev.tsv"
    translations, recordings = ("talk.jsonl", "talk.ttml"), ("talk.wav", "talk.caf")
    for name in ("dev.tsv", "config.yaml", "spm.model", *recordings, *translations):
        (tmp_path / name).write_text("kept")
    for output in ("dev.tsv", "config.yaml", "spm.model"):
        line = error_of(
            capsys, "report", "model.pt", "--data", tmp_path, "--json", tmp_path / output
        )
        assert line.endswith(f"{output}: is there, among what is read; name another file")
    for name in recordings:
        line = error_of(capsys, "translate", "model.pt", tmp_path, "-o", tmp_path / name)
        assert line.endswith(f"{name}: is there, among what is read; name another file")
    for name in translations:
        line = error_of(
            capsys, "score", "--recordings", tmp_path, "--manifest", manifest,
            "--json", tmp_path / name,
        )  # fmt: skip
        assert line.endswith(f"{name}: is there, among what is read; name another file")
    line = error_of(
        capsys, "compare", "a", "b", "--manifest", manifest, "--json", tmp_path / "config.yaml"
    )
    assert line.endswith("config.yaml: is read as well; name another file")
    assert {file.read_text() for file in tmp_path.iterdir()} == {"kept"}


def test_an_average_is_not_written_over_one_of_its_checkpoints(tmp_path, capsys):
    for epoch in (1, 2):
        (tmp_path / f"checkpoint{epoch}.pt").write_text(f"{epoch}")
    line = error_of(capsys, "average", tmp_path, "--last", 2, "-o", tmp_path / "checkpoint2.pt")
    assert line.endswith("checkpoint2.pt: is read as well; name another file")
    assert (tmp_path / "checkpoint2.pt").read_text() == "2"


def test_folders_of_inputs_are_none_of_outputs(tmp_path, capsys):
    config = tmp_path / "x.yaml"
    line = error_of(capsys, "pretrain-hubert", tmp_path, "-o", f"{tmp_path}/.", "--config", config)
    assert "the folder of DATA; name another" in line
    folder = tmp_path / "en-de" / "data" / "train" / "txt"
    folder.mkdir(parents=True)
    for side in ("en", "de"):
        (folder / f"train.{side}").write_text("a b c\n")
    line = error_of(
        capsys, "speak", "--split", "train", folder / "train.en", folder / "train.de",
        "--tgt-lang", "de", "-o", tmp_path, "--force",
    )  # fmt: skip
    assert "train.en lies where the split is written to; name another folder" in line


class TestTranslate:
    """What a translation is written to is found out only when its recording is."""

    def test_a_recording_of_a_list(self, tmp_path):
        from cress_svcd.errors import ConfigError
        from cress_svcd.translation.inputs import expand_list
        from cress_svcd.translation.output import not_written_to

        for name in ("a.wav", "b.wav"):
            soundfile.write(tmp_path / name, np.zeros(16), 16_000)
        (tmp_path / "list").write_text(f"{tmp_path}/a.wav\n{tmp_path}/b.wav\n")
        sources = not_written_to(f"{tmp_path}/b.wav", expand_list(f"{tmp_path}/list"))
        assert next(sources).name.endswith("a.wav")
        with pytest.raises(ConfigError, match=r"--output .*b\.wav: is read as well"):
            next(sources)

    def test_a_text_whose_own_folder_is_written_to(self, tmp_path):
        from cress_svcd.errors import ConfigError
        from cress_svcd.translation.output import FORMATS, FileEach, Source

        (tmp_path / "talk.txt").write_text("ein Satz\n")
        source = Source(str(tmp_path / "talk.txt"), tmp_path / "talk.txt", Path("talk"))
        with pytest.raises(ConfigError, match="is read as well"):
            FileEach(tmp_path, FORMATS["text"]).begin(source)
        FileEach(tmp_path, FORMATS["jsonl"]).begin(source)

"""Curves out of the logs of fairseq-train."""

import csv
import json
import re

import pytest

from cress_svcd.cli.main import main

NOTE = (
    "2026-01-01 00:00:00 | INFO | fairseq.trainer | NOTE: gradient overflow detected, ignoring "
    "gradient, setting loss scale to: {}\n"
)


def entry(updates: int, loss: float, scale: float = 64, hydra: bool = False) -> str:
    """A line as fairseq-train writes it, or as fairseq-hydra-train does."""
    values = {
        "epoch": 1,
        "update": 0.5,
        "loss": f"{loss}",
        "st_nll_loss": f"{loss / 2}",
        "num_updates": str(updates),
        "gnorm": "1.5",
        "loss_scale": f"{scale}",
        "train_wall": "0",
    }
    tag = "[train_inner][INFO] - " if hydra else "| INFO | train_inner | "
    return f"2026-01-01 00:00:00 {tag}{json.dumps(values)}\n"


@pytest.fixture
def logs(tmp_path):
    smooth = "".join(entry(10 * i, 13 - i, hydra=True) for i in range(1, 5))
    rough = NOTE.format(32.0) + entry(10, 12, 32) + NOTE.format(16.0) + NOTE.format(8.0)
    rough += entry(20, 11.5, 8) + entry(30, float("nan"), 4)
    rough += "FloatingPointError: Minimum loss scale reached (0.0001). Your loss is probably …\n"
    for name, text in (("smooth", smooth), ("rough", rough)):
        (tmp_path / f"{name}.log").write_text("| INFO | fairseq_cli.train | …\n" + text)
    return tmp_path


def curves(logs, *arguments):
    return main(["curves", *map(str, arguments)])


def test_losses_and_overflows_over_updates(logs, capsys):
    out = {suffix: logs / f"out.{suffix}" for suffix in ("csv", "png", "json")}
    flags = [item for suffix, path in out.items() for item in (f"--{suffix}", path)]
    assert curves(logs, f"with={logs / 'smooth.log'}", f"none={logs / 'rough.log'}", *flags) == 0
    with out["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows if row["log"] == "with"] == [12, 11, 10, 9]
    assert [row["num_updates"] for row in rows if row["log"] == "none"] == ["10.0", "20.0", "30.0"]
    assert [float(row["overflows"]) for row in rows if row["log"] == "none"] == [1, 3, 3]
    smooth, rough = json.loads(out["json"].read_text())
    assert (smooth["overflows"], smooth["stopped_by_overflow"]) == (0, False)
    assert rough == {
        "name": "none",
        "updates": 30,
        "first_loss": 12.0,
        "last_loss": 11.5,
        "lowest_loss": 11.5,
        "overflows": 3,
        "smallest_loss_scale": 4.0,
        "stopped_by_overflow": True,
    }
    assert out["png"].read_bytes().startswith(b"\x89PNG")
    assert "stopped by overflows" in capsys.readouterr().out


def test_a_resumed_training_counts_from_its_checkpoint(logs):
    path = logs / "smooth.log"
    path.write_text(path.read_text() + entry(30, 7) + entry(40, 6))
    assert curves(logs, path, "--csv", logs / "out.csv", "--metrics", "st_nll_loss") == 0
    with (logs / "out.csv").open() as file:
        rows = [(row["num_updates"], row["st_nll_loss"]) for row in csv.DictReader(file)]
    assert rows == [("10.0", "6.0"), ("20.0", "5.5"), ("30.0", "3.5"), ("40.0", "3.0")]


def validated(updates: int, loss: float, split: str = "dev") -> str:
    values = {"epoch": 1, f"{split}_loss": f"{loss}", f"{split}_num_updates": f"{updates}"}
    return f"2026-01-01 00:00:00 | INFO | {split} | {json.dumps(values)}\n"


def begin(folder: str, fresh: bool = True) -> str:
    file = f"{folder}/checkpoint_last.pt"
    start = "2026-01-01 00:00:00 | INFO | fairseq.trainer | "
    found = "No existing checkpoint found" if fresh else "Loaded checkpoint"
    # Of two processes both say so.
    return 2 * f"{start}Preparing to load checkpoint {file}\n" + 2 * f"{start}{found} {file}\n"


EPOCH = '2026-01-01 | INFO | train | {"epoch": 1, "train_loss": "99", "train_num_updates": "20"}\n'


@pytest.fixture
def appended(tmp_path):
    """The log of a stage: two trainings, each validated, and the second stopped and resumed."""
    lines = begin("runs/st") + entry(10, 9) + validated(10, 8) + entry(20, 7) + EPOCH
    lines += validated(20, 6) + begin("runs/svcd") + entry(10, 5) + validated(10, 4)
    lines += entry(20, 3) + validated(20, 2.5) + begin("runs/svcd", fresh=False) + entry(20, 2)
    lines += validated(20, 1.5)
    (tmp_path / "08.log").write_text(lines)
    return tmp_path / "08.log"


def read(path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_all_trainings_of_a_log_with_their_validation(appended, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert curves(tmp_path, appended, "--csv", out, "--json", tmp_path / "out.json") == 0
    rows = [(row["log"], row["num_updates"], row["loss"], row["dev_loss"]) for row in read(out)]
    assert rows == [
        ("08 st", "10.0", "9.0", "8.0"),
        ("08 st", "20.0", "7.0", "6.0"),
        ("08 svcd", "10.0", "5.0", "4.0"),
        ("08 svcd", "20.0", "2.0", "1.5"),
    ]
    st, svcd = json.loads((tmp_path / "out.json").read_text())
    assert (st["name"], st["last_loss"], svcd["last_loss"]) == ("08 st", 7, 2)
    assert st["validation"] == {"dev": {"last_loss": 6, "lowest_loss": 6}}
    assert svcd["validation"] == {"dev": {"last_loss": 1.5, "lowest_loss": 1.5}}
    head, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[5:8] == ["lowest", "lowest", "dev"]
    assert first[-3:] == ["6.000", "0", "64"] and second[-3:] == ["1.500", "0", "64"]


def test_trainings_of_one_folder_have_numbers(tmp_path):
    again = begin("runs/st") + entry(10, 5) + begin("runs/st") + entry(10, 4) + entry(20, 3)
    (tmp_path / "x.log").write_text(again + begin("runs/st"))
    assert curves(tmp_path, f"a={tmp_path / 'x.log'}", "--csv", tmp_path / "out.csv") == 0
    rows = [(row["log"], row["loss"]) for row in read(tmp_path / "out.csv")]
    assert rows == [("a 1", "5.0"), ("a 2", "4.0"), ("a 2", "3.0")]


def test_a_validation_between_two_entries_has_a_row_of_its_own(tmp_path):
    log = tmp_path / "x.log"
    log.write_text(entry(10, 5) + validated(15, 4) + validated(15, 3, "tst-HE") + entry(20, 2))
    assert curves(tmp_path, log, "--csv", tmp_path / "out.csv", "--metrics", "loss") == 0
    rows = [tuple(row.values()) for row in read(tmp_path / "out.csv")]
    assert rows == [
        ("x", "10.0", "5.0", "", ""),
        ("x", "15.0", "", "4.0", "3.0"),
        ("x", "20.0", "2.0", "", ""),
    ]


def test_validation_is_drawn_next_to_training_and_axes_are_named(appended, tmp_path, drawn):
    assert curves(tmp_path, appended, "--png", tmp_path / "out.png") == 0
    titles = [(panel.get_title(), panel.get_xlabel(), panel.get_ylabel()) for panel in drawn]
    assert titles == [
        ("loss", "updates", "loss (bits)"),
        ("gnorm", "updates", "gradient norm"),
        ("loss_scale", "updates", "loss scale (fp16)"),
        ("overflows", "updates", "batches left out so far (fp16)"),
    ]
    lines = {line.get_label(): line for line in drawn[0].get_lines()}
    assert list(lines) == ["08 st", "08 st, dev", "08 svcd", "08 svcd, dev"]
    assert [list(line.get_ydata()) for line in lines.values()] == [[9, 7], [8, 6], [5, 2], [4, 1.5]]
    assert [line.get_linestyle() for line in lines.values()] == ["-", "--", "-", "--"]
    colours = [line.get_color() for line in lines.values()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [line.get_label() for line in drawn[1].get_lines()] == ["08 st", "08 svcd"]
    marks = [mark.get_text() for mark in drawn[2].get_yticklabels(which="both")]
    assert any(marks) and all(re.fullmatch(r"[0-9.]+", mark) for mark in marks if mark)


def test_no_panel_is_empty(tmp_path, drawn):
    """On a CPU, or in bf16, there is no loss scale, and nothing overflows."""
    values = {"loss": "2", "gnorm": "nan", "num_updates": "10"}
    log = tmp_path / "x.log"
    log.write_text(f"2026 | INFO | train_inner | {json.dumps(values)}\n")
    assert curves(tmp_path, log, "--png", tmp_path / "out.png") == 0
    assert [panel.get_title() for panel in drawn] == ["loss"]


def test_nothing_to_draw_is_said(tmp_path, capsys):
    log = tmp_path / "x.log"
    log.write_text(entry(10, float("nan")))
    assert curves(tmp_path, log, "--png", tmp_path / "out.png", "--metrics", "loss") == 2
    assert "out.png: nothing to draw: no finite value of loss" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_log_without_an_entry_leaves_the_others(logs, tmp_path, capsys):
    (tmp_path / "begun.log").write_text("nothing yet\n")
    names = [logs / "smooth.log", tmp_path / "begun.log", tmp_path / "gone.log", logs / "rough.log"]
    assert curves(logs, *names, "--json", tmp_path / "out.json") == 1
    said = capsys.readouterr()
    assert "begun.log: no entry" in said.err and "gone.log: cannot be read" in said.err
    assert said.err.rstrip().endswith("2 of 4 logs left out")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [summary["name"] for summary in found] == ["smooth", "rough"]
    assert curves(logs, *names[1:3]) == 2 and "none of 2 logs" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_log_with_a_byte_order_mark(tmp_path, encoding):
    text = entry(10, 12) + entry(20, 11)
    (tmp_path / "x.log").write_text(text, encoding=encoding)
    assert curves(tmp_path, tmp_path / "x.log", "--json", tmp_path / "out.json") == 0
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert (found["updates"], found["first_loss"]) == (20, 12)


@pytest.mark.parametrize(
    "content, flags, message",
    [
        (None, [], "cannot be read"),
        ("nothing\n", [], "no entry of a training in it"),
        (entry(1, 2), ["--metrics", "losss"], "losss: nothing of that name is logged; there are"),
    ],
)
def test_bad_input(tmp_path, capsys, content, flags, message):
    if content is not None:
        (tmp_path / "x.log").write_text(content)
    assert main(["curves", str(tmp_path / "x.log"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_numbers_that_are_none_are_passed_over(tmp_path):
    """Of a log that something else wrote into."""
    lines = entry(10, 12) + entry(20, 11)
    strange = [
        f'| train_inner | {{"num_updates": "{number}", "loss": "1"}}\n' for number in ("nan", "inf")
    ]
    strange += [
        f'| train_inner | {{"num_updates": {"9" * 5000}}}\n',
        f'| train_inner | {{"num_updates": "15", "loss": {"9" * 400}, "gnorm": "2"}}\n',
        f'| train_inner | {{"a": {"[" * 100_000}}}\n',
        '| dev | {"dev_num_updates": "nan", "dev_loss": "1"}\n',
    ]
    (tmp_path / "x.log").write_text("".join(strange[:3]) + lines + "".join(strange[4:]))
    out = tmp_path / "out.json"
    assert curves(tmp_path, tmp_path / "x.log", "--json", out, "--png", tmp_path / "x.png") == 0
    (found,) = json.loads(out.read_text())
    assert (found["updates"], found["last_loss"]) == (20, 11) and "validation" not in found


def test_a_validation_without_a_number(tmp_path, capsys):
    empty = entry(20, 1).replace("train_inner", "dev").split("{")[0] + "{}\n"
    (tmp_path / "x.log").write_text(entry(10, 3) + empty + entry(20, 2))
    assert curves(tmp_path, tmp_path / "x.log", "--png", tmp_path / "x.png") == 0
    assert "x" in capsys.readouterr().out and (tmp_path / "x.png").is_file()

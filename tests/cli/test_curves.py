"""Curves out of the logs of fairseq-train."""

import csv
import json

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

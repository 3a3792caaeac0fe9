import json
import sys

import pytest

from cress_svcd.recipes.processes import ProcessError, TrainingProgress, logged_numbers, run_logged


@pytest.mark.parametrize(
    "line",
    [
        '[2026-01-01 00:00:00,1][train_inner][INFO] - {"loss": "2.5", "epoch": 1}\n',
        '2026-01-01 00:00:00 | INFO | train_inner | {"loss": "2.5", "epoch": 1}\n',
    ],
)
def test_numbers_in_fairseqs_log(line):
    assert logged_numbers(line) == ("train_inner", {"loss": 2.5, "epoch": 1.0})


@pytest.mark.parametrize("line", ["", "| INFO | x | {broken", "Traceback {}", '{"loss": 1}'])
def test_other_lines(line):
    assert logged_numbers(line) is None


def test_words_are_no_numbers_but_nan_is():
    _, numbers = logged_numbers('| INFO | dev | {"a": "x", "b": null, "c": "nan"}')
    assert list(numbers) == ["c"] and numbers["c"] != numbers["c"]


def test_progress_follows_the_updates():
    progress = TrainingProgress("title", 100, ["loss"])
    for update in (10, 40):
        line = json.dumps({"num_updates": str(update), "loss": "1.5"})
        progress(f"| INFO | train_inner | {line}")
        progress("another line")
    assert progress.updates == 40
    assert progress.last["train_inner"]["loss"] == 1.5
    progress.close()


def test_output_goes_to_the_log_and_line_by_line_to_us(tmp_path):
    lines = []
    code = "import sys, os; print('out', os.environ['MARK']); print('err', file=sys.stderr)"
    log = tmp_path / "logs" / "x.log"
    run_logged([sys.executable, "-c", code, "a b; c"], log, lines.append, {"MARK": "é"})
    assert sorted(lines) == ["err\n", "out é\n"]
    text = log.read_text(encoding="utf-8")
    assert text.startswith(f"$ {sys.executable} -c") and "out é\n" in text


def test_a_failure_shows_the_end_of_the_log(tmp_path):
    code = "print('first'); print('the reason'); raise SystemExit(3)"
    log = tmp_path / "x.log"
    log.write_text("of an earlier run\n")
    with pytest.raises(ProcessError, match="(?s)ended with status 3.*x.log.*the reason") as caught:
        run_logged([sys.executable, "-c", code], log)
    assert "earlier" not in str(caught.value)


def test_a_killed_process_is_told_by_its_signal(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(ProcessError, match="SIGKILL"):
        run_logged([sys.executable, "-c", code], tmp_path / "x.log")


def test_the_process_ends_when_its_reader_fails(tmp_path):
    code = "import time\nprint('go', flush=True)\ntime.sleep(60)"

    def fail(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged([sys.executable, "-c", code], tmp_path / "x.log", fail)

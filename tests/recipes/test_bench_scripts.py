"""Scripts that the benches of quality are run with."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
RECORD = '{"num_updates": "%d", "epoch": %d, "update": "%.1f"}'


def test_text_of_numbers(tmp_path):
    command = [sys.executable, BENCH / "spoken_numbers.py", "-o", tmp_path, "--sentences", "50"]
    subprocess.run(command, check=True)
    pairs = {
        split: [
            (tmp_path / f"{split}.{language}").read_text(encoding="utf-8").splitlines()
            for language in ("en", "de")
        ]
        for split in ("train", "val", "test_2016")
    }
    assert [len(english) for english, german in pairs.values()] == [50, 150, 300]
    assert not set(pairs["test_2016"][1]) & set(pairs["train"][1])
    script = runpy.run_path(str(BENCH / "spoken_numbers.py"))
    words = {
        0: ("zero", "null"),
        17: ("seventeen", "siebzehn"),
        21: ("twenty one", "einundzwanzig"),
        100: ("one hundred", "einhundert"),
        101: ("one hundred one", "einhunderteins"),
        736: ("seven hundred thirty six", "siebenhundertsechsunddreißig"),
    }
    assert {n: (script["english"](n), script["german"](n)) for n in words} == words
    assert len({script["german"](number) for number in range(1000)}) == 1000


def test_what_is_watched(tmp_path):
    summarize = runpy.run_path(str(BENCH / "watch.py"))["summarize"]
    samples = [(0.0, 0, 10), (1.0, 100, 30), (2.0, 50, 20), (3.0, 0, 20)]
    # The second epoch's logs; without any the whole of it.
    updates = [(0.5, 10.0, 1.0, 0.5), (1.0, 20.0, 2.0, 1.0), (2.0, 40.0, 2.0, 1.5)]
    found = summarize(samples, updates, 3.0)
    assert (found["updates_per_second"], found["gpu_busy_percent"]) == (20.0, 75)
    assert summarize(samples, [], 3.0)["gpu_busy_percent"] == 37.5
    before = [(0.0, 900.0, 7.0, 6.5)]  # of another training
    log = "".join(
        f"x | INFO | train_inner | {RECORD % entry[1:]}\n" for entry in [*before, *updates]
    )
    log = 'x | INFO | train_inner | {"epoch": 1}\nx | INFO | train_inner | {...}\n' + log
    told = f"import sys, time\nfor line in {log.splitlines()!r}: print(line); time.sleep(0.1)\n"
    command = [sys.executable, BENCH / "watch.py", tmp_path / "found.json", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-uc", told], capture_output=True, text=True, check=True
    )
    assert done.stdout == log
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["updates"] == 40 and written["updates_per_second"] > 0

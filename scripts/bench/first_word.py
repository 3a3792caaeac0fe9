"""How long a person waits: for help, and for the first word of a translation.

usage: python scripts/bench/first_word.py MODEL RECORDING [--runs 7]

Measured from outside, from the start of the program to its first line on standard output; smallest
and median of the runs, in seconds, next to a Python that does nothing.
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds_to_first_line(command: list[str]) -> float:
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        line = process.stdout.readline()
        taken = time.perf_counter() - started
        process.stdout.read()
    if process.returncode or not line:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}, printed {line!r}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint, packed or not")
    parser.add_argument("recording", help="of one sentence")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    program = ["-m", "cress_svcd.cli.main"]
    commands = {
        "Python": ["-c", "print()"],
        "--help": [*program, "--help"],
        "translate --help": [*program, "translate", "--help"],
        "translate": [*program, "translate", args.model, args.recording],
    }
    seconds_to_first_line(commands["translate"])  # files come from the disk the first time
    for name, command in commands.items():
        taken = [seconds_to_first_line(command) for _ in range(args.runs)]
        print(f"{name:<18}{min(taken):>7.2f}{statistics.median(taken):>7.2f}", flush=True)


if __name__ == "__main__":
    main()

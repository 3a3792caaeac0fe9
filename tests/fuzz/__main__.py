"""Damages small sound files and gives them to every reader, for some minutes.

  bash scripts/fuzz.sh                                  # 5 minutes, a new seed
  bash scripts/fuzz.sh --minutes 60 --seed 7
  bash scripts/fuzz.sh --reader audio/sound.ogg         # this one, or all that begin so
  bash scripts/fuzz.sh --list
  bash scripts/fuzz.sh --reader NAME --input FILE       # run one file again

Each input must end in a result or in one line of our own.  What does not is a finding: another
exception, a crash, a hang, more than 4 GiB, a file that is left half-written.  A finding's input is
saved in --findings, with a text that says what happened and how to run it again.  Readers are
called in copies of this process; of those that are commands a few inputs run as processes of their
own, as users run them (--commands: all).
"""

import argparse
import hashlib
import logging
import os
import random
import shutil
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS_SHARE = 4  # they take longer: one input for so many of other readers
OWN_PROCESS = 8  # of so many batches of a command one input runs so as well


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/fuzz.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5, help="how long (default: %(default)s)")
    parser.add_argument("--turns", type=int, metavar="N", help="instead: all readers N times")
    parser.add_argument(
        "--inputs", type=int, default=20, metavar="N", help="of a reader in a turn (default: 20)"
    )
    parser.add_argument("--reader", action="append", help="names, or how they begin (see --list)")
    parser.add_argument("--seed", type=int, help="of all chance (default: another each time)")
    parser.add_argument("--list", action="store_true", help="list the readers")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run --reader with this file")
    parser.add_argument(
        "--findings", type=Path, default=ROOT / ".fuzz" / "findings", metavar="DIR",
        help="where inputs that fail are saved (default: .fuzz/findings)",
    )  # fmt: skip
    parser.add_argument(
        "--world", type=Path, default=ROOT / ".fuzz" / "world", metavar="DIR",
        help="where the sound files are made (default: .fuzz/world)",
    )  # fmt: skip
    parser.add_argument(
        "--commands", action="store_true", help="run all commands as processes of their own"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="run no command as a process of its own"
    )
    return parser.parse_args(argv)


class Fuzzer:
    """Runs readers and keeps what was found."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.world = args.world.resolve()
        self.scratch = self.world.parent / f"run-{os.getpid()}"
        self.runs = self.batches = 0
        self.begun: set[str] = set()
        self.found: dict[tuple[str, str], Path] = {}

    def run(self, reader, contents: list[bytes], own_process: bool = False) -> list:
        """Verdicts on inputs; of a command also in a process of its own for each."""
        from tests.fuzz import execution

        self.runs += len(contents)
        if not own_process:
            return execution.run_forked(reader, self.world, contents, self.scratch)
        run = execution.run_command
        return [run(reader, self.world, content, self.scratch) for content in contents]

    def attempt(self, reader, contents: list[bytes]) -> None:
        """Run inputs; what is new among their faults is saved and said."""
        own = self.args.commands and bool(reader.words)
        verdicts = self.run(reader, contents, own)
        if reader.name not in self.begun and verdicts[0].status and not verdicts[0].fault:
            verdicts[0].fault = "the sound file is refused"
        self.begun.add(reader.name)
        for content, verdict in zip(contents, verdicts, strict=True):
            if verdict.fault and (reader.name, verdict.fault) not in self.found:
                if len(contents) > 1 and not own and "the sound file" not in verdict.fault:
                    (verdict,) = self.run(reader, [content])  # alone, as it will be run again
                self.note(reader, content, verdict)
        if reader.words and not own and not self.args.in_process:
            self.batches += 1
            if self.batches % OWN_PROCESS == 0:
                (verdict,) = self.run(reader, contents[-1:], own_process=True)
                self.note(reader, contents[-1], verdict)

    def note(self, reader, content: bytes, verdict) -> None:
        """Save and say a fault that was not found before."""
        if verdict.fault and (reader.name, verdict.fault) not in self.found:
            path = self.save(reader, content, verdict)
            self.found[reader.name, verdict.fault] = path
            print(f"FOUND {reader.name}: {verdict.fault}\n  {path}", flush=True)

    def save(self, reader, content: bytes, verdict) -> Path:
        digest = hashlib.sha256(content).hexdigest()[:8]
        name = f"{reader.name.replace('/', '-').replace(' ', '-')}-{digest}"
        self.args.findings.mkdir(parents=True, exist_ok=True)
        path = (self.args.findings / name).with_name(name + Path(reader.file).suffix)
        path.write_bytes(content)
        again = f"bash scripts/fuzz.sh --reader {reader.name!r} --input {path}"
        text = f"{verdict.fault}\nstatus {verdict.status}\n{again}\n\n{verdict.details}\n"
        path.with_name(f"{path.name}.txt").write_text(text, encoding="utf-8")
        return path

    def explore(self, reader, seed: int, count: int, end: float) -> None:
        """Give a reader ``count`` inputs, or as many as there is time for."""
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import seed as seeded

        from tests.fuzz.mutations import KINDS

        sound = (self.world / reader.file).read_bytes()
        if reader.words:
            count = max(1, count // COMMANDS_SHARE)

        @seeded(seed)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(KINDS[reader.kind](sound))
        def inputs(content: bytes) -> None:
            contents.append(content)

        # The sound file first: if that is refused, nothing that follows means anything.
        contents = [] if reader.name in self.begun else [sound]
        inputs()
        if time.monotonic() < end:
            self.attempt(reader, contents)


def chosen(readers: dict, names: list[str] | None) -> list:
    """Readers of these names; else those whose names begin so."""
    if not names:
        return list(readers.values())
    found = [
        reader
        for name in names
        for reader in ([readers[name]] if name in readers else readers.values())
        if reader.name.startswith(name)
    ]
    if not found:
        sys.exit(f"fuzz: no reader {', '.join(names)}; --list lists them")
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    warnings.simplefilter("ignore")
    from tests.fuzz.readers import READERS, warm
    from tests.fuzz.world import make_world

    readers = chosen(READERS, args.reader)
    if args.list:
        for reader in readers:
            how = " (a command)" if reader.words else ""
            print(f"{reader.name:40} {reader.kind} of {reader.file}{how}")
        return 0
    logging.disable(logging.INFO)  # of making the world
    fuzzer = Fuzzer(args)
    output, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - commands' own words
    try:
        make_world(fuzzer.world)
    finally:
        sys.stdout = output
    warm()
    logging.disable(logging.NOTSET)
    try:
        if args.input:
            return again(fuzzer, readers[0], args.input)
        return campaign(fuzzer, readers, args)
    finally:
        shutil.rmtree(fuzzer.scratch, ignore_errors=True)


def again(fuzzer: Fuzzer, reader, file: Path) -> int:
    """Run one file and say how it ended."""
    (verdict,) = fuzzer.run(reader, [file.read_bytes()], fuzzer.args.commands)
    print(verdict.details)
    print(f"{reader.name}: status {verdict.status}, {verdict.fault or 'as it should be'}")
    return 1 if verdict.fault else 0


def campaign(fuzzer: Fuzzer, readers: list, args: argparse.Namespace) -> int:
    """Readers in turn, until the time is over."""
    seed = random.randrange(10**6) if args.seed is None else args.seed
    print(f"seed {seed}, {len(readers)} readers", flush=True)
    end = time.monotonic() + (60 * args.minutes if args.turns is None else 1e9)
    turn = 0
    while time.monotonic() < end and turn != args.turns:
        for reader in readers:
            if time.monotonic() < end:
                fuzzer.explore(reader, seed + turn, args.inputs, end)
        turn += 1
    print(f"{fuzzer.runs} runs in {turn} turns, seed {seed}: {len(fuzzer.found)} findings")
    for (name, fault), path in fuzzer.found.items():
        print(f"  {name}: {fault}\n    {path}")
    return 1 if fuzzer.found else 0


if __name__ == "__main__":
    sys.exit(main())

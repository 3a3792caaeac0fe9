"""Runs recipes: what is done already is left out, what was stopped takes up its work.

What a recipe is: :mod:`cress_svcd.recipes.recipe_file`.
"""

import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cress_svcd.atomic_files import is_number, read_json, read_text, write_json, write_text
from cress_svcd.errors import CressError
from cress_svcd.recipes import gpu_sharing
from cress_svcd.recipes.children import Child, alone_in
from cress_svcd.recipes.extras import missing_extras
from cress_svcd.recipes.recipe_file import Recipe, Stage
from cress_svcd.recipes.resumable import Record, Records, Step
from cress_svcd.shipped import file_or_shipped

# Run as modules of this very Python: they need not be on the PATH.
PROGRAMS = {
    "cress-svcd": "cress_svcd.cli.main",
    "fairseq-train": "fairseq_cli.train",
    "fairseq-hydra-train": "cress_svcd.training.hydra_train",
    "fairseq-generate": "fairseq_cli.generate",
    "fairseq-preprocess": "fairseq_cli.preprocess",
    "fairseq-interactive": "fairseq_cli.interactive",
    "torchrun": "torch.distributed.run",
}


class StageError(CressError):
    """A stage cannot start, or one of its commands failed."""


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of the programs that we start.

    This process's own goes before the first two, and ``changes`` before all.
    """
    return {
        # OpenMP's threads would spin while they wait for each other: on cores that something
        # else uses as well, training takes up to eight times as long.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Large pages: on the CPU, fresh memory for a batch's activations costs a third of a step.
        "THP_MEM_ALLOC_ENABLE": "1",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        **(changes or {}),
    }


class Runner:
    """Runs the stages of a recipe, leaving out those that are done already.

    Next to the results, in ``out``: ``logs/NN-stage.log``, ``.stages/stage.json`` (digest of the
    commands; seconds) and ``report.json``.

    Args:
        take_turns: commands that share a GPU take turns on it, whatever could let them run at the
            same time (``gpu_sharing.py``).
    """

    def __init__(
        self, recipe: Recipe, environment: dict[str, str] | None = None, take_turns: bool = False
    ):
        self.recipe = recipe
        self.stamps = StageStamps(recipe.folder / ".stages", recipe.stages)
        self._locks: Sequence[int] = ()
        self.take_turns = take_turns
        self.environment = child_environment(environment)

    def run(self, first: int = 1, last: int | None = None, force: bool = False) -> None:
        """Run stages ``first`` to ``last`` (numbers from 1).

        A stage is done if its commands are those of its last success, what it makes is there, and
        no stage before it ran since.  ``force`` takes none of them as done.

        Raises:
            StageError: the first stage that cannot start, or fails; or another run is at work.
        """
        stages = self.recipe.stages
        folder = self.recipe.folder
        # Commands inherit the lock: they have ended when another run gets it.
        with alone_in(folder, folder / ".stages" / "lock", "run of a recipe") as self._locks:
            self._check_outside(stages[first - 1 : last])
            for number, stage in enumerate(stages, start=1):
                if not first <= number <= (last or len(stages)):
                    continue
                title = f"[{number}/{len(stages)}] {stage.name}"
                if force:
                    self._forget([stage])
                if self.is_done(stage):
                    seconds = self.stamps.seconds(stage.name)
                    print(f"{title}: done before, in {seconds:.0f} s", flush=True)
                    continue
                print(f"{title}: {stage.does}", flush=True)
                self.run_stage(number, stage)

    def _check_outside(self, stages: list[Stage]) -> None:
        """Raises StageError where packages are missing, or files that no stage makes: before hours
        of work."""
        folder = self.recipe.folder.resolve()
        extras = missing_extras(stage for stage in stages if not self.is_done(stage))
        if extras:
            raise StageError(f"not all is installed: {'; '.join(extras)}")
        missing = [
            f"{file} (stage {stage.name})"
            for stage in stages
            if not self.is_done(stage)
            for file in stage.needs
            if not Path(file).resolve().is_relative_to(folder) and not Path(file).exists()
        ]
        if missing:
            raise StageError(
                f"{', '.join(missing)}: no such file; check the settings that name them (--list)"
            )

    def is_done(self, stage: Stage) -> bool:
        return self.stamps.is_done(_step(stage))

    def run_stage(self, number: int, stage: Stage) -> None:
        """Run one stage and note that it is done; what comes after it is not, from then on."""
        missing = [file for file in stage.needs if not Path(file).exists()]
        if missing:
            raise StageError(
                f"stage {stage.name}: {', '.join(missing)}: no such file; run the stages before it "
                "(--from-stage), or check the setting that names it"
            )
        if not self.stamps.is_begun(_step(stage)):
            for file in stage.clears:
                _remove(Path(file))
        self._forget(self.recipe.stages[number:])
        self.stamps.run(_step(stage), lambda: self._work(number, stage))

    def _work(self, number: int, stage: Stage) -> None:
        started = time.monotonic()
        logs = self._run_commands(number, stage)
        if stage.outputs:
            printed = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
            if len(stage.outputs) == 1:
                printed = ["".join(printed)]
            for output, text in zip(stage.outputs, printed, strict=True):
                write_text(output, text)
        absent = [file for file in stage.makes if not Path(file).exists()]
        if absent:
            raise StageError(
                f"stage {stage.name}: it ended without {', '.join(absent)}; see {logs[-1]}"
            )
        seconds = time.monotonic() - started
        print(f"    {seconds:.0f} s, log {', '.join(map(str, logs))}", flush=True)

    def _run_commands(self, number: int, stage: Stage) -> list[Path]:
        """Run the commands of a stage; returns their logs."""
        logs = self.recipe.logs(number)
        log = logs[0]
        log.parent.mkdir(parents=True, exist_ok=True)
        if stage.together:
            self._run_group(stage, list(zip(stage.commands, logs)))
            return logs
        log.unlink(missing_ok=True)
        for command in stage.commands:
            self._run_group(stage, [(command, log)])
        return [log]

    def _run_group(self, stage: Stage, commands: list[tuple[list[str], Path]]) -> None:
        """Run commands side by side, each writing to the end of its log; one failure ends all."""
        with contextlib.ExitStack() as stack:
            processes = []
            gpus = self._gpu_variables(len(commands), stack)
            for place, (command, log) in enumerate(commands):
                sink = stack.enter_context(
                    log.open(
                        "w" if stage.together else "a", encoding="utf-8", errors="surrogateescape"
                    )
                )
                sink.write(f"$ {shlex.join(command)}\n")
                sink.flush()
                environment = self._command_environment(place, len(commands), gpus)
                process = self._start(stage, command, sink, environment)
                stack.callback(process.stop)
                processes.append((command, log, process))
            for _ in _heartbeat(processes[0][1]):
                codes = [process.poll() for *_, process in processes]
                failed = [_failed(stage, log, process) for _, log, process in processes]
                if all(code is not None for code in codes) or any(failed):
                    break
            failures = [
                f"{' '.join(command[:2])} failed with status {process.returncode}; the end of "
                f"{log}:\n{_tail(log)}"
                for command, log, process in processes
                if _failed(stage, log, process)
            ]
            if failures:
                raise StageError(f"stage {stage.name}: " + "\n".join(failures))

    def _gpu_variables(self, together: int, stack: contextlib.ExitStack) -> list[dict[str, str]]:
        """For each GPU, the variables of a command that is to use it, one of ``together`` that run
        at once; ``stack`` ends with them."""
        if together == 1:
            return []
        cards = visible_gpus(self.environment)
        service = self._service_variables(cards, stack) if together > len(cards) else {}
        return gpu_sharing.variables_by_card(cards, service)

    def _service_variables(self, cards: list[str], stack: contextlib.ExitStack) -> dict[str, str]:
        """The variables of commands that share ``cards`` at the same time, until ``stack`` ends;
        none where they have to take turns, as they do from then on."""
        if not self.take_turns and gpu_sharing.can_be_started(self.environment, cards):
            try:
                return stack.enter_context(gpu_sharing.started(self.environment, cards))
            except gpu_sharing.ServiceError as error:
                print(f"    commands take turns on a GPU: {error}", flush=True)
        self.take_turns = True
        return {}

    def _command_environment(
        self, place: int, together: int, gpus: list[dict[str, str]]
    ) -> dict[str, str]:
        """That of command ``place`` of ``together`` that run at once: its share of the cores, and
        the variables of one of the GPUs."""
        if together == 1:
            return self.environment
        cores = max(1, len(os.sched_getaffinity(0)) // together)
        gpu = gpus[place % len(gpus)] if gpus else {}
        return {"OMP_NUM_THREADS": str(cores), **self.environment, **gpu}

    def _start(self, stage: Stage, command: list[str], sink, environment: dict[str, str]) -> Child:
        try:
            return Child(
                resolve(command),
                environment,
                self._locks,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise StageError(
                f"stage {stage.name}: {command[0]}: cannot be started ({error.strerror})"
            ) from None

    def write_report(self) -> dict:
        """Write ``report.json``: scores and sizes of the rows, seconds of the stages."""
        stages = {
            stage.name: round(self.stamps.seconds(stage.name), 1) for stage in self.recipe.stages
        }
        report = {
            "recipe": self.recipe.name,
            "settings": self.recipe.settings,
            "results": [_report_row(row) for row in self.recipe.report],
            "seconds": stages,
            "total_seconds": round(sum(stages.values()), 1),
        }
        write_json(self.recipe.folder / "report.json", report)
        return report

    def _forget(self, stages: list[Stage]) -> None:
        for stage in stages:
            self.stamps.forget(stage.name)


class StageStamps(Records):
    """``.stages/STAGE.json``: the digest of a stage's commands since they started, and the seconds
    once they are done."""

    def __init__(self, folder: Path, stages: Iterable[Stage] = ()):
        self.folder = folder
        self.today = {stage.former_digest(): stage.digest() for stage in stages if stage.formerly}

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _content(self, name: str) -> dict:
        try:
            content = json.loads(read_text(self._file(name)))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def seconds(self, name: str) -> float:
        seconds = self._content(name).get("seconds", 0)
        return seconds if is_number(seconds) else 0

    def read(self, name: str) -> Record | None:
        content = self._content(name)
        if "digest" not in content:
            return None
        digest = self.today.get(content["digest"], content["digest"])
        return Record(digest, finished="seconds" in content)

    def write(self, name: str, record: Record) -> None:
        write_json(self._file(name), {"digest": record.inputs, "seconds": record.seconds})

    def begin(self, step: Step) -> None:
        write_json(self._file(step.name), {"digest": step.inputs})

    def forget(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)


def _step(stage: Stage) -> Step:
    return Step(stage.name, stage.digest(), [Path(file) for file in stage.makes])


def resolve(command: list[str]) -> list[str]:
    """The command with its program as a module of this Python, or as this Python itself; a script
    that comes with the project is found from any folder."""
    if command[0] == "python":
        return [sys.executable, *with_shipped_script(command)[1:]]
    if command[0] in PROGRAMS:
        return [sys.executable, "-m", PROGRAMS[command[0]], *command[1:]]
    return command


def with_shipped_script(command: list[str]) -> list[str]:
    """``python SCRIPT …`` with the place of a script that comes with the project."""
    if command[0] == "python" and len(command) > 1:
        return [command[0], str(file_or_shipped(command[1], "demo")), *command[2:]]
    return command


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that programs may use, named as in CUDA_VISIBLE_DEVICES; empty where none is
    found."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        named = [card.strip() for card in given.split(",") if card.strip()]
        # As CUDA reads it: -1 hides all that follow.
        return list(itertools.takewhile(lambda card: not card.startswith("-"), named))
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return [] if found.returncode else found.stdout.split()


def _failed(stage: Stage, log: Path, process: subprocess.Popen) -> bool:
    """Whether it has ended badly, and not in the way that the stage accepts."""
    if not process.poll():
        return False
    printed = log.read_text(encoding="utf-8", errors="replace")
    return not stage.accepts or stage.accepts not in printed


def _heartbeat(log: Path) -> Iterator[None]:
    """Ticks; on a terminal, shows the seconds passed and the last line of the log meanwhile."""
    with tqdm(
        bar_format="    {elapsed} {desc}", leave=False, disable=not sys.stderr.isatty()
    ) as bar:
        pause = 0.05
        while True:
            yield
            time.sleep(pause)
            pause = min(0.2, pause * 1.5)  # a second would add up: a recipe has two dozen commands
            if not bar.disable:
                width = max(20, shutil.get_terminal_size().columns - 14)
                bar.set_description_str(_tail(log, 1)[:width])


def _tail(log: Path, lines: int = 15) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.path.getsize(log) - 20_000))
        text = file.read().decode("utf-8", errors="replace")
    kept = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return "\n".join(kept[-lines:])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _report_row(row: dict[str, str]) -> dict:
    result: dict[str, Any] = {"name": row["name"]}
    checkpoint, scores = Path(row.get("checkpoint", "")), Path(row.get("scores", ""))
    if checkpoint.is_file():
        result["checkpoint"] = str(checkpoint)
        result["megabytes"] = round(checkpoint.stat().st_size / 1e6, 2)
    if scores.is_file():
        content = read_json(scores)
        if "system" in row:
            content = _system(content, row["system"], scores)
        if not isinstance(content, dict) or not all(
            is_number(content.get(key, 0)) for key in (*COLUMNS, "exact_match", "reference_4grams")
        ):
            raise StageError(f"{scores}: expected the JSON of 'cress-svcd score' of one output")
        result.update({**content, "name": row["name"]})
    return result


def _system(comparison: Any, name: str, path: Path) -> dict:
    """Scores and translations of one system of 'cress-svcd compare'; ``path``: they were read from.

    Raises:
        StageError: it is not there.
    """
    try:
        scores = next(each for each in comparison["systems"] if each["name"] == name)
        translations = [
            {key: value for key, value in each.items() if key != "hypotheses"}
            | {"hypothesis": each["hypotheses"][name]}
            for each in comparison.get("translations", [])
        ]
        return {**scores, "translations": translations}
    except (LookupError, TypeError, AttributeError, StopIteration):
        raise StageError(
            f"{path}: no system {name} in it; expected the JSON of 'cress-svcd compare' of this "
            "recipe"
        ) from None


COLUMNS = {"bleu": "BLEU", "chrf": "chrF", "megabytes": "MB", "seconds": "seconds"}


def _without_4grams(row: dict) -> bool:
    """Whether no reference has four tokens: BLEU is 0 for a perfect translation, too."""
    return row.get("reference_4grams") == 0


def format_report(report: dict) -> str:
    """The table for people.  ``share``: of the first row's BLEU; ``seconds``: of translating.

    Rows whose references have no four tokens share the exact match of the first of them, or its
    chrF where it has none, and the table gets a column of exact match, in percent.
    """
    lines, results = [], report["results"]
    short = [row for row in results if _without_4grams(row)]
    columns = {"exact_match": "exact %", **COLUMNS} if short else COLUMNS
    if results:
        lines.append(f"{'':<38}{'share':>8}" + "".join(f"{name:>9}" for name in columns.values()))
    others = [row for row in results if not _without_4grams(row)]
    best = next((row["bleu"] for row in others if row.get("bleu")), None)
    share_of = "exact_match" if short and short[0].get("exact_match") else "chrf"
    for row in results:
        key, full = "bleu", best
        if _without_4grams(row):
            key, full = share_of, short[0].get(share_of)
        share = f"{row[key] / full:.1%}" if full and key in row else ""
        numbers = [row.get(column) for column in columns]
        cells = "".join(f"{'' if number is None else f'{number:g}':>9}" for number in numbers)
        lines.append(f"{row['name']:<38}{share:>8}{cells}")
    if short:
        chrf = "chrF, as the first of them has no exact match"
        lines.append(
            "BLEU means nothing where no reference has four tokens; share is of "
            + ("exact match" if share_of == "exact_match" else chrf)
        )
    if lines:
        lines.append("")
    lines += [f"{name:<44}{seconds:>7.0f} s" for name, seconds in report["seconds"].items()]
    lines.append(f"{'all stages':<44}{report['total_seconds']:>7.0f} s")
    return "\n".join(lines)

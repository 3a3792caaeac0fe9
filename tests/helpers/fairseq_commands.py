"""fairseq's commands over the tiny corpus, as processes."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cress_svcd.cli.main import main
from cress_svcd.recipes.recipe_file import Stage
from cress_svcd.recipes.runner import PROGRAMS, resolve
from tests.helpers.training_options import TINY_MODEL

USER_DIR = Path(__file__).parents[2] / "cress_svcd"
TASK = ["--user-dir", USER_DIR, "--task", "speech_and_text_translation", "--cpu"]

# The command of the method's description, paths and machine aside ("Regular Training Baselines").
# --fp16, which is slow without a GPU, has a test of its own.
BASELINE = [
    "--tgt-lang",
    "de",
    "--config-yaml",
    "config.yaml",
    "--train-subset",
    "train",
    "--valid-subset",
    "dev",
    "--num-workers",
    "2",
    "--max-tokens",
    "3000000",
    "--batch-size",
    "32",
    "--max-tokens-text",
    "8192",
    "--criterion",
    "speech_and_text_translation",
    "--label-smoothing",
    "0.1",
    "--arch",
    "hubert_transformer_pruning_layer",
    "--optimizer",
    "adam",
    "--adam-betas",
    "(0.9, 0.98)",
    "--lr",
    "1e-4",
    "--ddp-backend=legacy_ddp",
    "--warmup-updates",
    "4000",
    "--clip-norm",
    "0.0",
    "--seed",
    "1",
    "--update-freq",
    "2",
    "--layernorm-embedding",
    "--max-epoch",
    "45",
    "--st-training",
    "--mt-finetune",
    "--st-training",
]
# And the one under "SVCD", which repeats no dimensions.
SVCD = [
    *["quant_transformer" if option.startswith("hubert_") else option for option in BASELINE],
    "--lr-scheduler",
    "WarmupLRScheduler",
    "--disable-validation",
    "--fp16",
]
# Later options win: what makes it learn something in seconds.
QUICK = [
    "--lr",
    "1e-2",
    "--warmup-updates",
    "10",
    "--batch-size",
    "4",
    "--log-format",
    "json",
    "--log-interval",
    "1",
]
TINY = [*TINY_MODEL, *QUICK]


def train_command(data, save_dir, *flags, mode=("--st-training", "--mt-finetune")) -> list:
    """A ``fairseq-train`` command: the tiny baseline, with other ``flags`` after it."""
    options = [option for option in BASELINE if option not in ("--st-training", "--mt-finetune")]
    return [
        "fairseq-train",
        data,
        *TASK,
        *options,
        *mode,
        *TINY,
        "--save-dir",
        save_dir,
        *flags,
    ]


def svcd_command(data, save_dir, start, *flags) -> list:
    """The description's SVCD command, from the checkpoint ``start``, with ``flags`` after it."""
    return [
        "fairseq-train",
        data,
        *TASK,
        *SVCD,
        *QUICK,
        "--save-dir",
        save_dir,
        "--finetuned-st-model",
        start,
        *flags,
    ]


def generate_command(data, checkpoint, *flags) -> list:
    return [
        "fairseq-generate",
        data,
        *TASK,
        "--gen-subset",
        "tst-COMMON",
        "--path",
        checkpoint,
        "--beam",
        "3",
        "--max-len-b",
        "20",
        *flags,
    ]


def records(output: str, tag: str) -> list[dict]:
    """What was logged under ``tag`` (train_inner, train, dev) with ``--log-format json``."""
    lines = re.findall(rf"(?:\| {tag} \||\[{tag}\]\[INFO\] -) (\{{.*\}})", output)
    return [json.loads(line) for line in lines]


def measured(record: dict) -> dict:
    """A record without what depends on the clock."""
    return {
        name: value
        for name, value in record.items()
        if not re.search(r"(^|_)(wall|train_wall|wps|ups)$", name)
    }


@dataclass
class Outcome:
    """Of one command of a series."""

    output: str
    failed: bool


# Of several processes the first tells.
SERIES = """
import json, os, sys, traceback
from importlib import import_module
from torch import distributed
first = os.environ.get("RANK", "0") == "0"
def mark(words):
    # In one piece, or what another process prints gets into it.
    if first:
        os.write(sys.stdout.fileno(), f"\\n##### {words}\\n".encode())
for name, (module, *arguments) in json.loads(sys.argv[1]).items():
    if distributed.is_initialized():
        distributed.barrier()
    mark(name)
    sys.argv = [module, *arguments]
    try:
        import_module(module).cli_main()
    except BaseException:
        if first:
            traceback.print_exc(file=sys.stdout)
        mark("failed")
"""


def run_series(
    commands: dict[str, list], cwd: Path, launch: tuple[str, ...] = ()
) -> dict[str, Outcome]:
    """Run several commands of fairseq one after the other in one process; a start takes seconds.

    Args:
        launch: what starts a Python script in several processes that work together.
    """
    series = {
        name: [PROGRAMS[program], *map(str, arguments)]
        for name, (program, *arguments) in commands.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "series.py"
        script.write_text(SERIES, encoding="utf-8")
        words = [*(launch or [sys.executable]), str(script), json.dumps(series)]
        result = subprocess.run(
            words,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    outcomes, last = {}, ""
    for part in result.stdout.split("\n##### ")[1:]:
        name, _, output = part.partition("\n")
        if name == "failed":
            outcomes[last].failed = True
        else:
            last = name
            outcomes[name] = Outcome(output, False)
    assert outcomes.keys() == commands.keys(), result.stdout[-3000:]
    return outcomes


def run_stages(stages: list[Stage], cwd: Path) -> None:
    """Run all commands of a recipe's stages in their order, from ``cwd``, in few processes.

    Ours run in this one; those of fairseq wait until a file is needed that is not there, and then
    share one; others, as torchrun, have their own.
    """
    waiting: dict[str, list[str]] = {}
    begun: list[Stage] = []

    def finish() -> None:
        outcomes = run_series(waiting, cwd) if waiting else {}
        for name, outcome in outcomes.items():
            assert not outcome.failed, f"{name}: {outcome.output[-3000:]}"
        for stage in begun:
            assert len(stage.outputs) in (0, len(stage.commands))
            for number, file in enumerate(map(Path, stage.outputs), start=1):
                file.parent.mkdir(exist_ok=True)
                file.write_text(outcomes[f"{stage.name} {number}"].output, encoding="utf-8")
            assert all(Path(file).exists() for file in stage.makes), stage.name
        waiting.clear()
        begun.clear()

    with contextlib.chdir(cwd):
        for stage in stages:
            if not all(Path(file).exists() for file in stage.needs):
                finish()
            assert all(Path(file).exists() for file in stage.needs), stage.name
            begun.append(stage)
            for number, command in enumerate(stage.commands, start=1):
                if command[0] == "cress-svcd":
                    assert main(command[1:]) == 0, stage.name
                elif command[0].startswith("fairseq"):
                    waiting[f"{stage.name} {number}"] = command
                else:
                    result = subprocess.run(
                        resolve(command),
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        timeout=600,
                    )
                    assert result.returncode == 0, f"{stage.name}: {result.stdout[-3000:]}"
        finish()

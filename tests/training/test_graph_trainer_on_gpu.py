"""Captured steps on a GPU learn what fairseq's trainer learns there."""

import pytest

from tests.helpers.fairseq_commands import (
    Outcome,
    measured,
    records,
    run_series,
    svcd_command,
    train_command,
)

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

UPDATES = 200
COMMON = [
    *("--num-workers", "0", "--no-epoch-checkpoints", "--disable-validation"),
    *("--update-freq", "1", "--batch-size", "6", "--clip-norm", "2", "--lr", "0.001"),
    *("--warmup-updates", "20", "--log-interval", "20", "--max-update", UPDATES),
    *("--max-epoch", "1000", "--ctc-head", "--ctc-weight", "0.3", "--hubert-mask-prob", "0.3"),
    *("--dropout", "0.1"),
]
# The layers of HuBERT among them, all of which have gradients.
PRECISIONS = {"fp32": [], "fp16": ["--fp16", "--fp16-init-scale", "16"], "bf16": ["--bf16"]}


@pytest.fixture(scope="module")
def outcomes(prepared, hubert, tmp_path_factory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("graphs")
    start = folder / "fp16" / "checkpoint_last.pt"
    commands = {}
    for how, flags in (("", []), (", graphs", ["--graph-training"])):
        for name, precision in PRECISIONS.items():
            commands[name + how] = train_command(
                prepared,
                folder / (name + how),
                *("--hubert-model-path", hubert, *COMMON, *precision, *flags),
            )
        commands["svcd" + how] = svcd_command(
            prepared,
            folder / ("svcd" + how),
            start,
            *(*COMMON, *flags, "--quant-policy", "transformer", "--optimizer", "quant_adam"),
            *("--teacher-model", start, "--distill-hidden-weight", "1", "--teacher-fp16"),
            *("--quant-schedule", "fade", "--quant-warmup", "40", "--lr-scheduler", "fixed"),
        )
    for command in commands.values():
        command.remove("--cpu")
    return run_series(commands, folder)


@pytest.mark.parametrize("name", [*PRECISIONS, "svcd"])
def test_the_same_is_learnt_in_200_updates(outcomes, name):
    theirs, ours = outcomes[name], outcomes[name + ", graphs"]
    for outcome in (theirs, ours):
        assert not outcome.failed, outcome.output[-3000:]
    assert "captured step" in ours.output and "no CUDA graph" not in ours.output
    losses = [
        [float(measured(record)["loss"]) for record in records(outcome.output, "train_inner")]
        for outcome in (theirs, ours)
    ]
    assert len(losses[0]) == UPDATES // 20 and losses[0][-1] < losses[0][0]
    # Rounding in another order grows with every update.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if name == "fp32" else 1e-2)

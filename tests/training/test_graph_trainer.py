"""Training without waiting for the device gives what fairseq's trainer gives."""

import contextlib
import logging
import weakref
from pathlib import Path

import pytest
import torch

from cress_svcd.errors import ConfigError
from cress_svcd.training import captured_attention, graph_trainer
from cress_svcd.training.graph_trainer import is_wanted
from tests.helpers.fairseq_commands import Outcome, run_series, svcd_command, train_command
from tests.helpers.graph_training import (
    begun,
    configuration,
    plain_numbers,
    reads_of_a_step,
    require_same_training,
    require_sum_of_parts,
    rounded,
)

pytestmark = pytest.mark.slow

UPDATES = 12
COMMON = [
    *("--num-workers", "0", "--no-epoch-checkpoints", "--disable-validation"),
    *("--update-freq", "1", "--batch-size", "6", "--clip-norm", "2"),
    *("--lr", "0.002", "--warmup-updates", "4", "--log-interval", "4"),
    *("--max-update", UPDATES),
]
GRAPHS = "--graph-training"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def commands(prepared, hubert, folder) -> dict[str, list]:
    """Of trainings with and without the option."""

    def command(name: str, *flags) -> list:
        return train_command(
            prepared, folder / name, *COMMON, "--hubert-model-path", hubert, *flags
        )

    ctc = ("--ctc-head", "--ctc-weight", "0.3", "--hubert-mask-prob", "0.3", "--dropout", "0.2")
    half = ("--fp16", "--fp16-init-scale", "64", "--fp16-scale-window", UPDATES // 4)
    start = folder / "plain" / "checkpoint_last.pt"
    learning = [
        *("--quant-policy", "decoder", "--optimizer", "quant_adam", "--weight-decay", "0.01"),
        *("--teacher-model", start, "--distill-kl-weight", "1", "--distill-hidden-weight", "1"),
        *("--quant-schedule", "fade", "--quant-warmup", "1", "--lr-scheduler", "fixed"),
        *("--quant-embedding-bits", "2", "--quant-hubert-bits", "3", "--quant-subsampler-bits", 1),
    ]

    def svcd(name: str, *flags) -> list:
        return svcd_command(prepared, folder / name, start, *COMMON, *learning, *flags)

    def text(name: str, *flags) -> list:
        options = ("--text-data", prepared / "binary", "--batch-shapes", "2", "--dropout", "0.1")
        mode = ["--ext-mt-training"]
        size = ["--batch-size", "12", "--max-tokens", "160"]
        return train_command(prepared, folder / name, *COMMON, *options, *size, *flags, mode=mode)

    return {
        "text": text("text"),
        "text, graphs": text("text-graphs", GRAPHS),
        "plain": command("plain"),
        "plain, graphs": command("plain-graphs", GRAPHS),
        "ctc": command("ctc", *ctc),
        "ctc, graphs": command("ctc-graphs", *ctc, GRAPHS),
        "accumulated": command("accumulated", "--update-freq", "2", "--batch-size", "3"),
        "accumulated, graphs": command(
            "accumulated-graphs", "--update-freq", "2", "--batch-size", "3", GRAPHS
        ),
        "svcd": svcd("svcd"),
        "svcd, graphs": svcd("svcd-graphs", GRAPHS),
        "shapes": command("shapes", "--batch-shapes", "3", "--max-tokens", "200000"),
        "shapes, graphs": command(
            "shapes-graphs", "--batch-shapes", "3", "--max-tokens", "200000", GRAPHS
        ),
        # Of whose scale the window ends where the training is stopped, as fairseq counts anew then.
        "fp16": command("fp16", *half),
        "fp16, graphs": command("fp16-graphs", *half, GRAPHS),
        "fp16, stopped": command("fp16-resumed", *half, GRAPHS, "--max-update", UPDATES // 2),
        "fp16, resumed": command("fp16-resumed", *half, GRAPHS),
        "stopped": command("resumed", *ctc, GRAPHS, "--max-update", UPDATES // 2),
        "resumed": command("resumed", *ctc, GRAPHS),
    }


@pytest.fixture(scope="module")
def outcomes(commands, folder) -> dict[str, Outcome]:
    """What the commands gave, all in one process."""
    return run_series(commands, folder)


@pytest.mark.parametrize("name", ["plain", "text", "ctc", "accumulated", "svcd", "shapes", "fp16"])
def test_the_same_is_logged_and_learnt(outcomes, name):
    require_same_training(outcomes[name], outcomes[f"{name}, graphs"], UPDATES // 4)


def test_layers_that_are_led_in_are_captured_too(outcomes):
    """The schedule ends with the training: the shapes of the first epoch come again before."""
    output = outcomes["svcd, graphs"].output
    assert (
        "step 3 as a captured one" in output
        and plain_numbers(outcomes["svcd"])[-1]["quant_mix"] < 1
    )


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(outcomes):
    assert plain_numbers(outcomes["resumed"])[-1] == rounded(outcomes["ctc, graphs"])[-1]


def test_a_stopped_training_goes_on_with_its_loss_scale(outcomes):
    last = plain_numbers(outcomes["fp16, resumed"])[-1]
    assert last == rounded(outcomes["fp16, graphs"])[-1]
    assert last["loss_scale"] == 64 * 2 ** (UPDATES // (UPDATES // 4))


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ([], False),
        (["--batch-shapes", "3"], True),
        (["--batch-shapes", "3", "--graph-training", "off"], False),
        (["--batch-shapes", "3", "--cpu"], False),
        (["--batch-shapes", "3", "--ddp-backend", "fully_sharded"], False),
        (["--batch-shapes", "3", "--amp"], False),
        (["--graph-training"], True),
        (["--graph-training", "--cpu"], True),
    ],
)
def test_when_it_trains(prepared, hubert, tmp_path, monkeypatch, flags, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = train_command(prepared, tmp_path, *COMMON, "--hubert-model-path", hubert, *flags)
    given = [part for part in command[1:] if part != "--cpu" or "--cpu" in flags]
    assert is_wanted(configuration(given)) == wanted


@pytest.mark.parametrize(
    "flags, wanted",
    [([], False), (["--use-old-adam"], True), (["--optimizer", "quant_adam"], True)],
)
def test_with_apex_it_trains_by_fairseqs_steps(
    prepared, hubert, tmp_path, monkeypatch, caplog, flags, wanted
):
    """fairseq's adam is then apex's, which no captured step can do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(graph_trainer, "get_fused_adam_class", lambda: torch.optim.AdamW)
    command = train_command(
        *(prepared, tmp_path, *COMMON, "--hubert-model-path", hubert, "--batch-shapes", "3"), *flags
    )
    command.remove("--cpu")
    with caplog.at_level(logging.INFO):
        assert is_wanted(configuration(command[1:])) == wanted
    assert ("does not go with the FusedAdam of apex" in caplog.text) != wanted
    if not wanted:
        with pytest.raises(ConfigError, match="FusedAdam of apex .--use-old-adam: without it"):
            is_wanted(configuration([*command[1:], GRAPHS]))


def test_what_it_does_not_do_is_an_error_where_it_is_asked_for(prepared, hubert, tmp_path):
    flags = ["--hubert-model-path", hubert, GRAPHS, "--ddp-backend", "fully_sharded"]
    command = train_command(prepared, tmp_path, *COMMON, *flags)
    with pytest.raises(ConfigError, match="--graph-training does not go with --ddp-backend fully"):
        is_wanted(configuration(command[1:]))


def test_a_batch_that_does_not_fit_is_trained_in_parts(commands, monkeypatch):
    trainer, batch = begun(commands["plain, graphs"])
    trainer.train_step([batch])
    trainer.model.eval()  # no dropout
    require_sum_of_parts(trainer, batch, monkeypatch, of_gradients=1e-4, of_row=1e-4)


@pytest.mark.parametrize("name", ["ctc, graphs", "svcd, graphs"])
def test_a_step_asks_the_device_for_nothing(commands, outcomes, monkeypatch, name):
    assert not outcomes[name].failed
    assert reads_of_a_step(commands[name], monkeypatch) == []


def test_no_batch_is_copied_on_the_stream_of_captures(commands, monkeypatch):
    """Else a loader's thread that drops a pinned batch during a capture would die."""
    trainer, batch = begun(commands["plain, graphs"])
    trainer.train_step([batch])
    inside: list[bool] = []
    copied: list[bool] = []
    prepare = trainer._prepare_sample

    @contextlib.contextmanager
    def on_stream():
        inside.append(True)
        yield
        inside.pop()

    def prepared(sample):
        copied.append(bool(inside))
        return prepare(sample)

    ahead = trainer._copies.copied
    calls = []

    def counted(*given):
        calls.append(len(copied))
        return ahead(*given)

    monkeypatch.setattr(trainer._graphs.capture, "on_stream", on_stream)
    monkeypatch.setattr(trainer, "_prepare_sample", prepared)
    monkeypatch.setattr(trainer._copies, "copied", counted)
    trainer.train_step([batch, batch])
    assert copied == [False, False] and calls == [0, 1]


def test_attention_is_chosen_for_all_that_a_step_runs_through(commands, outcomes, monkeypatch):
    given = []
    monkeypatch.setattr(captured_attention, "install", given.extend)
    trainer, batch = begun(commands["svcd, graphs"])
    trainer.train_step([batch])
    assert given == [trainer.model, trainer.criterion, trainer.criterion.distillation.teacher]


def test_a_capture_that_fails_with_attention_by_cudnn_is_made_without(commands, monkeypatch):
    """Else no step of the training would be captured."""
    trainer, batch = begun(commands["plain, graphs"])
    trainer.train_step([batch])
    capture, installed, tried = trainer._graphs.capture, [True], []

    def fails_at_first(step, warmed):
        tried.append(bool(installed))
        capture.captures = not installed
        return step if installed else lambda: step()

    def leave_out(models):
        return bool(installed) and installed.pop()

    monkeypatch.setattr(capture, "captures", True)  # as on a GPU
    monkeypatch.setattr(capture, "capture", fails_at_first)
    monkeypatch.setattr(captured_attention, "leave_out", leave_out)
    for _ in range(2):
        trainer.train_step([batch])
    assert tried == [True, False] and len(trainer._graphs._graphs) == 1 and capture.captures


def test_a_step_for_whose_graph_there_is_no_memory_says_so_once(commands, monkeypatch, caplog):
    """It runs by itself, and is not counted among the captured ones."""
    trainer, batch = begun(commands["plain, graphs"])
    trainer.train_step([batch])
    capture = trainer._graphs.capture
    monkeypatch.setattr(capture, "captures", True)  # as on a GPU
    monkeypatch.setattr(capture, "capture", lambda function, warmed=False: function)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            trainer.train_step([batch])
    (warning,) = [record for record in caplog.records if "captured" in record.getMessage()]
    shape = str(tuple(batch["net_input"]["src_tokens"].shape))
    assert warning.levelname == "WARNING" and shape in warning.getMessage()
    assert "not captured for want of memory" in warning.getMessage()
    assert not trainer._graphs._graphs and trainer.get_num_updates() == 4


def test_a_longer_batch_leaves_captured_steps_their_masks(commands):
    trainer, batch = begun(commands["plain, graphs"])
    for _ in range(2):  # the second is captured
        trainer.train_step([batch])
    mask = weakref.ref(trainer.model.decoder._future_mask)
    longer = torch.cat([batch["net_input"]["prev_output_tokens"]] * 2, dim=1)
    trainer.model.decoder.buffered_future_mask(longer.t().float())
    assert trainer.model.decoder._future_mask is not mask()
    assert mask() is not None  # a graph holds its address

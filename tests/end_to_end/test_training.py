"""fairseq-train and fairseq-hydra-train with our task, models, criterion and scheduler."""

import math
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.fairseq_commands import USER_DIR, records, run_series, train_command
from tests.helpers.training_options import TINY_MODEL

ARCHS = [
    "hubert_transformer",
    "hubert_transformer_postln",
    "hubert_transformer_pruning_layer",
    "hubert_transformer_pruning_layer_postln",
]


def losses(output: str, tag: str, name: str) -> list[float]:
    return [float(record[name]) for record in records(output, tag)]


class TestBaseline:
    def test_every_loss_falls_clearly(self, baseline):
        for name in ("train_st_loss", "train_mt_loss"):
            values = losses(baseline.output, "train", name)
            assert len(values) == 8 and values[-1] < 0.75 * values[0]
        values = losses(baseline.output, "dev", "dev_loss")
        assert values[-1] < 0.75 * values[0]

    def test_the_log_holds_loss_and_accuracy_of_each_mode(self, baseline):
        for tag, prefix in (("train", "train_"), ("dev", "dev_")):
            (*_, last) = records(baseline.output, tag)
            for mode in ("st", "mt"):
                for name in ("loss", "nll_loss", "accuracy"):
                    assert math.isfinite(float(last[f"{prefix}{mode}_{name}"]))

    def test_tensorboard_shows_them(self, baseline):
        shown = {}
        for part in ("train", "train_inner", "dev"):
            events = EventAccumulator(str(baseline.folder / "tensorboard" / part))
            events.Reload()
            shown[part] = events
        for name in ("st_loss", "mt_loss", "st_accuracy"):
            assert name in shown["train_inner"].Tags()["scalars"]
        values = [event.value for event in shown["dev"].Scalars("st_loss")]
        logged = losses(baseline.output, "dev", "dev_st_loss")
        assert values == pytest.approx(logged, abs=1e-3)

    def test_it_said_what_it_took_from_both_checkpoints(self, baseline):
        assert "HuBERT from" in baseline.output and "translation model from" in baseline.output
        assert "tensors taken" in baseline.output


@pytest.fixture(scope="module")
def short(prepared, hubert, text_model, elsewhere, tmp_path_factory):
    """Short trainings in one process, by name."""
    folder = tmp_path_factory.mktemp("short")

    def command(name, *flags, **options):
        speech = (
            () if options.get("mode") == ["--ext-mt-training"] else ("--hubert-model-path", hubert)
        )
        return train_command(
            prepared,
            folder / name,
            "--text-data",
            prepared / "binary",
            "--num-workers",
            "0",
            *speech,
            "--max-update",
            "1",
            *flags,
            **options,
        )

    mixed = ["--st-training", "--mt-finetune", "--ext-mt-training"]
    commands = {arch: command(arch, "--arch", arch) for arch in ARCHS}
    commands |= {
        "scheduler": command(
            "scheduler",
            "--lr-scheduler",
            "WarmupLRScheduler",
            "--max-update",
            "5",
            "--warmup-updates",
            "2",
            "--lr",
            "1e-3",
        ),
        "mixed": command(
            "mixed",
            "--max-update",
            "6",
            "--max-tokens-text",
            "200",
            "--tensorboard-logdir",
            folder / "mixed" / "tensorboard",
            mode=mixed,
        ),
        "bleu": command(
            "bleu",
            "--eval-bleu",
            "--eval-bleu-args",
            '{"beam": 2}',
            "--best-checkpoint-metric",
            "bleu",
            "--maximize-best-checkpoint-metric",
        ),
        "bleu of text": command("bleu_text", "--eval-bleu", mode=["--ext-mt-training"]),
        "ctc": command("ctc", "--ctc-head", "--ctc-weight", "0.3", "--max-update", "5"),
        "frozen": command("frozen", "--freeze-hubert"),
        # The first gradients overflow, until the scale is small enough.
        "fp16": command("fp16", "--fp16", "--fp16-init-scale", str(2**22)),
        "bf16": command("bf16", "--bf16"),
    }
    return folder, run_series(commands, elsewhere)


class TestShort:
    def output(self, short, name) -> str:
        outcome = short[1][name]
        assert not outcome.failed, outcome.output[-3000:]
        return outcome.output

    @pytest.mark.parametrize("arch", ARCHS)
    def test_every_arch_trains(self, short, arch):
        (record,) = records(self.output(short, arch), "train_inner")
        assert math.isfinite(float(record["loss"])) and float(record["gnorm"]) > 0
        assert (short[0] / arch / "checkpoint_last.pt").exists()

    def test_the_scheduler_of_the_description(self, short):
        rates = losses(self.output(short, "scheduler"), "train_inner", "lr")
        wanted = [1e-3 * 0.5, 1e-3, *(1e-3 * (2 / update) ** 0.5 for update in (3, 4, 5))]
        assert rates == pytest.approx(wanted, rel=1e-3)

    def test_three_modes_in_one_run(self, short):
        output = self.output(short, "mixed")
        names = {name for record in records(output, "train_inner") for name in record}
        assert {"st_loss", "mt_loss", "ext_mt_loss", "ext_mt_accuracy"} <= names
        (dev, *_) = records(output, "dev")
        assert "dev_st_loss" in dev and "dev_ext_mt_loss" not in dev
        events = EventAccumulator(str(short[0] / "mixed" / "tensorboard" / "train_inner"))
        events.Reload()
        for name in ("st_loss", "ext_mt_loss"):
            logged = [record for record in records(output, "train_inner") if record.get(name)]
            assert len(events.Scalars(name)) == len(logged) > 0

    @pytest.mark.parametrize("name", ["bleu", "bleu of text"])
    def test_bleu_in_validation(self, short, name):
        (record,) = records(self.output(short, name), "dev")
        assert 0 <= float(record["dev_bleu"]) <= 100

    def test_ctc(self, short):
        output = self.output(short, "ctc")
        values = losses(output, "train_inner", "ctc_loss")
        assert len(values) == 5 and all(0 < value < 1_000 for value in values)
        assert float(records(output, "dev")[0]["dev_ctc_loss"]) > 0

    def test_frozen_hubert_is_stored_as_it_was(self, short, hubert):
        self.output(short, "frozen")
        saved = torch.load(short[0] / "frozen" / "checkpoint_last.pt", weights_only=True)["model"]
        original = torch.load(hubert, weights_only=True)["model"]
        parts = {
            name.removeprefix("encoder.hubert."): value
            for name, value in saved.items()
            if name.startswith("encoder.hubert.")
        }
        assert len(parts) > 20
        assert all(torch.equal(value, original[name]) for name, value in parts.items())

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_half_precision(self, short, precision):
        (record,) = records(self.output(short, precision), "train_inner")
        (full,) = records(self.output(short, ARCHS[2]), "train_inner")
        assert float(record["loss"]) == pytest.approx(float(full["loss"]), rel=0.02)
        saved = torch.load(short[0] / precision / "checkpoint_last.pt", weights_only=True)["model"]
        wanted = torch.float16 if precision == "fp16" else torch.bfloat16
        assert saved["decoder.layers.0.fc1.weight"].dtype in (wanted, torch.float32)

    def test_training_goes_on_after_an_overflow(self, short):
        output = self.output(short, "fp16")
        scales = [float(scale) for scale in re.findall(r"setting loss scale to: (\S+)", output)]
        assert scales and scales == [2.0 ** (21 - i) for i in range(len(scales))]
        (record,) = records(output, "train_inner")
        assert record["num_updates"] == "1"


class TestHydra:
    def test_the_configuration_of_the_project(self, run, prepared, hubert, elsewhere, tmp_path):
        sizes = dict(zip(TINY_MODEL[::2], TINY_MODEL[1::2]))
        overrides = [
            f"model.{name.lstrip('-').replace('-', '_')}={value}" for name, value in sizes.items()
        ]
        result = run(
            "fairseq-hydra-train",
            "--config-dir",
            USER_DIR.parent / "configs" / "train",
            "--config-name",
            "st_base",
            f"common.user_dir={USER_DIR}",
            f"task.data={prepared}",
            "task.target_lang=de",
            f"model.hubert_model_path={hubert}",
            f"checkpoint.save_dir={tmp_path / 'st'}",
            "common.cpu=true",
            "common.fp16=false",
            "optimization.max_update=2",
            "dataset.max_tokens=200000",
            "dataset.num_workers=1",
            "optimization.update_freq=[1]",
            "common.log_format=json",
            "common.log_interval=1",
            f"hydra.run.dir={tmp_path / 'run'}",
            *overrides,
            cwd=elsewhere,
        )
        output = result.stdout + result.stderr
        assert len(records(output, "train_inner")) == 2
        assert "st_loss" in records(output, "train_inner")[0]
        assert (tmp_path / "st" / "checkpoint_last.pt").exists()

"""The real command, as a process, on a corpus in which each letter is a tone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from fairseq import checkpoint_utils

from cress_svcd.cli.main import main
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder
from cress_svcd.recipes.children import FolderInUseError, alone_in
from cress_svcd.recipes.supervisor import descendants
from tests.helpers.tone_corpus import write_prepared

pytestmark = pytest.mark.slow

CONFIG = {
    "seed": 1,
    "units": {"clusters": 8, "sample_frames": 1_000},
    "task": {
        "pad_audio": True,
        "random_crop": False,
        "min_sample_size": 4_800,
        "max_sample_size": 32_000,
    },
    "model": {
        "conv_feature_layers": "[(16,40,20)] + [(32,16,16)]",
        "encoder_layers": 1,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "layer_norm_first": True,
        "conv_pos": 8,
        "conv_pos_groups": 4,
        "final_dim": 16,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "mask_length": 4,
    },
    "common": {"fp16": True, "log_interval": 2},
    "dataset": {
        "max_tokens": 64_000,
        "validate_interval": 1000,
        "num_workers": 0,
    },
    "checkpoint": {"save_interval": 1000},
    "masked_prediction": {
        "model": {"mask_prob": 0.5},
        "optimization": {"max_update": 6, "lr": [0.005]},
        "lr_scheduler": {"warmup_updates": 2, "total_num_update": 1000},
    },
    "ctc": {
        "model": {"mask_prob": 0.05},
        "criterion": {"units_weight": 0.5},
        "optimization": {"max_update": 8, "lr": [0.005]},
        "lr_scheduler": {"warmup_updates": 2, "total_num_update": 1000},
    },
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def one_thread_in_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(data, out, config, *options):
    program = [sys.executable, "-m", "cress_svcd.cli.main"]
    arguments = [data, "-o", out, "--config", config, "--workers", 1, *options]
    return [*program, "pretrain-hubert", *map(str, arguments)]


def pretrain(data, out, config, *options, status=0):
    """The command's own code in this process; what it trains runs in others."""
    assert main(command(data, out, config, *options)[3:]) == status


def write_config(path, without=(), **changes):
    content = {key: value for key, value in CONFIG.items() if key not in without}
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A finished run: its folder, what it printed, the data and the configuration."""
    folder = tmp_path_factory.mktemp("pretrain")
    extra = [("ab", ""), ("abcd abcd", "…"), ("a", "a"), ("ab cd", 8 * "abcd")]
    data = write_prepared(folder / "data", extra=extra)
    config = write_config(folder / "small.yaml")
    result = subprocess.run(
        command(data, folder / "out", config), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr
    return folder / "out", result, data, config


def test_the_encoder_is_one_of_fairseqs(pretrained):
    out, *_ = pretrained
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(out / "hubert.pt")])
    assert cfg.model._name == "hubert" and cfg.task._name == "hubert_pretraining"
    assert len(task.dictionaries[0]) == CONFIG["units"]["clusters"] + 4
    description, state = read_hubert(out / "hubert.pt")
    encoder = HubertEncoder(description)
    encoder.load_pretrained(state, out / "hubert.pt")
    source = torch.randn(1, 8_000)
    features, _ = model.eval().extract_features(source)
    ours, _ = encoder.eval()(source, torch.tensor([8_000]))
    torch.testing.assert_close(ours, features)


def test_what_lies_in_the_folder(pretrained):
    out, result, *_ = pretrained
    manifest = (out / "train.tsv").read_text().splitlines()
    assert len(manifest) - 1 == len((out / "train.km").read_text().splitlines())
    assert (out / "dict.km.txt").exists() and (out / "kmeans.npz").exists()
    assert (out / "logs" / "ctc.log").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary) == ["units", "letters", "masked_prediction", "ctc", "export"]
    assert summary["ctc"]["result"]["updates"] == 8
    assert summary["ctc"]["result"]["CER %"] > 0
    assert "CER %" in result.stdout and str(out / "hubert.pt") in result.stdout


def test_what_cannot_be_used_is_counted(pretrained):
    out, result, *_ = pretrained
    summary = json.loads((out / "summary.json").read_text())
    # "ab" and "a" are shorter than 4,800 samples.
    assert summary["units"]["result"]["splits"]["train"]["dropped"] == {"too short": 2}
    assert summary["letters"]["result"]["splits"]["train"]["dropped"] == {
        "empty transcript": 1,
        "more letters than CTC can place": 1,
    }
    assert "2 too short" in result.stdout


def test_half_precision_is_switched_off_without_a_gpu(pretrained):
    out, result, *_ = pretrained
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "no GPU: training in fp32 rather than common.fp16" in result.stderr
    assert yaml.safe_load((out / "ctc" / "training.yaml").read_text())["common"]["fp16"] is False


def test_the_second_stage_starts_from_the_first(pretrained):
    out, *_ = pretrained
    config = yaml.safe_load((out / "ctc" / "training.yaml").read_text())
    assert config["model"]["pretrained"] == str(out / "masked_prediction" / "checkpoint_last.pt")
    assert f"HuBERT from {config['model']['pretrained']}" in (out / "logs" / "ctc.log").read_text()


def test_a_second_run_does_nothing(pretrained, capsys):
    out, _, data, config = pretrained
    before = (out / "hubert.pt").stat().st_mtime_ns
    pretrain(data, out, config)
    assert capsys.readouterr().err.count("up to date") == 5
    assert (out / "hubert.pt").stat().st_mtime_ns == before


def test_the_same_command_gives_the_same_file_and_a_change_only_what_depends_on_it(
    pretrained, tmp_path, capsys
):
    out, _, data, config = pretrained
    again = tmp_path / "again"
    pretrain(data, again, config)
    assert (again / "hubert.pt").read_bytes() == (out / "hubert.pt").read_bytes()
    capsys.readouterr()
    pretrain(data, again, config, "--set", "ctc.optimization.max_update=3")
    log = capsys.readouterr().err
    for stage in ("units", "letters", "masked_prediction"):
        assert f"{stage}: up to date" in log
    assert "ctc: up to date" not in log
    assert json.loads((again / "summary.json").read_text())["ctc"]["result"]["updates"] == 3
    assert (again / "hubert.pt").read_bytes() != (out / "hubert.pt").read_bytes()


def test_second_iteration_on_hidden_features(pretrained, tmp_path, capsys):
    out, _, data, _ = pretrained
    config = write_config(tmp_path / "second.yaml", without=["ctc"])
    second = tmp_path / "second"
    pretrain(data, second, config, "--features-from", out / "hubert.pt", "--layer", 1)
    assert (second / "train.km").read_text() != (out / "train.km").read_text()
    assert not (second / "ctc").exists()
    read_hubert(second / "hubert.pt")
    # Its frames are not those of a model of another rate.
    twice = "model.conv_feature_layers='[(16,40,20)] + [(32,32,32)]'"
    options = ("--features-from", out / "hubert.pt", "--layer", 1, "--set", twice)
    pretrain(data, tmp_path / "twice", config, *options, status=2)
    assert "hubert.pt: a frame each 320 samples, but each 640" in capsys.readouterr().err


def test_frames_of_40_ms(pretrained, tmp_path):
    """From cepstra to an encoder that gives half as many features as its labels say."""
    _, _, data, config = pretrained
    twice = "model.conv_feature_layers='[(16,40,20)] + [(32,32,32)]'"
    out = tmp_path / "out"
    pretrain(data, out, config, "--set", twice)
    description, _ = read_hubert(out / "hubert.pt")
    assert description.label_rate == 25
    frames = int((out / "train.tsv").read_text().splitlines()[1].split("\t")[1]) / 640
    labels = (out / "train.km").read_text().splitlines()[0].split()
    assert frames - 2 < len(labels) <= frames


def test_killed_in_the_middle_it_goes_on_from_the_last_checkpoint(pretrained, tmp_path, capsys):
    _, _, data, _ = pretrained
    longer = {**CONFIG["masked_prediction"], "optimization": {"max_update": 40, "lr": [0.005]}}
    config = write_config(
        tmp_path / "long.yaml",
        without=["ctc"],
        checkpoint={"save_interval_updates": 5},
        masked_prediction=longer,
    )
    out = tmp_path / "out"
    checkpoint = out / "masked_prediction" / "checkpoint_last.pt"
    process = subprocess.Popen(
        command(data, out, config), stderr=subprocess.PIPE, env=ENVIRONMENT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    reached = read_checkpoint(checkpoint)["optimizer_history"][-1]["num_updates"]
    assert 0 < reached < 40 and not (out / "hubert.pt").exists()
    pretrain(data, out, config)
    assert f"goes on from {checkpoint}" in capsys.readouterr().err
    log = (out / "logs" / "masked_prediction.log").read_text()
    assert "Loaded checkpoint" in log
    last = read_checkpoint(checkpoint)["optimizer_history"][-1]["num_updates"]
    assert last == 40


def is_at_work(process: int) -> bool:
    """Whether it is there, and no supervisor: those hold locks, and are at their end when these
    are free."""
    try:
        program = Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False
    return bool(program) and "supervisor.py" not in program


@pytest.mark.parametrize(
    "how, in_a_recipe", [(signal.SIGTERM, False), (signal.SIGKILL, True)], ids=["alone", "recipe"]
)
def test_its_training_ends_with_it_and_before_another_begins(
    pretrained, tmp_path, capsys, how, in_a_recipe
):
    _, _, data, _ = pretrained
    longer = {
        **CONFIG["masked_prediction"],
        "optimization": {"max_update": 100_000, "lr": [0.005]},
    }
    config = write_config(
        tmp_path / "long.yaml",
        without=["ctc"],
        dataset={**CONFIG["dataset"], "num_workers": 2},
        masked_prediction=longer,
    )
    out, log = tmp_path / "out", tmp_path / "out" / "logs" / "masked_prediction.log"
    program = command(data, out, config)
    if in_a_recipe:
        recipe = {
            "settings": {"out": str(tmp_path / "recipe")},
            "stages": [{"name": "hubert", "does": "", "commands": [program]}],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        program = [*program[:3], "recipe", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not (log.exists() and "train_inner" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    started = descendants(process.pid)
    assert len(started) >= 4  # a supervisor, the training, its workers
    pretrain(data, out, config, status=2)
    assert "out: another pretraining is at work there" in capsys.readouterr().err
    process.send_signal(how)
    lock = tmp_path / "recipe" / ".stages" / "lock" if in_a_recipe else out / ".lock"
    while True:
        try:
            with alone_in(out, lock, "test"):
                break
        except FolderInUseError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not any(map(is_at_work, started))
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode == (143 if how == signal.SIGTERM else -how)


def test_phones_as_units(pretrained, tmp_path):
    _, _, data, _ = pretrained
    options = ["--units", "phones"]
    for split in ("train", "dev"):
        rows = (data / f"{split}.tsv").read_text().splitlines()[1:]
        lines, events = [], []
        for row in rows:
            fields = row.split("\t")
            _, offset, frames = fields[1].split(":")
            seconds = int(frames) / 16_000
            lines.append(
                f"- {{duration: {seconds}, offset: {int(offset) / 16_000}, "
                f"speaker_id: s, wav: {split}.wav}}"
            )
            events.append(json.dumps([[0.0, "_"], [0.05, "a"], [seconds - 0.05, "_"]]))
        (tmp_path / f"{split}.yaml").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{split}.phones").write_text("\n".join(events) + "\n")
        options += ["--phones", f"{split}={tmp_path / split}.phones"]
    config = write_config(tmp_path / "ctc.yaml", without=["masked_prediction"])
    out = tmp_path / "out"
    pretrain(data, out, config, *options)
    assert json.loads((out / "phones.json").read_text()) == ["_", "a"]
    labels = (out / "train.km").read_text().split("\n")[0].split()
    assert labels[0] == "0" and labels[10] == "1" and labels[-1] == "0"
    _, _, task = checkpoint_utils.load_model_ensemble_and_task([str(out / "hubert.pt")])
    assert len(task.dictionaries[0]) == 2 + 4


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layer", "1"], "--features-from CHECKPOINT and --layer N belong together"),
        (["--units", "phones"], "needs --phones train=FILE and --phones dev=FILE; found none"),
        (["--phones", "train=x"], "--phones is for --units phones"),
        (["--phones", "x"], "--phones x: expected SPLIT=FILE"),
        (["--set", "model.encoder_layer=1"], "key model.encoder_layer: unknown"),
        (["--set", "units.clusters=5000"], "units.clusters: 5000 clusters of"),
        (["--features-from", "none.pt", "--layer", "1"], "none.pt: does not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(pretrained, tmp_path, capsys, options, message):
    _, _, data, config = pretrained
    out = tmp_path / "out"
    pretrain(data, out, config, *options, status=2)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "hubert.pt").exists()


def test_a_loss_that_is_no_number_is_explained(pretrained, tmp_path, capsys):
    _, _, data, config = pretrained
    change = "masked_prediction.optimization.lr=[1.0e+30]"
    pretrain(data, tmp_path / "out", config, "--set", change, status=2)
    message = capsys.readouterr().err
    assert "masked_prediction: the loss became NaN or infinite" in message
    assert "lower masked_prediction.optimization.lr" in message


def test_data_that_is_not_prepared(pretrained, tmp_path, capsys):
    *_, config = pretrained
    pretrain(tmp_path, tmp_path / "out", config, status=2)
    assert "config.yaml: cannot be read" in capsys.readouterr().err


def test_broken_audio_is_named(pretrained, tmp_path, capsys):
    _, _, data, config = pretrained
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "config.yaml").write_text("audio_root: .\n")
    (broken / "wav" / "train.wav").write_bytes(b"RIFF no audio")
    pretrain(broken, tmp_path / "out", config, status=2)
    assert "train.wav" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*.km"))


def test_of_shards_varied_cuts_take_no_neighbours(pretrained, tmp_path, capsys):
    _, _, data, _ = pretrained
    shards, out = shutil.copytree(data, tmp_path / "data"), tmp_path / "out"
    (shards / "config.yaml").write_text("audio_root: .\nsharded: true\n")
    config = write_config(tmp_path / "ctc.yaml", without=["masked_prediction"])
    options = ["--set", "ctc.task.vary_cuts=1", "--set", "ctc.optimization.max_update=1"]
    pretrain(shards, out, config, *options)
    assert capsys.readouterr().err.count("packed by shard-audio") == 1
    task = yaml.safe_load((out / "ctc" / "training.yaml").read_text())["task"]
    assert (task["vary_cuts"], task["neighbouring_speech"]) == (1, False)

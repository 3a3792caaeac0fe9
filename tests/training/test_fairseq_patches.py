"""What makes fairseq run on today's torch: safe checkpoints, picklable configurations."""

import argparse
import copy
import multiprocessing
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, distributed_utils, options
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.file_io import PathManager
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf

import cress_svcd
from cress_svcd.errors import CheckpointError, ConfigError, OutputError
from cress_svcd.models import checkpoint_files
from cress_svcd.training import fairseq_patches
from tests.helpers.fairseq_commands import train_command
from tests.helpers.training_options import make_model, make_task, parse, save_checkpoint


@pytest.fixture
def checkpoint(prepared, hubert, tmp_path):
    """A checkpoint as fairseq-train writes it, of a tiny model."""
    cfg = parse(prepared, "--hubert-model-path", hubert)
    task = make_task(prepared)
    return save_checkpoint(tmp_path / "checkpoint.pt", cfg, task, make_model(cfg, task))


class Malicious:
    """Leaves a trace if it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def send_back(connection):
    connection.send(connection.recv())


class TestChoices:
    def round_trip(self, value):
        """``value``, sent to a spawned process and back."""
        here, there = multiprocessing.get_context("spawn").Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=send_back, args=(there,))
        worker.start()
        here.send(value)
        assert here.poll(60), "the process gave no answer"
        answer = here.recv()
        worker.join()
        return answer

    @pytest.mark.slow
    def test_travel_to_a_spawned_process_and_back(self):
        kind = ChoiceEnum(["one", "two"])
        member, anonymous = self.round_trip((kind("two"), kind))
        assert (member, member.value) == ("two", "two")
        assert list(anonymous.__members__) == ["one", "two"]

    def test_within_a_configuration_of_fairseq(self):
        cfg = OmegaConf.structured(FairseqConfig)
        copy = pickle.loads(pickle.dumps(cfg))
        assert copy.distributed_training.ddp_backend == cfg.distributed_training.ddp_backend
        assert copy.common.log_format == cfg.common.log_format
        copy.common.log_format = "json"
        assert copy.common.log_format.value == "json"


class TestCheckpoints:
    @pytest.mark.parametrize("kind", [np.int64, np.float64])
    def test_counts_of_a_validation_by_bleu_can_be_read(self, checkpoint, kind):
        state = torch.load(checkpoint)
        state["extra_state"]["metrics"] = {"_bleu_counts": np.array([4, 1, 0, 0], kind)}
        torch.save(state, checkpoint)
        metrics = checkpoint_utils.load_checkpoint_to_cpu(checkpoint)["extra_state"]["metrics"]
        assert metrics["_bleu_counts"].tolist() == [4, 1, 0, 0]

    def read_in_each_way(self, path):
        yield lambda: checkpoint_utils.load_checkpoint_to_cpu(str(path))
        yield lambda: checkpoint_utils.load_model_ensemble_and_task([str(path)])
        yield lambda: checkpoint_utils.load_model_ensemble([str(path)])

    def test_dictionaries_and_old_arguments_are_read(self, tmp_path):
        dictionary = Dictionary()
        dictionary.add_symbol("word")
        namespace = argparse.Namespace(arch="hubert_transformer", lr=[1e-3])
        torch.save({"dictionary": dictionary, "args": namespace}, tmp_path / "x.pt")
        state = torch.load(tmp_path / "x.pt", weights_only=True)
        assert state["dictionary"] == dictionary and state["args"] == namespace

    def test_a_good_one_is_read_with_its_task(self, checkpoint):
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
        state = torch.load(checkpoint, weights_only=True)["model"]
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert type(task).__name__ == "SpeechAndTextTranslationTask"

    @pytest.mark.parametrize("where", ["model", "extra_state", "task_state"])
    def test_a_malicious_one_is_refused_and_not_executed(self, checkpoint, tmp_path, where):
        marker = tmp_path / "executed"
        state = torch.load(checkpoint, weights_only=True)
        state[where] = {**state[where], "x": Malicious(marker)}
        torch.save(state, checkpoint)
        for read in self.read_in_each_way(checkpoint):
            with pytest.raises(CheckpointError, match="checkpoint.pt: refused") as caught:
                read()
            assert "weights_only" not in str(caught.value)
            assert "safe_globals" not in str(caught.value) and "open" in str(caught.value)
        assert not marker.exists()

    @pytest.mark.parametrize(
        "advice, part",
        [
            (
                "Trying to load unsupported GLOBAL os.system whose module os is blocked.",
                "os.system",
            ),
            (
                "Can only build types allowlisted via `add_safe_globals`, but got <class 'x.Y'>",
                "<class 'x.Y'>",
            ),
            ("Trying to call reduce: use `safe_globals`", "objects of its own"),
            ("Unsupported operand 118", "Unsupported operand 118"),
        ],
    )
    def test_of_torchs_advice_only_the_refused_part_is_passed_on(self, advice, part):
        message = f"Weights only load failed, use weights_only.\nWeightsUnpickler error: {advice}"
        assert checkpoint_files.refused_part(message) == part

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_a_bare_pickle_is_refused_and_not_executed(self, tmp_path, protocol):
        marker = tmp_path / "executed"
        path = tmp_path / "evil.pt"
        path.write_bytes(pickle.dumps(Malicious(marker), protocol=protocol))
        for read in self.read_in_each_way(path):
            with pytest.raises(CheckpointError, match="evil.pt"):
                read()
        assert not marker.exists()

    @pytest.mark.parametrize("kept", [0, 10, 1_000, -1_000])
    def test_a_truncated_one_is_named(self, checkpoint, kept):
        checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
        for read in self.read_in_each_way(checkpoint):
            with pytest.raises(CheckpointError, match="checkpoint.pt: .*(truncated|refused)"):
                read()

    def test_a_foreign_one_is_named(self, tmp_path):
        torch.save({"weights": {"a": torch.zeros(2)}}, tmp_path / "foreign.pt")
        for read in self.read_in_each_way(tmp_path / "foreign.pt"):
            with pytest.raises(CheckpointError, match="foreign.pt: holds no 'optimizer_history'"):
                read()

    def test_what_fairseqs_reader_misses_is_named(self, checkpoint):
        state = torch.load(checkpoint, weights_only=True)
        del state["optimizer_history"]
        torch.save(state, checkpoint)
        for read in self.read_in_each_way(checkpoint):
            with pytest.raises(CheckpointError, match="checkpoint.pt: holds no 'optimizer_hist"):
                read()

    def test_a_tensor_is_no_checkpoint(self, tmp_path):
        torch.save(torch.zeros(2), tmp_path / "tensor.pt")
        for read in self.read_in_each_way(tmp_path / "tensor.pt"):
            with pytest.raises(CheckpointError, match="tensor.pt"):
                read()

    def test_a_text_file_is_no_checkpoint(self, tmp_path):
        (tmp_path / "notes.pt").write_text("not a checkpoint\n")
        for read in self.read_in_each_way(tmp_path / "notes.pt"):
            with pytest.raises(CheckpointError, match="notes.pt"):
                read()

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda model: model.pop("decoder.layers.0.fc1.weight"), "decoder.layers.0.fc1.weight"),
            (lambda model: model.update(more=torch.zeros(1)), "more"),
            (lambda model: model.update({"decoder.layers.0.fc1.weight": torch.zeros(3, 4)}), "fc1"),
        ],
        ids=["missing", "unknown", "shape"],
    )
    def test_tensors_of_another_model_are_named_with_their_file(self, checkpoint, change, message):
        state = torch.load(checkpoint, weights_only=True)
        change(state["model"])
        torch.save(state, checkpoint)
        with pytest.raises(CheckpointError, match=rf"(?s)checkpoint.pt: .*{message}"):
            checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])

    def test_an_unknown_arch_is_named_with_its_file(self, checkpoint):
        state = torch.load(checkpoint, weights_only=True)
        state["cfg"]["model"]["_name"] = "an_arch_of_others"
        torch.save(state, checkpoint)
        with pytest.raises(ConfigError, match="checkpoint.pt: .*an_arch_of_others"):
            checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])

    def test_one_of_another_task_is_told_to_be_that(self, prepared, hubert):
        task = make_task(prepared)
        with pytest.raises(CheckpointError, match="hubert.pt: .*task hubert_pretraining .*hubert"):
            checkpoint_utils.load_model_ensemble([str(hubert)], task=task)

    def test_an_error_of_ours_keeps_its_kind(self, checkpoint, prepared, monkeypatch):
        task = make_task(prepared)
        monkeypatch.setattr(task, "build_model", lambda cfg: cfg.missing.name)
        with pytest.raises(AttributeError):
            checkpoint_utils.load_model_ensemble([str(checkpoint)], task=task)

    @pytest.mark.parametrize(
        "flags, difference",
        [
            (["--encoder-ffn-embed-dim", "64"], r"fc1\.weight: file \(48, 32\), model \(64, 32\)"),
            (["--decoder-layers", "2"], r"layers\.1\.\S+: file has none, model .* and 22 more"),
        ],
    )
    def test_of_a_model_that_cannot_be_resumed_the_tensors_are_named(
        self, checkpoint, prepared, hubert, flags, difference
    ):
        cfg = parse(prepared, "--hubert-model-path", hubert, *flags)
        model = make_model(cfg, make_task(prepared))
        with pytest.raises(CheckpointError, match=rf"checkpoint.pt: .*{difference}.*--save-dir"):
            checkpoint_files.refuse_other_model(checkpoint, model)

    def test_a_model_that_can_be_resumed_is_not_refused(self, checkpoint, prepared, hubert):
        cfg = parse(prepared, "--hubert-model-path", hubert)
        model = make_model(cfg, make_task(prepared))
        saved = torch.load(checkpoint, weights_only=True)["model"]
        assert model.state_dict().keys() == saved.keys()
        assert checkpoint_files.refuse_other_model(checkpoint, model) is None


def test_applying_twice_changes_nothing():
    functions = [
        checkpoint_utils.load_checkpoint_to_cpu,
        checkpoint_utils.load_model_ensemble_and_task,
        checkpoint_utils.torch_persistent_save,
        PathManager.copy,
        options.parse_args_and_arch,
        distributed_utils.infer_init_method,
    ]
    fairseq_patches.apply.cache_clear()
    fairseq_patches.apply()
    assert functions == [
        checkpoint_utils.load_checkpoint_to_cpu,
        checkpoint_utils.load_model_ensemble_and_task,
        checkpoint_utils.torch_persistent_save,
        PathManager.copy,
        options.parse_args_and_arch,
        distributed_utils.infer_init_method,
    ]


class TestWriting:
    def test_a_checkpoint_is_what_was_saved(self, tmp_path):
        path = str(tmp_path / "x.pt")
        checkpoint_utils.torch_persistent_save({"a": torch.arange(3)}, path)
        assert PathManager.copy(path, str(tmp_path / "y.pt"), overwrite=True)
        for name in ("x.pt", "y.pt"):
            assert torch.load(tmp_path / name)["a"].tolist() == [0, 1, 2]
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_full_disk_is_told_and_leaves_the_old_ones(self, tmp_path, full_disk):
        path, last = tmp_path / "x.pt", tmp_path / "checkpoint_last.pt"
        checkpoint_utils.torch_persistent_save({"a": 1}, str(path))
        PathManager.copy(str(path), str(last))
        with full_disk(10_000), pytest.raises(OutputError, match="x.pt: File too large"):
            checkpoint_utils.torch_persistent_save({"a": torch.zeros(10_000)}, str(path))
        big = tmp_path / "big"
        big.write_bytes(bytes(10_000))
        with full_disk(5_000), pytest.raises(OutputError, match="_last.pt: File too large"):
            PathManager.copy(str(big), str(last), overwrite=True)
        assert torch.load(path) == torch.load(last) == {"a": 1}
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "big",
            "checkpoint_last.pt",
            "x.pt",
        ]


class TestPrecision:
    def parse(self, *flags):
        parser = options.get_training_parser()
        command = ["data", "--task", "translation", "--arch", "transformer", *flags]
        return options.parse_args_and_arch(parser, command)

    def test_bf16_is_no_request_for_a_tpu(self):
        parsed = self.parse("--bf16")
        assert parsed.bf16 and not parsed.tpu

    def test_fp16_on_a_cpu_keeps_its_gradients_apart(self):
        assert self.parse("--fp16", "--cpu").fp16_no_flatten_grads

    def test_other_options_stay(self):
        assert not self.parse("--cpu").fp16 and self.parse("--lr", "3").lr == [3.0]

    def trained(self, weight, updates, state=None):
        """fairseq's optimizer of half precision after ``updates``, from ``state`` if given."""
        parsed = self.parse(
            "--fp16", "--cpu", "--optimizer", "adam", "--lr", "1e-5", "--fp16-scale-window", "3"
        )
        cfg = convert_namespace_to_omegaconf(parsed)
        optimizer = FP16Optimizer.build_optimizer(cfg, [weight])
        if state:
            optimizer.load_state_dict(state)
        for _ in range(updates):
            optimizer.zero_grad()
            optimizer.backward((weight * 0.3).sum())
            optimizer.clip_grad_norm(1.0)
            optimizer.step()
        return optimizer

    def test_resuming_in_half_precision_is_exact(self):
        whole, stopped = (torch.nn.Parameter(torch.ones(3).half()) for _ in range(2))
        expected = self.trained(whole, 8)
        half = self.trained(stopped, 5).state_dict()
        assert torch.equal(stopped, torch.ones(3).half())  # five updates are lost in rounding
        resumed = self.trained(stopped, 3, copy.deepcopy(half))
        assert not torch.equal(expected.fp32_params[0], torch.ones(3))
        assert torch.equal(resumed.fp32_params[0], expected.fp32_params[0])
        assert vars(resumed.scaler) == vars(expected.scaler)

    def test_a_checkpoint_without_them_is_resumed_as_by_fairseq(self):
        weight = torch.nn.Parameter(torch.ones(3).half())
        state = self.trained(weight, 5).state_dict()
        del state["fp32_params"], state["loss_scaler"]
        assert torch.equal(self.trained(weight, 0, state).fp32_params[0], torch.ones(3))


class TestLaunching:
    @pytest.fixture
    def cfg(self):
        return OmegaConf.structured(FairseqConfig).distributed_training

    def test_by_torchrun_without_gpus(self, cfg, monkeypatch):
        if torch.cuda.is_available():
            pytest.skip("fairseq's own way where there are GPUs")
        for name, value in dict(
            MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", WORLD_SIZE="2", RANK="1"
        ).items():
            monkeypatch.setenv(name, value)
        distributed_utils.infer_init_method(cfg)
        assert (cfg.distributed_world_size, cfg.distributed_rank) == (2, 1)
        assert cfg.distributed_init_method == "env://" and cfg.distributed_no_spawn
        assert cfg.distributed_backend == "gloo"

    def test_one_process_stays_one(self, cfg, monkeypatch):
        for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
            monkeypatch.delenv(name, raising=False)
        cfg.distributed_world_size = 1
        distributed_utils.infer_init_method(cfg)
        assert cfg.distributed_init_method is None and cfg.distributed_world_size == 1


# As call_main starts a process for each GPU; nothing of ours is imported before fairseq does it.
RANKS = """
import multiprocessing, pathlib, sys
import torch
from fairseq import options, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer


def main(cfg, folder):
    utils.import_user_module(cfg.common)
    before = multiprocessing.get_start_method()
    try:
        Trainer(cfg, None, None, None)
    except AttributeError:
        pass  # there is no model
    rank = str(cfg.distributed_training.distributed_rank)
    pathlib.Path(folder, rank).write_text(f"{before} {multiprocessing.get_start_method()}")


if __name__ == "__main__":
    user_dir, folder = sys.argv[1:]
    words = [folder, "--user-dir", user_dir, "--cpu"]
    words += ["--task", "translation", "--arch", "transformer"]
    parser = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))
    distributed = cfg.distributed_training
    distributed.distributed_init_method = f"file://{folder}/meeting"
    distributed.distributed_world_size, distributed.distributed_backend = 2, "gloo"
    distributed.distributed_rank = None
    work = (main, cfg, {"start_rank": 0, "folder": folder})
    torch.multiprocessing.spawn(distributed_utils.distributed_main, args=work, nprocs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are spawned there")
def test_the_workers_of_each_gpus_process_are_forked(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    subprocess.run([sys.executable, script, Path(cress_svcd.__file__).parent, tmp_path], check=True)
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["spawn fork"] * 2


# Python's collections would end the workers now and then.
EPOCHS = """
import gc, multiprocessing, time
gc.disable()
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

begin_epoch = Trainer.begin_epoch


def counted(self, epoch):
    until = time.monotonic() + 10  # a busy machine takes a while to end one
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    print("workers", len(multiprocessing.active_children()), flush=True)
    begin_epoch(self, epoch)


Trainer.begin_epoch = counted
cli_main()
"""


@pytest.mark.slow
def test_workers_end_with_their_epoch(prepared, hubert, tmp_path):
    """Cut otherwise in each epoch, the segments are loaded by workers of the epoch."""
    script = tmp_path / "epochs.py"
    script.write_text(EPOCHS)
    flags = ["--hubert-model-path", hubert, "--vary-cuts", "0.5", "--num-workers", "1"]
    flags += ["--disable-validation", "--max-epoch", "3"]
    words = train_command(prepared, tmp_path / "save", *flags)[1:]
    training = subprocess.run(
        [sys.executable, script, *map(str, words)], cwd=tmp_path, capture_output=True, text=True
    )
    assert training.returncode == 0, training.stderr
    seen = [line for line in training.stdout.splitlines() if line.startswith("workers")]
    assert seen == ["workers 0"] * 3


def test_attention_is_not_left_to_cudnn():
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_importing_the_package_prints_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", "import cress_svcd"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_what_fairseqs_hubert_uses_is_not_warned_of():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fairseq_patches.expect_weight_norm()
        torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))
        warnings.warn("another", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["another"]


def test_a_process_that_ends_looks_for_no_garbage():
    program = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); "
        "import fairseq, cress_svcd"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert int(ended.stdout.split()[-1]) > 100_000

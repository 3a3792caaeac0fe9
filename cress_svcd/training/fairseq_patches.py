"""The few lines that fairseq needs on today's torch, each with its reason.

:func:`apply` is idempotent and runs when the plug-in is imported, in every process that fairseq
starts.
"""

import argparse
import atexit
import contextlib
import copyreg
import enum
import functools
import gc
import importlib.util
import multiprocessing
import os
import shutil
import sys
import warnings

import numpy as np
import torch
import torch.utils.data

from cress_svcd.atomic_files import replacing, write_checkpoint
from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoint_files import (
    explained,
    explained_model,
    read_mapped,
    read_other_format,
    refuse_other_model,
    run_checks,
    with_options_of_today,
)
from cress_svcd.models.checkpoint_structure import require_sound


def register_safe_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read fairseq's own plain containers.

    torch >= 2.6 refuses every class it does not know.  HuBERT checkpoints hold their
    ``Dictionary`` objects and old fairseq checkpoints an ``argparse.Namespace``; both are plain
    attribute holders, without code that runs while they are read.  A training with --eval-bleu
    leaves its counts of n-grams in its checkpoints, numpy's arrays of numbers (of several
    processes, floating point): "Unsupported global: numpy._core.multiarray._reconstruct".
    """
    from fairseq.data.dictionary import Dictionary

    numbers = [type(np.dtype(kind)) for kind in (np.int64, np.float64)]
    arrays = [np.zeros(1).__reduce__()[0], np.ndarray, np.dtype, *numbers]
    torch.serialization.add_safe_globals([Dictionary, argparse.Namespace, *arrays])


def _rebuild_choice(names: tuple[str, ...], value: str) -> enum.Enum:
    from fairseq.dataclass.constants import ChoiceEnum

    return ChoiceEnum(list(names))(value)


def _rebuild_choice_class(names: tuple[str, ...]) -> type:
    from fairseq.dataclass.constants import ChoiceEnum

    return ChoiceEnum(list(names))


def make_choices_picklable() -> None:
    """Let fairseq's configuration travel to spawned processes.

    fairseq makes its choices as anonymous ``Enum`` classes, all named ``Choices``.  From Python
    3.11 on pickle cannot find such a class by its name, and ``fairseq-train`` on several GPUs of
    one machine, which spawns its workers with the configuration, stops with
    ``Can't pickle <enum 'Choices'>``.  They are rebuilt from their member names instead.
    """
    from fairseq.dataclass.constants import StrEnum, StrEnumMeta

    def reduce_class(cls: type):
        if cls is StrEnum:
            return "StrEnum"
        return _rebuild_choice_class, (tuple(cls.__members__),)

    def reduce_member(self: enum.Enum, protocol: int):
        return _rebuild_choice, (tuple(type(self).__members__), self.value)

    copyreg.pickle(StrEnumMeta, reduce_class)
    StrEnum.__reduce_ex__ = reduce_member


def explain_checkpoint_errors() -> None:
    """Make fairseq's readers of checkpoints and models name the file and the reason.

    torch's own message for a refused pickle recommends to load it unsafely; ours must not.
    Of any dictionary that lacks ``optimizer_history`` fairseq thinks that it is a checkpoint of an
    old release, and stops with "KeyError: 'best_loss'".
    """
    from fairseq import checkpoint_utils

    read = checkpoint_utils.load_checkpoint_to_cpu
    load = checkpoint_utils.load_model_ensemble_and_task
    if getattr(read, "explains_errors", False):
        return

    @functools.wraps(read)
    def load_checkpoint_to_cpu(path, *args, **kwargs):
        run_checks(path)
        with explained(path):
            try:
                other = read_other_format(path)
                if other is None:
                    state = read(path, *args, **kwargs)
                else:
                    state = _as_fairseq_has_it(other, *args)
                require_sound(state, path)
                return with_options_of_today(state)
            except KeyError as error:
                if error.args != ("best_loss",):
                    raise
                raise CheckpointError(
                    f"{path}: holds no 'optimizer_history', so that fairseq cannot read it; "
                    "expected a checkpoint as fairseq-train or one of our commands writes it"
                ) from None

    @functools.wraps(load)
    def load_model_ensemble_and_task(filenames, arg_overrides=None, task=None, *args, **kwargs):
        with explained_model(*filenames, task=task):
            return load(filenames, arg_overrides, task, *args, **kwargs)

    load_checkpoint_to_cpu.explains_errors = True
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task


def _as_fairseq_has_it(state: dict, arg_overrides: dict | None = None, *_) -> dict:
    """What fairseq makes of a checkpoint that it has read."""
    from fairseq import checkpoint_utils
    from fairseq.dataclass.utils import overwrite_args_by_name
    from omegaconf import OmegaConf

    state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    if arg_overrides is not None:
        overwrite_args_by_name(state["cfg"], arg_overrides)
    return checkpoint_utils._upgrade_state_dict(state)


def keep_checkpoints_whole() -> None:
    """Let a checkpoint appear whole or not at all, and report a full disk.

    fairseq copies the newest checkpoint over ``checkpoint_last.pt``: killed meanwhile, training
    could not be resumed.  A write that fails it repeats at the end of the same file.
    """
    from fairseq import checkpoint_utils, file_io

    save, copy = checkpoint_utils.torch_persistent_save, file_io.PathManager.copy
    if getattr(save, "all_or_nothing", False) or file_io.IOPathManager:
        return

    @functools.wraps(save)
    def torch_persistent_save(obj, filename, async_write: bool = False):
        write_checkpoint(filename, obj)

    @functools.wraps(copy)
    def copy_whole(src_path: str, dst_path: str, overwrite: bool = False):
        with replacing(dst_path) as temporary:
            return shutil.copyfile(src_path, temporary)

    torch_persistent_save.all_or_nothing = True
    checkpoint_utils.torch_persistent_save = torch_persistent_save
    file_io.PathManager.copy = staticmethod(copy_whole)


def settle_precision() -> None:
    """Let ``--bf16`` train on GPUs and CPUs, and ``--fp16`` on CPUs.

    fairseq takes ``--bf16`` for a request to use a TPU, and its flat fp32 copy of the parameters
    (for ``--fp16``) asks for the current CUDA device even where there is none.
    """
    from fairseq import options

    parse = options.parse_args_and_arch
    if getattr(parse, "settles_precision", False):
        return

    @functools.wraps(parse)
    def parse_args_and_arch(*args, **kwargs):
        parsed = parse(*args, **kwargs)
        options_given = parsed[0] if isinstance(parsed, tuple) else parsed
        if importlib.util.find_spec("torch_xla") is None and getattr(options_given, "bf16", False):
            options_given.tpu = False
        on_cpu = not torch.cuda.is_available() or getattr(options_given, "cpu", False)
        # quant_adam tells parameters apart, which a flat copy of all does not.
        if on_cpu or getattr(options_given, "optimizer", None) == "quant_adam":
            options_given.fp16_no_flatten_grads = True
        return parsed

    parse_args_and_arch.settles_precision = True
    options.parse_args_and_arch = parse_args_and_arch


def store_full_precision_weights() -> None:
    """Let a training in half precision be resumed exactly.

    fairseq trains fp32 copies of the parameters and stores them rounded to half precision: resumed,
    weights that move by less than that a step (latent ones, near a change of sign) start again from
    the rounded values.  The loss scaler forgets when it last changed the scale.
    """
    from fairseq.optim import fp16_optimizer

    mixin = fp16_optimizer._FP16OptimizerMixin
    save, load = mixin.state_dict, mixin.load_state_dict
    if getattr(save, "stores_full_precision", False):
        return
    counters = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")

    def copies(optimizer) -> list[torch.nn.Parameter]:
        found = optimizer.fp32_params
        return list(found.values()) if isinstance(found, dict) else list(found)

    @functools.wraps(save)
    def state_dict(self):
        state = save(self)
        state["fp32_params"] = [parameter.data for parameter in copies(self)]
        if self.scaler is not None:
            state["loss_scaler"] = {name: getattr(self.scaler, name) for name in counters}
        return state

    @functools.wraps(load)
    def load_state_dict(self, state_dict, optimizer_overrides=None):
        load(self, state_dict, optimizer_overrides)
        stored, ours = state_dict.get("fp32_params", []), copies(self)
        # On another number of devices or kind of device they are cut up in another way.
        if [value.shape for value in stored] == [parameter.shape for parameter in ours]:
            for parameter, value in zip(ours, stored):
                parameter.data.copy_(value)
        if self.scaler is not None:
            vars(self.scaler).update(state_dict.get("loss_scaler", {}))

    state_dict.stores_full_precision = True
    mixin.state_dict, mixin.load_state_dict = state_dict, load_state_dict


def survive_overflow_on_cpus() -> None:
    """Let ``--fp16`` go on after a gradient overflow in a training on the CPU.

    fairseq's trainer then puts a zero on the GPU, to log it as the gradient's norm, and stops with
    "Found no NVIDIA driver" or "Torch not compiled with CUDA enabled".
    """
    from fairseq.trainer import Trainer

    step = Trainer.train_step
    if getattr(step, "survives_overflow", False):
        return

    @functools.wraps(step)
    def train_step(self, *args, **kwargs):
        if self.cuda:
            return step(self, *args, **kwargs)
        to_gpu = torch.Tensor.cuda
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor
        try:
            return step(self, *args, **kwargs)
        finally:
            torch.Tensor.cuda = to_gpu

    train_step.survives_overflow = True
    Trainer.train_step = train_step


def launch_without_gpus() -> None:
    """Let ``torchrun`` start fairseq-train on a machine without GPUs.

    fairseq divides by the number of GPUs to choose each process's device, names a device to torch's
    data parallelism also for a model on the CPU, and has its processes talk through NCCL, which
    needs GPUs, unless an option says otherwise.
    """
    from fairseq.distributed import utils as distributed_utils
    from fairseq.models import distributed_fairseq_model

    infer = distributed_utils.infer_init_method
    if getattr(infer, "works_without_gpus", False):
        return

    @functools.wraps(infer)
    def infer_init_method(cfg, *args, **kwargs):
        launched = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"} <= os.environ.keys()
        if cfg.distributed_init_method is not None or not launched or torch.cuda.device_count():
            return infer(cfg, *args, **kwargs)
        cfg.distributed_init_method = "env://"
        cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
        cfg.distributed_rank = int(os.environ["RANK"])
        cfg.device_id = 0
        cfg.distributed_no_spawn = True
        cfg.distributed_backend = "gloo"
        return None

    wrap = distributed_fairseq_model.DistributedDataParallel

    def distribute(module, **options):
        if next(module.parameters()).device.type == "cpu":
            options.update(device_ids=None, output_device=None)
        return wrap(module, **options)

    infer_init_method.works_without_gpus = True
    distributed_utils.infer_init_method = infer_init_method
    distributed_fairseq_model.DistributedDataParallel = distribute


def choose_trainer() -> None:
    """Have fairseq's commands train by :mod:`sharded_trainer` and :mod:`graph_trainer` where these
    are wanted.

    ``--ddp-backend fully_sharded`` uses torch's sharding.  fairseq's is fairscale's: "Cannot find
    FullyShardedDataParallel. Please install fairscale".  That works on GPUs alone, makes one flat
    parameter of what is trained and what is frozen, hides the parameter groups of quant_adam, and
    fairseq refuses --bf16 with it.
    """
    from fairseq.distributed import fsdp_enable_wrap
    from fairseq.trainer import Trainer

    # fairseq's commands have imported it by name before us.
    for module in list(sys.modules.values()):
        if getattr(module, "fsdp_enable_wrap", None) is fsdp_enable_wrap:
            module.fsdp_enable_wrap = contextlib.nullcontext

    def __new__(cls, cfg, *args, **kwargs):
        settle_workers()
        if cls is Trainer:
            cls = _trainer(cfg)
        return object.__new__(cls)

    Trainer.__new__ = staticmethod(__new__)


def end_workers_of_the_last_epoch() -> None:
    """End the workers that loaded an epoch before those of the next are started.

    Where each epoch has batches of its own (varied cuts, transforms, external text), fairseq has an
    iterator with workers of its own for each.  That iterator is part of a cycle, and the frame of
    ``train()``, which has it too, of another where a checkpoint was saved.  So the workers stayed
    until Python happened to collect both: 81 of them, with 14 asked for.
    """
    from fairseq.trainer import Trainer

    get_train_iterator = Trainer.get_train_iterator

    @functools.wraps(get_train_iterator)
    def get(self, *args, **kwargs):
        last = getattr(self, "last_epoch_iterator", None)
        iterator = self.last_epoch_iterator = get_train_iterator(self, *args, **kwargs)
        if last is not None and last is not iterator:
            last.dataloader = last._cur_epoch_itr = None  # what the workers hang on
            gc.collect()
        return iterator

    Trainer.get_train_iterator = get


def settle_workers() -> None:
    """Start the workers that load data for a training, and let them go, in no time.

    They are forked, also on several GPUs.  fairseq-train spawns a process for each GPU of a
    machine, and what a spawned process starts is spawned as well: worker after worker imports
    everything anew.  With 8 for training and 8 for validation two GPUs waited 110 to 130 seconds
    for their first batch.  The process of a single GPU, and those of torchrun, fork.

    At the end torch waits a moment, not five seconds, for each.  Seen with torch 2.11 on CUDA: the
    workers of a training that ended within an epoch do not leave by themselves, and torch waits for
    one after the other before it ends them; with 8 and 8 the process stayed 79 seconds, at half a
    second each 24 to 65 with 14 and 14.  These workers only read, so nothing is lost with them.
    """
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.05
    is_spawned = multiprocessing.parent_process() is not None
    if is_spawned and torch.distributed.is_initialized() and sys.platform == "linux":
        if multiprocessing.get_start_method() == "spawn":
            multiprocessing.set_start_method("fork", force=True)


def collect_nothing_at_exit() -> None:
    """Let a process end without a search for garbage, also a program that imports the plug-in.

    Python goes through all objects for it, three times.  What torch and fairseq import are 330,000:
    a program stayed for a second after its last word, and a training with its data longer.  Modules
    are taken down as ever, and what is registered for the exit has its turn; what is lost are the
    finalizers of objects in cycles.
    """
    atexit.register(gc.freeze)


def _trainer(cfg) -> type:
    from fairseq.trainer import Trainer

    if hasattr(getattr(cfg, "task", None), "graph_training"):
        from cress_svcd.training import graph_trainer

        if graph_trainer.is_wanted(cfg):
            return graph_trainer.GraphTrainer
    if getattr(getattr(cfg, "distributed_training", None), "ddp_backend", None) == "fully_sharded":
        # Here, since torch's sharding takes a second to import.
        from cress_svcd.training.sharded_trainer import ShardedTrainer

        return ShardedTrainer
    return Trainer


def check_before_resuming() -> None:
    """Let model and task look at the checkpoint that a training is about to be resumed from.

    fairseq's trainer loads the weights alone: a model that was quantised under another policy, or
    trained with another dictionary, would go on without a word where the names agree, and fail
    without a reason where they do not.
    """
    from fairseq.trainer import Trainer

    load = Trainer.load_checkpoint
    if getattr(load, "checks_the_model", False):
        return

    @functools.wraps(load)
    def load_checkpoint(self, filename, *args, **kwargs):
        if not os.path.isfile(filename):
            return load(self, filename, *args, **kwargs)
        saved = read_mapped(filename)
        check_model = getattr(self.get_model(), "check_resumable", None)
        if check_model is not None:
            check_model(saved, filename)
        check_task = getattr(self.task, "check_dictionary", None)
        if check_task is not None:
            with explained_model(filename):
                check_task(saved.get("task_state") or {})
        try:
            return load(self, filename, *args, **kwargs)
        except Exception as error:
            # Only now: models may rename what is in old files while they load it.
            if str(error).startswith("Cannot load model parameters"):
                refuse_other_model(filename, self.get_model())
            raise

    load_checkpoint.checks_the_model = True
    Trainer.load_checkpoint = load_checkpoint


def send_checkpoints_as_plain_data() -> None:
    """Let a training in several processes be resumed.

    The first process reads the checkpoint and sends it to the others, which since torch 2.6 accept
    plain data only: the configuration in it, and fairseq's place-holders for tensors, are none.
    """
    from fairseq.distributed import utils as distributed_utils
    from omegaconf import DictConfig, OmegaConf

    broadcast = distributed_utils.broadcast_object
    if getattr(broadcast, "sends_plain_data", False):
        return

    @functools.wraps(broadcast)
    def broadcast_object(obj, *args, **kwargs):
        if isinstance(obj, dict):
            obj = {
                key: OmegaConf.to_container(value, enum_to_str=True)
                if isinstance(value, DictConfig)
                else value
                for key, value in obj.items()
            }
        return broadcast(obj, *args, **kwargs)

    torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])
    broadcast_object.sends_plain_data = True
    distributed_utils.broadcast_object = broadcast_object


def attend_without_cudnn() -> None:
    """Keep torch from computing attention by cuDNN.

    Hopper GPUs prefer it where there is a padding mask, and cuDNN builds a graph for each new shape
    of a batch, forward and backward: tens to hundreds of milliseconds for each attention.  Batches
    of speech nearly all differ in shape; training made 2 updates a second with the GPU busy for
    5 % of the time, until in a second epoch the shapes came again.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def expect_weight_norm() -> None:
    """Keep torch from warning of what fairseq's HuBERT is made with, which no user can change."""
    warnings.filterwarnings("ignore", ".*weight_norm.* is deprecated", FutureWarning)


@functools.cache
def apply() -> None:
    """Do all of the above once in this process."""
    expect_weight_norm()
    register_safe_globals()
    make_choices_picklable()
    explain_checkpoint_errors()
    keep_checkpoints_whole()
    settle_precision()
    store_full_precision_weights()
    survive_overflow_on_cpus()
    launch_without_gpus()
    send_checkpoints_as_plain_data()
    choose_trainer()
    end_workers_of_the_last_epoch()
    check_before_resuming()
    attend_without_cudnn()
    collect_nothing_at_exit()

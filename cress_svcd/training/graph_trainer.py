"""Training at the speed of the card: ``--graph-training``.

fairseq's trainer launches the kernels of a step one by one and reads a dozen numbers of each, so
that the GPU stands still most of the time.  Here forward and backward pass of batches of a shape
that has come before are one CUDA graph, the update is a few launches (:mod:`device_update`), and
what is logged is read every --log-interval.

    GraphTrainer.train_step
      task.begin_step                what changes with the update's number
      task.host_batch, each batch    what the host adds to it, if the task has that
      CopiedBatches.copied           while the steps before it run (copied_batches.py)
      SplitBatches.run, each batch   in as many parts as the memory demands (split_batches.py)
        StepGraphs.run, each part    replayed, or run as it is (step_graphs.py)
      all-reduce                     of all gradients, in one row
      DeviceUpdate.step              clip, Adam, loss scale (device_update.py)
      StepRows                       what is logged (step_rows.py)

It is put in the place of fairseq's trainer by ``fairseq_patches.choose_trainer`` where
``is_wanted`` says so.
"""

import logging

import torch
from fairseq.logging import metrics
from fairseq.optim.fused_adam import get_fused_adam_class
from fairseq.trainer import Trainer
from torch import distributed

from cress_svcd.errors import ConfigError
from cress_svcd.training import device_layerdrop, device_update
from cress_svcd.training.copied_batches import CopiedBatches
from cress_svcd.training.device_update import DeviceUpdate
from cress_svcd.training.split_batches import SplitBatches
from cress_svcd.training.step_graphs import Done, StepGraphs
from cress_svcd.training.step_rows import StepRows

logger = logging.getLogger(__name__)

OPTIMIZERS = ("adam", "quant_adam")


def is_wanted(cfg) -> bool:
    """Whether a training's configuration asks for this trainer, and it can do what that says.

    Raises:
        ConfigError: --graph-training is given with what it does not do.
    """
    wish = getattr(cfg.task, "graph_training", "off")
    if wish == "off":
        return False
    reason = why_not_captured(cfg)
    if wish == "on":
        if reason:
            raise ConfigError(
                f"--graph-training does not go with {reason}: leave one of them out "
                "(--graph-training off)"
            )
        return True
    if not cfg.task.batch_shapes or cfg.common.cpu or not torch.cuda.is_available():
        return False
    if reason:
        logger.info("steps are not captured: --graph-training does not go with %s", reason)
    return reason is None


def why_not_captured(cfg) -> str | None:
    """What of a training's configuration this trainer does not do, or None."""
    common, parallel = cfg.common, cfg.distributed_training
    optimizer = getattr(cfg.optimizer, "_name", None)
    reasons = {
        "--amp": common.amp,
        "--memory-efficient-fp16": common.memory_efficient_fp16 or common.memory_efficient_bf16,
        "--tpu": common.tpu,
        f"--ddp-backend {parallel.ddp_backend}": parallel.ddp_backend
        in ("fully_sharded", "slowmo"),
        "--pipeline-model-parallel": parallel.pipeline_model_parallel,
        "--use-bmuf": cfg.optimization.use_bmuf,
        "--store-ema": cfg.ema.store_ema,
        "--zero-sharding": parallel.zero_sharding != "none",
        f"--optimizer {optimizer}": optimizer not in OPTIMIZERS,
        "the FusedAdam of apex (--use-old-adam: without it)": _takes_apex(cfg.optimizer),
    }
    return next((name for name, given in reasons.items() if given), None)


def _takes_apex(optimizer) -> bool:
    """Whether fairseq's ``adam`` of this configuration is apex's, as it is where that is
    installed."""
    return (
        getattr(optimizer, "_name", None) == "adam"
        and not getattr(optimizer, "use_old_adam", False)
        and torch.cuda.is_available()
        and get_fused_adam_class() is not None
    )


class GraphTrainer(Trainer):
    """fairseq's trainer, whose steps wait for nothing.

    Differences: an update whose gradients overflow is skipped, but counted; parameters that a batch
    does not use are moved on by their momentum in fp32 too, as fairseq does in fp16.
    """

    _update: DeviceUpdate | None = None
    _rows: StepRows
    _latest: Done | None = None
    _epoch_iterator = None

    @property
    def use_distributed_wrapper(self) -> bool:
        """No: the gradients of all processes are summed here, in one piece."""
        return False

    def _build_optimizer(self):
        super()._build_optimizer()
        reason = device_update.why_not(self._optimizer)
        if reason:
            raise ConfigError(f"--graph-training does not go with {reason} (--graph-training off)")
        self._update = None

    def get_train_iterator(self, *args, **kwargs):
        self._epoch_iterator = super().get_train_iterator(*args, **kwargs)
        return self._epoch_iterator

    def state_dict(self):
        if self._update is not None:
            self._update.store()
        return super().state_dict()

    @property
    def update(self) -> DeviceUpdate:
        """Made at the first step, after a checkpoint was loaded."""
        if self._update is None:
            self._update = DeviceUpdate(self.optimizer, self.cfg.optimization.clip_norm)
            self._rows = StepRows()
            device_layerdrop.install(self.model)
            self._graphs = StepGraphs(self, self._update)
            self._copies = CopiedBatches(self._graphs.capture)
            self._batches = SplitBatches(self._graphs, self._update)
            if self.data_parallel_world_size > 1:
                for leaf in self._update.leaves:
                    distributed.broadcast(leaf.data, 0, group=self.data_parallel_process_group)
        return self._update

    @metrics.aggregate("train")
    def train_step(self, samples, raise_oom=False):
        """Forward, backward and update; what is logged comes later, see ``_log``."""
        metrics.log_start_time("train_wall", priority=800, round=0)
        self.update  # noqa: B018 - made on the stream on which the model was
        on_stream = self._graphs.capture.on_stream
        with on_stream():
            self._begin()
        done = []
        for sample in samples:
            sample, is_dummy = self._copies.copied(self._prepare_sample, self._on_host(sample))
            if not is_dummy:
                with on_stream():
                    done.append(self._batches.run(sample))
        with on_stream():
            # The other processes may have one batch more in this epoch.
            self._end(Done.all_of(done) if done else self._nothing())
        metrics.log_stop_time("train_wall")
        return {}

    def _begin(self) -> None:
        self._set_seed()
        self.model.train()
        self.criterion.train()
        inner, number = self.update.inner, self.get_num_updates()
        if hasattr(inner, "set_num_updates"):
            inner.set_num_updates(number)
        self.task.begin_step(self.model, self.criterion, number)
        self._graphs.begin_step()
        self.update.zero_gradients()

    def _end(self, done: Done) -> None:
        """Update the weights, and keep what is to be logged."""
        self._latest = done
        total = self._sum_over_processes(self.update, float(done.size))
        norm = self.update.step(1 / total)
        self._rows.add(
            (*done.keys, "gnorm"),
            torch.cat([done.row, norm.double().view(1)]),
            done.plain | {"sample_size": float(done.size)},
        )
        self.set_num_updates(self.get_num_updates() + 1)
        if self._is_read_now():
            self._log()

    def _nothing(self) -> Done:
        """What an update without a batch logs: as before, of nothing.

        Raises:
            ConfigError: this process has had no batch at all.
        """
        if self._latest is None:
            raise ConfigError(
                "an epoch has fewer batches than there are processes: give smaller batches "
                "(--max-tokens, --batch-size) or fewer processes"
            )
        last = self._latest
        return Done(0.0, last.keys, torch.zeros_like(last.row), dict.fromkeys(last.plain, 0))

    def _on_host(self, sample: dict | None) -> dict | None:
        """The batch with what the task adds before it goes to the device."""
        add = getattr(self.task, "host_batch", None)
        return add(self.model, self.criterion, sample) if sample and add else sample

    def _sum_over_processes(self, update: DeviceUpdate, size: float) -> torch.Tensor:
        """Sum the gradients; the number of tokens of all processes."""
        total = torch.full((), size, device=self.device)
        if self.data_parallel_world_size > 1:
            group = self.data_parallel_process_group
            distributed.all_reduce(update.gradients, group=group)
            distributed.all_reduce(total, group=group)
        return total

    def _is_read_now(self) -> bool:
        """Whether the numbers of the steps so far are wanted: for the log, or a checkpoint."""
        number, cfg = self.get_num_updates(), self.cfg
        intervals = (
            cfg.common.log_interval,
            cfg.checkpoint.save_interval_updates,
            cfg.dataset.validate_interval_updates,
        )
        return (
            any(interval > 0 and number % interval == 0 for interval in intervals)
            or number == cfg.optimization.max_update
            or self._epoch_iterator is None
            or self._epoch_iterator.end_of_epoch()
        )

    def _log(self) -> None:
        """Log what the steps since the last time left, as fairseq does after each of them."""
        overflows = 0
        rows = self._rows.take()
        if self.data_parallel_world_size > 1:
            rows = self._summed(rows)
        for row in rows:
            norm = torch.tensor(row.pop("gnorm"))
            overflows += not bool(norm.isfinite())
            self._reduce_and_log_stats([row], row["sample_size"], norm)
        self._log_state()
        if overflows:
            self._report_overflows(overflows, len(rows))

    def _log_state(self) -> None:
        """The loss scale, and the memory that was free."""
        scaler = self.update.scaler
        if scaler is not None:
            self.update.store()
            metrics.log_scalar("loss_scale", scaler.loss_scale, priority=700, round=4, weight=0)
        if self.cuda_env is not None:
            used = torch.cuda.max_memory_allocated(self.device) / 2**30
            free = self.cuda_env.total_memory_in_GB - used
            metrics.log_scalar("gb_free", free, priority=1500, round=1, weight=0)

    def _summed(self, rows: list[dict[str, float]]) -> list[dict[str, float]]:
        """Over the processes; the norm is that of all gradients already."""
        keys = sorted(rows[0])
        numbers = torch.tensor([[row[key] for key in keys] for row in rows], dtype=torch.float64)
        numbers = numbers.to(self.device)
        distributed.all_reduce(numbers, group=self.data_parallel_process_group)
        numbers[:, keys.index("gnorm")] /= self.data_parallel_world_size
        return [dict(zip(keys, row)) for row in numbers.tolist()]

    def _report_overflows(self, overflows: int, steps: int) -> None:
        """
        Raises:
            FloatingPointError: without a loss scale nothing will make the gradients finite again.
        """
        if self.update.scaler is None:
            raise FloatingPointError(
                f"the gradients of {overflows} of the last {steps} updates are infinite or NaN; "
                "the weights were not changed by them: lower the learning rate, or clip the "
                "gradients (--clip-norm)"
            )
        logger.info(
            "NOTE: gradient overflow: %d of the last %d updates skipped, loss scale now %g",
            overflows,
            steps,
            self.update.scaler.loss_scale,
        )

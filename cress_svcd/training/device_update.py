"""From gradients to weights without asking the GPU for anything.

fairseq's trainer reads the norm of the gradients, and with --fp16 compares it, at every update: the
host waits until the GPU is done, and the GPU then waits for the host.  Here unscaling, clipping,
the loss scale and Adam are a few dozen launches that depend on each other on the device alone.

The weights, moments and counts are those of fairseq's optimizer, in their places: a checkpoint is
the same, and either way of updating goes on from the other's.
"""

import math

import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from torch import Tensor, nn
from torch.optim.adamw import adamw

SCALER_COUNTS = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


def why_not(optimizer: FairseqOptimizer) -> str | None:
    """What of ``optimizer`` this does not do, or None."""
    inner = getattr(optimizer, "fp32_optimizer", optimizer)
    if inner is not optimizer and not isinstance(optimizer, FP16Optimizer):
        return f"{type(optimizer).__name__}"
    if type(inner.optimizer) not in (Adam, torch.optim.AdamW):
        return f"the optimizer {type(inner.optimizer).__name__}"
    if any(group.get("amsgrad") for group in inner.optimizer.param_groups):
        return "amsgrad"
    return None


class DeviceUpdate:
    """Updates the weights of ``optimizer`` from the gradients of one or several backward passes.

    Args:
        optimizer: fairseq's, whose ``why_not`` is None.
        clip_norm: norm to which the gradients are clipped; 0: not.

    Attributes:
        gradients: of all trained parameters, in one row; each parameter's ``grad`` is a part.
        scale: what the loss is to be multiplied with before the backward pass; a scalar.
    """

    def __init__(self, optimizer: FairseqOptimizer, clip_norm: float):
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self.inner = getattr(optimizer, "fp32_optimizer", optimizer)
        self.scaler = getattr(optimizer, "scaler", None)
        leaves = list(getattr(optimizer, "fp16_params", None) or optimizer.params)
        self.leaves: list[nn.Parameter] = leaves
        self.gradients, parts = _in_one_row(leaves)
        for leaf, part in zip(leaves, parts):
            leaf.grad = part
        device = self.gradients.device
        self._find_masters(parts)
        self._take_moments()
        self.scale = torch.ones((), device=device)
        self._counts = torch.zeros(len(SCALER_COUNTS), device=device, dtype=torch.float64)
        if self.scaler is not None:
            self.scale.fill_(self.scaler.loss_scale)
            counts = [float(getattr(self.scaler, name)) for name in SCALER_COUNTS]
            self._counts.copy_(torch.tensor(counts, dtype=torch.float64))

    def _find_masters(self, parts: list[Tensor]) -> None:
        """The fp32 weights and their gradients; the parameters' own where they train in fp32."""
        self.masters, self.master_gradients = self.leaves, parts
        if self.inner is self.optimizer:
            return
        masters = self.optimizer.fp32_params
        if isinstance(masters, dict):  # fairseq's flat ones, by device
            (flat,) = masters.values()
            sizes = [leaf.numel() for leaf in self.leaves]
            self.masters = _like(flat.data.split(sizes), self.leaves)
            self.master_gradients = _like(flat.grad.split(sizes), self.leaves)
            return
        self.masters = list(masters)
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        self.master_gradients = [master.grad for master in self.masters]

    def _take_moments(self) -> None:
        """Adam's state for each group of parameters; what is new begins with zeros."""
        self._steps: list[list[Tensor]] = []
        for group in self.inner.optimizer.param_groups:
            steps = []
            for parameter in group["params"]:
                state = self.inner.optimizer.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter.data)
                    state["exp_avg_sq"] = torch.zeros_like(parameter.data)
                    state["step"] = 0 if self._counts_by_int else torch.zeros(())
                steps.append(torch.full((), float(state["step"]), device=parameter.device))
            self._steps.append(steps)
        self._updates = max((float(steps[0]) for steps in self._steps if steps), default=0.0)

    @property
    def _counts_by_int(self) -> bool:
        return isinstance(self.inner.optimizer, Adam)

    @torch.no_grad()
    def zero_gradients(self) -> None:
        self.gradients.zero_()

    @torch.no_grad()
    def step(self, factor: Tensor) -> Tensor:
        """Update the weights.

        Args:
            factor: of the gradients, a scalar on the device: one over the number of tokens.
        Returns:
            the norm of the gradients before clipping, a scalar on the device.  Where it is not
            finite nothing is changed but the loss scale.
        """
        if self.master_gradients[0].data_ptr() != self.leaves[0].grad.data_ptr():
            torch._foreach_copy_(self.master_gradients, [leaf.grad for leaf in self.leaves])
        norms = torch.stack(torch._foreach_norm(self.master_gradients))
        norm = torch.linalg.vector_norm(norms.float()) * factor / self.scale
        broken = ~norm.isfinite()
        divisor = self.scale / factor
        if self.clip_norm > 0:
            # As fairseq: with a loss scale it divides by the norm itself.
            margin = 0.0 if self.scaler is not None else 1e-6
            divisor = divisor / (self.clip_norm / (norm + margin)).clamp(max=1)
        self._adam(divisor, broken.float())
        if self.masters is not self.leaves:
            torch._foreach_copy_(self.leaves, self.masters)
        if self.scaler is not None:
            self._rescale(broken)
        return norm

    def _adam(self, divisor: Tensor, broken: Tensor) -> None:
        self._updates += 1
        optimizer = self.inner.optimizer
        for group, steps in zip(optimizer.param_groups, self._steps):
            parameters = group["params"]
            states = [optimizer.state[parameter] for parameter in parameters]
            beta1, beta2 = group["betas"]
            eps = group["eps"]
            if self._counts_by_int:
                # fairseq adds it before the moment is corrected, torch afterwards.
                eps /= math.sqrt(1 - beta2**self._updates)
            adamw(
                [parameter.data for parameter in parameters],
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                fused=True,
                grad_scale=divisor,
                found_inf=broken,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=eps,
                maximize=False,
            )

    def _rescale(self, overflow: Tensor) -> None:
        """fairseq's ``DynamicLossScaler``, on the device."""
        scaler = self.scaler
        now, last_overflow, last_rescale, overflows = self._counts.unbind()
        overflows = overflows + overflow
        last_overflow = torch.where(overflow, now, last_overflow)
        shrink = overflow & (overflows / (now - last_rescale) >= scaler.tolerance)
        grow = ~overflow & ((now - last_overflow).remainder(scaler.scale_window) == 0)
        smaller = self.scale / scaler.scale_factor
        if scaler.threshold is not None:
            smaller = smaller.clamp(min=scaler.threshold)
        larger = torch.where(grow, self.scale * scaler.scale_factor, self.scale)
        self.scale.copy_(torch.where(shrink, smaller, larger))
        last_rescale = torch.where(shrink | grow, now, last_rescale)
        overflows = overflows.masked_fill(shrink, 0)
        self._counts.copy_(torch.stack([now + 1, last_overflow, last_rescale, overflows]))

    def store(self) -> None:
        """Give fairseq's optimizer the counts, for a checkpoint; waits for the GPU.

        Raises:
            FloatingPointError: the loss scale is below its minimum.
        """
        for group, steps in zip(self.inner.optimizer.param_groups, self._steps):
            counts = torch.stack(steps).tolist() if steps else []
            for parameter, count in zip(group["params"], counts):
                state = self.inner.optimizer.state[parameter]
                state["step"] = int(count) if self._counts_by_int else torch.tensor(count)
        if self.scaler is None:
            return
        for name, count in zip(SCALER_COUNTS, self._counts.tolist()):
            setattr(self.scaler, name, int(count))
        self.scaler.loss_scale = float(self.scale)
        if self.scaler.loss_scale <= self.scaler.min_loss_scale:
            raise FloatingPointError(
                f"the loss scale has fallen to {self.scaler.loss_scale:g}, below "
                f"--min-loss-scale {self.scaler.min_loss_scale:g}: the loss is probably exploding; "
                "lower the learning rate, clip the gradients (--clip-norm) or enlarge the batches"
            )


def _in_one_row(leaves: list[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """Zeros for the gradients of ``leaves``, and the part of each."""
    row = leaves[0].new_zeros(sum(leaf.numel() for leaf in leaves))
    return row, _like(row.split([leaf.numel() for leaf in leaves]), leaves)


def _like(parts: tuple[Tensor, ...], leaves: list[nn.Parameter]) -> list[Tensor]:
    return [part.view(leaf.shape) for part, leaf in zip(parts, leaves)]

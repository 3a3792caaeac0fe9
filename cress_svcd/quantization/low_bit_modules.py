"""Convolutions, embeddings and output projections that are trained at 1 to 4 bits a weight.

Each keeps a full-precision ("latent") weight and computes with step * q, see ``low_bit_grid``: the
rounding has a gradient straight through, and the step of each row is trained with that of LSQ
(Esser et al. 2020).  What is trained is its binary logarithm, as in TQT (Jain et al. 2020), so
that Adam changes a step by a share of itself, however small it is.

    convert(model, LowBits(embedding=3, hubert=4))   # in place, after the policy; weights kept
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.fake_quant import accumulation_dtype
from cress_svcd.quantization.low_bit_grid import LowBits, quantize_low
from cress_svcd.quantization.midrise_grid import SMALLEST_STEP, LearnedStep


class _LowBits(nn.Module):
    """What the modules share.

    Attributes:
        bits: of a weight.
        log2_step: (rows), trained; of a table that several modules share one parameter, too.
    """

    bits: int
    log2_step: nn.Parameter

    def latent_weight(self) -> Tensor:
        """The full-precision weight (rows x …)."""
        weight = self.weight
        assert isinstance(weight, Tensor)
        return weight

    def latent_parameters(self) -> list[nn.Parameter]:
        """The parameters that it is made of."""
        return [
            parameter
            for name, parameter in self._parameters.items()
            if name.startswith("weight") and parameter is not None
        ]

    def dense_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight (rows x …) that the module computes with, in ``dtype`` (default: its own)."""
        latent = self.latent_weight()
        weight = _rounded(latent.flatten(1), self.log2_step, self.bits).view(latent.shape)
        return weight if dtype is None else weight.to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"

    def _adopt(self, module: nn.Module, bits: int, log2_step: nn.Parameter | None) -> Self:
        """Take over the parameters of ``module``, which stay its own, too."""
        self._parameters.clear()
        self._parameters.update(module._parameters)
        self.bits = bits
        if log2_step is None:
            latent = self.latent_weight()
            log2_step = nn.Parameter(latent.new_zeros(len(latent)), latent.requires_grad)
        self.log2_step = log2_step
        return self.train(module.training)

    @torch.no_grad()
    def fit_step(self) -> None:
        """Set the steps to those that ``pack`` finds for the present weight."""
        _, scale = quantize_low(self.latent_weight(), self.bits)
        self.log2_step.copy_((2 * scale).clamp_min(SMALLEST_STEP).log2())


def _rounded(rows: Tensor, log2_step: Tensor, bits: int) -> Tensor:
    """``rows`` (rows x n) on the grids of their steps (rows)."""
    step = log2_step.to(accumulation_dtype(log2_step.dtype)).exp2().unsqueeze(1)
    rounded: Tensor = LearnedStep.apply(rows, step, bits)
    return rounded


class QuantConv1d(_LowBits, nn.Conv1d):
    """A convolution; a weight normalisation of it is multiplied out before the rounding."""

    norm_dimension: int | None = None

    @classmethod
    def from_module(cls, conv: nn.Conv1d, bits: int, log2_step: nn.Parameter | None = None) -> Self:
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            conv.stride[0],
            conv.padding,  # type: ignore[arg-type]
            conv.dilation[0],
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        if "weight_g" in conv._parameters:
            gains = conv.weight_g
            assert isinstance(gains, Tensor)
            new.norm_dimension = max(range(gains.dim()), key=lambda number: gains.shape[number])
        return new._adopt(conv, bits, log2_step)

    def latent_weight(self) -> Tensor:
        if self.norm_dimension is None:
            return super().latent_weight()
        direction, gain = self.weight_v, self.weight_g
        assert isinstance(direction, Tensor) and isinstance(gain, Tensor)
        return torch._weight_norm(direction, gain, self.norm_dimension)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.dense_weight(), self.bias)


class QuantEmbedding(_LowBits, nn.Embedding):
    """A table; only the rows that are looked up are made."""

    @classmethod
    def from_module(
        cls, table: nn.Embedding, bits: int, log2_step: nn.Parameter | None = None
    ) -> Self:
        new = cls(table.num_embeddings, table.embedding_dim, table.padding_idx, device="meta")
        return new._adopt(table, bits, log2_step)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = F.embedding(tokens, self.weight, self.padding_idx)
        steps = F.embedding(tokens, self.log2_step.unsqueeze(1), self.padding_idx)
        return _rounded(rows.flatten(0, -2), steps.flatten(), self.bits).view(rows.shape)


class QuantProjection(_LowBits, nn.Linear):
    """A projection to symbols, whose weight may be a table, or to HuBERT's transformer."""

    @classmethod
    def from_module(
        cls, linear: nn.Linear, bits: int, log2_step: nn.Parameter | None = None
    ) -> Self:
        new = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        return new._adopt(linear, bits, log2_step)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense_weight(), self.bias)


LOW_BIT_MODULES = (QuantConv1d, QuantEmbedding, QuantProjection)


def convert(model: nn.Module, bits: LowBits, fit: bool = True) -> dict[str, int]:
    """Give ``model`` modules of few bits in place of those that ``bits`` names.

    Layers that a policy has quantised stay as they are.  Parameters are kept, and what shares a
    table shares its steps.

    Args:
        fit: find the steps for the weights; else a state is to be loaded.
    Returns:
        The bits of each, by its first name.
    """
    steps: dict[int, nn.Parameter] = {}
    made: dict[int, nn.Module] = {}
    done: dict[str, int] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        kind, width = _kind_and_bits(name, module, bits)
        if kind is None or width is None:
            continue
        if id(module) not in made:
            shared = id(module._parameters.get("weight", module))
            new = kind.from_module(module, width, steps.get(shared))
            if fit and shared not in steps:
                new.fit_step()
            steps[shared] = new.log2_step
            made[id(module)] = new
            done[name] = width
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, made[id(module)])
    return done


def _kind_and_bits(name: str, module: nn.Module, bits: LowBits) -> tuple[Any, int | None]:
    if type(module) is nn.Conv1d:
        return QuantConv1d, bits.of_convolution(name)
    if type(module) is nn.Embedding:
        return QuantEmbedding, bits.of_table(name)
    if type(module) is nn.Linear:
        return QuantProjection, bits.of_table(name)
    return None, None

"""Attention whose weights are 0 or 1, as the methods for 1-bit activations have it.

A layer's product of weights and values then only adds values up: no kernel of this project does so,
hence such a model is trained and translated, and never packed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cress_svcd.errors import ConfigError
from cress_svcd.models.attention import (
    CallingAttention,
    call_projections,
    quantized_attentions,
)
from cress_svcd.models.checkpoints import option_of

NONE = "none"
SHARE_OF_LARGEST = 0.25  # of softmax-aware binarisation, as in the authors' code


class _Reached(torch.autograd.Function):
    """1 where x >= 0 and else 0; the gradient passes where |x| <= 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * (ctx.saved_tensors[0].abs() <= 1)


def bi_attention(scores: Tensor) -> Tensor:
    """Weights (..., keys): 1 where a score is not negative, without a softmax.

    BiBERT's bi-attention (Qin et al. 2022, arXiv:2203.06390, eq. 11), which it shows to hold the
    most information.

    Args:
        scores: (..., keys), scaled; -inf where a key is masked.
    """
    return _over_their_number(_Reached.apply(scores))


def softmax_aware(scores: Tensor) -> Tensor:
    """Weights (..., keys): 1 where the softmax has at least a quarter of its largest value.

    BiViT's softmax-aware binarisation (He et al. 2022, arXiv:2211.07091): one threshold for all
    rows would leave nothing of the long tail or of the flat ones.  The gradient is that of the
    softmax.

    Args:
        scores: (..., keys), scaled; -inf where a key is masked.
    """
    soft = torch.softmax(scores, -1, dtype=torch.float32)
    reached = soft >= SHARE_OF_LARGEST * soft.amax(-1, keepdim=True)
    weights = _over_their_number(reached.to(soft.dtype))
    return (weights + (soft - soft.detach())).to(scores.dtype)


def _over_their_number(ones: Tensor) -> Tensor:
    """Each row over the number of its ones, at least 1.

    A scale of the row's sum.  The papers have none: their values are signs, and their layers
    learn sizes from the start, where ours come from a model whose weights sum to 1.
    """
    return ones / ones.detach().sum(-1, keepdim=True).clamp_min(1)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "bi_attention": bi_attention,
    "softmax_aware": softmax_aware,
}


@dataclass
class BinaryAttentionOptions:
    """Whether attention weights are in 1 bit."""

    quant_attention: ChoiceEnum((NONE, *FORMS)) = field(
        default=NONE,
        metadata={
            "help": "weights of attention in 1 bit, wherever its projections are quantised: "
            "bi_attention (scores that are not negative) or softmax_aware (at least a quarter of "
            "the row's largest weight), from the first update, whatever --quant-schedule says. "
            "Such a model cannot be packed"
        },
    )


class BinaryAttention(CallingAttention):
    """fairseq's attention with weights by one of FORMS.

    Attributes:
        form: a key of FORMS.
    """

    form: str

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As fairseq's; shapes as in :class:`CallingAttention`."""
        scores, values = MultiheadAttention.forward(
            self,
            query,
            key,
            value,
            key_padding_mask,
            incremental_state,
            static_kv=static_kv,
            attn_mask=attn_mask,
            before_softmax=True,
        )
        if before_softmax:
            return scores, values
        weights = FORMS[self.form](scores)  # (batch * heads, target time, source time)
        mixed = torch.bmm(self.dropout_module(weights), values)
        mixed = mixed.unflatten(0, (-1, self.num_heads)).permute(2, 0, 1, 3).flatten(2)
        shown = None
        if need_weights or need_head_weights:
            shown = weights.unflatten(0, (-1, self.num_heads)).transpose(0, 1)
            shown = shown if need_head_weights else shown.mean(0)
        return self.out_proj(mixed), shown


def form_in(options: Any) -> str:
    """What the options of a model ask for; those of an older checkpoint ask for nothing."""
    return str(option_of(options, "quant_attention") or NONE)


def binarize_attention(model: nn.Module, options: Any) -> None:
    """Give every attention with a quantised projection the weights that ``options`` ask for.

    Raises:
        ConfigError: there is none.
    """
    form = form_in(options)
    if form == NONE:
        return
    attentions = quantized_attentions(model)
    for attention in attentions:
        call_projections(attention)
        # Not a new module: names, parameters and hooks stay.
        attention.__class__ = BinaryAttention
        attention.form = form
    if not attentions:
        raise ConfigError(
            f"--quant-attention {form}: the policy quantises no projection of an attention: take "
            "another --quant-policy, or leave it out"
        )


def require_same_form(saved: Any, current: str) -> None:
    """Raise ConfigError unless the options ``saved`` have the ``current`` form."""
    if form_in(saved) != current:
        raise ConfigError(
            f"it was trained with --quant-attention {form_in(saved)}, and the options ask for "
            f"{current}: resume with the same, or start again in another --save-dir"
        )


def require_softmax(options: Any) -> None:
    """Raise ConfigError for a model whose attention weights are in 1 bit."""
    if form_in(options) != NONE:
        raise ConfigError(
            f"trained with --quant-attention {form_in(options)}: no kernel multiplies attention "
            "weights in 1 bit; translate with the checkpoint itself, or train without the option"
        )

"""fairseq's attention, made to call its projections."""

from torch import nn

from fairseq.modules import MultiheadAttention

from cress_svcd.quantization import QuantLinear


def call_projections(attention: MultiheadAttention) -> None:
    """Have ``attention`` call its projections always.

    Symptom otherwise: without an incremental state, fairseq hands the projections' raw weights to
    torch's attention function.  A quantised projection, or one with a hook, is then never called,
    so that it trains in full precision and translates quantised.
    """
    attention._set_skip_embed_dim_check()


def call_quantized_projections(model: nn.Module) -> None:
    """``call_projections`` wherever a projection of ``model`` is quantised."""
    for module in model.modules():
        if isinstance(module, MultiheadAttention) and any(
            isinstance(child, QuantLinear) for child in module.children()
        ):
            call_projections(module)

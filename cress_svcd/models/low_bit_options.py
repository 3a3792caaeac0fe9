"""Options of a quantised model for what its policy does not name: embeddings and convolutions."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.quantization.low_bit_grid import CHOICES, LowBits
from cress_svcd.quantization.low_bit_modules import convert

logger = logging.getLogger(__name__)

_ALSO = ": 4, 3, 2 or 1; trained, as the policy's layers are, and stored so by 'cress-svcd pack'"


@dataclass
class LowBitOptions:
    """Named as the options of ``cress-svcd pack``."""

    quant_embedding_bits: Optional[int] = field(
        default=None,
        metadata={"help": f"bits a weight of embeddings and output projection{_ALSO}"},
    )
    quant_hubert_bits: Optional[int] = field(
        default=None,
        metadata={
            "help": f"bits a weight of HuBERT's convolutions and the projection after them{_ALSO}"
        },
    )
    quant_subsampler_bits: Optional[int] = field(
        default=None,
        metadata={"help": f"bits a weight of the subsampler's convolutions{_ALSO}"},
    )


def trained_bits(options: Any) -> LowBits:
    """What the ``options`` of a model, of ours or of a checkpoint, ask for.

    Raises:
        ConfigError: a number that is none of CHOICES.
    """
    found = {}
    for kind in ("embedding", "hubert", "subsampler"):
        name = f"quant_{kind}_bits"
        is_plain = isinstance(options, Mapping)
        bits = options.get(name) if is_plain else getattr(options, name, None)
        if bits is not None and bits not in CHOICES:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} {bits}: expected 1, 2, 3 or 4, or leave it out")
        found[kind] = bits
    return LowBits(**found)


def check_options(cfg: Any) -> None:
    """Raise ConfigError unless what is to be trained at few bits is trained."""
    if trained_bits(cfg).hubert and (cfg.freeze_hubert or cfg.freeze_hubert_convolutions):
        raise ConfigError(
            "--quant-hubert-bits trains HuBERT's convolutions: leave out --freeze-hubert, "
            "--freeze-hubert-convolutions and --feature-cache, or leave it out and give "
            "'cress-svcd pack' --hubert-bits, which rounds them without training"
        )


def convert_trained(model: nn.Module, cfg: Any, fit: bool) -> None:
    """Give ``model`` the modules that ``cfg`` asks for, see ``low_bit_modules.convert``."""
    for name, bits in convert(model, trained_bits(cfg), fit).items():
        logger.info("quantised: %s (%d bits)", name, bits)


def require_same_bits(saved: Any, current: LowBits) -> None:
    """Raise ConfigError unless the options ``saved`` ask for the ``current`` bits, as when resuming
    a training."""
    if trained_bits(saved) != current:
        raise ConfigError(
            f"it was trained with {trained_bits(saved)}, and the options ask for {current}: "
            "resume with the same --quant-embedding-bits, --quant-hubert-bits and "
            "--quant-subsampler-bits, or start again in another --save-dir"
        )

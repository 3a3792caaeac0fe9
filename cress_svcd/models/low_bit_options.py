"""Options of a quantised model for what no pattern names: embeddings and convolutions."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.models.checkpoints import option_of
from cress_svcd.quantization.low_bit_grid import KINDS, LowBits, require_bits
from cress_svcd.quantization.low_bit_modules import convert
from cress_svcd.quantization.policy import Policy

logger = logging.getLogger(__name__)

_ALSO = (
    ": 4, 3, 2 or 1, instead of the policy's; trained, as the policy's layers are, and stored so "
    "by 'cress-svcd pack'"
)


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
        ConfigError: a number that is not 1 to 4.
    """
    found = {}
    for kind in KINDS:
        name = f"quant_{kind}_bits"
        found[kind] = require_bits("--" + name.replace("_", "-"), option_of(options, name))
    return LowBits(**found)


def complete_options(cfg: Any, policy: Policy) -> None:
    """Write the bits of ``policy`` into the options ``cfg`` that are not given: checkpoints store
    options.

    Raises:
        ConfigError: what is to be trained at few bits is not trained.
    """
    given = trained_bits(cfg)
    for kind in KINDS:
        if getattr(given, kind) is None:
            cfg[f"quant_{kind}_bits"] = getattr(policy.low_bits, kind)
    if trained_bits(cfg).hubert and (cfg.freeze_hubert or cfg.freeze_hubert_convolutions):
        who, otherwise = "--quant-hubert-bits", "leave it out"
        if given.hubert is None:
            who = f"policy {cfg.quant_policy}: hubert_bits"
            otherwise = "take a policy without it"
        raise ConfigError(
            f"{who} trains HuBERT's convolutions: leave out --freeze-hubert, "
            f"--freeze-hubert-convolutions and --feature-cache, or {otherwise} and give "
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
            "--quant-subsampler-bits, or the same --quant-policy where that says them, or start "
            "again in another --save-dir"
        )

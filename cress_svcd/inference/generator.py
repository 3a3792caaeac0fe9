"""fairseq's search over decoding steps that are captured as CUDA graphs (``cuda_graph_decoder``),
after an encoder whose layers are (``cuda_graph_encoder``).

All else is fairseq's: hypotheses and scores are the same up to rounding.
Hypotheses carry no attention weights.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence

import torch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor, nn

from cress_svcd.errors import ConfigError
from cress_svcd.inference.cuda_graph_decoder import CudaGraphDecoder, why_unsupported
from cress_svcd.inference.cuda_graph_encoder import CudaGraphEncoder
from cress_svcd.inference.graph_bucket import max_rows

logger = logging.getLogger(__name__)

DECODER_VARIABLE = "CRESS_SVCD_DECODER"
DECODERS = ("static", "eager")
STATIC_ON = ("cuda",)  # kinds of devices where it is the default


def choose_decoder(device: torch.device, name: str | None = None) -> str:
    """How the steps of a search on ``device`` are decoded: one of DECODERS.

    Args:
        name: one of DECODERS; None or "auto" takes what CRESS_SVCD_DECODER says, and without it
            eager, but on a device of STATIC_ON static.  Steps are captured on CUDA only.

    Raises:
        ConfigError: unknown.
    """
    where = "decoder"
    if name in (None, "auto"):
        name, where = os.environ.get(DECODER_VARIABLE, "auto"), DECODER_VARIABLE
    if name == "auto":
        return "static" if device.type in STATIC_ON else "eager"
    if name not in DECODERS:
        raise ConfigError(
            f"{where}: found {name!r}, expected auto or one of: {', '.join(DECODERS)}"
        )
    return name


class CudaGraphEnsemble(EnsembleModel):
    """fairseq's ensemble, which decodes a single model by ``CudaGraphDecoder`` where that can be.

    Attributes:
        decoder: see ``choose_decoder``; may be set at any time and holds from the next batch on.
        why_eager: why fairseq's own steps decoded the last batch; None if they did not.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__(models)
        self.decoder: str | None = None
        self.why_eager: str | None = "nothing has been decoded"
        self._decoder: CudaGraphDecoder | None = None
        self._encoder: CudaGraphEncoder | None = None
        self._begins = False  # the encoder's states are there, their rows not yet
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Around the search of one batch.  The steps' tensors are shared: other threads wait."""
        with self._turn:
            reported, self.why_eager = self.why_eager, self._why_eager()
            self._begins = self.why_eager is None
            if self._begins and self._decoder is None:
                self._decoder = CudaGraphDecoder(self.single_model)
                self._encoder = CudaGraphEncoder(self.single_model)
            yield
            if reported != self.why_eager:
                # Elsewhere there is nothing to choose, and so nothing to tell.
                on_gpu = next(self.single_model.parameters()).is_cuda
                level = logging.INFO if on_gpu else logging.DEBUG
                logger.log(level, "decoder: %s", self.decoded_by)

    @property
    def decoded_by(self) -> str:
        """What decoded the last batch, in words."""
        if self.why_eager is not None:
            return f"eager ({self.why_eager})"
        return "CUDA graphs" if self._decoder.captures else "steps of a CUDA graph, not captured"

    @property
    def cache_bytes(self) -> int:
        """Of the CUDA graph decoder's caches, which are kept from batch to batch."""
        return 0 if self._decoder is None else self._decoder.bytes()

    def _why_eager(self) -> str | None:
        model = self.single_model
        if self.models_size > 1:
            return "several models"
        device = next(model.parameters()).device
        if choose_decoder(device, self.decoder) == "eager":
            return "chosen" if device.type in STATIC_ON else f"chosen, or usual on {device.type}"
        if model.training or not getattr(model, "_is_generation_fast", False):
            return "the model may still be trained"  # a graph would not see it
        if torch.is_autocast_enabled(device.type):
            return "autocast"
        return why_unsupported(model)

    def forward_encoder(self, net_input: dict[str, Tensor]) -> list[dict]:
        """As fairseq's, its layers captured."""
        if self.why_eager is not None:
            return super().forward_encoder(net_input)
        with self._encoder.in_place():
            return super().forward_encoder(net_input)

    def reorder_encoder_out(self, encoder_outs: list[dict] | None, new_order: Tensor) -> list[dict]:
        """As fairseq's, unless steps are captured: these keep the states of each sentence once."""
        if self.why_eager is not None:
            return super().reorder_encoder_out(encoder_outs, new_order)
        if self._begins:  # fairseq repeats each sentence for its beams
            states = encoder_outs[0]["encoder_out"][0]
            most, sentences = max_rows(self.single_model.decoder, states), states.size(1)
            if len(new_order) > most:
                self.why_eager = f"a batch of more than {most} rows"
                return super().reorder_encoder_out(encoder_outs, new_order)
            self._decoder.begin(encoder_outs[0], len(new_order) // sentences)
            self._begins = False
        return encoder_outs

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: list[dict],
        incremental_states: list[dict],
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (rows x entries) and attention weights, or None, of the last tokens."""
        if self.why_eager is not None:
            return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)
        return self._decoder.step(tokens, temperature), None

    def reorder_incremental_state(self, incremental_states: list[dict], new_order: Tensor) -> None:
        """As fairseq's."""
        if self.why_eager is not None:
            super().reorder_incremental_state(incremental_states, new_order)
        else:
            self._decoder.reorder(new_order)


class CudaGraphGenerator(SequenceGenerator):
    """fairseq's generator with a ``CudaGraphEnsemble``, its attribute ``model``."""

    def __init__(self, models: Sequence[nn.Module], *arguments, **options):
        super().__init__(CudaGraphEnsemble(models), *arguments, **options)

    def _generate(self, sample: dict, *arguments, **options) -> list[list[dict[str, Tensor]]]:
        with self.model.batch():
            return super()._generate(sample, *arguments, **options)

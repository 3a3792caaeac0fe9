"""What CUDA graphs of a model's parts have in common, and those of encoders.

An encoder's layers take a sequence of whatever length: only batches of a shape that has been there
before are captured, and only small ones, whose kernels are shorter than their launches.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cress_svcd.inference.fused_layers import FusedEncoderLayer
from cress_svcd.kernels.cuda_graph import GraphCapture
from cress_svcd.models.attention import added_to_scores
from cress_svcd.quantization.binarize import SignWeightCache

MAX_FRAMES = 4096  # frames of all utterances
MAX_SHAPES = 8  # captured ones
MAX_SEEN = 1000  # shapes that are remembered


def state_of(module: nn.Module, *further: Any) -> tuple:
    """What changes where a tensor of ``module``, or what it holds, or a module in it is replaced.

    It is asked for at every batch: torch's own walk over all tensors takes twice as long.
    """
    state = list(further)
    for part in module.modules():
        state.append(id(part))
        for tensors in (part._parameters, part._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    state.append(tensor.data_ptr())
                    # Those that were made in inference mode have no version.
                    state.append(0 if tensor.is_inference() else tensor._version)
    return tuple(state)


def derived_tensors(module: nn.Module) -> list:
    """What layers made of their weights and may make again: a graph reads what there was when it
    was made, so that it must be held with it."""
    held = [value for part in module.modules() for value in vars(part).values()]
    signs = [value.held for value in held if isinstance(value, SignWeightCache)]
    return signs + [value for value in held if isinstance(value, tuple | Tensor)]


def is_watched(module: nn.Module) -> bool:
    """Whether somebody has hooks there, which a graph would not call."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Captured:
    """A captured run of layers: where its input is copied to, and its output."""

    def __init__(
        self,
        run: Callable[..., Tensor],
        capture: GraphCapture,
        held: Callable[[], list],
        x: Tensor,
        mask: Tensor | None,
    ) -> None:
        with torch.inference_mode(False):
            self.x = torch.empty_like(x)
            self.mask = None if mask is None else torch.empty_like(mask)
            self.y = torch.empty_like(x)
        self._fill(x, mask)
        self._replay = capture.capture(lambda: self.y.copy_(run(self.x, self.mask)))
        self._held = held()

    def _fill(self, x: Tensor, mask: Tensor | None) -> None:
        self.x.copy_(x)
        if mask is not None:
            self.mask.copy_(mask)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        self._fill(x, mask)
        self._replay()
        return self.y.clone()


class CudaGraphLayers(nn.Module):
    """All layers of an encoder in the place of one of them.

    They stay the modules of the encoder; here they are only called.  See ``CudaGraphEncoder``.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self._layers = (layers,)  # in a tuple torch does not find them
        self._graphs: OrderedDict[tuple, _Captured] = OrderedDict()
        self._seen: set[tuple] = set()
        self._state: tuple = ()
        self._packed: list[FusedEncoderLayer | None] = [None] * len(layers)
        self._capture: GraphCapture | None = None

    def forward(self, x: Tensor, need_weights: bool = False, **mask: Tensor | None) -> Any:
        """What the last layer gives for states (time, batch, channels), for HuBERT's layers in the
        form in which they give it.

        Args:
            mask: padding (batch, time), True beyond the ends, under the name that the layers use.
        """
        ((name, padding),) = mask.items()
        y = self._call(name, x, padding)
        return (y, (None, y)) if name == "self_attn_padding_mask" else y

    def _call(self, name: str, x: Tensor, padding: Tensor | None) -> Tensor:
        if any(map(is_watched, self._layers[0].modules())):
            return self._run(name, [None] * len(self._layers[0]), x, padding)
        self._forget_if_changed(x)
        run = functools.partial(self._run, name, self._packed)
        if x.shape[0] * x.shape[1] > MAX_FRAMES:
            return run(x, padding)
        key = *x.shape, padding is None
        if key not in self._graphs:
            if key not in self._seen:
                if len(self._seen) >= MAX_SEEN:
                    self._seen.clear()
                self._seen.add(key)
                return run(x, padding)
            self._graphs[key] = _Captured(run, self._capture, self._held, x, padding)
            while len(self._graphs) > MAX_SHAPES:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key](x, padding)

    def _run(
        self,
        name: str,
        packed: list[FusedEncoderLayer | None],
        states: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        added = added_to_scores(padding, None, states.dtype) if any(packed) else None
        for layer, products in zip(self._layers[0], packed):
            if products is not None:
                states = products(states, added)
                continue
            result = layer(states, **{name: padding})
            states = result[0] if isinstance(result, tuple) else result
        return states

    def _held(self) -> list:
        return [self._packed, *derived_tensors(self._layers[0])]

    def _forget_if_changed(self, x: Tensor) -> None:
        layers = self._layers[0]
        state = state_of(layers, x.device, x.dtype)
        if state == self._state:
            return
        self._state = state
        self._graphs.clear()
        self._packed = [FusedEncoderLayer.of(layer) for layer in layers]
        self._capture = GraphCapture(x.device)

    @property
    def captured(self) -> int:
        """Shapes that are captured."""
        return len(self._graphs)


class CudaGraphEncoder:
    """The layers of a model's encoder, and of its speech encoder if there is one."""

    def __init__(self, model: nn.Module) -> None:
        hubert = getattr(model.encoder, "hubert", None)
        owners = [model.encoder] if hubert is None else [model.encoder, hubert.encoder]
        self.parts = [(owner, CudaGraphLayers(owner.layers)) for owner in owners]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While the encoder runs, its layers are called through graphs."""
        before = [owner.layers for owner, _ in self.parts]
        try:
            for owner, captured in self.parts:
                owner.layers = nn.ModuleList([captured])
            yield
        finally:
            for (owner, _), layers in zip(self.parts, before):
                owner.layers = layers

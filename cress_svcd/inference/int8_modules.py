"""Embeddings, output projection and convolutions that take less memory than they compute in.

A packed model's transformer layers take a bit a weight; what is left would outweigh them.  These
modules hold it in half precision or int8 and compute in the type of their input.  Their weights
are constants: they are made by loading a state, not trained.

int8 is symmetric with one scale a row (an entry of the vocabulary, an output channel):
weight = q * scale, q in -127..127.  A file may hold less of q: ``low_bits``.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd import kernels
from cress_svcd.inference.low_bits import take_planes
from cress_svcd.kernels import dispatch
from cress_svcd.kernels.cpu import conv1d

QMAX = 127
BLOCK = 1024  # outputs whose weights as floats stay in the caches


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 q in the shape of ``weight`` (rows x ...), and the float32 scale of each row."""
    exact = weight.detach().float()
    scale = exact.flatten(1).abs().amax(dim=1) / QMAX
    divisor = _over_rows(scale, exact).clamp_min(torch.finfo(torch.float32).tiny)
    return (exact / divisor).round_().clamp_(-QMAX, QMAX).to(torch.int8), scale


def dequantize_rows(q: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight (rows x ...) of ``quantize_rows``."""
    return q.float() * _over_rows(scale.float(), q)


def _over_rows(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def constant(tensor: Tensor) -> nn.Parameter:
    """``tensor`` as a parameter that is not trained; one that is a parameter already, itself.

    torch changes type and device of parameters in place, and replaces buffers: a table held by two
    modules as a buffer would become two tables on a GPU.
    """
    is_parameter = isinstance(tensor, nn.Parameter)
    return tensor if is_parameter else nn.Parameter(tensor, requires_grad=False)


class _FromPlanes(nn.Module):
    """A module whose int8 ``weight`` may be loaded from the bit planes of ``low_bits``."""

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        take_planes(state_dict, f"{prefix}weight", self.weight.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Int8Embedding(_FromPlanes):
    """nn.Embedding with an int8 table; only the rows that are looked up are made.

    State: ``weight`` (entries x width, int8) and ``scale`` (entries).
    """

    def __init__(self, embedding: nn.Embedding, weight: Tensor, scale: Tensor):
        """For a table that may be shared: ``weight`` and ``scale`` are kept, not copied.

        Of tensors that are ``constant``, two modules share one copy wherever they are moved.
        """
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.weight.shape
        self.padding_idx = embedding.padding_idx
        self.weight, self.scale = constant(weight), constant(scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (... x width) of ``tokens`` (...), in the type of the scale."""
        scale = self.scale[tokens].unsqueeze(-1)
        return self.weight[tokens].to(scale.dtype).mul_(scale)


class Int8Projection(_FromPlanes):
    """nn.Linear with an int8 weight, multiplied as integers where the processor is fast at it.

    On the CPU the input passes through a hi/lo split into int8, a relative error of some 5e-5
    against the same weight in floating point; elsewhere that weight is made for each call, in the
    input's type.
    State: ``weight`` (out x in, int8), ``scale`` (out), ``bias`` (out) if any.
    """

    def __init__(self, linear: nn.Linear, weight: Tensor, scale: Tensor):
        """See ``Int8Embedding``."""
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.weight, self.scale = constant(weight), constant(scale)
        bias = None if linear.bias is None else torch.empty(self.out_features)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """... x in -> ... x out, in x's type."""
        product = dispatch.implementation("int8_gemm", x, self.weight).run
        if product is not None:
            return product(x, self.weight, self.scale, self.bias)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if dispatch.is_plain_cpu_call(x) and x.numel() > x.shape[-1]:  # of one row they are slow
            y = torch.cat([F.linear(x, q.to(x.dtype)) for q in self.weight.split(BLOCK)], dim=-1)
            y = y.mul_(self.scale.to(x.dtype))
            return y if bias is None else y.add_(bias)
        return F.linear(x, self.dense_weight(x.dtype), bias)

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Tensor, Tensor]]:
        """See ``kernels.explain``."""
        return "int8_gemm", (x, self.weight)

    def dense_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (out x in) in ``dtype``, by a single kernel."""
        return self.weight * self.scale.to(dtype).unsqueeze(1)


class CompactConv1d(nn.Module):
    """nn.Conv1d with its weight in half precision or int8.

    State: ``weight`` (out x channels of a group x kernel_size), ``scale`` (out; int8 only),
    ``bias`` (out) if any.  Where ``kernels.cpu.conv1d`` can be used, the weight lies in its layout
    in memory and is multiplied as it is; elsewhere it is made whole for each call, which is worth
    it where a module is called once for an utterance, as the speech encoder's convolutions are.

    Attributes:
        compute: bfloat16 to compute in it where this processor is fast at it; None: the input's
            type.
    """

    def __init__(
        self,
        conv: nn.Conv1d,
        dtype: torch.dtype,
        compute: torch.dtype | None = None,
        keep: bool = False,
        backend: str | None = None,
    ):
        """With the sizes of ``conv`` and an empty weight of ``dtype``.

        Args:
            compute: see the attribute.
            keep: leave the output in ``compute`` where it was computed so.
            backend: see ``use_backend``.
        """
        super().__init__()
        out, channels, size = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
        # torch's bf16 convolution of sequences is hardly faster than that of fp32; a product of
        # windows with kernel_size of channels is, four times.
        self.as_gemm = compute is not None and conv.groups == 1 and conv.dilation == (1,)
        self.shape = (out, channels, size)
        self.channels = conv.in_channels
        self.stride, self.padding = conv.stride[0], conv.padding[0]
        self.options = {"dilation": conv.dilation, "groups": conv.groups}
        self.compute, self.keep = compute, keep
        self._requested_backend = backend
        self.register_buffer("weight", torch.empty(self.shape, dtype=dtype))
        if self._may_have_kernel():
            self.weight = conv1d.blank(self.shape, dtype, conv.groups)
        self.register_buffer("scale", torch.empty(out) if dtype == torch.int8 else None)
        self.register_buffer("bias", None if conv.bias is None else torch.empty(out))

    @property
    def has_kernel(self) -> bool:
        """Whether ``kernels.cpu.conv1d`` computes this, in ``convolve_frames``."""
        return self.weight.dim() > len(self.shape)

    @property
    def _num_parts(self) -> int:
        return 2 if self.compute is None else 1

    def use_backend(self, backend: str | None) -> None:
        """``kernels.cpu.conv1d`` belongs to the back end "cpu": by another one, torch convolves.

        Raises:
            ConfigError: see ``kernels.choose``.
        """
        kernels.choose(self.weight.device, backend)
        self._requested_backend = backend
        self._arrange()

    def _may_have_kernel(self) -> bool:
        """Whether the weight can and should be in the kernel's layout."""
        weight = self.weight
        return (
            weight.dtype in conv1d.WEIGHT_TYPES
            and weight.device.type == "cpu"
            and self.options["dilation"] == (1,)
            and kernels.choose(weight.device, self._requested_backend) == "cpu"
            and conv1d.is_available()
            and conv1d.is_fast(weight.dtype, self._num_parts)
        )

    def _arrange(self) -> None:
        """Bring the weight into the layout that it is computed from."""
        if self._may_have_kernel():
            if not self.has_kernel:
                self.weight = conv1d.prepare(self.weight, self.options["groups"])
            return
        weight = self._plain()
        if self.as_gemm:
            weight = weight.transpose(1, 2).contiguous().transpose(1, 2)
        self.weight = weight

    def _plain(self) -> Tensor:
        """The weight in the layout of a state."""
        return conv1d.restore(self.weight, self.shape) if self.has_kernel else self.weight

    def kernel_call(self, x: Tensor) -> tuple[str, tuple[Tensor, Tensor]]:
        """See ``kernels.explain``."""
        return "conv1d", (x, self.weight)

    def lowers(self, x: Tensor) -> bool:
        """Whether torch would convolve ``x`` in ``compute``."""
        return self.compute is not None and x.device.type == "cpu" and is_fast(self.compute)

    def dense_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (out, channels of a group, kernel_size) in ``dtype``."""
        weight = self._plain().to(dtype)
        if self.scale is None:
            return weight
        return weight.mul_(_over_rows(self.scale.to(dtype), weight))

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv1d, for (batch, channels, time), in the input's type (but see ``keep``)."""
        if dispatch.implementation("conv1d", x, self.weight).run is not None:
            frames = x.transpose(1, 2).to(torch.float32)
            return self.convolve_frames(frames).transpose(1, 2).to(x.dtype)
        lower = self.lowers(x)
        dtype = self.compute if lower else x.dtype
        weight = self.dense_weight(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        if self.as_gemm and lower:
            y = self._as_gemm(x.to(dtype), weight, bias)
        else:
            y = F.conv1d(x.to(dtype), weight, bias, self.stride, self.padding, **self.options)
        return y if self.keep else y.to(x.dtype)

    def convolve_frames(
        self,
        x: Tensor,
        gain: Tensor | None = None,
        bias: Tensor | None = None,
        gelu: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """By the kernel, in float32: (batch, time, channels) -> (batch, output time, out).

        Args:
            gain, bias: (batch, out), factor and offset of the output without the bias; None for
                ones and for the layer's own bias.
            gelu, out: see ``conv1d.convolve``.
        """
        scale = self.scale
        if scale is None:
            scale = torch.ones(self.shape[0])
        return conv1d.convolve(
            x,
            self.weight,
            self.shape,
            scale if gain is None else scale * gain,
            self.bias if bias is None else bias,
            stride=self.stride,
            padding=self.padding,
            gelu=gelu,
            num_parts=self._num_parts,
            out=out,
        )

    def _as_gemm(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution as (batch, time, channels) in memory: as the next one wants its input."""
        out, channels, size = weight.shape
        frames = F.pad(x.transpose(1, 2), (0, 0, self.padding, self.padding)).contiguous()
        count = (frames.shape[1] - size) // self.stride + 1
        windows = frames.as_strided(
            (len(x), count, size * channels),
            (frames.stride(0), self.stride * channels, 1),
        )
        rows = weight.transpose(1, 2).reshape(out, size * channels)
        # As one matrix: torch multiplies overlapping windows one utterance after the other.
        y = F.linear(windows.reshape(-1, size * channels), rows, bias)
        return y.view(len(x), count, out).transpose(1, 2)

    def _save_to_state_dict(self, destination, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self._plain()

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        before, missing = self.weight, arguments[2]
        if before.dtype == torch.int8:
            take_planes(state_dict, f"{prefix}weight", self.shape)
        # The parent copies into memory of the state's shape.
        self.weight = torch.empty(self.shape, dtype=before.dtype, device=before.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if f"{prefix}weight" in missing:
            self.weight = before
        self._arrange()
        if before is not self.weight and before.shape == self.weight.shape:
            self.weight = before.copy_(self.weight)  # leaves no holes: see PackedLinear

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self._arrange()
        return self

    def extra_repr(self) -> str:
        kernel = ", by the C kernel" if self.has_kernel else ""
        return f"{self.shape}, {self.weight.dtype}, stride={self.stride}{kernel}"


@functools.cache
def is_fast(dtype: torch.dtype) -> bool:
    """Whether this processor has instructions for products in ``dtype``."""
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()

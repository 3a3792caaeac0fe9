"""Fitting scales to real inputs, in closed form, between conversion and training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cress_svcd.quantization.convert import quantized_layers
from cress_svcd.quantization.report import capture_inputs
from cress_svcd.quantization.scale_init import channel_magnitudes, initial_scales


@torch.no_grad()
def fit_model(
    model: nn.Module, teacher: nn.Module, run: Callable[[nn.Module], Any], max_rows: int = 4096
) -> list[str]:
    """Fit the scales of the layers of ``model``, in order of calls, to meet ``teacher``.

    Each layer sees the inputs that the layers fitted before it produce, and is to give what the
    teacher's layer gives on its own, so that errors are made good along the way.  The model runs
    once a layer.

    Args:
        model: just converted, in eval mode.
        teacher: the full-precision model, in eval mode, layers under the same names; not the
            source of the conversion itself, whose biases the layers share, but a copy.
        run: runs the module that it is given on the same few batches each time.
        max_rows: inputs kept a layer.

    Returns:
        The names of the layers that were fitted, those whose method FITS_SCALES, in their order.

    Raises:
        ValueError: ``run`` never calls a layer.
    """
    layers = {name: layer for name, layer in quantized_layers(model).items() if layer.FITS_SCALES}
    with capture_inputs(teacher, layers, max_rows) as full_inputs:
        run(teacher)
    for name in layers:
        if name not in full_inputs:
            raise ValueError(f"fit_model: {name} was not called; its weight is read by other code")
    for name, full_input in full_inputs.items():
        with capture_inputs(model, [name], max_rows) as inputs:
            run(model)
        fit_scales(layers[name], inputs[name], teacher.get_submodule(name)(full_input))
    return list(full_inputs)


@torch.no_grad()
def start_from_inputs(
    model: nn.Module, teacher: nn.Module, run: Callable[[nn.Module], Any], max_rows: int = 4096
) -> list[str]:
    """Give the layers of ``model`` initial values that know their inputs, without training.

    Each sees what the teacher's layer of its name is given; the teacher runs once.

    Args, Raises: see ``fit_model``.

    Returns:
        The names of the layers, those whose method has scales g and h or a ``calibrate``.
    """
    layers: dict[str, Any] = {
        name: layer
        for name, layer in quantized_layers(model).items()
        if layer.FITS_SCALES or hasattr(layer, "calibrate")
    }
    with capture_inputs(teacher, layers, max_rows) as captured:
        run(teacher)
    for name, layer in layers.items():
        if name not in captured:
            raise ValueError(f"{name} was not called; its weight is read by other code")
        if layer.FITS_SCALES:
            weigh_by_inputs(layer, captured[name])
        else:
            layer.calibrate(captured[name].to(layer.weight.dtype))
    return list(layers)


@torch.no_grad()
def weigh_by_inputs(layer: Any, inputs: Tensor) -> None:
    """Set g and h so that h g^T is nearest to |W| where inputs are large.

    (g, h) minimise the sum of (s_j (|W_ij| - h_i g_j))^2 over the support of the sign weights,
    with s the input channels' magnitudes (``channel_magnitudes``): the SVID of |W| S, whose S is
    taken back out of g.  That is how ASVD weighs a decomposition (Yuan et al. 2023,
    arXiv:2312.05821, section 3.2).

    Args:
        layer: a QuantLinear whose method FITS_SCALES, with g and h.
        inputs: (rows, in), as met by the layer.
    """
    size = channel_magnitudes(layer.norm(inputs.to(layer.weight.dtype)))
    g, h = initial_scales("svid", layer.weight * size, layer.sign_weights().abs())
    layer.g.copy_(g / size)
    layer.h.copy_(h)


@torch.no_grad()
def fit_scales(
    layer: Any,
    inputs: Tensor,
    wanted: Tensor | None = None,
    steps: int = 3,
    ridge: float = 1e-2,
) -> None:
    """Set g, h and bias so that the layer's outputs on ``inputs`` are nearest to ``wanted``.

    SVID looks at the weight alone and treats all inputs alike.  With the sign weights C fixed,
    y_i = h_i sum_j C_ij g_j x_j + b_i is linear in h and b for a given g, and linear in g for given
    h and b: two least-squares problems, solved in turn.  For h that is a regression on one variable
    an output; for g, with X the inputs and Y the wanted outputs less the bias, the system

        ((C^T diag(h^2) C) * (X^T X)) g = sum over rows of X * (Y diag(h) C),

    whose matrix is an entrywise product of two of in x in.  Sign weights and latent weight stay as
    they are.

    Args:
        layer: a QuantLinear whose method FITS_SCALES, with g and h.  Its rounding of activations is
            left out of the fit.
        inputs: (rows, in), as met by the layer; more rows than inputs, or it leans on ``ridge``.
        wanted: (rows, out); by default what the latent weight and bias give.
        steps: alternations.
        ridge: pull of g to its present value, as a share of the system's mean diagonal.

    Raises:
        ValueError: the layer's output is not linear in its scales.
    """
    if not layer.FITS_SCALES:
        raise ValueError(f"fit_scales: the output of {layer} is not linear in its scales")
    inputs = inputs.to(layer.weight.dtype)
    if wanted is None:
        wanted = F.linear(inputs, layer.weight, layer.bias)
    x, wanted = layer.norm(inputs).double(), wanted.double()
    signs = layer.sign_weights().double()
    second_moment = x.t() @ x
    g = layer.g.double()
    for _ in range(steps):
        h, offset = _regress((x * g) @ signs.t(), wanted, layer.bias is not None)
        system = (signs.t() @ (h.square().unsqueeze(1) * signs)) * second_moment
        target = (x * (((wanted - offset) * h) @ signs)).sum(0)
        pull = ridge * system.diagonal().mean().clamp_min(1e-30)
        system.diagonal().add_(pull)
        g = torch.linalg.solve(system, target + pull * g)
    h, offset = _regress((x * g) @ signs.t(), wanted, layer.bias is not None)
    layer.g.copy_(g)
    layer.h.copy_(h)
    if layer.bias is not None:
        layer.bias.copy_(offset)


def _regress(products: Tensor, wanted: Tensor, with_offset: bool) -> tuple[Tensor, Tensor]:
    """Factor and offset of each column of ``wanted`` (rows, out) on that of ``products``."""
    if with_offset:
        mean_product, mean_wanted = products.mean(0), wanted.mean(0)
    else:
        mean_product, mean_wanted = torch.zeros_like(products[0]), torch.zeros_like(wanted[0])
    products, wanted = products - mean_product, wanted - mean_wanted
    square = products.square().sum(0)
    factor = torch.where(square > 0, (products * wanted).sum(0) / square.clamp_min(1e-30), 0)
    return factor, mean_wanted - factor * mean_product

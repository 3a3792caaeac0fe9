"""What a loaded model needs to run fast without gradients, put in place from outside."""

from torch import nn

from cress_svcd.inference import front_end
from cress_svcd.models.hubert_encoder import HubertEncoder


def install(model: nn.Module) -> None:
    """Let every speech encoder of ``model`` use the kernels that have no gradient.

    They look at each call: with a gradient, or where there is no kernel, the modules run as in
    training.  Parameters and their names stay.
    """
    for module in model.modules():
        if isinstance(module, HubertEncoder):
            front_end.install(module)

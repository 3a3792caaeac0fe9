"""Hidden features of a HuBERT: what the second iteration's units are made of."""

import os

import numpy as np
import torch
from torch import nn

from cress_svcd.data.audio import standardize
from cress_svcd.errors import ConfigError
from cress_svcd.inference.install import install
from cress_svcd.models.hubert_checkpoint import frame_stride, read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder


class HubertFeatures:
    """Waveform → output of one transformer layer of a pretrained HuBERT, on a GPU if there is one.

    Args:
        path: HuBERT checkpoint.
        layer: from 1 (the first) to the number of layers.
    Raises:
        CheckpointError: the file is not of a HuBERT.
        ConfigError: it has no such layer.
    """

    in_process = True

    def __init__(self, path: str | os.PathLike, layer: int):
        description, state = read_hubert(path)
        encoder = HubertEncoder(description, frozen=True)
        encoder.load_pretrained(state, path)
        install(encoder)
        layers = encoder.encoder.layers
        if not 1 <= layer <= len(layers):
            raise ConfigError(f"--layer {layer}: {path} has layers 1 to {len(layers)}")
        encoder.encoder.layers = layers[:layer]
        if encoder.encoder.layer_norm_first:
            # It normalises what the last layer puts out; in fairseq, too, inner layers go without.
            encoder.encoder.layer_norm = nn.Identity()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.to(self.device).eval()
        self.normalize = description.normalize
        self.frame_shift = frame_stride(encoder.convolutions)

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Features of shape (frames, dimension) of a waveform (samples,) at 16 kHz."""
        wave = standardize(wave) if self.normalize else wave
        source = torch.from_numpy(wave).to(self.device).unsqueeze(0)
        lengths = torch.tensor([len(wave)], device=self.device)
        features, _ = self.encoder(source, lengths)
        return features[0].float().cpu().numpy()

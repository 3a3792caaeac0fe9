"""Every architecture that is packed: the engine finds what fairseq's search finds."""

import shutil

import pytest
import torch
import yaml

from cress_svcd.cli.main import main
from tests.helpers.deltalm_files import TINY, TINY_HEADS
from tests.helpers.hubert_files import make_hubert
from tests.helpers.training_options import make_model, make_task, parse, save_checkpoint
from tests.native.test_engine import (  # noqa: F401 (a fixture)
    OPTIONS,
    by_fairseq,
    recordings,
    require_same,
)

PRE_NORM = ("--encoder-normalize-before", "--decoder-normalize-before")
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
DELTALM = ("--deltalm-model-path", str(TINY))
SIZES = {"encoder_layers": 3, "decoder_layers": 2, **TINY_HEADS}
SIZES |= {f"{side}_ffn_embed_dim": 64 for side in ("encoder", "decoder")}
DELTALM += tuple(f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items())
ARCHITECTURES = {
    "pre-norm": ("hubert_transformer", {}, PRE_NORM),
    "post-norm": ("hubert_transformer_postln", {}, ()),
    "several layers, relu": (
        "hubert_transformer",
        {},
        ("--decoder-layers", "3", "--encoder-layers", "2", "--activation-fn", "relu"),
    ),
    "learned positions": (
        "hubert_transformer",
        {},
        ("--encoder-learned-pos", "--decoder-learned-pos", "--layernorm-embedding"),
    ),
    "large HuBERT": ("hubert_transformer", LARGE, PRE_NORM),
    "DeltaLM": ("hubert_deltalm", {}, DELTALM),
    "decoder of DeltaLM": ("hubert_deltalm", {}, (*DELTALM, "--deltalm-decoder-only")),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_says_the_same(name, prepared, recordings, translate, tmp_path):  # noqa: F811
    pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
    arch, hubert, flags = ARCHITECTURES[name]
    normalize = bool(hubert)
    data = shutil.copytree(prepared, tmp_path / "data")
    config = yaml.safe_load((data / "config.yaml").read_text())
    (data / "config.yaml").write_text(yaml.safe_dump({**config, "standardize_audio": normalize}))
    make_hubert(tmp_path / "hubert.pt", hubert, {"normalize": normalize})
    speech = ("--hubert-model-path", tmp_path / "hubert.pt")
    cfg = parse(data, *speech, *flags, arch=arch)
    task = make_task(data)
    model = make_model(cfg, task)
    generator = torch.Generator().manual_seed(5)
    for key, parameter in model.named_parameters():
        if not key.startswith("encoder.hubert"):
            # More would make much of a float's last place.
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(tmp_path / "model.pt", cfg, task, model)
    packed, cress = tmp_path / "packed.pt", tmp_path / "model.cress"
    pack = ["pack", tmp_path / "model.pt", "-o", packed, "--allow-full", "--dtype", "fp32"]
    assert main([str(word) for word in pack]) == 0
    assert main(["export", str(packed), "-o", str(cress)]) == 0
    require_same(by_fairseq(packed, recordings), translate(cress, recordings, *OPTIONS))

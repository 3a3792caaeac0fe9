"""HuBERT-Base and -Large as released: their tensors by name, their configs, and what is left out.

The list of tensors is that of the released base file (214 tensors), and what its config makes of it
for large; full-size models are built without memory, files at a reduced width.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.hubert_checkpoint import HubertDescription, read_hubert
from cress_svcd.models.hubert_encoder import PRETRAINING_ONLY, HubertEncoder
from tests.helpers.hubert_files import make_hubert

CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
BASE = {
    "_name": "hubert",
    "label_rate": 50,
    "extractor_mode": "default",
    "final_dim": 256,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "encoder_layerdrop": 0.05,
    "feature_grad_mult": 0.1,
    "conv_bias": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "conv_feature_layers": CONVOLUTIONS,
    "untie_final_proj": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.1,
    "dropout_features": 0.1,
    "mask_prob": 0.8,
    "mask_length": 10,
    "skip_masked": False,
    "skip_nomask": False,
}
LARGE = {
    **BASE,
    "extractor_mode": "layer_norm",
    "final_dim": 768,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
    "layer_norm_first": True,
    "encoder_layerdrop": 0.0,
    "feature_grad_mult": 1.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
}
# The authors' paths: in the task's config, and one more field in some files.
TASK = {
    "_name": "hubert_pretraining",
    "data": "/checkpoint/someone/librispeech/960h",
    "label_dir": "/checkpoint/someone/labels",
    "labels": ["layer6.km500"],
    "label_rate": 50,
    "sample_rate": 16_000,
    "normalize": False,
    "random_crop": True,
    "max_sample_size": 250_000,
    "min_sample_size": 32_000,
    "single_target": False,
    "pad_audio": False,
}
SIZES = {"base": (BASE, False), "large": (LARGE, True)}
REDUCED = {
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "final_dim": 16,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "conv_feature_layers": CONVOLUTIONS.replace("512", "16"),
}


def released_names(cfg: dict) -> set[str]:
    """The tensors of the released file with this config."""
    pairs = ["post_extract_proj", "layer_norm", "encoder.layer_norm", "final_proj"]
    names = {"mask_emb", "label_embs_concat", "encoder.pos_conv.0.bias"}
    names |= {f"encoder.pos_conv.0.weight_{part}" for part in "gv"}
    names |= {f"feature_extractor.conv_layers.{i}.0.weight" for i in range(7)}
    if cfg["extractor_mode"] == "layer_norm":
        pairs += [f"feature_extractor.conv_layers.{i}.2.1" for i in range(7)]
    else:
        pairs += ["feature_extractor.conv_layers.0.2"]
    for layer in range(cfg["encoder_layers"]):
        prefix = f"encoder.layers.{layer}"
        pairs += [f"{prefix}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
        pairs += [
            f"{prefix}.{name}"
            for name in ("fc1", "fc2", "self_attn_layer_norm", "final_layer_norm")
        ]
    return names | {f"{name}.{part}" for name in pairs for part in ("weight", "bias")}


@pytest.fixture(params=SIZES)
def size(request) -> str:
    return request.param


@pytest.fixture
def file(size, tmp_path):
    cfg, normalize = SIZES[size]
    model = make_hubert(
        tmp_path / f"hubert_{size}.pt",
        {**cfg, **REDUCED, "w2v_path": "/checkpoint/x.pt"},
        {**TASK, "normalize": normalize},
    )
    return tmp_path / f"hubert_{size}.pt", model


def load(path, **options) -> HubertEncoder:
    description, state = read_hubert(path)
    encoder = HubertEncoder(description, **options)
    encoder.load_pretrained(state, path)
    return encoder


def test_full_size_model_has_the_released_tensors_and_no_other(size):
    cfg, normalize = SIZES[size]
    names = released_names(cfg)
    assert size != "base" or len(names) == 214
    with FakeTensorMode():
        encoder = HubertEncoder(HubertDescription(cfg, normalize, 16_000, 50, (504,)))
    parameters = {name: value.numel() for name, value in encoder.named_parameters()}
    assert parameters.keys() == {n for n in names if not n.startswith(PRETRAINING_ONLY)}
    assert encoder.output_dim == cfg["encoder_embed_dim"]
    heads = 504 * cfg["final_dim"] + (encoder.output_dim + 1) * cfg["final_dim"]
    millions = (sum(parameters.values()) + heads) / 1e6
    assert millions == pytest.approx({"base": 94.7, "large": 316.6}[size], abs=0.05)


def test_a_file_of_the_released_form(file, size):
    path, _ = file
    cfg, normalize = SIZES[size]
    assert read_checkpoint(path)["model"].keys() == released_names(cfg)
    description, _ = read_hubert(path)
    assert description.normalize is normalize
    assert "/checkpoint/x.pt" not in description.to_json()
    assert "someone" not in description.to_json()


def test_features_are_fairseqs(file):
    path, model = file
    wave = torch.randn(2, 4000)
    expected, _ = model.extract_features(wave, padding_mask=None, mask=False)
    features, _ = load(path).eval()(wave, torch.tensor([4000, 4000]))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_half_precision_weights_are_taken(file):
    path, _ = file
    state = read_checkpoint(path)
    state["model"] = {name: value.half() for name, value in state["model"].items()}
    torch.save(state, path)
    weight = load(path).encoder.layers[3].fc1.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight.half(), state["model"]["encoder.layers.3.fc1.weight"])


@pytest.mark.parametrize("mask_prob", [0.0, 0.5])
def test_no_parameter_is_left_without_gradient(file, mask_prob):
    """As data parallel training demands; with layerdrop off, which is the model's default."""
    overrides = {"mask_prob": mask_prob, "mask_channel_prob": 0.0, "encoder_layerdrop": 0.0}
    encoder = load(file[0], overrides=overrides).train()
    features, _ = encoder(torch.randn(2, 8000), torch.tensor([8000, 6000]))
    features.square().sum().backward()
    assert [name for name, value in encoder.named_parameters() if value.grad is None] == []
    names = dict(encoder.named_parameters())
    assert not [name for name in names if name.startswith(PRETRAINING_ONLY)]
    assert ("mask_emb" in names) is (mask_prob > 0)

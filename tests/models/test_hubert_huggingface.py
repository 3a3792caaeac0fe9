"""HuBERT as Hugging Face stores it gives the hidden states that its library computes.

``fixtures/hubert_huggingface`` holds two models of random weights at a small width: of Base's shape
in pytorch_model.bin with the names of published files, of Large's with a CTC head in
model.safetensors; and what transformers 5.24 computes of them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cress_svcd.errors import CheckpointError
from cress_svcd.models.hubert_checkpoint import HubertDescription, hubert_digest, read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder
from cress_svcd.pretraining.hubert_features import HubertFeatures

STORED = Path(__file__).parents[1] / "fixtures" / "hubert_huggingface"
CLOSE = {"rtol": 0, "atol": 3e-5}  # processors add in different orders
NEEDS_TRANSFORMERS = "pip install 'cress_svcd[test-huggingface]'"


def load(folder, **options) -> HubertEncoder:
    description, state = read_hubert(folder)
    encoder = HubertEncoder(description, {"mask_prob": 0.0, **options}).eval()
    encoder.load_pretrained(state, folder)
    return encoder


@pytest.fixture(params=["base", "large_ctc"])
def stored(request) -> str:
    if request.param != "base":
        pytest.importorskip("safetensors", reason="pip install 'cress_svcd[huggingface]'")
    return request.param


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(STORED / "base", tmp_path / "hubert")


def test_stored_models_give_the_stored_hidden_states(stored):
    expected = np.load(STORED / "expected.npz")
    wave = torch.from_numpy(expected["wave"]).unsqueeze(0)
    with torch.inference_mode():
        features, _ = load(STORED / stored)(wave, torch.tensor([wave.size(1)]))
    np.testing.assert_allclose(features[0], expected[f"{stored}.last"], **CLOSE)


@pytest.mark.parametrize("layer", [1, 2])
def test_each_layer_gives_the_stored_hidden_states(layer):
    expected = np.load(STORED / "expected.npz")
    features = HubertFeatures(STORED / "base", layer)(expected["wave"])
    np.testing.assert_allclose(features, expected[f"base.{layer}"], **CLOSE)


def test_waveforms_are_standardised_where_it_makes_a_difference(stored):
    description, _ = read_hubert(STORED / stored)
    assert description.normalize is (stored == "large_ctc")
    assert HubertDescription.from_json(description.to_json()) == description


def test_base_does_not_hear_an_offset_or_a_factor():
    """Which is why it is given waveforms as they are, whatever preprocessor_config.json says."""
    wave, encoder = torch.randn(1, 4000), load(STORED / "base")
    with torch.inference_mode():
        features, _ = encoder(wave, torch.tensor([4000]))
        other, _ = encoder(3 * wave + 0.5, torch.tensor([4000]))
    torch.testing.assert_close(features, other, rtol=1e-3, atol=1e-3)


def test_an_encoder_that_is_trained_with_masks():
    encoder = load(STORED / "base", mask_prob=0.5)
    assert encoder.mask_emb.any()


def test_the_digest_is_that_of_both_files(folder):
    digest = hubert_digest(folder)
    assert digest == hubert_digest(STORED / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert hubert_digest(folder) != digest


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_hidden_states_are_those_of_transformers(tmp_path, large, safe):
    transformers = pytest.importorskip("transformers", reason=NEEDS_TRANSFORMERS)
    form = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"} if large else {}
    torch.manual_seed(5)
    config = transformers.HubertConfig(
        hidden_size=32,
        num_hidden_layers=2 if large else 3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[16] * 7,
        conv_bias=large,
        num_conv_pos_embeddings=16 if large else 15,
        num_conv_pos_embedding_groups=4,
        **form,
    )
    model = transformers.HubertModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    if not safe:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    wave = torch.randn(2, 7000)
    with torch.inference_mode():
        expected = model(wave).last_hidden_state
        features, _ = load(tmp_path)(wave, torch.tensor([7000, 7000]))
    torch.testing.assert_close(features, expected, **CLOSE)


def test_in_the_shape_of_base_too(tmp_path):
    """94 million random parameters."""
    transformers = pytest.importorskip("transformers", reason=NEEDS_TRANSFORMERS)
    torch.manual_seed(5)
    model = transformers.HubertModel(transformers.HubertConfig()).eval()
    model.save_pretrained(tmp_path)
    wave = torch.randn(1, 8000)
    with torch.inference_mode():
        expected = model(wave).last_hidden_state
        features, _ = load(tmp_path)(wave, torch.tensor([8000]))
    assert features.shape[2] == 768
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


class TestFoldersOfNoUse:
    """One line that names file and key."""

    def refused(self, folder, message):
        with pytest.raises(CheckpointError, match=message) as caught:
            read_hubert(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("left", ["config.json", "pytorch_model.bin"])
    def test_a_file_is_missing(self, folder, left):
        for file in folder.iterdir():
            if file.name != left:
                file.unlink()
        self.refused(folder, "no config.json" if left != "config.json" else "neither model")

    @pytest.mark.parametrize(
        "key, value",
        [
            ("model_type", "wav2vec2"),
            ("hidden_size", "16"),
            ("hidden_size", 10**12),
            ("num_hidden_layers", 3),
            ("num_attention_heads", 3),
            ("conv_dim", [8] * 6 + [9]),
            ("conv_stride", "5"),
            ("conv_kernel", [9, 3, 3, 3, 3, 2, 2]),
            ("layer_norm_eps", 1e-3),
            ("hidden_act", "swish"),
            ("hidden_dropout", "much"),
            ("feat_proj_layer_norm", False),
        ],
    )
    def test_a_key_is_wrong(self, folder, key, value):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        self.refused(folder, f"config.json: {key} is ")

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
    def test_a_configuration_is_damaged(self, folder, content):
        (folder / "config.json").write_bytes(content)
        self.refused(folder, "config.json")

    def test_tensors_are_damaged(self, folder):
        path = folder / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[:9000])
        self.refused(folder, "pytorch_model.bin: cannot be read")
        torch.save([1, 2], path)
        self.refused(folder, "pytorch_model.bin: holds a list")

    def test_safetensors_are_damaged(self, folder):
        pytest.importorskip("safetensors", reason="pip install 'cress_svcd[huggingface]'")
        (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
        self.refused(folder, "model.safetensors: cannot be read")

    def test_nothing_in_a_pickle_is_executed(self, folder, tmp_path):
        marker = tmp_path / "executed"

        class Malicious:
            def __reduce__(self):
                return (open, (str(marker), "w"))

        torch.save({"encoder.layer_norm.weight": Malicious()}, folder / "pytorch_model.bin")
        self.refused(folder, "refused")
        assert not marker.exists()

    def test_a_tensor_is_missing(self, folder):
        path = folder / "pytorch_model.bin"
        tensors = torch.load(path, weights_only=True)
        del tensors["feature_projection.layer_norm.bias"]
        torch.save(tensors, path)
        with pytest.raises(CheckpointError, match=r"missing: layer_norm\.bias"):
            load(folder)

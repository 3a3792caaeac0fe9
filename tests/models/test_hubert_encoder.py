"""The speech encoder: conformance with fairseq, exactness under padding, what is trained."""

import pytest
import torch

from cress_svcd.errors import CheckpointError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.hubert_checkpoint import read_hubert
from cress_svcd.models.hubert_encoder import CONVOLUTIONS, OUTPUT, HubertEncoder, random_spans
from tests.helpers.hubert_files import make_hubert


def load(path, **options) -> HubertEncoder:
    description, state = read_hubert(path)
    encoder = HubertEncoder(description, **options)
    encoder.load_pretrained(state, path)
    return encoder.eval()


@pytest.fixture(params=["base-like", "large-like"])
def checkpoint(request, tmp_path):
    path = tmp_path / "hubert.pt"
    large = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
    return path, make_hubert(path, large if request.param == "large-like" else None)


def test_equals_fairseqs_own_forward_without_padding(checkpoint):
    path, hubert = checkpoint
    wave = torch.randn(3, 4000)
    expected, _ = hubert.extract_features(wave, padding_mask=None, mask=False)
    features, mask = load(path)(wave, torch.full((3,), 4000))
    assert not mask.any()
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_an_utterance_gives_the_same_features_alone_and_padded_in_a_batch(checkpoint):
    encoder = load(checkpoint[0])
    lengths = torch.tensor([5000, 4321, 799, 401, 100])
    waves = torch.randn(5, 5000)
    features, mask = encoder(waves, lengths)
    for row, length in enumerate(lengths):
        alone, alone_mask = encoder(waves[row : row + 1, :length], length.view(1))
        assert not alone_mask.any()
        assert (~mask[row]).sum() == alone.size(1)
        torch.testing.assert_close(features[row, : alone.size(1)], alone[0], rtol=0, atol=2e-5)


def test_the_shortest_input_gives_one_frame(checkpoint):
    encoder = load(checkpoint[0])
    assert encoder.receptive_field == 400
    features, _ = encoder(torch.randn(1, 5), torch.tensor([5]))
    assert features.shape == (1, 1, 32) and features.isfinite().all()


def test_frozen_means_no_gradient_and_eval_mode(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    encoder = load(tmp_path / "hubert.pt", frozen=True).train()
    features, _ = encoder(torch.randn(1, 2000), torch.tensor([2000]))
    assert not features.requires_grad and not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_frozen_convolutions_get_no_gradient_and_the_rest_does(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    encoder = load(tmp_path / "hubert.pt", frozen_convolutions=True).train()
    encoder.encoder.layerdrop = 0.0  # a layer that is left out has no gradient
    features, _ = encoder(torch.randn(2, 4000), torch.full((2,), 4000))
    features.square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == name.startswith("feature_extractor."), name
        assert parameter.requires_grad != name.startswith("feature_extractor."), name


@pytest.mark.parametrize("layer", [OUTPUT, CONVOLUTIONS])
def test_cached_features_give_what_audio_gives(checkpoint, layer):
    encoder = load(checkpoint[0], frozen_convolutions=True)
    waves, lengths = torch.randn(2, 5000), torch.tensor([5000, 2500])
    expected, expected_mask = encoder(waves, lengths)
    convolved, frames = encoder.convolve(waves, lengths)
    encoder.cached_layer = layer
    given = expected if layer == OUTPUT else convolved
    features, mask = encoder.from_cached(given.half(), frames)
    assert torch.equal(mask, expected_mask) and features.dtype == expected.dtype
    torch.testing.assert_close(features[~mask], expected[~mask], rtol=0, atol=5e-3)


def test_the_weights_are_compared_up_to_a_layer(tmp_path):
    path = tmp_path / "hubert.pt"
    make_hubert(path)
    encoder = load(path)
    assert encoder.same_weights(path) and encoder.same_weights(path, CONVOLUTIONS)
    for dtype in (torch.float16, torch.bfloat16):  # as a checkpoint of a training with --fp16
        rounded = load(path).to(dtype)
        assert rounded.same_weights(path) and rounded.float().same_weights(path)
    with torch.no_grad():
        encoder.encoder.layers[0].fc1.weight += 1
    assert not encoder.same_weights(path) and encoder.same_weights(path, CONVOLUTIONS)
    with torch.no_grad():
        encoder.feature_extractor.conv_layers[1][0].weight += 1
    assert not encoder.same_weights(path, CONVOLUTIONS)


def test_every_parameter_gets_a_gradient_in_training(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    encoder = load(tmp_path / "hubert.pt", overrides={"encoder_layerdrop": 0.0}).train()
    features, _ = encoder(torch.randn(2, 4000), torch.tensor([4000, 3000]))
    features.sum().backward()
    assert [name for name, value in encoder.named_parameters() if value.grad is None] == []


def test_masking_is_repeatable_by_torchs_seed_alone(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    masked = {"mask_prob": 0.5, "mask_length": 2, "encoder_layerdrop": 0.0}
    encoder = load(tmp_path / "hubert.pt", overrides=masked).train()
    wave, lengths = torch.randn(2, 4000), torch.tensor([4000, 4000])
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(encoder(wave, lengths)[0])
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("share, length", [(0.3, 5), (0.65, 10), (1.0, 3), (0.1, 50)])
def test_random_spans_cover_the_share_asked_for(share, length):
    masked = random_spans(200, 400, share, length)
    assert masked.shape == (200, 400)
    assert abs(masked[:, length:].float().mean() - share) < 0.03


def test_a_config_with_fields_of_newer_code_still_loads(tmp_path):
    path = tmp_path / "hubert.pt"
    make_hubert(path, {"a_field_of_the_future": 3})
    assert load(path).output_dim == 32


def test_a_tensor_missing(tmp_path):
    path = tmp_path / "hubert.pt"
    make_hubert(path)
    state = read_checkpoint(path)
    del state["model"]["encoder.layers.1.fc1.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="encoder.layers.1.fc1.weight"):
        load(path)

"""HuBERT before DeltaLM: both modalities, the decoder alone, starting from other trainings."""

import pytest
import torch

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from tests.helpers.deltalm_files import TINY, build, make_deltalm, save_finetuned

DECODER_ONLY = {
    "deltalm_decoder_only": True,
    "encoder_attention_heads": 2,
    "encoder_layers": 1,
    "encoder_ffn_embed_dim": 48,
}


@pytest.fixture(scope="module", params=["whole", "decoder only"])
def options(request) -> dict:
    return DECODER_ONLY if request.param == "decoder only" else {}


@pytest.fixture
def model(options, hubert):
    return build(hubert_model_path=str(hubert), conv_channels=24, **options)


def batch() -> dict:
    lengths = torch.tensor([20_000, 9_000, 4_321])
    return {
        "src_tokens": torch.randn(3, 20_000),
        "src_lengths": lengths,
        "prev_output_tokens": torch.randint(4, 100, (3, 6)),
    }


def test_speech_gives_the_same_alone_and_in_a_batch(model):
    net_input = batch()
    logits, _ = model(**net_input)
    for row, length in enumerate(net_input["src_lengths"]):
        alone, _ = model(
            net_input["src_tokens"][row : row + 1, :length],
            length.view(1),
            net_input["prev_output_tokens"][row : row + 1],
        )
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=5e-5)


def test_step_by_step_decoding_equals_teacher_forcing(model):
    net_input = batch()
    expected, extra = model(**net_input)
    state: dict = {}
    for step in range(expected.size(1)):
        logits, _ = model.decoder(
            net_input["prev_output_tokens"][:, : step + 1],
            encoder_out=extra["encoder_out"],
            incremental_state=state,
        )
        torch.testing.assert_close(logits[:, -1], expected[:, step], rtol=0, atol=5e-5)


def test_speech_longer_than_the_positions(hubert):
    model = build(hubert_model_path=str(hubert), conv_channels=24)
    samples = 16_000 * 5  # 62 frames, 40 positions
    logits, extra = model(
        torch.randn(1, samples), torch.tensor([samples]), torch.randint(4, 100, (1, 6))
    )
    assert len(extra["encoder_out"]["encoder_out"][0]) > 40 and logits.isfinite().all()


def test_every_parameter_gets_a_gradient_from_speech_text_and_ctc(options, hubert):
    model = build(hubert_model_path=str(hubert), conv_channels=24, ctc_head=True, **options).train()
    text = torch.randint(4, 100, (3, 5))
    logits, extra = model(**batch(), text_tokens=text, text_lengths=torch.full((3,), 5))
    total = logits.square().sum() + extra["text_output"][0].square().sum() + extra["ctc"][0].sum()
    total.backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_the_file_was_taken(options, model, caplog):
    weights = read_checkpoint(TINY)["weights"]
    own = model.state_dict()
    assert torch.equal(
        own["decoder.layers.1.fc3.weight"], weights["decoder.layers.1.ffn_1.fc1.weight"]
    )
    assert torch.equal(
        own["decoder.embed_tokens.weight"], weights["tgt_embedding.embed_tokens.weight"][:100]
    )
    assert model.encoder.embed_tokens is model.decoder.embed_tokens
    taken = torch.equal(
        own["encoder.layers.0.self_attn.q_proj.weight"],
        weights["encoder.layers.0.self_attn.q_proj.weight"],
    )
    assert taken is not bool(options)


class TestDecoderOnly:
    def test_its_encoder_is_that_of_hubert_transformer(self):
        model = build(**DECODER_ONLY)
        assert len(model.encoder.layers) == 1 and model.encoder.layers[0].normalize_before
        assert model.encoder.layer_norm is not None and not model.decoder.layers[0].normalize_before
        assert model.encoder.embed_scale == pytest.approx(32**0.5)
        assert model.decoder.embed_scale == 1

    def test_defaults_but_for_the_width(self, tmp_path):
        make_deltalm(tmp_path / "x.pt", width=128)
        model = build(tmp_path / "x.pt", deltalm_decoder_only=True, decoder_attention_heads=2)
        assert len(model.encoder.layers) == 6
        assert model.encoder.layers[0].fc1.weight.shape == (2048, 128)

    def test_what_starts_at_random_is_reported(self, caplog):
        with caplog.at_level("INFO"):
            build(**DECODER_ONLY)
        assert "not in the file: encoder.layers.0.self_attn.k_proj.weight" in caplog.text

    def test_another_width_is_refused(self):
        with pytest.raises(ConfigError, match="--encoder-embed-dim 64.*32"):
            build(**DECODER_ONLY, encoder_embed_dim=64)


class TestStartingFromATextTraining:
    @pytest.fixture
    def trained(self, options, tmp_path):
        model = build(**options)
        for parameter in model.parameters():
            parameter.data.add_(0.1)
        digest = {"task_state": {"dictionary_digest": "digest"}}
        return model, save_finetuned(model, tmp_path / "mt.pt", **digest)

    @pytest.mark.parametrize(
        "start", ["deltalm_model_path", "load_pretrained_mt_encoder_decoder_from", "both"]
    )
    def test_either_option_takes_it(self, trained, options, hubert, start):
        model, path = trained
        starts = {"load_pretrained_mt_encoder_decoder_from": str(path), "path": None}
        if start == "deltalm_model_path":
            starts = {"path": path}
        elif start == "both":
            starts["path"] = TINY
        speech = {"hubert_model_path": str(hubert), "conv_channels": 24}
        again = build(**speech, **options, **starts).state_dict()
        # As a DeltaLM, a file gives its decoder alone where that is asked for.
        alone = options and start == "deltalm_model_path"
        for name, value in model.state_dict().items():
            if name.startswith("decoder.") or not alone:
                assert torch.equal(again[name], value), name

    def test_an_encoder_that_is_not_deltalms_is_no_start_for_the_whole(self, tmp_path):
        path = save_finetuned(build(**DECODER_ONLY), tmp_path / "mt.pt")
        with pytest.raises(ConfigError, match="--deltalm-decoder-only"):
            build(path)
        decoder = build(path, **DECODER_ONLY).decoder.state_dict()
        weights = read_checkpoint(TINY)["weights"]
        assert torch.equal(
            decoder["layers.0.fc1.weight"], weights["decoder.layers.0.ffn_2.fc1.weight"]
        )

    def test_of_another_dictionary_is_refused(self, trained, options):
        with pytest.raises(CheckpointError, match="another dictionary"):
            build(trained[1], digest="another", **options)

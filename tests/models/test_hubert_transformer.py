"""The whole model: invariance under batching, padding and steps; starting from checkpoints."""

import pytest
import torch
from fairseq.dataclass.utils import merge_with_parent
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import setup_task
from omegaconf import OmegaConf

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.tasks.options import SpeechAndTextTranslationConfig

ARCHS = [
    "hubert_transformer",
    "hubert_transformer_postln",
    "hubert_transformer_pruning_layer",
    "hubert_transformer_pruning_layer_postln",
]
PAD = 1
TINY = dict(
    encoder_layers=2,
    decoder_layers=2,
    encoder_embed_dim=32,
    decoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    decoder_ffn_embed_dim=48,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    conv_channels=24,
    max_source_positions=64,
    max_target_positions=64,
)


@pytest.fixture(scope="module")
def task(prepared):
    cfg = OmegaConf.structured(
        SpeechAndTextTranslationConfig(
            data=str(prepared),
            train_subset="train",
            dataset_impl="mmap",
            required_seq_len_multiple=1,
            ddp_backend="legacy_ddp",
            find_unused_parameters=False,
            distributed_world_size=1,
            st_training=True,
        )
    )
    cfg._name = "speech_and_text_translation"
    return setup_task(cfg)


def build(task, arch="hubert_transformer", **options):
    dataclass = MODEL_DATACLASS_REGISTRY[arch]
    cfg = merge_with_parent(dataclass(), OmegaConf.create({"_name": arch, **TINY, **options}))
    torch.manual_seed(3)
    model = task.build_model(cfg)
    for name, parameter in model.named_parameters():
        if name.startswith(("encoder.layer", "encoder.sub", "decoder.layer")):
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=ARCHS)
def model(request, task, hubert):
    return build(task, request.param, hubert_model_path=str(hubert), layernorm_embedding=True)


@pytest.fixture
def batch(task, prepared):
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    return dataset.collater([dataset[i] for i in range(6)])


def one(batch: dict, row: int) -> dict:
    """The batch of one sentence, without any padding."""
    net_input = batch["net_input"]
    length, size = net_input["src_lengths"][row], (batch["target"][row] != PAD).sum()
    return {
        "src_tokens": net_input["src_tokens"][row : row + 1, :length],
        "src_lengths": length.view(1),
        "prev_output_tokens": net_input["prev_output_tokens"][row : row + 1, :size],
    }


def test_speech_gives_the_same_alone_and_in_a_batch(model, batch):
    assert len(set(batch["net_input"]["src_lengths"].tolist())) > 1
    logits, _ = model(**batch["net_input"])
    for row in range(len(logits)):
        alone, _ = model(**one(batch, row))
        torch.testing.assert_close(logits[row, : alone.size(1)], alone[0], rtol=0, atol=5e-5)


def test_more_padding_changes_nothing(model, batch):
    net_input = dict(batch["net_input"])
    expected, _ = model(**net_input)
    net_input["src_tokens"] = torch.nn.functional.pad(net_input["src_tokens"], (0, 7777), value=9.0)
    logits, _ = model(**net_input)
    torch.testing.assert_close(logits, expected, rtol=0, atol=5e-5)


def test_step_by_step_decoding_equals_teacher_forcing(model, batch):
    net_input = batch["net_input"]
    expected, _ = model(**net_input)
    encoder_out = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    state: dict = {}
    for step in range(expected.size(1)):
        prefix = net_input["prev_output_tokens"][:, : step + 1]
        logits, _ = model.decoder(prefix, encoder_out=encoder_out, incremental_state=state)
        real = prefix[:, -1] != PAD
        torch.testing.assert_close(logits[real, -1], expected[real, step], rtol=0, atol=5e-5)


def test_text_gives_the_same_alone_and_in_a_batch(model, batch):
    text = batch["source_text"]
    previous = batch["net_input"]["prev_output_tokens"]
    logits, _ = model(text["src_tokens"], text["src_lengths"], previous)
    for row, length in enumerate(text["src_lengths"]):
        alone, _ = model(
            text["src_tokens"][row : row + 1, :length], length.view(1), previous[row : row + 1]
        )
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=5e-5)


def test_speech_and_text_in_one_call_equal_two_calls(model, batch):
    text, net_input = batch["source_text"], batch["net_input"]
    speech_logits, extra = model(
        **net_input, text_tokens=text["src_tokens"], text_lengths=text["src_lengths"]
    )
    assert torch.equal(speech_logits, model(**net_input)[0])
    text_logits, _ = model(text["src_tokens"], text["src_lengths"], net_input["prev_output_tokens"])
    assert torch.equal(extra["text_output"][0], text_logits)


def test_another_waveform_gives_another_output(model, batch):
    net_input = dict(batch["net_input"])
    expected, _ = model(**net_input)
    net_input["src_tokens"] = torch.randn_like(net_input["src_tokens"])
    assert (model(**net_input)[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("arch, pre_norm", list(zip(ARCHS, [True, False] * 2)))
def test_where_the_layer_norm_is(task, hubert, arch, pre_norm):
    model = build(task, arch, hubert_model_path=str(hubert))
    assert model.encoder.layers[0].normalize_before is pre_norm
    assert model.decoder.layers[0].normalize_before is pre_norm
    assert (model.encoder.layer_norm is not None) is pre_norm


def test_every_parameter_gets_a_gradient_from_speech_text_and_ctc(task, hubert, batch):
    model = build(task, hubert_model_path=str(hubert), ctc_head=True).train()
    text = batch["source_text"]
    logits, extra = model(
        **batch["net_input"], text_tokens=text["src_tokens"], text_lengths=text["src_lengths"]
    )
    (logits.sum() + extra["text_output"][0].sum() + extra["ctc"][0].sum()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_ctc_is_a_distribution_over_the_frames_of_the_encoder(task, hubert, batch):
    model = build(task, hubert_model_path=str(hubert), ctc_head=True)
    log_probs, frames = model(**batch["net_input"])[1]["ctc"]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
    seconds = batch["net_input"]["src_lengths"] / 16_000
    assert ((frames - 12.5 * seconds).abs() < 1.5).all()


def test_frozen_hubert_stays_as_it_is(task, hubert, batch):
    model = build(task, hubert_model_path=str(hubert), freeze_hubert=True).train()
    model(**batch["net_input"])[0].sum().backward()
    assert all(p.grad is None for p in model.encoder.hubert.parameters())
    assert model.encoder.subsampler.conv_layers[0].weight.grad is not None


def test_the_decoder_stays_as_it_is_for_the_first_updates(task, hubert, batch):
    model = build(task, hubert_model_path=str(hubert), freeze_decoder_updates=2).train()
    decoder = {id(parameter) for parameter in model.decoder.parameters()}
    for updates, frozen in ((0, True), (1, True), (2, False), (7, False), (1, True)):
        model.zero_grad()
        model.set_num_updates(updates)
        model(**batch["net_input"])[0].sum().backward()
        learnt = {id(value) for value in model.parameters() if value.grad is not None}
        assert model.encoder.subsampler.conv_layers[0].weight.grad is not None
        assert learnt.isdisjoint(decoder) if frozen else decoder <= learnt
        assert task.step_state(model, StepState()) == (None, frozen, ())


class StepState:
    step_state = ()


def test_a_frozen_decoder_needs_a_backend_that_looks_at_each_gradient(task, hubert, monkeypatch):
    monkeypatch.setattr(task.cfg, "distributed_world_size", 2)
    options = {"hubert_model_path": str(hubert), "freeze_decoder_updates": 2}
    assert build(task, **options).freeze_decoder_updates == 2
    monkeypatch.setattr(task.cfg, "ddp_backend", "pytorch_ddp")
    with pytest.raises(ConfigError, match="--freeze-decoder-updates: with --ddp-backend pytorch"):
        build(task, **options)


class TestStarting:
    def test_hubert_weights_are_those_of_the_file(self, task, hubert):
        model = build(task, hubert_model_path=str(hubert))
        state = read_checkpoint(hubert)["model"]
        own = model.encoder.hubert.state_dict()
        assert len(own) > 20 and all(torch.equal(own[name], state[name]) for name in own)

    def test_training_speech_without_hubert_is_an_error(self, task):
        with pytest.raises(ConfigError, match="--hubert-model-path"):
            build(task)

    def save(self, model, path, digest=None):
        state = {"model": model.state_dict(), "cfg": {}}
        if digest:
            state["task_state"] = {"dictionary_digest": digest}
        torch.save(state, path)

    @pytest.mark.parametrize("arch", ARCHS[:2])
    def test_translation_model_is_taken_whole(self, task, hubert, tmp_path, arch):
        first = build(task, arch, hubert_model_path=str(hubert))
        self.save(first, tmp_path / "mt.pt")
        torch.manual_seed(99)
        dataclass = MODEL_DATACLASS_REGISTRY[arch]
        options = {
            "_name": arch,
            **TINY,
            "hubert_model_path": str(hubert),
            "load_pretrained_mt_encoder_decoder_from": str(tmp_path / "mt.pt"),
        }
        second = task.build_model(merge_with_parent(dataclass(), OmegaConf.create(options)))
        assert (second.encoder.layer_norm is None) == (first.encoder.layer_norm is None)
        for name, value in first.state_dict().items():
            if not name.startswith("encoder.subsampler"):
                assert torch.equal(value, second.state_dict()[name]), name

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"encoder_layers": 3}, "unknown to the model"),
            ({"decoder_layers": 1}, "missing in the file"),
            ({"encoder_ffn_embed_dim": 64}, "another shape"),
            ({"layernorm_embedding": True}, "layernorm_embedding"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, task, hubert, tmp_path, options, message):
        self.save(build(task, hubert_model_path=str(hubert), **options), tmp_path / "mt.pt")
        with pytest.raises(CheckpointError, match=message):
            build(
                task,
                hubert_model_path=str(hubert),
                load_pretrained_mt_encoder_decoder_from=str(tmp_path / "mt.pt"),
            )

    def test_of_another_dictionary_is_refused(self, task, hubert, tmp_path):
        self.save(build(task, hubert_model_path=str(hubert)), tmp_path / "mt.pt", digest="other")
        with pytest.raises(CheckpointError, match="another dictionary"):
            build(
                task,
                hubert_model_path=str(hubert),
                load_pretrained_mt_encoder_decoder_from=str(tmp_path / "mt.pt"),
            )

    def test_even_kernels_are_refused(self, task, hubert):
        with pytest.raises(ConfigError, match="--conv-kernel-sizes"):
            build(task, hubert_model_path=str(hubert), conv_kernel_sizes="4,4")

    def test_embeddings_are_shared_unless_told_otherwise(self, task, hubert):
        shared = build(task, hubert_model_path=str(hubert))
        assert shared.encoder.embed_tokens is shared.decoder.embed_tokens
        assert shared.decoder.output_projection.weight is shared.decoder.embed_tokens.weight
        apart = build(task, hubert_model_path=str(hubert), separate_embeddings=True)
        assert apart.encoder.embed_tokens is not apart.decoder.embed_tokens
        assert apart.decoder.output_projection.weight is apart.decoder.embed_tokens.weight


def test_all_archs_are_registered():
    assert set(ARCHS) <= set(ARCH_MODEL_REGISTRY)

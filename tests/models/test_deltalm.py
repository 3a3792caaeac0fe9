"""DeltaLM: conformance with the original code, released and fine-tuned files, what is refused."""

import argparse

import numpy as np
import pytest
import torch
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from torch._subclasses.fake_tensor import FakeTensorMode

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.deltalm_checkpoint import (
    TABLES,
    DeltaLMDescription,
    Side,
    fairseq_name,
    fit_vocabulary,
    read_deltalm,
)
from cress_svcd.models.hubert_deltalm import HubertDeltaLM
from cress_svcd.models.hubert_transformer import BUFFERS
from tests.helpers.deltalm_files import (
    EXPECTED,
    TINY,
    TINY_HEADS,
    build,
    config,
    make_deltalm,
    released_names,
    save_finetuned,
)
from tests.helpers.deltalm_files import dictionary as make_dictionary

PAD = 1
TWO_HEADS = dict.fromkeys(TINY_HEADS, 2)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    with np.load(EXPECTED) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def tiny():
    return build()


def close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def lengths(tokens: torch.Tensor) -> torch.Tensor:
    return (tokens != PAD).sum(dim=1)


class TestConformance:
    """With what the original code computed from the same file (padded sources, a batch of 3)."""

    def test_teacher_forced(self, tiny, expected):
        source = expected["src_tokens"]
        assert (source == PAD).any() and len(tiny.decoder.dictionary) == expected["dictionary_size"]
        logits, extra = tiny(source, lengths(source), expected["prev_output_tokens"])
        real = (source != PAD).T
        close(extra["encoder_out"]["encoder_out"][0][real], expected["encoder_out"][real])
        assert torch.equal(
            extra["encoder_out"]["encoder_padding_mask"][0], expected["encoder_padding_mask"]
        )
        close(logits, expected["decoder_logits"])

    def test_each_sentence_alone(self, tiny, expected):
        for row, length in enumerate(lengths(expected["src_tokens"])):
            source = expected["src_tokens"][row : row + 1, :length]
            logits, extra = tiny(
                source, length.view(1), expected["prev_output_tokens"][row : row + 1]
            )
            close(
                extra["encoder_out"]["encoder_out"][0][:, 0],
                expected["encoder_out"][:length, row],
            )
            close(logits[0], expected["decoder_logits"][row])

    def test_step_by_step(self, tiny, expected):
        encoder_out = tiny.encoder(expected["src_tokens"])
        state: dict = {}
        for step in range(expected["prev_output_tokens"].size(1)):
            prefix = expected["prev_output_tokens"][:, : step + 1]
            logits, _ = tiny.decoder(prefix, encoder_out=encoder_out, incremental_state=state)
            close(logits[:, -1], expected["decoder_logits"][:, step])

    def test_padded_targets(self, tiny, expected):
        source = expected["src_tokens"]
        previous = torch.nn.functional.pad(expected["prev_output_tokens"], (0, 4), value=PAD)
        logits, _ = tiny(source, lengths(source), previous)
        close(logits[:, :-4], expected["decoder_logits"])

    def test_a_fine_tuned_file_gives_the_same(self, tiny, expected, tmp_path):
        path = save_finetuned(tiny, tmp_path / "tuned.pt")
        again = build(path)
        source = expected["src_tokens"]
        logits, _ = again(source, lengths(source), expected["prev_output_tokens"])
        close(logits, expected["decoder_logits"])


class TestPositions:
    def test_beyond_the_table_the_last_position_serves(self, tiny):
        tokens = torch.randint(4, 100, (1, 60))
        assert tiny.encoder.max_positions() == 40
        logits, extra = tiny(tokens, torch.tensor([60]), tokens)
        assert logits.isfinite().all()
        state: dict = {}
        for step in range(60):
            single, _ = tiny.decoder(
                tokens[:, : step + 1], encoder_out=extra["encoder_out"], incremental_state=state
            )
        close(single[:, 0], logits[:, -1])

    def test_within_it_they_differ(self, tiny):
        tokens = torch.full((1, 45), 7)
        places = tiny.encoder.embed_positions(tokens)[0]
        assert (places[1:40] != places[:39]).any(dim=1).all()
        assert torch.equal(places[39:], places[39:40].expand(6, -1))


class TestReleasedFiles:
    @pytest.mark.parametrize("normed", [True, False], ids=["like base", "without embedding norm"])
    def test_dimensions_come_from_the_file(self, tmp_path, normed):
        make_deltalm(
            tmp_path / "x.pt",
            4,
            3,
            width=128,
            inner=160,
            rows=110,
            positions=30,
            layernorm_embedding=normed,
        )
        model = build(tmp_path / "x.pt", 107, **TWO_HEADS)
        cfg = model.cfg
        assert (cfg.encoder_layers, cfg.decoder_layers) == (4, 3)
        assert cfg.encoder_embed_dim == cfg.decoder_embed_dim == 128
        assert cfg.encoder_ffn_embed_dim == cfg.decoder_ffn_embed_dim == 160
        assert cfg.encoder_attention_heads == cfg.decoder_attention_heads == 2
        assert len(model.encoder.layers) == 4 and len(model.decoder.layers) == 3
        assert (model.encoder.layernorm_embedding is not None) is normed
        assert (model.decoder.layernorm_embedding is not None) is normed
        assert model.encoder.max_positions() == model.decoder.max_positions() == 30

    @pytest.mark.parametrize(
        "layers, width, heads", [((12, 6), 768, 12), ((24, 12), 1024, 16)], ids=["base", "large"]
    )
    def test_full_size_models_have_the_released_tensors_and_no_other(self, layers, width, heads):
        shapes = released_names(*layers, width, 4 * width, 250_104, 512, True)
        sides = [Side(width, 4 * width, number, 512, None) for number in layers]
        description = DeltaLMDescription(*sides, layernorm_embedding=True, shared_embeddings=True)
        cfg = config(None, deltalm_description=description.to_json())
        HubertDeltaLM.complete_config(cfg)
        assert cfg.encoder_attention_heads == cfg.decoder_attention_heads == heads
        symbols = make_dictionary(1_000)
        with FakeTensorMode():
            model = HubertDeltaLM.build_model(
                cfg, argparse.Namespace(src_dict=symbols, tgt_dict=symbols)
            )
        own = {name: tuple(x.shape) for name, x in model.state_dict().items()}
        del own["decoder.output_projection.weight"]
        wanted = {fairseq_name(name): shape for name, shape in shapes.items()}
        for name in TABLES:
            wanted[name] = (1_000, width)
        assert {name: own[name] for name in own if name not in BUFFERS} == wanted

    def test_every_tensor_is_taken(self, tmp_path, caplog):
        # As many layers as the released base model, and as many tensors.
        weights = make_deltalm(tmp_path / "x.pt", 12, 6)
        assert len(weights) == 392
        with caplog.at_level("INFO"):
            model = build(tmp_path / "x.pt", 100, **TWO_HEADS)
        assert "392 tensors taken, 0 of the model's not in the file, 0 of the file's" in caplog.text
        own = model.decoder.layers[5]
        for name, module in {
            "ffn_1.fc1": own.fc3,
            "ffn_1.fc2": own.fc4,
            "ffn_2.fc1": own.fc1,
            "ffn_2.fc2": own.fc2,
        }.items():
            assert torch.equal(module.weight, weights[f"decoder.layers.5.{name}.weight"])
        table = weights["src_embedding.embed_tokens.weight"]
        assert torch.equal(model.encoder.embed_tokens.weight, table[:100])

    def test_of_a_much_smaller_dictionary_the_first_rows_are_taken_with_a_warning(self, caplog):
        table = read_checkpoint(TINY)["weights"]["src_embedding.embed_tokens.weight"]
        build(entries=30)
        assert "TAKEN" not in caplog.text
        model = build(entries=25)
        assert torch.equal(model.encoder.embed_tokens.weight, table[:25])
        levels = [record.levelname for record in caplog.records if "TAKEN" in record.getMessage()]
        assert levels == ["WARNING"] * 2
        assert "encoder.embed_tokens.weight has 120 rows, the dictionary only 25" in caplog.text

    def test_tags_of_languages_begin_as_the_end_of_the_sentence(self):
        state = {"encoder.embed_tokens.weight": torch.randn(20, 4)}
        table = state["encoder.embed_tokens.weight"]
        (fitted,) = fit_vocabulary(state, 22, "x.pt", tags=2).values()
        assert torch.equal(fitted[:20], table)
        assert torch.equal(fitted[20:], table[[2, 2]])
        (fitted,) = fit_vocabulary(state, 20, "x.pt", tags=2).values()
        assert torch.equal(fitted, table)
        with pytest.raises(CheckpointError, match="20 rows, the dictionary 23 entries"):
            fit_vocabulary(state, 23, "x.pt", tags=2)

    def test_one_table_serves_all(self, tiny):
        table = tiny.encoder.embed_tokens.weight
        assert tiny.decoder.embed_tokens.weight is table
        assert tiny.decoder.output_projection.weight is table

    def test_two_tables_stay_two(self, tmp_path):
        weights = make_deltalm(tmp_path / "x.pt", shared=False)
        model = build(tmp_path / "x.pt", **TWO_HEADS)
        for side, module in (("src", model.encoder), ("tgt", model.decoder)):
            table = weights[f"{side}_embedding.embed_tokens.weight"]
            assert torch.equal(module.embed_tokens.weight, table[:100])
        assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight

    def test_nothing_of_the_file_is_needed_to_build_the_model_again(self, tiny):
        cfg = argparse.Namespace(**{**vars(tiny.cfg), "deltalm_model_path": "/gone.pt"})
        symbols = make_dictionary(100)
        again = HubertDeltaLM.build_model(
            cfg, argparse.Namespace(src_dict=symbols, tgt_dict=symbols)
        )
        again.load_state_dict(tiny.state_dict(), strict=True)
        tokens = torch.tensor([[5, 6, 7, 2]])
        arguments = tokens, torch.tensor([4]), tokens
        assert torch.equal(again.eval()(*arguments)[0], tiny(*arguments)[0])


class TestRefused:
    def test_a_larger_dictionary(self):
        with pytest.raises(CheckpointError, match="120 rows, the dictionary 121 entries"):
            build(entries=121)

    def test_the_dictionary_of_another_fine_tuning(self, tiny, tmp_path):
        state = {"task_state": {"dictionary_digest": "other"}}
        path = save_finetuned(tiny, tmp_path / "tuned.pt", **state)
        with pytest.raises(CheckpointError, match="another dictionary"):
            build(path)

    def test_no_file(self):
        with pytest.raises(ConfigError, match="--deltalm-model-path"):
            build(None)

    @pytest.mark.parametrize("side", ["encoder", "decoder"])
    def test_heads_that_no_one_knows(self, side):
        given = {**TINY_HEADS, f"{side}_attention_heads": None}
        with pytest.raises(ConfigError, match=f"its {side}.* 32 wide.*--{side}-attention-heads"):
            build(**given)

    def test_heads_are_guessed_at_the_released_widths_alone(self, tmp_path):
        make_deltalm(tmp_path / "x.pt", width=128)
        with pytest.raises(ConfigError, match="x.pt: .*128 wide.*--decoder-attention-heads"):
            build(tmp_path / "x.pt")

    def test_options_that_contradict_the_file(self):
        with pytest.raises(ConfigError, match=r"--encoder-layers 6: .*deltalm_tiny.pt has 3"):
            build(encoder_layers=6)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda w: w.pop("encoder.layers.1.ffn.fc2.bias"), "missing: .*1.fc2.bias"),
            (lambda w: w.pop("encoder.layers.1.ffn.fc1.weight"), "layers.1.fc1.weight"),
            (lambda w: w.update({"decoder.extra": torch.ones(1)}), "unknown: decoder.extra"),
            (lambda w: w.pop("decoder.layers.0.ffn_1.fc1.weight"), "no DeltaLM.*fc3"),
            (lambda w: w.pop("tgt_embedding.emb_layer_norm.weight"), "both or neither"),
            (
                lambda w: [w.pop(name) for name in list(w) if "encoder.layers.0." in name],
                r"layers of its encoder are \[1, 2\]",
            ),
        ],
    )
    def test_tensors_that_are_not_deltalms(self, tmp_path, change, message):
        state = read_checkpoint(TINY)
        change(state["weights"])
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=message):
            build(tmp_path / "x.pt", **TINY_HEADS)

    def test_a_plain_transformer(self, tmp_path):
        cfg = TransformerConfig()
        for side in (cfg.encoder, cfg.decoder):
            side.layers, side.embed_dim, side.learned_pos = 1, 8, True
            side.ffn_embed_dim, side.attention_heads = 8, 1
        cfg.decoder.input_dim = cfg.decoder.output_dim = 8
        symbols = make_dictionary(20)
        task = argparse.Namespace(source_dictionary=symbols, target_dictionary=symbols)
        torch.save(
            {"model": TransformerModelBase.build_model(cfg, task).state_dict()}, tmp_path / "x.pt"
        )
        with pytest.raises(CheckpointError, match="fc3.*--load-pretrained-mt"):
            read_deltalm(tmp_path / "x.pt")

    @pytest.mark.parametrize(
        "option, value",
        [
            ("decoder_normalize_before", True),
            ("no_scale_embedding", False),
            ("activation_fn", "relu"),
        ],
    )
    def test_another_kind_of_model(self, tiny, tmp_path, option, value):
        options = {"encoder_attention_heads": 4, option: value}
        torch.save({"model": tiny.state_dict(), "cfg": {"model": options}}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=f"{option}={value}"):
            read_deltalm(tmp_path / "x.pt")

    @pytest.mark.parametrize("state", [{}, {"weights": 3}, {"encoder": {}}])
    def test_another_file(self, tmp_path, state):
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="neither 'weights' nor 'model'"):
            read_deltalm(tmp_path / "x.pt")


def test_an_old_fine_tuned_file_says_its_heads_in_args(tiny, tmp_path):
    args = argparse.Namespace(encoder_attention_heads=4, decoder_attention_heads=4)
    torch.save({"model": tiny.state_dict(), "args": args}, tmp_path / "x.pt")
    assert read_deltalm(tmp_path / "x.pt").description.decoder.attention_heads == 4


def test_every_parameter_gets_a_gradient_from_text(tiny, expected):
    model = build().train()
    source = expected["src_tokens"]
    logits, _ = model(source, lengths(source), expected["prev_output_tokens"])
    logits.square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_activations_can_be_recomputed(tiny, expected):
    model = build(checkpoint_activations=True).train()
    source = expected["src_tokens"]
    logits, _ = model(source, lengths(source), expected["prev_output_tokens"])
    logits.square().sum().backward()
    assert model.decoder.layers[1].fc4.weight.grad is not None

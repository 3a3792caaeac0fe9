"""The quantised models: every arch under every shipped policy; starting, resuming, refusing."""

import json

import pytest
import torch
from fairseq.dataclass.utils import merge_with_parent
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models import build_model as build_of_fairseq
from omegaconf import OmegaConf

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization import Policy, count_calls, quantization_map, quantized_layers
from cress_svcd.quantization.low_bit_grid import LowBits
from cress_svcd.shipped import shipped_files
from cress_svcd.training.fairseq_patches import read_mapped
from tests.helpers.training_options import TINY_MODEL, make_task

BASES = {
    "quant_transformer": "hubert_transformer",
    "quant_transformer_postln": "hubert_transformer_postln",
}
POLICIES = sorted(shipped_files("quant"))
PAD = 1
SIZES = {
    name.lstrip("-").replace("-", "_"): int(value)
    for name, value in zip(TINY_MODEL[::2], TINY_MODEL[1::2])
} | {"encoder_layers": 2, "decoder_layers": 2}
POSITIONS = {"max_source_positions": 64, "max_target_positions": 64}


@pytest.fixture(scope="module")
def task(prepared):
    return make_task(prepared, "--st-training", "--mt-finetune")


@pytest.fixture(scope="module")
def batch(task):
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    return dataset.collater([dataset[i] for i in range(5)])


def config(arch, **options):
    cfg = merge_with_parent(
        MODEL_DATACLASS_REGISTRY[arch](), OmegaConf.create({"_name": arch, **POSITIONS, **options})
    )
    cfg._name = arch
    return cfg


@pytest.fixture(scope="module")
def starts(task, hubert, tmp_path_factory):
    """A full-precision checkpoint of each base arch, as fairseq-train writes it."""
    folder = tmp_path_factory.mktemp("starts")

    def make(arch, **options):
        cfg = config(
            arch,
            **SIZES,
            hubert_model_path=str(hubert),
            layernorm_embedding=True,
            activation_fn="gelu",
            **options,
        )
        torch.manual_seed(3)
        model = task.build_model(cfg)
        for name, parameter in model.named_parameters():
            if name.startswith(("encoder.layer", "encoder.sub", "decoder.layer")):
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        path = folder / f"{arch}{len(options)}.pt"
        save(path, model, cfg, task.state_dict())
        return path, model

    return {arch: make(arch) for arch in BASES.values()} | {
        "ctc": make("hubert_transformer", ctc_head=True)
    }


def save(path, model, cfg, task_state):
    options = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    state = {"model": model.state_dict(), "cfg": {"model": options}, "task_state": task_state}
    torch.save(state, path)


def quantize(task, starts, arch="quant_transformer", base=None, **options):
    """(model, its configuration) as training starts with it."""
    path, _ = starts[base or BASES[arch]]
    cfg = config(arch, finetuned_st_model=str(path), max_update=100, **options)
    return task.build_model(cfg), cfg


@pytest.fixture(scope="module", params=BASES)
def arch(request):
    return request.param


@pytest.fixture(scope="module", params=POLICIES)
def model(request, task, starts, arch):
    """Of each arch under each policy.  In double precision, for the tests of invariance: where sums
    in another order differ in the last bit, a rounding to 8 bits may tip over, which in single
    precision happens now and then."""
    return quantize(task, starts, arch, quant_policy=request.param)[0].double()


def with_text(batch):
    text = batch["source_text"]
    return {
        **batch["net_input"],
        "text_tokens": text["src_tokens"],
        "text_lengths": text["src_lengths"],
    }


def steps(model, net_input):
    """Logits (batch, time, vocabulary) of incremental decoding."""
    encoder_out = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    state: dict = {}
    previous = net_input["prev_output_tokens"]
    logits = []
    for step in range(1, previous.size(1) + 1):
        output, _ = model.decoder(
            previous[:, :step], encoder_out=encoder_out, incremental_state=state
        )
        logits.append(output)
    return torch.cat(logits, dim=1)


class TestEveryNamedLayer:
    def test_runs_in_training_evaluation_and_incremental_decoding(self, model, batch):
        net_input = batch["net_input"]
        ways = {
            "train": lambda: model.train()(**with_text(batch)),
            "eval": lambda: model.eval()(**net_input),
            "incremental": lambda: steps(model.eval(), net_input),
        }
        for way, run in ways.items():
            with count_calls(model) as calls:
                run()
            assert calls and not [name for name, count in calls.items() if not count], way

    def test_computes_with_few_bits_and_learns(self, model, batch, arch, starts):
        """The output is not full precision's, and a gradient reaches every parameter of a layer."""
        full = starts[BASES[arch]][1]
        with torch.no_grad():
            found, expected = (each.eval()(**batch["net_input"])[0] for each in (model, full))
            assert not torch.allclose(found, expected.double(), atol=1e-3)
        model.zero_grad()
        logits, extra = model.train()(**with_text(batch))
        (logits.square().sum() + extra["text_output"][0].square().sum()).backward()
        without = [
            f"{name}.{part}"
            for name, layer in quantized_layers(model).items()
            for part, parameter in layer.named_parameters()
            if parameter.grad is None
        ]
        assert not without


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_stay_in_the_range_of_half_precision(task, starts, batch, name):
    """At the scale of the loss that fairseq starts with; the published formula at a lower one, as
    the scaler finds in its first updates."""
    model, _ = quantize(task, starts, quant_policy=name)
    logits, extra = model.half().train()(**with_text(batch))
    target = batch["target"].flatten()
    loss = sum(
        torch.nn.functional.cross_entropy(each.float().flatten(0, 1), target, ignore_index=PAD)
        for each in (logits, extra["text_output"][0])
    )
    scale = 1 if name.startswith("published") else 128
    (scale * batch["ntokens"] * loss).backward()
    broken = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    assert loss.isfinite() and not broken


class TestPolicies:
    LINEAR = {
        "decoder": {"decoder.layers"},
        "text_encoder": {"encoder.layers"},
        "hubert": {"encoder.hubert.encoder.layers"},
        "decoder_encoder": {"decoder.layers", "encoder.layers"},
        "transformer": {"decoder.layers", "encoder.layers", "encoder.hubert.encoder.layers"},
    }

    @pytest.mark.parametrize("name", [*LINEAR, "everything", "whole_model"])
    def test_cover_every_linear_layer_of_their_parts(self, task, starts, arch, name):
        full = starts[BASES[arch]][1]
        linear = {n for n, m in full.named_modules() if type(m) is torch.nn.Linear}
        if name in ("everything", "whole_model"):
            wanted = linear - {"decoder.output_projection", "encoder.ctc_head"}
            assert "encoder.hubert.post_extract_proj" in wanted
        else:
            parts = tuple(f"{part}." for part in self.LINEAR[name])
            wanted = {n for n in linear if n.startswith(parts)}
        model, _ = quantize(task, starts, arch, quant_policy=name)
        assert set(quantized_layers(model)) == wanted

    def test_the_default_is_the_papers(self, task, starts, arch):
        model, _ = quantize(task, starts, arch)
        names = {
            f"decoder.layers.{layer}.encoder_attn.{part}_proj"
            for layer in (0, 1)
            for part in ("q", "k", "v", "out")
        }
        assert set(quantized_layers(model)) == names

    def test_options_change_method_bits_and_activations(self, task, starts, tmp_path):
        model, _ = quantize(
            task, starts, quant_policy="decoder", quant_bits=1.58, quant_activation_bits="16"
        )
        layers = quantized_layers(model).values()
        assert {(layer.METHOD, layer.bits, layer.activation_bits) for layer in layers} == {
            ("svcd", 1.58, 16)
        }
        model, _ = quantize(task, starts, quant_method="svcd", quant_options='{"variant": "paper"}')
        assert {layer.variant for layer in quantized_layers(model).values()} == {"paper"}
        path = tmp_path / "mine.yaml"
        Policy.from_dict({"rules": [{"match": "*.fc1", "method": "onebit"}]}).save(path)
        model, _ = quantize(task, starts, quant_policy=str(path), quant_activation_bits="off")
        assert {layer.METHOD for layer in quantized_layers(model).values()} == {"onebit"}
        assert {layer.activation_bits for layer in quantized_layers(model).values()} == {None}


WHOLE = {"quant_hubert_bits": 2, "quant_subsampler_bits": 1, "quant_embedding_bits": 1}


def modules_of(model):
    """What every module is, with its bits."""
    return {name: (type(m), getattr(m, "bits", None)) for name, m in model.named_modules()}


class TestBitsOfThePolicy:
    """Of embeddings and convolutions: as by the options of the same names."""

    def test_make_the_modules_of_the_options(self, task, starts, arch, batch):
        by_policy, cfg = quantize(task, starts, arch, quant_policy="whole_model")
        by_options, other = quantize(task, starts, arch, quant_policy="everything", **WHOLE)
        assert modules_of(by_policy) == modules_of(by_options)
        plain, _ = quantize(task, starts, arch, quant_policy="everything")
        changed = dict(modules_of(by_policy).items() - modules_of(plain).items())
        assert {name.split(".")[-1] for name in changed} >= {"embed_tokens", "output_projection"}
        assert {bits for _, bits in changed.values()} == {1, 2}
        assert by_policy.low_bits == by_options.low_bits == LowBits(1, 2, 1)
        own, expected = by_policy.state_dict(), by_options.state_dict()
        assert own.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in own.items())
        assert {**cfg, "quant_policy": 0} == {**other, "quant_policy": 0}
        assert {name: cfg[name] for name in WHOLE} == WHOLE
        with torch.no_grad():
            logits = [m.eval()(**batch["net_input"])[0] for m in (by_policy, by_options)]
        assert torch.equal(*logits)

    def test_an_option_wins(self, task, starts):
        model, cfg = quantize(task, starts, quant_policy="whole_model", quant_embedding_bits=3)
        assert model.low_bits == LowBits(embedding=3, hubert=2, subsampler=1)
        assert model.encoder.embed_tokens.bits == model.decoder.output_projection.bits == 3
        assert cfg.quant_embedding_bits == 3
        model, _ = quantize(task, starts, quant_policy="decoder", quant_hubert_bits=4)
        assert model.low_bits == LowBits(hubert=4)

    def test_are_those_of_the_checkpoint_without_the_policy(self, task, starts, batch):
        model, cfg = quantize(task, starts, quant_policy="whole_model")
        cfg.finetuned_st_model, cfg.quant_policy = "/gone/start.pt", "/gone/policy.yaml"
        again = TestCheckpoint().rebuilt(task, cfg)
        again.load_state_dict(model.state_dict())
        assert modules_of(again) == modules_of(model)
        with torch.no_grad():
            expected = model.eval()(**batch["net_input"])[0]
            assert torch.equal(again.eval()(**batch["net_input"])[0], expected)

    def test_a_training_resumes_by_policy_or_options_and_no_others(self, task, starts, tmp_path):
        path = tmp_path / "checkpoint_last.pt"
        model, cfg = quantize(task, starts, quant_policy="whole_model")
        save(path, model, cfg, task.state_dict())
        state = read_mapped(path)
        model.check_resumable(state, path)
        quantize(task, starts, quant_policy="everything", **WHOLE)[0].check_resumable(state, path)
        for options in (
            {"quant_policy": "everything"},
            {"quant_policy": "whole_model", "quant_hubert_bits": 3},
        ):
            other, _ = quantize(task, starts, **options)
            with pytest.raises(ConfigError, match="or the same --quant-policy") as caught:
                other.check_resumable(state, path)
            assert str(path) in str(caught.value)

    @pytest.mark.parametrize("flag", ["freeze_hubert", "freeze_hubert_convolutions"])
    def test_those_of_hubert_need_audio(self, task, starts, flag):
        told = "trains HuBERT's convolutions: leave out --freeze-hubert, .* and --feature-cache"
        with pytest.raises(ConfigError, match=f"^policy whole_model: hubert_bits {told}"):
            quantize(task, starts, quant_policy="whole_model", **{flag: True})
        options = {"quant_hubert_bits": 2, flag: True}
        with pytest.raises(ConfigError, match=f"^--quant-hubert-bits {told}"):
            quantize(task, starts, quant_policy="whole_model", **options)

    def test_of_a_part_that_the_model_lacks_do_nothing(self, prepared):
        """As the options do: here without a speech encoder."""
        text = make_task(prepared, "--mt-finetune")
        models = [
            text.build_model(config("quant_transformer", max_update=0, **SIZES, **options))
            for options in (
                {"quant_policy": "whole_model"},
                {"quant_policy": "everything", **WHOLE},
            )
        ]
        assert models[0].encoder.hubert is None
        assert modules_of(models[0]) == modules_of(models[1])
        assert models[0].encoder.embed_tokens.bits == 1


class TestInvariance:
    @pytest.fixture
    def invariant(self, model):
        if any(vars(layer).get("variant") == "paper" for layer in quantized_layers(model).values()):
            pytest.skip("the published formula scales by a maximum over the whole batch")
        return model.eval()

    @staticmethod
    def assert_equal(found, expected):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_alone_in_a_batch_and_under_more_padding(self, invariant, batch):
        net_input = dict(batch["net_input"])
        logits, _ = invariant(**net_input)
        for row in (0, 2, 4):
            length = net_input["src_lengths"][row]
            size = int((batch["target"][row] != PAD).sum())
            alone, _ = invariant(
                net_input["src_tokens"][row : row + 1, :length],
                length.view(1),
                net_input["prev_output_tokens"][row : row + 1, :size],
            )
            self.assert_equal(logits[row, :size], alone[0])
        net_input["src_tokens"] = torch.nn.functional.pad(
            net_input["src_tokens"], (0, 7777), value=9.0
        )
        self.assert_equal(invariant(**net_input)[0], logits)

    @torch.no_grad()
    def test_step_by_step_equals_teacher_forcing(self, invariant, batch):
        real = batch["net_input"]["prev_output_tokens"] != PAD
        expected, _ = invariant(**batch["net_input"])
        self.assert_equal(steps(invariant, batch["net_input"])[real], expected[real])


class TestStart:
    def test_all_weights_and_sizes_come_from_the_checkpoint(self, task, starts, arch):
        model, cfg = quantize(task, starts, arch, quant_policy="transformer")
        own, trained = model.state_dict(), starts[BASES[arch]][1].state_dict()
        assert own.keys() > trained.keys()
        assert all(torch.equal(own[name], value) for name, value in trained.items())
        assert {cfg[name] for name in ("encoder_layers", "decoder_layers")} == {2}
        assert cfg.layernorm_embedding and str(cfg.activation_fn) == "gelu"

    def test_a_contradiction_is_refused(self, task, starts):
        message = r"--encoder-layers 6, there 2; --no-scale-embedding True, there False"
        with pytest.raises(ConfigError, match=message):
            quantize(task, starts, encoder_layers=6, no_scale_embedding=True)
        quantize(task, starts, encoder_layers=2, layernorm_embedding=True)

    def test_of_another_arch_is_refused(self, task, starts, tmp_path):
        with pytest.raises(CheckpointError, match="is of arch hubert_transformer_postln"):
            quantize(task, starts, base="hubert_transformer_postln")
        model, cfg = quantize(task, starts, "quant_transformer_postln")
        save(tmp_path / "quantised.pt", model, cfg, task.state_dict())
        other = {"hubert_transformer": (tmp_path / "quantised.pt", None)}
        with pytest.raises(CheckpointError, match="quantised.pt: is of arch quant_transformer_pos"):
            quantize(task, other)

    def test_of_another_vocabulary_is_refused(self, task, starts, tmp_path):
        state = torch.load(starts["hubert_transformer"][0], weights_only=True)
        state["task_state"]["dictionary_digest"] = "other"
        torch.save(state, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="other.pt: .*another dictionary"):
            quantize(task, {"hubert_transformer": (tmp_path / "other.pt", None)})

    def test_that_is_no_checkpoint_is_refused(self, task, hubert, tmp_path):
        (tmp_path / "text.pt").write_text("no checkpoint")
        for path, message in (
            (tmp_path / "nowhere.pt", "nowhere.pt: does not exist"),
            (tmp_path / "text.pt", "text.pt: "),
            (hubert, "is of arch hubert"),
        ):
            with pytest.raises(CheckpointError, match=message):
                quantize(task, {"hubert_transformer": (path, None)})

    def test_with_lost_tensors_is_refused(self, task, starts, tmp_path):
        state = torch.load(starts["hubert_transformer"][0], weights_only=True)
        del state["model"]["decoder.layers.0.fc1.weight"]
        torch.save(state, tmp_path / "lost.pt")
        with pytest.raises(CheckpointError, match="lost.pt: .*decoder.layers.0.fc1.weight"):
            quantize(task, {"hubert_transformer": (tmp_path / "lost.pt", None)})

    def test_another_hubert_is_refused_and_the_same_let_through(
        self, task, starts, hubert, tmp_path
    ):
        from tests.helpers.hubert_files import make_hubert

        model, _ = quantize(task, starts, hubert_model_path=str(hubert))
        assert model.encoder.hubert is not None
        make_hubert(tmp_path / "larger.pt", {"encoder_layers": 3})
        with pytest.raises(ConfigError, match="another speech encoder"):
            quantize(task, starts, hubert_model_path=str(tmp_path / "larger.pt"))

    def test_its_ctc_head_is_taken_only_if_asked_for(self, task, starts):
        assert quantize(task, starts, base="ctc")[0].encoder.ctc_head is None
        model, _ = quantize(task, starts, base="ctc", ctc_head=True)
        assert torch.equal(model.encoder.ctc_head.weight, starts["ctc"][1].encoder.ctc_head.weight)
        with pytest.raises(ConfigError, match="--ctc-head is given, but the checkpoint has none"):
            quantize(task, starts, ctc_head=True)

    def test_training_from_scratch_warns(self, task, hubert, arch, caplog):
        cfg = config(arch, hubert_model_path=str(hubert), max_update=0, **SIZES)
        model = task.build_model(cfg)
        assert "no --finetuned-st-model" in caplog.text
        assert len(quantized_layers(model)) == 8
        assert (cfg.encoder_layers, cfg.conv_kernel_sizes) == (2, "5,5")


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """(decoder and output projection, these and the encoder), files."""
    folder = tmp_path_factory.mktemp("policies")
    patterns = ["decoder.layers.*", "decoder.output_projection"]
    for name, match in (("few", patterns), ("more", [*patterns, "encoder.layers.*"])):
        Policy.from_dict({"rules": [{"match": match}]}).save(folder / f"{name}.yaml")
    return str(folder / "few.yaml"), str(folder / "more.yaml")


@pytest.fixture(scope="module")
def first(task, starts, arch, policies):
    """(model, its configuration), its weights and scales as training may leave them."""
    model, cfg = quantize(task, starts, arch, quant_policy=policies[0])
    torch.manual_seed(4)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model, cfg


class TestStartInFewBits:
    """From a checkpoint whose decoder is quantised, and its output projection, which has the
    weight of the embedding in full precision."""

    @pytest.fixture
    def go_on(self, task, arch, first, tmp_path):
        """A function that quantises a model that starts from it."""

        def quantized(change=lambda state: None, **options):
            path = tmp_path / "first.pt"
            save(path, *first, task.state_dict())
            state = torch.load(path, weights_only=True)
            change(state)
            torch.save(state, path)
            return quantize(task, {BASES[arch]: (path, None)}, arch, **options)

        return quantized

    def test_its_layers_go_on_as_they_are(self, first, go_on, batch, policies):
        model, _ = go_on(quant_policy=policies[1])
        assert quantized_layers(model).keys() > quantized_layers(first[0]).keys()
        own, trained = model.state_dict(), first[0].state_dict()
        assert all(torch.equal(own[name], value) for name, value in trained.items())
        tied = "decoder.embed_tokens.weight", "decoder.output_projection.weight"
        assert not torch.equal(*(own[name] for name in tied))
        # The same policy adds nothing: the same model.
        with torch.no_grad():
            again = go_on(quant_policy=policies[0])[0].eval()
            output, expected = again(**batch["net_input"])[0], first[0].eval()(**batch["net_input"])
        assert torch.equal(output, expected[0])

    def test_a_schedule_leads_the_others_alone(self, first, go_on, policies):
        model, _ = go_on(quant_policy=policies[1], quant_schedule="fade", quant_warmup=0.5)
        model.train().set_num_updates(10)
        mixes = {name: float(layer.mix) for name, layer in quantized_layers(model).items()}
        assert {mixes.pop(name) for name in quantized_layers(first[0])} == {1.0}
        assert mixes and all(mix == pytest.approx(0.2) for mix in mixes.values())

    def test_a_training_resumes_with_such_a_start_alone(
        self, task, starts, arch, go_on, policies, tmp_path
    ):
        model, cfg = go_on(quant_policy=policies[1])
        path = tmp_path / "checkpoint_last.pt"
        save(path, model, cfg, task.state_dict())
        model.check_resumable(read_mapped(path), path)
        other, _ = quantize(task, starts, arch, quant_policy=policies[1])
        with pytest.raises(ConfigError, match="checkpoint_last.pt: its training started from"):
            other.check_resumable(read_mapped(path), path)

    @pytest.mark.parametrize("options", [{"quant_policy": "cross_attention"}, {"quant_bits": 1.58}])
    def test_a_policy_changes_none_of_them(self, go_on, policies, options):
        message = "first.pt: the policy, .* changes layers that are quantised there: decoder"
        with pytest.raises(ConfigError, match=message):
            go_on(**{"quant_policy": policies[0], **options})

    def test_lost_and_unknown_tensors_are_named(self, first, go_on, policies):
        name = next(iter(quantized_layers(first[0])))

        def change(state):
            state["model"][f"{name}.other"] = state["model"].pop(f"{name}.h")

        message = f"first.pt: is damaged: .* lack {name}.h; unknown: {name}.other"
        with pytest.raises(CheckpointError, match=message):
            go_on(change, quant_policy=policies[0])

    def test_what_was_unpacked_is_no_start(self, first, go_on, policies):
        name = next(iter(quantized_layers(first[0])))

        def change(state):
            state["model"][f"{name}.weight"].sign_()

        with pytest.raises(CheckpointError, match=f"first.pt: of the weights of {name} nothing"):
            go_on(change, quant_policy=policies[0])

    @pytest.mark.parametrize(
        "option, value", [("quant_embedding_bits", 2), ("quant_attention", "bi_attention")]
    )
    def test_other_parts_at_few_bits_are_no_start(self, go_on, policies, option, value):
        def change(state):
            state["cfg"]["model"][option] = value

        with pytest.raises(ConfigError, match="first.pt: its embeddings, .* at few bits"):
            go_on(change, quant_policy=policies[0])


class TestBadOptions:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"quant_policy": "decodr"}, "neither a file nor a shipped policy; shipped: decoder"),
            ({"quant_bits": 3}, "bits of method svcd"),
            ({"quant_method": "onebit", "quant_bits": 2}, "bits of method onebit"),
            ({"quant_method": "svd"}, "method"),
            ({"quant_activation_bits": "eight"}, "expected 8, 16 or off"),
            ({"quant_options": "{"}, "is not JSON"),
            ({"quant_options": '{"inti": "row"}'}, "init"),
            ({"quantization_map": "{}"}, "leave them out"),
            ({"quantization_begun": "decoder"}, "leave them out"),
            ({"load_pretrained_mt_encoder_decoder_from": "mt.pt"}, "leave one of them out"),
            ({"quant_schedule": "fade", "quant_warmup": 0.0}, "--quant-warmup"),
            ({"quant_hubert_bits": 5}, "--quant-hubert-bits 5: expected 1, 2, 3 or 4"),
            ({"quant_hubert_bits": 2, "freeze_hubert": True}, "leave out --freeze-hubert"),
        ],
    )
    def test_are_refused(self, task, starts, options, message):
        with pytest.raises(ConfigError, match=message):
            quantize(task, starts, **options)

    def test_a_policy_without_a_layer_in_the_model(self, task, starts, tmp_path):
        for name, rules, message in (
            ("nothing", [{"match": "decoder.layers.*.attn"}], "matches no linear layer"),
            ("twice", [{"match": "*.fc1"}, {"match": "*.fc1", "bits": 1.58}], "named twice"),
        ):
            Policy.from_dict({"rules": rules}).save(tmp_path / f"{name}.yaml")
            with pytest.raises(ConfigError, match=message):
                quantize(task, starts, quant_policy=str(tmp_path / f"{name}.yaml"))

    def test_a_share_of_an_unknown_number_of_updates(self, task, starts):
        path, _ = starts["hubert_transformer"]
        options = {"finetuned_st_model": str(path), "quant_schedule": "fade", "max_update": 0}
        with pytest.raises(ConfigError, match="give --max-update"):
            task.build_model(config("quant_transformer", **options))
        task.build_model(config("quant_transformer", **options, quant_warmup=50))


class TestCheckpoint:
    def rebuilt(self, task, cfg):
        """The model that generation builds from the options in a checkpoint."""
        saved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
        return build_of_fairseq(saved, task, from_checkpoint=True)

    def test_is_all_that_generation_needs(self, task, starts, arch, batch, tmp_path):
        model, cfg = quantize(task, starts, arch, quant_policy="transformer", quant_bits=1.58)
        cfg.finetuned_st_model, cfg.quant_policy = "/gone/start.pt", "/gone/policy.yaml"
        again = self.rebuilt(task, cfg)
        again.load_state_dict(model.state_dict())
        layers = quantization_map(model)
        assert quantization_map(again) == layers == json.loads(cfg.quantization_map)
        with torch.no_grad():
            expected = model.eval()(**batch["net_input"])[0]
            assert torch.equal(again.eval()(**batch["net_input"])[0], expected)
        with count_calls(again) as calls:
            again(**batch["net_input"])
        assert all(calls.values())

    def test_at_few_bits_is_all_that_generation_needs(self, task, starts, arch, batch):
        bits = {"quant_embedding_bits": 2, "quant_hubert_bits": 3, "quant_subsampler_bits": 4}
        model, cfg = quantize(task, starts, arch, **bits)
        assert model.encoder.embed_tokens.log2_step is model.decoder.output_projection.log2_step
        again = self.rebuilt(task, cfg)
        again.load_state_dict(model.state_dict())
        with torch.no_grad():
            expected = model.eval()(**batch["net_input"])[0]
            assert torch.equal(again.eval()(**batch["net_input"])[0], expected)
        again.train()
        again(**batch["net_input"])[0].square().mean().backward()
        steps = {name: p for name, p in again.named_parameters() if name.endswith("log2_step")}
        assert len(steps) > 4 and all(step.grad.isfinite().all() for step in steps.values())
        assert all(step.grad.any() for step in steps.values())

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"quant_policy": "decoder"}, r"decoder.layers.0.self_attn\S+ was full precision"),
            ({"quant_policy": "whole_model"}, "was full precision"),
            ({"quant_activation_bits": "16"}, "differs from the one that the checkpoint was"),
            ({"quant_method": "onebit"}, "differs"),
            ({"quant_embedding_bits": 3}, "the same --quant-embedding-bits"),
        ],
    )
    def test_is_resumed_under_its_own_policy_only(self, task, starts, tmp_path, options, message):
        model, cfg = quantize(task, starts)
        path = tmp_path / "checkpoint_last.pt"
        save(path, model, cfg, task.state_dict())
        state = read_mapped(path)
        model.check_resumable(state, path)
        other, _ = quantize(task, starts, **options)
        with pytest.raises(ConfigError, match=message) as caught:
            other.check_resumable(state, path)
        assert str(path) in str(caught.value)

    def test_in_full_precision_is_not_resumed(self, task, starts):
        model, _ = quantize(task, starts)
        with pytest.raises(ConfigError, match="--finetuned-st-model"):
            path, _ = starts["hubert_transformer"]
            model.check_resumable(read_mapped(path), path)


class TestSchedule:
    def states(self, model):
        return {(layer.mix, layer.ternary_threshold) for layer in quantized_layers(model).values()}

    def test_follows_the_updates_before_each_forward(self, task, starts):
        model, _ = quantize(task, starts, quant_schedule="fade", quant_warmup=0.5)
        for update, mix in ((0, 0.0), (10, 0.2), (25, 0.5), (50, 1.0), (99, 1.0), (10, 0.2)):
            model.set_num_updates(update)
            assert self.states(model) == {(mix, 0.0)}

    def test_its_length_may_be_a_number_of_updates(self, task, starts):
        model, _ = quantize(task, starts, quant_schedule="ternary", quant_warmup=40)
        model.set_num_updates(10)
        assert {mix for mix, _ in self.states(model)} == {0.5}
        model.set_num_updates(30)
        ((mix, zone),) = self.states(model)
        assert mix == 1 and zone == pytest.approx(0.35)

    def test_starts_from_the_full_precision_model_exactly(self, task, starts, batch):
        model, _ = quantize(task, starts, quant_policy="transformer", quant_schedule="fade")
        model.set_num_updates(0)
        full = starts["hubert_transformer"][1].eval()
        for child in model.children():  # without dropout, but in the state of training
            child.eval()
        with torch.no_grad():
            found = model(**batch["net_input"])[0]
            torch.testing.assert_close(found, full(**batch["net_input"])[0], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", ["fade", "ternary"])
    def test_validation_is_fully_quantised_and_training_goes_on_as_it_was(
        self, task, starts, batch, kind
    ):
        scheduled, cfg = quantize(task, starts, quant_schedule=kind, quant_warmup=0.5)
        generating = TestCheckpoint().rebuilt(task, cfg)
        generating.load_state_dict(scheduled.state_dict())
        scheduled.train().set_num_updates(5)
        training = self.states(scheduled)
        assert training != {(1.0, 0.0)}
        with torch.no_grad():
            found = scheduled.eval()(**batch["net_input"])[0]
            assert torch.equal(found, generating.eval()(**batch["net_input"])[0])
        scheduled.set_num_updates(6)  # as fairseq does between validation and training
        assert self.states(scheduled) == {(1.0, 0.0)}
        scheduled.set_num_updates(5)
        assert self.states(scheduled.train()) == training

    def test_a_model_for_translation_has_none(self, task, starts):
        _, cfg = quantize(task, starts, quant_schedule="fade")
        model = TestCheckpoint().rebuilt(task, cfg)
        model.set_num_updates(3)  # as fairseq does with the checkpoint's
        assert self.states(model) == {(1.0, 0.0)}

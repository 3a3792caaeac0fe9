import copy

import pytest
import torch
from torch import nn

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.quantization import (
    METHODS,
    BitLinear,
    Policy,
    apply_policy,
    count_calls,
    parameter_groups,
    parameters_by_kind,
    quantization_map,
    quantized_layers,
    rebuild,
    require_same_map,
)


def policy(match="decoder.layers.*", **rule) -> Policy:
    return Policy.from_dict({"rules": [{"match": match, **rule}]})


def test_layers_are_replaced_in_place_with_their_trained_weights(translator):
    before = dict(translator.named_parameters())
    replacements = apply_policy(translator, policy("*.encoder_attn.*", bits=1.58))
    assert [r.name for r in replacements] == list(quantized_layers(translator))
    assert len(replacements) == 8
    first = replacements[0]
    assert (first.was, first.method, first.weight_bits, first.activation_bits) == (
        "Linear",
        "svcd",
        1.58,
        8,
    )
    after = dict(translator.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def test_nothing_changes_where_the_policy_does_not_fit(translator):
    before = list(translator.modules())
    with pytest.raises(ConfigError):
        apply_policy(translator, policy(["decoder.*", "nothing"]))
    assert all(one is other for one, other in zip(before, translator.modules()))


class TestSharedModules:
    @pytest.fixture
    def model(self):
        shared = nn.Linear(4, 4)
        model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Linear(4, 4))})
        model["b"][1].weight = shared.weight
        return model

    @pytest.mark.parametrize("match", ["a", "b.0", "*"])
    def test_a_module_with_two_names_is_replaced_once(self, model, match):
        replacements = apply_policy(model, policy(match))
        assert (replacements[0].name, replacements[0].aliases) == ("a", ("b.0",))
        assert isinstance(model["a"], BitLinear)
        assert model["b"][0] is model["a"]

    def test_a_tied_weight_becomes_two(self, model):
        """Unpacking makes a new latent weight for each layer: they could not share one."""
        weight = model["a"].weight
        apply_policy(model, policy("*"))
        assert model["b"][1].weight is not model["a"].weight
        assert torch.equal(model["b"][1].weight, weight) and torch.equal(model["a"].weight, weight)
        assert model["b"][1].g is not model["a"].g

    def test_the_map_rebuilds_both_names(self, model):
        fresh = copy.deepcopy(model)
        apply_policy(model, policy("*"))
        rebuild(fresh, quantization_map(model))
        assert fresh["b"][0] is fresh["a"]
        fresh.load_state_dict(model.state_dict())

    def test_a_projection_leaves_a_tied_embedding_alone(self, translator):
        decoder = translator.decoder
        table = decoder.embed_tokens.weight
        apply_policy(translator, policy("*.output_projection"))
        assert decoder.embed_tokens.weight is table
        assert decoder.output_projection.weight is not table
        assert torch.equal(decoder.output_projection.weight, table)
        assert decoder.output_projection.weight.requires_grad


class TestCheckpoints:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_saved_model_is_rebuilt_from_plain_data(self, translator, batch, method, tmp_path):
        fresh = copy.deepcopy(translator)
        apply_policy(translator, policy(method=method))
        with torch.no_grad():
            for parameter in translator.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        saved = {"map": quantization_map(translator), "model": translator.state_dict()}
        torch.save(saved, tmp_path / "model.pt")

        loaded = torch.load(tmp_path / "model.pt", weights_only=True)
        rebuild(fresh, loaded["map"])
        fresh.load_state_dict(loaded["model"])
        torch.testing.assert_close(fresh(batch), translator(batch))

    def test_the_map_spells_out_defaults(self, translator):
        apply_policy(translator, policy("decoder.layers.0.fc1"))
        assert quantization_map(translator) == {
            "decoder.layers.0.fc1": {
                "method": "svcd",
                "bits": 1,
                "activation_bits": 8,
                "options": {
                    "num_groups": 1,
                    "variant": "default",
                    "init": "svid",
                    "normalization": "none",
                    "estimator": "identity",
                    "estimator_width": None,
                },
            }
        }

    @pytest.mark.parametrize(
        "name, found", [("decoder.layers.9.fc1", "nothing"), ("decoder.layers.0", "a Layer")]
    )
    def test_a_model_of_another_shape_is_refused(self, translator, name, found):
        with pytest.raises(CheckpointError, match=f"{name}: found {found}"):
            rebuild(translator, {name: {"method": "svcd"}})

    def test_an_unknown_setting_is_named_with_its_layer(self, translator):
        with pytest.raises(ConfigError, match="decoder.layers.0.fc1: .*unknown key 'future'"):
            rebuild(
                translator, {"decoder.layers.0.fc1": {"method": "svcd", "options": {"future": 1}}}
            )

    def test_resuming_under_another_policy_is_refused(self, translator):
        other = copy.deepcopy(translator)
        apply_policy(translator, policy("decoder.layers.*"))
        apply_policy(other, policy("decoder.layers.*.fc1", method="bitnet"))
        saved, current = quantization_map(translator), quantization_map(other)
        require_same_map(saved, copy.deepcopy(saved))
        with pytest.raises(ConfigError) as caught:
            require_same_map(saved, current)
        assert "q_proj was {'method': 'svcd'" in str(caught.value)
        assert "is full precision" in str(caught.value)
        assert "more" in str(caught.value)

    def test_maps_that_differ_in_spelling_only_are_the_same(self, translator):
        apply_policy(translator, policy("decoder.layers.0.fc1"))
        saved, short = quantization_map(translator), {"decoder.layers.0.fc1": {"method": "svcd"}}
        assert saved != short
        assert require_same_map(saved, short) is None


class TestCountingCalls:
    def test_every_call_is_counted(self, translator, batch):
        apply_policy(translator, policy("*"))
        with count_calls(translator) as calls:
            translator(batch)
            translator(batch)
        assert set(calls) == set(quantized_layers(translator))
        assert set(calls.values()) == {2}
        translator(batch)
        assert set(calls.values()) == {2}

    def test_a_layer_whose_weight_is_read_instead_stays_at_zero(self, translator, batch):
        apply_policy(translator, policy("*.fc1"))
        layer = translator.decoder.layers[0]
        layer.forward = lambda x: x + 0 * layer.fc1.weight.sum()
        with count_calls(translator) as calls:
            translator(batch)
        assert calls["decoder.layers.0.fc1"] == 0
        assert calls["decoder.layers.1.fc1"] == 1


class TestParameterGroups:
    def test_every_trainable_parameter_is_in_one_group(self, translator):
        translator.encoder.hubert.requires_grad_(False)
        apply_policy(translator, policy(["decoder.*", "encoder.hubert.*"]))
        kinds = parameters_by_kind(translator)
        found = [id(parameter) for group in kinds.values() for parameter in group]
        wanted = {id(p) for p in translator.parameters() if p.requires_grad}
        assert len(found) == len(set(found))
        assert set(found) == wanted
        frozen = translator.encoder.hubert.encoder.layers[0].fc1
        assert not any(frozen.weight is parameter for parameter in kinds["latent"])

    def test_scales_are_not_decayed_and_have_their_own_rate(self, translator):
        apply_policy(
            translator, policy("decoder.layers.0.fc1", options={"normalization": "rmsnorm"})
        )
        groups = {
            group["name"]: group
            for group in parameter_groups(translator, lr=1e-3, weight_decay=0.1, vector_lr=1e-4)
        }
        layer = translator.decoder.layers[0].fc1
        assert [id(p) for p in groups["latent"]["params"]] == [id(layer.weight)]
        assert {id(p) for p in groups["vectors"]["params"]} == {
            id(layer.g),
            id(layer.h),
            id(layer.norm.weight),
        }
        assert (groups["vectors"]["lr"], groups["vectors"]["weight_decay"]) == (1e-4, 0.0)
        assert (groups["latent"]["lr"], groups["latent"]["weight_decay"]) == (1e-3, 0.1)
        torch.optim.AdamW(list(groups.values()))

    def test_without_quantised_layers_there_is_one_group(self, translator):
        assert [group["name"] for group in parameter_groups(translator, lr=1)] == ["other"]

from pathlib import Path

import pytest
import yaml
from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import LayerSpec, Policy
from cress_svcd.quantization.low_bit_grid import LowBits

PAIR = ("whole_model", "everything")
READY = sorted((Path(__file__).parents[2] / "configs" / "quant").glob("*.yaml"))
PUBLISHED = sorted((READY[0].parent / "published").glob("*.yaml"))
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def policy(*rules: dict, **rest) -> Policy:
    return Policy.from_dict({"rules": list(rules), **rest})


def layers(prefix: str, *attentions: str) -> set[str]:
    return {
        f"{prefix}.layers.{n}.{name}"
        for n in range(2)
        for name in (
            *(f"{attention}.{projection}" for attention in attentions for projection in ATTENTION),
            *("fc1", "fc2"),
        )
    }


def cross(*projections: str) -> set[str]:
    return {f"decoder.layers.{n}.encoder_attn.{p}" for n in range(2) for p in projections}


DECODER = layers("decoder", "self_attn", "encoder_attn")
ENCODER = layers("encoder", "self_attn")
HUBERT = layers("encoder.hubert.encoder", "self_attn")
NAMED = {
    "cross_attention": cross(*ATTENTION),
    "cross_attention_query": cross("q_proj"),
    "cross_attention_key": cross("k_proj"),
    "cross_attention_value": cross("v_proj"),
    "cross_attention_out": cross("out_proj"),
    "published_cross_attention": cross(*ATTENTION),
    "decoder": DECODER,
    "text_encoder": ENCODER,
    "decoder_encoder": DECODER | ENCODER,
    "hubert": HUBERT,
    "transformer": DECODER | ENCODER | HUBERT,
    "everything": DECODER | ENCODER | HUBERT | {"encoder.hubert.post_extract_proj"},
    "whole_model": DECODER | ENCODER | HUBERT | {"encoder.hubert.post_extract_proj"},
}


class TestReadyPolicies:
    def test_are_all_tested(self):
        assert {path.stem for path in READY} == set(NAMED)

    @pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
    def test_of_the_analyses_are_as_published(self, path, translator):
        specs = Policy.load(path).resolve(translator)
        assert set(specs) == NAMED[path.stem]
        for spec in specs.values():
            assert spec.settings()["variant"] == "paper" and not spec.keep_weight

    @pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
    def test_name_the_layers_they_say(self, path, translator):
        loaded = Policy.load(path)
        specs = loaded.resolve(translator)
        assert set(specs) == NAMED[path.stem]
        assert loaded.description
        assert {spec.method for spec in specs.values()} == {"svcd"}
        assert {spec.settings()["bits"] for spec in specs.values()} == {1}

    def test_the_published_one_is_the_papers_layer_on_fresh_weights(self, translator):
        loaded = Policy.load(READY[0].parent / "published_cross_attention.yaml")
        spec = next(iter(loaded.resolve(translator).values()))
        assert spec.settings()["variant"] == "paper"
        assert not spec.keep_weight

    @pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
    def test_one_alone_has_bits_for_what_no_pattern_names(self, path):
        bits = LowBits(embedding=1, hubert=2, subsampler=1)
        expected = bits if path.stem == "whole_model" else LowBits()
        assert Policy.load(path).low_bits == expected

    def test_the_whole_model_has_the_layers_of_everything(self):
        whole, everything = (Policy.load(READY[0].parent / f"{name}.yaml") for name in PAIR)
        assert (whole.rules, whole.exclude) == (everything.rules, everything.exclude)


class TestReading:
    def test_file_and_dictionary_round_trip(self, tmp_path):
        original = policy(
            {
                "match": ["a.*", "b"],
                "exclude": "a.c",
                "method": "tbt",
                "bits": 1.58,
                "activation_bits": None,
                "options": {"signed": False},
                "keep_weight": False,
            },
            {"match": "d", "method": "full"},
            exclude=["e"],
            description="für Tests",
            hubert_bits=3,
            embedding_bits=1,
        )
        path = tmp_path / "policy.yaml"
        original.save(path)
        assert Policy.load(path) == original
        assert Policy.from_dict(original.to_dict()) == original
        assert yaml.safe_load(path.read_text(encoding="utf-8")) == original.to_dict()

    def test_a_policy_without_bits_is_stored_as_ever(self):
        """Earlier versions, and files that they wrote, have no such keys."""
        stored = {"description": "", "rules": [{"match": ["a"], "method": "svcd"}], "exclude": []}
        loaded = Policy.from_dict(stored)
        assert loaded.to_dict() == stored and loaded.low_bits == LowBits()

    @pytest.mark.parametrize(
        "text, bits", [("3", 3), ("1.0", 1), ("2e0", 2), ("null", None), ("~", None)]
    )
    @pytest.mark.parametrize("kind", ["embedding", "hubert", "subsampler"])
    def test_bits_of_what_no_pattern_names(self, kind, text, bits, tmp_path):
        path = tmp_path / "policy.yaml"
        path.write_text(f"rules: [{{match: x}}]\n{kind}_bits: {text}", encoding="utf-8")
        found = getattr(Policy.load(path).low_bits, kind)
        assert found == bits and type(found) is type(bits)
        assert Policy.load(path).low_bits == LowBits(**{kind: bits})

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_a_file_with_a_byte_order_mark(self, tmp_path, encoding):
        original = policy({"match": "decoder.layers.*"})
        original.save(tmp_path / "p.yaml")
        text = (tmp_path / "p.yaml").read_text(encoding="utf-8")
        (tmp_path / "p.yaml").write_text(text, encoding=encoding)
        assert Policy.load(tmp_path / "p.yaml") == original

    @pytest.mark.parametrize("off", ["off", "'off'", "null", "~"])
    def test_activations_can_be_off(self, off, tmp_path):
        """YAML reads a plain off as false."""
        path = tmp_path / "policy.yaml"
        path.write_text(f"rules: [{{match: x, activation_bits: {off}}}]", encoding="utf-8")
        assert Policy.load(path).rules[0].spec.settings()["activation_bits"] is None

    def test_defaults(self):
        spec = policy({"match": "x"}).rules[0].spec
        assert (spec.method, spec.settings()["bits"], spec.settings()["activation_bits"]) == (
            "svcd",
            1,
            8,
        )

    @pytest.mark.parametrize(
        "text, named",
        [
            ("rules: [{match: x, method: svdc}]", r"rules\[0\].*svdc.*did you mean 'svcd'"),
            ("rules: [{match: x, bits: 2}]", r"bits of method svcd: found 2.*1, 1.58"),
            ("rules: [{match: x, method: bitnet158, bits: 1}]", r"bitnet158: found 1.*1.58"),
            ("rules: [{match: x}, {match: y, activation_bits: 5}]", r"rules\[1\].*5.*8, 16, off"),
            ("rules: [{match: x, activation_bits: of}]", "found 'of'.*did you mean 'off'"),
            ("rules: [{match: x, bit: 1}]", r"unknown key 'bit'.*did you mean 'bits'"),
            ("rules: [{match: x, options: {ini: row}}]", r"unknown key 'ini'.*'init'"),
            ("rules: [{match: x, options: {init: rows}}]", r"init: found 'rows'.*'row'"),
            ("rules: [{match: x, options: {bits: 1}}]", "bits stands next to options"),
            ("rules: [{match: x, options: 3}]", "options: found 3"),
            ("rules: [{match: x, method: full, bits: 8}]", "method full: unknown key 'bits'"),
            ("rules: [{match: x, keep_weight: 1}]", "keep_weight: found 1, expected true or false"),
            ("rules: [{bits: 1}]", r"rules\[0\]: no match"),
            ("rules: [{match: 7}]", "match: found 7"),
            ("rules: [x]", r"rules\[0\]: found 'x'"),
            ("rules: []", "expected a list of rules"),
            ("rules: decoder", "expected a list of rules"),
            ("rule: []", "unknown key 'rule'.*did you mean 'rules'"),
            ("rules: [{match: x}]\nhubert_bit: 2", "key 'hubert_bit'.*did you mean 'hubert_bits'"),
            ("rules: [{match: x}]\nhubert_bits: 5", ": hubert_bits 5: expected 1, 2, 3 or 4, or"),
            ("rules: [{match: x}]\nsubsampler_bits: 0", ": subsampler_bits 0: expected 1, 2"),
            ("rules: [{match: x}]\nembedding_bits: '2'", ": embedding_bits '2': expected 1, 2"),
            ("rules: [{match: x}]\nembedding_bits: 1.58", ": embedding_bits 1.58: expected 1, 2"),
            ("rules: [{match: x}]\nembedding_bits: true", ": embedding_bits True: expected 1, 2"),
            ("rules: [{match: x}]\nhubert_bits: [2]", r": hubert_bits \[2\]: expected 1, 2"),
            ("rules: [{match: x}]\nhubert_bits: 010", ":2: YAML takes 010 for 8"),
            ("hubert_bits: 2", "expected a list of rules"),
            ("- x", "expected a mapping"),
            ("", "expected a mapping"),
            ("rules: [{match: x}]\nexclude: {a: b}", "exclude: found"),
            ("rules:\n  - match: a\n  bits: [", ":3: is not valid YAML"),
            ("rules:\n  - match: a\n    bits: 1\n    'match': b", ":4: .*'match' .*twice.* line 2"),
            ("rules: [{match: x}]\nrules: [{match: y}]", ":2: .*'rules' .*twice.* line 1"),
        ],
    )
    def test_mistakes_are_named(self, text, named, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=named) as caught:
            Policy.load(path)
        assert str(caught.value).startswith(str(path))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match="nowhere.yaml"):
            Policy.load(tmp_path / "nowhere.yaml")


class TestMatching:
    def test_rules_mix_methods_and_bits(self, translator):
        specs = policy(
            {"match": "decoder.layers.*.fc?", "method": "uniform", "bits": 4},
            {"match": "decoder.layers.*", "exclude": "decoder.layers.*.fc?", "bits": 1.58},
            {"match": "encoder.layers.0.fc1", "method": "quest", "bits": 2},
        ).resolve(translator)
        assert len(specs) == len(DECODER) + 1
        assert specs["decoder.layers.1.fc2"].method == "uniform"
        assert specs["decoder.layers.1.self_attn.q_proj"].options == {"bits": 1.58}
        assert specs["encoder.layers.0.fc1"].method == "quest"

    def test_layers_come_in_the_models_order(self, translator):
        specs = policy({"match": ["decoder.*", "encoder.*"]}).resolve(translator)
        order = [name for name, _ in translator.named_modules() if name in specs]
        assert list(specs) == order

    def test_exclude(self, translator):
        specs = policy({"match": "decoder.*"}, exclude=["*.layers.0.*", "*.fc1"]).resolve(
            translator
        )
        assert set(specs) == {
            name for name in DECODER if ".layers.0." not in name and not name.endswith("fc1")
        }

    @pytest.mark.parametrize("full", [{"method": "full"}, {"bits": "full"}], ids=str)
    def test_full_names_layers_that_stay(self, full, translator):
        specs = policy({"match": "decoder.layers.0.*"}, {"match": "encoder.*", **full}).resolve(
            translator
        )
        assert all(name.startswith("decoder.layers.0.") for name in specs)

    def test_a_head_must_be_named(self, translator):
        assert "decoder.output_projection" not in policy({"match": "*"}).resolve(translator)
        specs = policy({"match": "*.output_projection"}).resolve(translator)
        assert list(specs) == ["decoder.output_projection"]

    def test_only_plain_linear_layers_are_touched(self):
        class Special(nn.Linear):
            pass

        model = nn.ModuleDict({"plain": nn.Linear(2, 2), "special": Special(2, 2)})
        model["torch"] = nn.MultiheadAttention(2, 1)  # never calls its out_proj
        assert list(policy({"match": "*"}).resolve(model)) == ["plain"]
        both = policy({"match": "*"}).resolve(model, types=(nn.Linear, Special))
        assert list(both) == ["plain", "special"]

    @pytest.mark.parametrize(
        "pattern, named",
        [
            ("decoder.layers.*.enc_attn.*", r"near names: decoder.layers.0.encoder_attn"),
            ("decoder.layers.*.fc3", r"near names: decoder.layers.0.fc"),
            ("decoder.layers.0", r"'decoder.layers.0\.\*'"),
            ("decoder.embed_tokens", "Embedding: .* key embedding_bits .*pack --int8-embeddings'"),
            ("*norm", "LayerNorm, which is not replaced"),
            ("decoder.output*", "decoder.output_projection stays in full precision"),
            ("qqq", "lie under: decoder, encoder"),
        ],
    )
    @pytest.mark.parametrize("where", ["match", "exclude", "rule exclude"])
    def test_a_pattern_without_a_layer_is_an_error(self, pattern, named, where, translator):
        rules = {
            "match": policy({"match": ["decoder.*", pattern]}),
            "exclude": policy({"match": "decoder.*"}, exclude=[pattern]),
            "rule exclude": policy({"match": "decoder.*", "exclude": pattern}),
        }
        with pytest.raises(ConfigError, match=named) as caught:
            rules[where].resolve(translator)
        assert repr(pattern) in str(caught.value)

    def test_a_convolution_has_a_key_and_is_stored_in_int8_by_packing(self, translator):
        translator.encoder.hubert.conv = nn.Conv1d(1, 2, 3)
        with pytest.raises(ConfigError, match="hubert.conv, .*hubert_bits.*--int8-convolutions"):
            policy({"match": "*.conv"}).resolve(translator)

    def test_a_layer_named_twice_differently_is_an_error(self, translator):
        with pytest.raises(ConfigError, match=r"decoder.layers.0.fc1 is named twice.*'\*.fc1'"):
            policy({"match": "decoder.*"}, {"match": "*.fc1", "bits": 1.58}).resolve(translator)
        with pytest.raises(ConfigError, match="named twice"):
            policy({"match": "decoder.*"}, {"match": "*.fc1", "method": "full"}).resolve(translator)

    def test_so_is_one_that_is_named_twice_alike(self, translator):
        """Also where one rule spells out what the other leaves to defaults."""
        same = {"bits": 1.0, "activation_bits": 8, "options": {"init": "svid"}}
        for rule in ({}, same):
            with pytest.raises(ConfigError, match="decoder.layers.0.fc1 is named twice"):
                policy({"match": "decoder.*"}, {"match": "*.fc1", **rule}).resolve(translator)

    def test_patterns_of_one_rule_may_overlap(self, translator):
        specs = policy({"match": ["decoder.*", "decoder.*.fc1"]}).resolve(translator)
        assert set(specs) == DECODER

    @pytest.mark.parametrize("pattern", ["encoder.*", "*.output_projection"])
    def test_an_exclude_that_takes_nothing_from_its_rule_is_an_error(self, pattern, translator):
        rule = {"match": "decoder.*", "exclude": ["*.fc1", pattern]}
        with pytest.raises(ConfigError, match="takes nothing from the rule.*decoder") as caught:
            policy(rule).resolve(translator)
        assert f"exclude {pattern!r}" in str(caught.value)
        assert policy(rule | {"exclude": ["*.fc1", "*.fc?"]}).resolve(translator)

    def test_nothing_left_is_an_error(self, translator):
        with pytest.raises(ConfigError, match="nothing is left"):
            policy({"match": "decoder.*"}, exclude=["*"]).resolve(translator)
        with pytest.raises(ConfigError, match="nothing is left"):
            policy({"match": "*", "method": "full"}).resolve(translator)

    def test_an_already_quantised_layer_is_not_touched_again(self, translator):
        specs = policy({"match": "*.fc1"}).resolve(translator)
        translator.decoder.layers[0].fc1 = specs["decoder.layers.0.fc1"].quantize(
            translator.decoder.layers[0].fc1
        )
        with pytest.raises(ConfigError, match="a BitLinear, which is not replaced"):
            policy({"match": "decoder.layers.0.fc1"}).resolve(translator)


class TestReplacing:
    def test_another_method_on_the_same_layers(self):
        original = policy(
            {"match": "a", "bits": 1.58, "options": {"init": "row"}},
            {"match": "b", "method": "full"},
        )
        changed = original.replaced(method="bitnet", activation_bits=None)
        assert changed.rules[0].match == ("a",)
        assert changed.rules[0].spec == LayerSpec("bitnet", {"activation_bits": None})
        assert changed.rules[1] == original.rules[1]

    def test_one_setting_keeps_the_others(self):
        changed = policy({"match": "a", "options": {"init": "row"}}).replaced(bits=1.58)
        assert changed.rules[0].spec == LayerSpec("svcd", {"bits": 1.58, "init": "row"})

    def test_bits_of_what_no_pattern_names_stay(self):
        changed = policy({"match": "a"}, hubert_bits=3).replaced(bits=1.58)
        assert changed.low_bits == LowBits(hubert=3)

    def test_what_the_method_does_not_have_is_refused(self):
        with pytest.raises(ConfigError, match="bits of method onebit"):
            policy({"match": "a"}).replaced(method="onebit", bits=2)


RULE = "rules: [{{match: a, {}}}]\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("bits: 1,58", "unknown key '?58"),
        ("bits: '1,58'", "bits of method svcd: found '1,58'"),
        ("bits: 1_0", "bits of method svcd: found 10"),
        ("bits: true", "bits of method svcd: found True"),
        ("bits: .nan", "bits of method svcd: found nan"),
        ("bits: 1bit", "bits of method svcd: found '1bit'"),
        ("activation_bits: 010", ":1: YAML takes 010 for 8"),
        ("bits: 1:30", ":1: YAML takes 1:30 for 90"),
        ("options: {estimator_width: 1:30.5}", ":1: YAML takes 1:30.5 for 90.5"),
        ("options: {estimator_width: '0,5'}", "estimator_width"),
    ],
)
def test_numbers_that_are_not_what_they_look_like(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(RULE.format(text))
    with pytest.raises(ConfigError, match=f"a.yaml.*{message}"):
        Policy.load(path)


@pytest.mark.parametrize("text", ["1", "1.0", "01", "1e0", "+1", "0.1e1"])
def test_numbers_in_any_form(tmp_path, text):
    (tmp_path / "a.yaml").write_text(RULE.format(f"bits: {text}"))
    assert Policy.load(tmp_path / "a.yaml").rules[0].spec.settings()["bits"] == 1


def test_byte_order_mark_of_a_policy(tmp_path):
    (tmp_path / "a.yaml").write_text("\ufeff" + RULE.format("bits: 1"), encoding="utf-8")
    assert Policy.load(tmp_path / "a.yaml").rules[0].match == ("a",)

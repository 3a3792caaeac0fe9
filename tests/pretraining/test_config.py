from pathlib import Path

import pytest
import yaml

from cress_svcd.errors import ConfigError
from cress_svcd.pretraining.config import CTC, MASKED_PREDICTION, load_pretraining_config

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
SMALL = {
    "seed": 3,
    "units": {"clusters": 8, "sample_frames": 2_000},
    "task": {"min_sample_size": 4_800, "max_sample_size": 32_000},
    "model": {
        "conv_feature_layers": "[(16,20,10)] + [(16,4,4)] + [(16,8,8)]",
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 4,
        "conv_pos": 8,
        "conv_pos_groups": 4,
        "mask_length": 4,
    },
    "dataset": {"max_tokens": 64_000},
    "optimization": {"max_update": 4, "lr": [0.001]},
    "masked_prediction": {"model": {"mask_prob": 0.5}},
    "ctc": {"criterion": {"units_weight": 0.5}, "least_letters": 2},
}


def load(tmp_path, content=None, **changes):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content or SMALL))
    return load_pretraining_config(path, {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize(
    "name, stages",
    [
        ("hubert_demo", [CTC]),
        ("hubert_voices", [CTC]),
        ("hubert_bench", [MASKED_PREDICTION, CTC]),
        ("hubert_base", [MASKED_PREDICTION]),
    ],
)
def test_shipped_configurations_are_valid(name, stages):
    assert list(load_pretraining_config(CONFIGS / f"{name}.yaml").stages) == stages


def test_hubert_base_is_the_published_model():
    model = load_pretraining_config(CONFIGS / "hubert_base.yaml").stages[MASKED_PREDICTION]["model"]
    assert model["conv_feature_layers"] == "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
    from fairseq.models.hubert.hubert import HubertConfig

    published = {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "final_dim": 256,
        "mask_prob": 0.80,
        "mask_length": 10,
        "encoder_layerdrop": 0.05,
        "feature_grad_mult": 0.1,
        "untie_final_proj": True,
        "layer_norm_first": False,
        "extractor_mode": "default",
    }
    assert {key: model.get(key, getattr(HubertConfig, key)) for key in published} == published


def test_stages_overlay_what_they_share(tmp_path):
    config = load(tmp_path)
    assert config.seed == 3 and config.units.clusters == 8 and config.least_letters == 2
    prediction, ctc = config.stages[MASKED_PREDICTION], config.stages[CTC]
    assert prediction["model"]["mask_prob"] == 0.5 and "mask_prob" not in ctc["model"]
    assert prediction["model"]["encoder_layers"] == ctc["model"]["encoder_layers"] == 2
    assert (prediction["model"]["_name"], ctc["model"]["_name"]) == ("masked_hubert", "ctc_hubert")


def test_limits_of_the_stages(tmp_path):
    config = load(tmp_path)
    # Masked prediction crops what is longer, CTC cannot.
    assert config.limits(MASKED_PREDICTION) == (4_800, None)
    assert config.limits(CTC) == (4_800, 32_000)
    assert config.widest_limits() == (4_800, None)


@pytest.mark.parametrize("last, rate, shift", [(4, 50, 320), (8, 25, 640)])
def test_frames_follow_from_the_strides(tmp_path, last, rate, shift):
    layers = f"'[(16,10,10)] + [(16,8,8)] + [(16,{last},{last})]'"
    config = load(tmp_path, model__conv_feature_layers=layers)
    assert config.frame_shift == shift
    for stage in config.stages.values():
        assert stage["task"]["label_rate"] == stage["model"]["label_rate"] == rate


def test_what_fairseq_is_given(tmp_path):
    training = load(tmp_path).training(CTC, tmp_path / "data", tmp_path / "save", pretrained="x.pt")
    assert training["task"]["data"] == str(tmp_path / "data")
    assert training["task"]["labels"] == ["km"] and training["task"]["transcripts"] == "ltr"
    assert training["model"]["pretrained"] == "x.pt"
    assert training["common"]["seed"] == 3
    assert Path(training["common"]["user_dir"]).name == "cress_svcd"


@pytest.mark.parametrize("given, meant", [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_on_and_off_are_words(tmp_path, given, meant):
    """YAML takes them for true and false."""
    config = load(tmp_path, task__graph_training=given)
    assert config.stages[CTC]["task"]["graph_training"] == meant


def test_shapes_are_for_batches_that_are_padded(tmp_path):
    with pytest.raises(ConfigError, match="masked_prediction: task.batch_shapes: expected 0"):
        load(tmp_path, task__batch_shapes="4", task__pad_audio="false")


def test_values_can_be_changed_from_outside(tmp_path):
    config = load(tmp_path, model__encoder_layers="3", ctc__optimization__lr="[0.5]")
    assert config.stages[CTC]["model"]["encoder_layers"] == 3
    assert config.stages[CTC]["optimization"]["lr"] == [0.5]
    assert config.stages[MASKED_PREDICTION]["optimization"]["lr"] == [0.001]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("modle.encoder_layers", "2", "key modle: unknown; did you mean model"),
        ("model.encoder_layer", "2", "key model.encoder_layer: unknown; did you mean encoder_l"),
        ("ctc.model.mask_porb", "0.1", "key ctc.model.mask_porb: unknown"),
        ("units.cluster", "5", "key units.cluster: unknown; did you mean clusters"),
        ("units.clusters", "many", "key units.clusters: 'many'; expected a whole number"),
        ("seed", "-1", "key seed: -1"),
        ("model.encoder_layers", "some", "key model.encoder_layers: 'some'"),
        ("model.activation_fn", "gelo", "key model.activation_fn: 'gelo'"),
        ("optimizer._name", "adma", "key optimizer._name: 'adma'; expected one of .*adam"),
        ("optimizer.adam_eps", "tiny", "key optimizer.adam_eps: 'tiny'"),
        ("masked_prediction.model.mask_prob", "0", "model.mask_prob: expected more than 0"),
        ("masked_prediction.model._name", "hubert2", "masked_prediction.model._name: 'hubert2'"),
        ("task.audio_transforms", "echo", "task.audio_transforms: 'echo'; expected NAME or NAME"),
        ("task.data", "x", "key task.data: is set by the command"),
        ("common.seed", "1", "key common.seed: is set by the command"),
        ("model.conv_feature_layers", "'[(16,10,5)] * 2'", "strides multiply to 25; expected 320,"),
        (
            "ctc.model.conv_feature_layers",
            "'[(8,16,16)] + [(8,40,40)]'",
            "25 frames a second, and 5",
        ),
        ("model.conv_feature_layers", "'__import__(1)'", "is not a list of convolutions"),
        ("model.encoder_attention_heads", "5", "5 does not divide model.encoder_embed_dim 32"),
        ("task.min_sample_size", "1000", "task.min_sample_size: 1000; expected .* or more"),
        ("task.max_sample_size", "4000", "task.max_sample_size: 4000"),
        ("dataset.max_tokens", "5000", "dataset.max_tokens: 5000 samples a batch; expected"),
        ("optimization.max_update", "0", "optimization.max_update: 0"),
        ("optimization.lr", "fast", "key optimization.lr: 'fast'"),
        ("ctc", "5", "key ctc: 5; expected keys and values"),
        ("model", "5", "key model: 5; expected keys and values"),
    ],
)
def test_errors_name_file_and_key(tmp_path, key, value, message):
    with pytest.raises(ConfigError, match=f"small.yaml: .*{message}"):
        load(tmp_path, **{key: value})


def test_nothing_to_train(tmp_path):
    content = {key: value for key, value in SMALL.items() if key not in (CTC, MASKED_PREDICTION)}
    with pytest.raises(ConfigError, match="neither key masked_prediction nor key ctc"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("a: [", ":1: is not valid YAML"),
        ("- 1", ": holds a list"),
        ("seed: 1\nseed: 2", ":2: .*'seed' stands twice.* line 1"),
        ("ctc:\n  model: {}\n  task: {}\n  model: {}", ":4: .*'model' stands twice.* line 2"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text, problem):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"broken.yaml{problem}.*configs/train"):
        load_pretraining_config(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml: cannot be read"):
        load_pretraining_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "number, meant", [("1:30", 90), ("010", 8), ("0100", 64), ("1:00:00", 3600)]
)
@pytest.mark.parametrize("key", ["seed", "optimization.max_update", "units.clusters"])
def test_numbers_to_other_bases_are_refused(tmp_path, key, number, meant):
    with pytest.raises(ConfigError, match=f"small.yaml: key {key}.*takes {number} for {meant}"):
        load(tmp_path, **{key: number})
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(SMALL) + f"common:\n  log_interval: {number}\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(ConfigError, match=f"a.yaml:{line}: YAML takes {number} for {meant}"):
        load_pretraining_config(path)


@pytest.mark.parametrize("number", ["1,5", "'10,000'", "1.5s", ".inf", "0x", "yes", "''"])
def test_what_is_no_number_is_refused(tmp_path, number):
    for key in ("seed", "units.clusters", "optimization.max_update"):
        with pytest.raises(ConfigError, match=f"small.yaml: .*{key}"):
            load(tmp_path, **{key: number})


def test_exponents(tmp_path):
    config = load(tmp_path, seed="1e3", units__sample_frames="2e6", ctc__optimization__lr="[1e-4]")
    assert (config.seed, config.units.sample_frames) == (1000, 2_000_000)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_whatever_encoding_a_mark_announces(tmp_path, encoding):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding=encoding)
    assert load_pretraining_config(path).seed == 3


@pytest.mark.parametrize("section", [{3: 1}, {"_name": {"a": 1}}, {"_name": 3}])
def test_keys_and_names_that_are_no_text(tmp_path, section):
    with pytest.raises(ConfigError, match="small.yaml: .*optimizer"):
        load(tmp_path, {**SMALL, "optimizer": section})

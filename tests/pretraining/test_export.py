import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models.hubert.hubert import HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingTask

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.models.hubert_checkpoint import HubertDescription, read_hubert
from cress_svcd.models.hubert_encoder import HubertEncoder
from cress_svcd.pretraining.ctc_hubert import CtcHubert
from cress_svcd.pretraining.export import export_hubert
from cress_svcd.pretraining.hubert_features import HubertFeatures
from tests.helpers.hubert_files import SMALL, TASK, make_hubert


@pytest.fixture
def trained(tmp_path):
    """A training checkpoint of masked prediction, with a path of this machine in it."""
    make_hubert(tmp_path / "training.pt", task={"data": str(tmp_path), "labels": ["km"]})
    return read_checkpoint(tmp_path / "training.pt")


def test_fairseq_rebuilds_the_model_from_the_file_alone(tmp_path, trained):
    exported = export_hubert(tmp_path / "hubert.pt", trained, "training.pt", seed=1)
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "hubert.pt")])
    assert type(model) is HubertModel and type(task) is HubertPretrainingTask
    assert task.dictionaries[0].symbols == trained["task_state"]["dictionaries"][0].symbols
    for name, tensor in exported.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(tensor, trained["model"][name], rtol=0, atol=0)


def test_our_encoder_reads_it(tmp_path, trained):
    export_hubert(tmp_path / "hubert.pt", trained, "training.pt", seed=1)
    description, state = read_hubert(tmp_path / "hubert.pt")
    assert (description.label_rate, description.sample_rate) == (50, 16_000)
    HubertEncoder(description).load_pretrained(state, "hubert.pt")


def test_the_same_weights_give_the_same_bytes_without_paths(tmp_path, trained):
    for name in ("one.pt", "two.pt"):
        export_hubert(tmp_path / name, trained, "training.pt", seed=1)
    data = (tmp_path / "one.pt").read_bytes()
    assert data == (tmp_path / "two.pt").read_bytes()
    assert str(tmp_path).encode() not in data


def test_the_head_for_letters_is_left_behind(tmp_path, trained):
    fields = {key: value for key, value in SMALL.items() if key != "_name"}
    for masks in ({"mask_prob": 0.0}, {"mask_prob": 0.3}):
        description = HubertDescription({**fields, **masks}, False, 16_000, 50.0, (24,))
        model = CtcHubert(description, letters=9, units=24)
        trained["model"] = model.half().state_dict()
        exported = export_hubert(tmp_path / "hubert.pt", trained, "ctc.pt", seed=1).state_dict()
        assert not any(name.startswith("letters_proj") for name in exported)
        assert ("mask_emb" in model.state_dict()) == (masks["mask_prob"] > 0)
        assert exported["mask_emb"].dtype == torch.float32
        torch.testing.assert_close(exported["final_proj.bias"], model.final_proj.bias.float())


def test_an_incomplete_model_is_refused_and_nothing_written(tmp_path, trained):
    del trained["model"]["final_proj.bias"]
    with pytest.raises(CheckpointError, match="training.pt: .*missing: final_proj.bias"):
        export_hubert(tmp_path / "hubert.pt", trained, "training.pt", seed=1)
    assert not (tmp_path / "hubert.pt").exists()


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("layer", [1, 2])
def test_features_of_a_layer_are_fairseqs(tmp_path, layer, layer_norm_first):
    original = make_hubert(tmp_path / "hubert.pt", {"layer_norm_first": layer_norm_first})
    wave = np.random.default_rng(0).normal(size=8_123).astype(np.float32)
    features = HubertFeatures(tmp_path / "hubert.pt", layer)(wave)
    with torch.no_grad():
        expected, _ = original.extract_features(torch.from_numpy(wave)[None], output_layer=layer)
    np.testing.assert_allclose(features, expected[0].numpy(), atol=1e-5)


def test_features_of_a_normalizing_model(tmp_path):
    make_hubert(tmp_path / "hubert.pt", task={**TASK, "normalize": True})
    features = HubertFeatures(tmp_path / "hubert.pt", 1)
    wave = np.random.default_rng(0).normal(size=8_000).astype(np.float32)
    np.testing.assert_allclose(features(wave), features(3 * wave + 1), atol=1e-4)


def test_a_layer_that_does_not_exist(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    with pytest.raises(ConfigError, match="--layer 3: .*hubert.pt has layers 1 to 2"):
        HubertFeatures(tmp_path / "hubert.pt", 3)

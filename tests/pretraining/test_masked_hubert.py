import pytest
import torch
from fairseq.criterions.hubert_criterion import HubertCriterion
from fairseq.logging import metrics
from fairseq.models.hubert.hubert import HubertConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf

from cress_svcd.errors import ConfigError
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.pretraining.masked_hubert import MaskedHubert
from cress_svcd.pretraining.masked_prediction import MaskedPredictionCriterion
from tests.helpers.hubert_files import make_hubert


def make_models(folder, **changes):
    """fairseq's model, and ours with the same weights."""
    original = make_hubert(folder / "hubert.pt", changes)
    trained = read_checkpoint(folder / "hubert.pt")
    schema = OmegaConf.structured(HubertConfig)
    fields = {key: value for key, value in trained["cfg"]["model"].items() if key in schema}
    ours = MaskedHubert(
        OmegaConf.merge(schema, fields),
        OmegaConf.structured(HubertPretrainingConfig(data="")),
        trained["task_state"]["dictionaries"],
    )
    ours.load_state_dict(trained["model"])
    return original, ours.eval()


@pytest.fixture
def models(tmp_path):
    return make_models(tmp_path)


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
def test_the_convolutions_of_gpus_are_fairseqs(tmp_path, mode):
    original, ours = make_models(tmp_path, extractor_mode=mode)
    source = batch()["net_input"]["source"]
    results = []
    for model, features in ((original, original.forward_features(source)), (ours, None)):
        features = ours.convolve(source) if features is None else features
        model.zero_grad()
        features.square().mean().backward()
        parts = model.feature_extractor.named_parameters()
        results.append((features, {name: part.grad for name, part in parts}))
    scale = original.feature_grad_mult  # of the gradients
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-3, atol=1e-4)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name] * scale, gradient, rtol=1e-2, atol=1e-5)


def test_masks_follow_torchs_seed(models):
    _, ours = models
    x = torch.randn(3, 60, 32)
    padding = torch.zeros(3, 60, dtype=torch.bool)
    padding[0, 50:] = True
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(ours.apply_mask(x, padding, None))
    (first, mask), (second, again), (_, other) = draws
    assert torch.equal(mask, again) and torch.equal(first, second)
    assert not torch.equal(mask, other)
    assert not (mask & padding).any() and 0.2 < mask.float().mean() < 0.9
    assert torch.equal(first[~mask], x[~mask])
    assert (first[mask] == ours.mask_emb).all()


def batch(**options) -> dict:
    """Two segments, one of which is a fourth shorter."""
    source, padding = torch.randn(2, 16_000), torch.zeros(2, 16_000, dtype=torch.bool)
    source[1, 12_000:], padding[1, 12_000:] = 0, True
    targets = [torch.randint(24, (2, options.get("labels", 49)))]
    return {
        "id": torch.arange(2),
        "net_input": {"source": source, "padding_mask": padding},
        "target_list": targets,
    }


@pytest.mark.parametrize("labels", [49, 45])
@pytest.mark.parametrize(
    "changes",
    [{}, {"extractor_mode": "layer_norm", "untie_final_proj": False, "target_glu": True}],
)
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, 1.0)])
def test_loss_log_and_gradients_are_fairseqs(tmp_path, changes, weights, labels):
    original, ours = make_models(tmp_path, mask_prob=0.5, mask_channel_prob=0.2, **changes)
    sample, results = batch(labels=labels), []
    for model, kind in ((original, HubertCriterion), (ours, MaskedPredictionCriterion)):
        if model is original:  # the same masks for fairseq's own code
            original.apply_mask, original.mask_emb = ours.apply_mask, ours.mask_emb
        torch.manual_seed(3)
        loss, size, logged = kind(None, *weights, loss_weights=[10.0])(model, sample)
        model.zero_grad()
        loss.backward()
        gradients = {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and name != "mask_emb"
        }
        log = {name: torch.as_tensor(value) for name, value in logged.items()}
        results.append((log, gradients))
        assert size == logged["sample_size"] > 20
    (log, gradients), (our_log, our_gradients) = results
    assert set(our_log) == set(log) and set(our_gradients) == set(gradients)
    for name, value in log.items():
        torch.testing.assert_close(our_log[name].double(), value.double(), atol=1e-3, rtol=1e-4)
    for name, value in gradients.items():
        torch.testing.assert_close(our_gradients[name], value, atol=1e-3, rtol=1e-3)


def test_masks_that_were_drawn_before_are_those_of_the_step(models):
    _, ours = models
    ours.mask_prob = 0.5
    criterion, sample = MaskedPredictionCriterion(None, 1.0, 0.0), batch()
    torch.manual_seed(3)
    drawn = ours.draw_masks(sample)
    torch.manual_seed(3)
    alone = criterion(ours, sample)[2]
    given = criterion(ours, sample | drawn)[2]
    assert alone == given
    assert criterion.plain_log(sample | drawn) == {
        key: given[key] for key in ("ntokens", "nsentences", "sample_size")
    }
    masked, unmasked = drawn["predicted"]
    assert given["count_m_0"] == masked and given["count_u_0"] == unmasked
    assert drawn["masks"]["time"].shape == (2, 49) and masked + unmasked in (86, 87)


def test_frames_that_weigh_something_must_not_be_skipped(models):
    _, ours = models
    ours.mask_prob, ours.skip_nomask = 0.5, True
    with pytest.raises(ConfigError, match="expected 0"):
        MaskedPredictionCriterion(None, 1.0, 1.0)(ours, batch())


def test_metrics_are_fairseqs():
    log = {"loss": 20.0, "ntokens": 10, "sample_size": 10, "loss_m_0": 20.0}
    log |= {"correct_m_0": 3, "count_m_0": 10}
    found = []
    for kind, values in (
        (HubertCriterion, log),
        (MaskedPredictionCriterion, {key: torch.tensor(value) for key, value in log.items()}),
    ):
        with metrics.aggregate() as aggregated:
            kind.reduce_metrics([values, values])
        found.append(aggregated.get_smoothed_values())
    assert found[0] == found[1] and found[0]["correct_m_0"] == 0.3

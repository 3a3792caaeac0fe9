import pytest
import torch
from fairseq.models.hubert.hubert import HubertConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf

from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.pretraining.masked_hubert import MaskedHubert
from tests.helpers.hubert_files import make_hubert


@pytest.fixture
def models(tmp_path):
    """fairseq's model, and ours with the same weights."""
    original = make_hubert(tmp_path / "hubert.pt")
    trained = read_checkpoint(tmp_path / "hubert.pt")
    schema = OmegaConf.structured(HubertConfig)
    fields = {key: value for key, value in trained["cfg"]["model"].items() if key in schema}
    ours = MaskedHubert(
        OmegaConf.merge(schema, fields),
        OmegaConf.structured(HubertPretrainingConfig(data="")),
        trained["task_state"]["dictionaries"],
    )
    ours.load_state_dict(trained["model"])
    return original, ours.eval()


def test_logits_and_gradients_are_fairseqs(models):
    original, ours = models
    targets = torch.tensor([3, 0, 23, 7, 7, 1])
    frames = torch.randn(6, 16)
    results = []
    for model in (original, ours):
        labels = model.label_embs_concat
        if model is ours:
            # Two units with one embedding are both struck out.
            labels.data[5] = labels.data[7]
            original.label_embs_concat.data[5] = labels.data[7]
    for model in (original, ours):
        x = frames.clone().requires_grad_()
        labels = model.label_embs_concat
        logits = model.compute_nce(
            x, labels[targets], labels.unsqueeze(1).expand(-1, len(targets), -1)
        )
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.zeros_like(targets)).backward()
        results.append((logits, x.grad, labels.grad))
    for theirs, mine in zip(*results):
        torch.testing.assert_close(mine, theirs)
    assert results[1][0].isinf().sum(dim=1).tolist() == [1, 1, 1, 2, 2, 1]


def test_no_frame_at_all(models):
    _, ours = models
    labels = ours.label_embs_concat
    empty = labels[:0]
    assert ours.compute_nce(empty, empty, labels.unsqueeze(1).expand(-1, 0, -1)).shape[0] == 0


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


def test_the_loss_is_that_of_fairseqs_model(models):
    original, ours = models
    original.mask_prob = ours.mask_prob = 0.5
    source = torch.randn(2, 16_000)
    padding = torch.zeros(2, 16_000, dtype=torch.bool)
    targets = [torch.randint(24, (2, 49))]
    torch.manual_seed(3)
    mine = ours(source, targets, padding)
    torch.manual_seed(3)
    # The same masks for fairseq's own code.
    original.apply_mask = ours.apply_mask
    original.mask_emb = ours.mask_emb
    theirs = original(source, targets, padding)
    for key in ("logit_m_list", "logit_u_list"):
        torch.testing.assert_close(mine[key][0], theirs[key][0])

import pytest
import torch

from cress_svcd.errors import CheckpointError
from cress_svcd.models.hubert_checkpoint import HubertDescription
from cress_svcd.pretraining.ctc_hubert import CtcHubert
from tests.helpers.hubert_files import SMALL, make_hubert

UNITS = 24  # of the checkpoint's dictionary, special symbols included


def description(**changes):
    fields = {key: value for key, value in SMALL.items() if key != "_name"}
    return HubertDescription({**fields, **changes}, False, 16_000, 50.0, (UNITS,))


def build(**changes):
    torch.manual_seed(1)
    return CtcHubert(description(**changes), letters=9, units=UNITS)


def test_starts_from_masked_prediction_and_computes_the_same(tmp_path):
    original = make_hubert(tmp_path / "hubert.pt")
    model = build().eval()
    model.start_from(str(tmp_path / "hubert.pt"))
    source = torch.randn(2, 8_000)
    features, _ = original.extract_features(source, torch.zeros_like(source, dtype=torch.bool))
    output = model(source, torch.zeros_like(source, dtype=torch.bool))
    torch.testing.assert_close(output["units"], model.unit_logits(features))
    assert output["letters"].shape == (2, features.size(1), 9)


def test_unit_logits_are_fairseqs(tmp_path):
    original = make_hubert(tmp_path / "hubert.pt")
    model = build().eval()
    model.start_from(str(tmp_path / "hubert.pt"))
    features = torch.randn(1, 6, SMALL["encoder_embed_dim"])
    targets = torch.tensor([3, 0, 23, 7, 7, 1])
    with torch.no_grad():
        projected = original.final_proj(features[0])
        labels = original.label_embs_concat
        negatives = labels.unsqueeze(1).expand(-1, 6, -1)
        theirs = original.compute_nce(projected, labels[targets], negatives)
        ours = model.unit_logits(features)[0]
    # Theirs: the target first, then all labels with the target struck out.
    torch.testing.assert_close(ours.gather(1, targets.unsqueeze(1))[:, 0], theirs[:, 0])
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(ours, targets),
        torch.nn.functional.cross_entropy(theirs, torch.zeros_like(targets)),
    )


def test_an_utterance_is_the_same_in_any_batch():
    model = build().eval()
    short, long = torch.randn(5_000), torch.randn(9_000)
    batch = torch.full((2, 9_000), 7.0)
    batch[0, :5_000], batch[1] = short, long
    mask = torch.zeros(2, 9_000, dtype=torch.bool)
    mask[0, 5_000:] = True
    with torch.no_grad():
        together = model(batch, mask)
        alone = model(short.unsqueeze(0), torch.zeros(1, 5_000, dtype=torch.bool))
    frames = alone["letters"].size(1)
    assert together["padding_mask"].sum(dim=1).tolist() == [together["letters"].size(1) - frames, 0]
    for head in ("letters", "units"):
        torch.testing.assert_close(together[head][0, :frames], alone[head][0], atol=5e-5, rtol=1e-4)


def test_every_trainable_parameter_gets_a_gradient():
    for with_units in (True, False):
        model = CtcHubert(
            description(mask_prob=0.5, encoder_layerdrop=0.0), 9, UNITS, with_units=with_units
        )
        output = model(torch.randn(1, 8_000), torch.zeros(1, 8_000, dtype=torch.bool))
        assert (output["units"] is not None) == with_units
        loss = output["letters"].sum() + (output["units"].sum() if with_units else 0)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (parameter.grad is not None), name


def test_a_checkpoint_of_other_dimensions(tmp_path):
    make_hubert(tmp_path / "hubert.pt", {"encoder_layers": 3})
    with pytest.raises(CheckpointError, match="hubert.pt: is not of the model .*encoder.layers.2"):
        build().start_from(str(tmp_path / "hubert.pt"))
    with pytest.raises(CheckpointError, match="another shape"):
        build(encoder_ffn_embed_dim=32).start_from(str(tmp_path / "hubert.pt"))

"""Consistency training: its formula, and that it leaves the other losses as they are."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cress_svcd.errors import ConfigError
from cress_svcd.training.consistency import symmetric_kl, twice
from tests.training.test_criterion import Setting, logits_of, reduced


@pytest.fixture
def make(prepared, hubert):
    return lambda *flags: Setting(prepared, hubert, *flags)


def with_dropout(setting):
    """The model with dropout after all, and the batch; the same masks at every call."""
    for module in setting.model.modules():
        if type(module).__name__ == "FairseqDropout":
            module.p = 0.3
    return setting


def run(setting, batch, training=True):
    torch.manual_seed(3)
    return setting.run(batch, training)


def test_is_the_formula():
    first, second = (torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True) for _ in "ab")
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    p, q = (log_softmax(each.detach().numpy(), -1) for each in (first, second))
    both = np.exp(p) * (p - q) + np.exp(q) * (q - p)
    expected = both.sum(-1)[~padding.numpy()].sum() / 2
    loss = symmetric_kl(first, second, padding)
    assert loss.item() == pytest.approx(expected)
    assert symmetric_kl(second, first, padding).item() == pytest.approx(expected)
    loss.backward()
    for side in (first, second):
        assert (side.grad[~padding] != 0).any() and (side.grad[padding] == 0).all()
    spoiled = first.detach().masked_fill(padding.unsqueeze(-1), float("nan"))
    assert symmetric_kl(spoiled, second, padding).item() == pytest.approx(expected)


def test_halves_are_compared_in_single_precision():
    logits = 30 * torch.randn(1, 3, 50)
    padding = torch.zeros(1, 3, dtype=torch.bool)
    half = symmetric_kl(logits.half(), logits.half() * 1.1, padding)
    assert half.dtype == torch.float32 and half.isfinite()


@pytest.mark.parametrize("flags", [(), ("--cross-consistency-weight", "0")])
def test_weights_of_zero_change_nothing(make, flags):
    losses = []
    for options in ((), ("--consistency-weight", "0", *flags)):
        setting = with_dropout(make("--st-training", "--mt-finetune", *options))
        torch.manual_seed(1)
        for parameter in setting.model.parameters():
            parameter.data.normal_(std=0.1)
        loss, size, log = run(setting, setting.batch(0, 1, 2))
        losses.append(loss.item())
        assert not [name for name in log if "consistency" in name]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("mode", [None, "ext_mt"])
def test_without_dropout_the_loss_is_that_of_one_pass(make, mode):
    text = ("--text-input",) if mode else ()
    setting = make("--st-training", "--mt-finetune", "--consistency-weight", "5", *text)
    batch = setting.batch(0, 1, 2, mode=mode)
    loss, size, log = run(setting, batch)
    setting.criterion.consistency_options = copy.copy(setting.cfg.criterion)
    setting.criterion.consistency_options.consistency_weight = 0.0
    plain, plain_size, plain_log = run(setting, batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4) and size == plain_size
    assert log["consistency"] < 1e-3
    found, expected = reduced(setting, log), reduced(setting, plain_log)
    assert found.keys() - expected.keys() == {"consistency"}
    assert all(found[name] == pytest.approx(expected[name], rel=1e-2) for name in expected)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_with_dropout_it_is_the_mean_of_two_passes_and_their_divergence(make, weight):
    setting = make("--st-training", "--mt-finetune", "--consistency-weight", weight)
    batch = with_dropout(setting).batch(0, 1, 2, 3)
    loss, size, log = run(setting, batch)
    double = twice(batch)
    inputs = {
        **double["net_input"],
        "text_tokens": double["source_text"]["src_tokens"],
        "text_lengths": double["source_text"]["src_lengths"],
    }
    torch.manual_seed(3)
    speech, extra = setting.model.train()(**inputs)
    outputs = [(speech, None), (extra["text_output"][0], None)]
    padding = batch["target"].eq(1)
    divergence = sum(symmetric_kl(*logits.chunk(2), padding) for logits, _ in outputs).item()
    entropies = sum(
        setting.criterion.compute_loss(setting.model, output, double)[0] for output in outputs
    )
    assert divergence > 0.01 and log["consistency"].item() == pytest.approx(divergence, rel=1e-4)
    expected = entropies.item() / 2 + weight * divergence
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert size == batch["ntokens"] and log["consistency_ntokens"] == 2 * size
    mean = reduced(setting, log)["consistency"]
    assert mean == pytest.approx(divergence / (2 * size), abs=1e-4)


def test_validation_runs_once(make):
    setting = make("--st-training", "--mt-finetune", "--consistency-weight", "5")
    loss, _, log = run(setting, setting.batch(0, 1), training=False)
    assert log["st_ntokens"] == log["ntokens"] and "consistency" not in log


def test_speech_and_transcripts_are_drawn_together(make):
    setting = make("--st-training", "--mt-finetune", "--cross-consistency-weight", "3")
    batch = setting.batch(4, 5, 6)
    loss, _, log = run(setting, batch)
    logits = logits_of(setting, batch), logits_of(setting, batch, text=True)
    divergence = symmetric_kl(*logits, batch["target"].eq(1)).item()
    assert log["cross_consistency"].item() == pytest.approx(divergence, rel=1e-3) and divergence > 0
    expected = log["st_loss"] + log["mt_loss"] + 3 * divergence
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    alone, _, log = run(setting, {**batch, "source_text": None})
    assert log["cross_consistency"] == 0 == log["cross_consistency_ntokens"]
    assert alone.item() == pytest.approx(log["st_loss"].item())


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--consistency-weight", "-1"), "--consistency-weight -1.0: expected 0 or more"),
        (("--consistency-weight", "inf"), "expected 0 or more"),
        (("--cross-consistency-weight", "1"), "add --mt-finetune"),
    ],
)
def test_options_of_no_use(make, flags, message):
    with pytest.raises(ConfigError, match=message):
        make("--st-training", *flags)

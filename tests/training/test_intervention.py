"""Teacher Intervention: what the teacher puts out stands in for what the student does."""

import contextlib

import pytest
import torch

from cress_svcd.errors import ConfigError
from cress_svcd.training.intervention import intervening, mix
from tests.training.test_distillation import CLOSE, Setting, both, teacher  # noqa: F401

LAYERS = ("--intervention-layers", "decoder.layers.*")


@pytest.fixture
def make(prepared, teacher):  # noqa: F811
    return lambda *flags, **options: Setting(prepared, teacher, *flags, **options)


@contextlib.contextmanager
def block_outputs(model):
    """What the blocks of the first decoder layer hand on: self-attention, attention to the source,
    feed-forward; of speech, then of transcripts."""
    seen = []
    dropout = model.decoder.layers[0].dropout_module
    handle = dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    yield seen
    handle.remove()


def test_the_share_falls_linearly_and_ends(make):
    setting = make("--intervention-warmup", "10")
    distillation = setting.criterion.distillation
    assert [distillation.share(n) for n in (0, 1, 5, 10, 11)] == [1, 0.9, 0.5, 0, 0]
    assert distillation.weights(5)[-1] == 0.5
    assert make().criterion.distillation.share(0) == 0


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_outputs_are_mixed_by_the_formula(share):
    layer, x = torch.nn.Linear(4, 4), torch.randn(3, 2, 4)
    signals = [torch.randn(3, 2, 4).double(), torch.randn(3, 2, 4)]
    wanted = [share * each.float() + (1 - share) * layer(x) for each in signals]
    with intervening({"a": layer}, {"a": [(each, None) for each in signals]}, share):
        found = [layer(x), layer(x)]
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(layer(x), found[0])
    own = torch.randn(2, requires_grad=True)
    mix(own, torch.randn(2, requires_grad=True), share).sum().backward()
    assert torch.equal(own.grad, torch.full((2,), 1 - share))


def test_at_first_attentions_put_out_what_the_teachers_do(make):
    setting = make("--intervention-warmup", "10")
    full = setting.criterion.distillation.teacher
    with block_outputs(full) as theirs:
        both(full, setting.inputs)
    with block_outputs(setting.model) as seen:
        setting.run()
    assert len(seen) == len(theirs) == 6
    for number, (own, their) in enumerate(zip(seen, theirs)):
        assert torch.allclose(own, their, rtol=1e-4, atol=1e-4) == (number % 3 < 2)
    setting.criterion.set_num_updates(10)
    with block_outputs(setting.model) as late:
        setting.run()
    assert not any(torch.allclose(own, their, atol=1e-2) for own, their in zip(late, theirs))


def test_whole_layers_of_the_decoder_leave_nothing_to_learn_from(make):
    """All that stands behind them is the teacher's own."""
    setting = make("--intervention-warmup", "10", *LAYERS)
    loss, log = setting.run()
    assert log["distill_kl"].item() == pytest.approx(0, abs=1e-2)
    setting.criterion.set_num_updates(5)
    _, half = setting.run()
    setting.criterion.set_num_updates(10)
    _, none = setting.run()
    assert 0.01 < half["distill_kl"] < none["distill_kl"]


def test_the_teacher_runs_once_for_signals_and_terms(make):
    setting = make("--intervention-warmup", "10", "--distill-hidden-weight", "1")
    calls = []
    setting.criterion.distillation.teacher.register_forward_hook(lambda *_: calls.append(1))
    loss, log = setting.run()
    assert len(calls) == 1 and log["distill_hidden"] > 0
    loss.backward()
    weight = setting.model.decoder.layers[0].fc1.weight
    assert weight.grad.abs().sum() > 0


def test_it_leaves_validation_and_later_updates_as_they_are(make):
    setting, plain = make("--intervention-warmup", "3"), make()
    with torch.no_grad():
        expected, _ = plain.run(training=False)
        loss, _ = setting.run(training=False)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    setting.criterion.set_num_updates(3)
    assert setting.run()[0].item() == pytest.approx(plain.run()[0].item(), rel=CLOSE)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--intervention-warmup", "-1"], "--intervention-warmup -1: expected 0 or more"),
        (
            ["--intervention-warmup", "5", "--intervention-layers", "decoder.nothing"],
            "--intervention-layers: 'decoder.nothing' names no module",
        ),
    ],
)
def test_options_of_no_use(make, flags, message):
    with pytest.raises(ConfigError, match=message):
        make(*flags)


def test_it_needs_a_teacher(make):
    with pytest.raises(ConfigError, match="--intervention-warmup needs --teacher-model"):
        make("--intervention-warmup", "5", distill=False)

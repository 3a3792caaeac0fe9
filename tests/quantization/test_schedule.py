import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cress_svcd.errors import ConfigError
from cress_svcd.quantization import (
    Policy,
    Schedule,
    apply_policy,
    quantized_layers,
    set_progress,
    weight_decay_factor,
)
from cress_svcd.quantization.schedule import SCHEDULES, SHAPES, Stage


def quantise(model, **rule):
    apply_policy(model, Policy.from_dict({"rules": [{"match": "decoder.layers.*", **rule}]}))
    return model


@given(
    kind=st.sampled_from(SCHEDULES),
    shape=st.sampled_from(SHAPES),
    warmup=st.floats(0, 1),
    total=st.integers(1, 300),
)
def test_every_schedule_moves_one_way_and_ends_quantised(kind, shape, warmup, total):
    schedule = Schedule(kind, warmup, shape)
    stages = [schedule.stage(update, total) for update in range(total + 1)]
    assert stages[-1] == Stage(mix=1.0, ternary=0.0)
    for earlier, later in zip(stages, stages[1:]):
        assert earlier.mix <= later.mix
        assert earlier.ternary >= later.ternary
    assert all(0 <= stage.mix <= 1 and 0 <= stage.ternary <= 1 for stage in stages)


@pytest.mark.parametrize("shape", SHAPES)
def test_fading_starts_in_full_precision(shape):
    schedule = Schedule("fade", warmup=0.5, shape=shape)
    assert schedule.stage(0, 100).mix == 0
    assert schedule.stage(25, 100).mix == pytest.approx(0.5)
    assert schedule.stage(50, 100).mix == 1


def test_ternary_comes_between_full_precision_and_binary():
    schedule = Schedule("ternary", warmup=0.4)
    assert schedule.stage(0, 100) == Stage(mix=0.0, ternary=1.0)
    assert schedule.stage(10, 100) == Stage(mix=0.5, ternary=1.0)
    assert schedule.stage(20, 100) == Stage(mix=1.0, ternary=1.0)
    assert schedule.stage(30, 100) == Stage(mix=1.0, ternary=pytest.approx(0.5))
    assert schedule.stage(40, 100) == Stage()


def test_none_is_quantised_from_the_start():
    assert Schedule("none", warmup=1.0).stage(0, 100) == Stage()


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"kind": "fades"}, "did you mean 'fade'"),
        ({"shape": "square"}, "schedule.shape"),
        ({"warmup": 1.5}, "schedule.warmup: found 1.5"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Schedule(**arguments)


class TestOnAModel:
    def test_the_start_is_the_full_precision_model(self, translator, batch):
        expected = translator(batch)
        quantise(translator)
        set_progress(translator, 0, 100, Schedule("fade"))
        torch.testing.assert_close(translator(batch), expected)

    @pytest.mark.parametrize("kind", SCHEDULES)
    def test_the_end_is_the_quantised_model(self, translator, batch, kind):
        expected = quantise(translator)(batch)
        schedule = Schedule(kind)
        set_progress(translator, 20, 100, schedule)
        if kind != "none":
            assert not torch.allclose(translator(batch), expected)
        set_progress(translator, 100, 100, schedule)
        assert torch.equal(translator(batch), expected)

    def test_weights_are_ternary_on_the_way(self, translator):
        quantise(translator)
        zeros = []
        for update in (15, 20, 25, 30):
            set_progress(translator, update, 100, Schedule("ternary", warmup=0.3))
            layer = next(iter(quantized_layers(translator).values()))
            zeros.append((layer.sign_weights() == 0).double().mean().item())
        assert 0.3 < zeros[0] < 0.6
        assert zeros == sorted(zeros, reverse=True)
        assert zeros[-1] == 0

    @pytest.mark.parametrize(
        "rule",
        [
            {"bits": 1.58},
            {"options": {"variant": "paper"}},
            {"method": "bitnet"},
        ],
        ids=str,
    )
    def test_other_layers_only_fade(self, translator, rule):
        quantise(translator, **rule)
        layers = quantized_layers(translator).values()
        before = [getattr(layer, "ternary_threshold", None) for layer in layers]
        set_progress(translator, 25, 100, Schedule("ternary", warmup=0.3))
        assert [getattr(layer, "ternary_threshold", None) for layer in layers] == before
        set_progress(translator, 5, 100, Schedule("ternary", warmup=0.3))
        assert [layer.mix for layer in layers] == pytest.approx([1 / 3] * len(layers))

    def test_nothing_of_it_is_stored(self, translator):
        quantise(translator)
        names = set(translator.state_dict())
        set_progress(translator, 5, 100, Schedule("ternary"))
        assert set(translator.state_dict()) == names

    def test_gradients_flow_at_every_stage(self, translator, batch):
        quantise(translator)
        for update in range(0, 60, 5):
            set_progress(translator, update, 100, Schedule("ternary", warmup=0.5))
            translator.zero_grad()
            translator(batch).square().sum().backward()
            for layer in quantized_layers(translator).values():
                assert layer.weight.grad.isfinite().all()
                assert (layer.weight.grad != 0).any()


def test_weight_decay_ends_with_the_second_third():
    factors = [weight_decay_factor(update, 90) for update in range(90)]
    assert factors == [1.0] * 60 + [0.0] * 30


def test_a_model_without_quantised_layers_is_left_alone():
    linear, x = nn.Linear(2, 2), torch.randn(3, 2)
    before = linear(x)
    assert set_progress(linear, 0, 10, Schedule("fade", warmup=0.5)).mix == 0
    assert torch.equal(linear(x), before)

"""Attention weights of 0 and 1: by the papers' formulas, in a model, over its whole life."""

import math

import numpy as np
import pytest
import torch
from fairseq.modules import MultiheadAttention

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from cress_svcd.models.binary_attention import (
    FORMS,
    BinaryAttention,
    bi_attention,
    binarize_attention,
    softmax_aware,
)
from cress_svcd.models.checkpoints import read_checkpoint
from cress_svcd.translation.translator import Translator
from tests.helpers.fairseq_commands import run_series, svcd_command
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint

SEARCH = {"beam": 3, "max_len_b": 12, "device": "cpu"}
INF = math.inf


def test_bi_attention_takes_scores_that_are_not_negative():
    scores = torch.tensor([[0.5, -0.1, 0.0, 3.0], [-1.0, -2.0, -0.3, -INF]], requires_grad=True)
    weights = bi_attention(scores)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3], [0.0, 0, 0, 0]]))
    (weights * torch.arange(8.0).view(2, 4)).sum().backward()
    # As the derivative of a line within 1 of 0; a row's scale is no part of it.
    expected = torch.tensor([[0.0, 1 / 3, 2 / 3, 0], [4, 0, 6, 0]])
    torch.testing.assert_close(scores.grad, expected)


def test_softmax_aware_binarisation_has_a_threshold_for_each_row():
    generator = np.random.default_rng(5)
    scores = 3 * generator.normal(size=(40, 9))
    scores[:, 7] = -INF
    soft = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    ones = soft >= 0.25 * soft.max(1, keepdims=True)
    found = softmax_aware(torch.tensor(scores))
    np.testing.assert_allclose(found.numpy(), ones / ones.sum(1, keepdims=True), atol=1e-6)
    assert 1 < ones.sum(1).mean() < 8  # neither one each, nor all


def test_its_gradient_is_that_of_the_softmax():
    scores = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(5, 7, dtype=torch.float64)
    (ours,) = torch.autograd.grad((softmax_aware(scores) * factors).sum(), scores)
    (theirs,) = torch.autograd.grad((scores.softmax(-1) * factors).sum(), scores)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_step_by_step_it_gives_what_it_gives_at_once(form):
    """Of a decoder's attention over its own past, with padding in the encoder's states."""
    torch.manual_seed(0)
    for keys, causal in ((6, True), (4, False)):
        attention = MultiheadAttention(
            16, 4, self_attention=causal, encoder_decoder_attention=not causal
        ).eval()
        attention._set_skip_embed_dim_check()
        attention.__class__, attention.form = BinaryAttention, form
        query = torch.randn(6, 2, 16)
        source = query if causal else torch.randn(keys, 2, 16)
        padding = None if causal else torch.tensor([[False] * 4, [False, False, True, True]])
        future = torch.triu(torch.full((6, 6), -INF), 1) if causal else None
        whole, shown = attention(query, source, source, padding, attn_mask=future)
        state: dict = {}
        for step in range(6):
            now = query[step : step + 1]
            past = now if causal else source
            single, _ = attention(
                now, past, past, padding, incremental_state=state, static_kv=not causal
            )
            torch.testing.assert_close(single[0], whole[step], atol=1e-5, rtol=1e-5)
        assert shown.shape == (2, 6, keys)
        if padding is not None:
            assert shown[1, :, 2:].abs().sum() == 0


@pytest.fixture(scope="module")
def full(prepared, hubert, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("full") / "st.pt", prepared, hubert)


@pytest.fixture(scope="module")
def checkpoint(full, prepared, tmp_path_factory):
    path = tmp_path_factory.mktemp("attention") / "model.pt"
    return quantize(path, prepared, full, RULES["svcd"], "--quant-attention", "softmax_aware")


def attentions(model) -> list[MultiheadAttention]:
    return [module for module in model.modules() if isinstance(module, MultiheadAttention)]


def test_a_checkpoint_brings_it_back(checkpoint, prepared, release):
    translator = Translator.load(checkpoint, data=prepared, **SEARCH)
    found = attentions(translator.model)
    assert found and all(type(each) is BinaryAttention for each in found)
    assert {each.form for each in found} == {"softmax_aware"}
    called = set()
    for each in found:
        each.register_forward_hook(lambda module, *_: called.add(module))
    spec = read_manifest(prepared / "tst-COMMON.tsv")["audio"][0]
    translator.translate_batch([read_audio(spec, root=release / "en-de" / "data")])
    assert called == set(found)  # no kernel computes in their place


def test_it_is_not_packed(checkpoint, tmp_path, capsys):
    assert main(["pack", str(checkpoint), "-o", str(tmp_path / "packed.pt")]) == 2
    assert "no kernel multiplies attention weights in 1 bit" in capsys.readouterr().err
    assert not (tmp_path / "packed.pt").exists()


def test_a_policy_without_attention_is_refused(full, prepared, tmp_path):
    rules = [{"match": "decoder.layers.*.fc1"}]
    with pytest.raises(ConfigError, match="quantises no projection of an attention"):
        quantize(tmp_path / "m.pt", prepared, full, rules, "--quant-attention", "bi_attention")


def test_without_the_option_nothing_changes(full, prepared, tmp_path):
    path = quantize(tmp_path / "plain.pt", prepared, full, RULES["svcd"])
    state = read_checkpoint(path)
    del state["cfg"]["model"]["quant_attention"]  # as in yesterday's
    torch.save(state, path)
    model = Translator.load(path, data=prepared, **SEARCH).model
    assert not any(type(each) is BinaryAttention for each in attentions(model))
    binarize_attention(model, state["cfg"]["model"])
    assert not any(type(each) is BinaryAttention for each in attentions(model))


@pytest.mark.slow
def test_it_is_trained_resumed_and_no_other_form_goes_on(full, prepared, tmp_path):
    flags = ["--quant-policy", "decoder", "--num-workers", "0", "--disable-validation"]
    flags += ["--no-epoch-checkpoints", "--max-epoch", "100"]

    def command(form, updates):
        words = svcd_command(
            *(prepared, tmp_path / "save", full, *flags, "--quant-attention", form),
            *("--max-update", updates),
        )
        return [word for word in words if word != "--layernorm-embedding"]  # as ``full`` is

    outcomes = run_series(
        {
            "begun": command("bi_attention", 2),
            "resumed": command("bi_attention", 4),
            "other": command("softmax_aware", 6),
        },
        tmp_path,
    )
    for name in ("begun", "resumed"):
        assert not outcomes[name].failed, outcomes[name].output[-3000:]
    assert outcomes["other"].failed
    assert "was trained with --quant-attention bi_attention" in outcomes["other"].output
    options = read_checkpoint(tmp_path / "save" / "checkpoint_last.pt")["cfg"]["model"]
    assert str(options["quant_attention"]) == "bi_attention"

"""The criterion against torch's own losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics

from cress_svcd.errors import ConfigError
from tests.helpers.training_options import NO_DROPOUT, make_model, make_task, parse

PAD = 1
SMOOTHING = 0.1


class Setting:
    """A task, a model without dropout, and the criterion of one command."""

    def __init__(self, data, hubert, *flags):
        self.cfg = parse(
            data, "--hubert-model-path", hubert, "--label-smoothing", SMOOTHING, *NO_DROPOUT, *flags
        )
        self.task = make_task(data, *flags)
        self.model = make_model(self.cfg, self.task)
        self.criterion = self.task.build_criterion(self.cfg.criterion)
        self.task.load_dataset("dev")
        self.dataset = self.task.dataset("dev")

    def batch(self, *rows, mode=None) -> dict:
        batch = self.dataset.collater([self.dataset[i] for i in rows])
        return {**batch, "mode": mode} if mode else batch

    def run(self, batch, training=True):
        """(loss, sample size, log) of a batch."""
        return self.criterion(self.model.train(training), batch)


@pytest.fixture
def make(prepared, hubert):
    return lambda *flags: Setting(prepared, hubert, *flags)


def expected(logits, target, smoothing=SMOOTHING) -> tuple[float, float, float]:
    """Smoothed loss, negative log-likelihood and hits, summed over the tokens.

    fairseq gives the wrong symbols smoothing / (V - 1) each, torch all symbols smoothing / V.
    """
    logits, target = logits.float().flatten(0, 1), target.flatten()
    size = logits.size(1)
    options = dict(ignore_index=PAD, reduction="sum")
    loss = F.cross_entropy(logits, target, label_smoothing=smoothing * size / (size - 1), **options)
    hits = ((logits.argmax(1) == target) & (target != PAD)).sum()
    return float(loss), float(F.cross_entropy(logits, target, **options)), float(hits)


def logits_of(setting, batch, text=False):
    """What the model says of the batch's speech, or of its transcripts."""
    source = batch["source_text"] if text else batch["net_input"]
    previous = batch["net_input"]["prev_output_tokens"]
    return setting.model(source["src_tokens"], source["src_lengths"], previous)[0]


def reduced(setting, *logs) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as aggregated:
        setting.criterion.reduce_metrics(list(logs))
    return aggregated.get_smoothed_values()


def test_speech_translation(make):
    setting = make("--st-training")
    batch = setting.batch(0, 1, 2, 3)
    loss, size, log = setting.run(batch)
    wanted, nll, hits = expected(logits_of(setting, batch), batch["target"])
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    assert size == batch["ntokens"] == log["st_ntokens"] == (batch["target"] != PAD).sum()
    assert log["loss"] == pytest.approx(wanted, rel=1e-4)
    assert log["nll_loss"].item() == pytest.approx(nll, rel=1e-4)
    assert log["st_correct"] == hits


@pytest.mark.parametrize("training", [True, False])
def test_text_of_the_same_pairs_is_added_in_training_only(make, training):
    setting = make("--st-training", "--mt-finetune")
    batch = setting.batch(4, 5, 6)
    loss, _, log = setting.run(batch, training)
    speech, nll, _ = expected(logits_of(setting, batch), batch["target"])
    text, text_nll, hits = expected(logits_of(setting, batch, text=True), batch["target"])
    assert loss.item() == pytest.approx(speech + text if training else speech, rel=1e-4)
    assert log["st_loss"].item() == pytest.approx(speech, rel=1e-4)
    assert log["mt_loss"].item() == pytest.approx(text, rel=1e-4)
    assert log["mt_nll_loss"].item() == pytest.approx(text_nll, rel=1e-4)
    assert log["mt_correct"] == hits
    assert log["nll_loss"].item() == pytest.approx(nll, rel=1e-4)


def test_without_smoothing_it_is_the_likelihood(make):
    setting = make("--st-training", "--label-smoothing", "0")
    setting.criterion.eps = 0.0
    loss, _, log = setting.run(setting.batch(1, 2))
    assert loss.item() == pytest.approx(log["st_nll_loss"].item(), rel=1e-6)


@pytest.mark.parametrize("mode", ["mt", "ext_mt"])
def test_a_batch_of_text_counts_for_its_mode(make, mode):
    setting = make("--st-training", "--mt-finetune", "--text-input")
    batch = setting.batch(0, 1, 2, mode=mode)
    loss, _, log = setting.run(batch)
    wanted, _, _ = expected(logits_of(setting, batch), batch["target"])
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    assert log[f"{mode}_loss"].item() == pytest.approx(wanted, rel=1e-4)
    assert {name for name, value in reduced(setting, log).items() if name.endswith("t_loss")} == {
        f"{mode}_loss"
    }


class TestCtc:
    def setting(self, make, *flags):
        return make("--st-training", "--ctc-head", "--ctc-weight", "0.3", *flags)

    def test_is_torchs_on_the_transcripts(self, make):
        setting = self.setting(make)
        batch = setting.batch(*range(12))
        loss, _, log = setting.run(batch)
        speech, _, _ = expected(logits_of(setting, batch), batch["target"])
        _, extra = setting.model(**batch["net_input"])
        log_probs, frames = extra["ctc"]
        texts = batch["source_text"]
        ctc = [
            F.ctc_loss(
                log_probs[:count, row].detach(),
                texts["src_tokens"][row, : length - 1],
                count.view(1),
                (length - 1).view(1),
                blank=setting.task.src_dict.bos(),
                reduction="sum",
            ).item()
            for row, (count, length) in enumerate(zip(frames, texts["src_lengths"]))
        ]
        possible = sum(value for value in ctc if math.isfinite(value))
        assert possible > 1
        assert log["ctc_loss"].item() == pytest.approx(possible, rel=1e-4)
        assert loss.item() == pytest.approx(speech + 0.3 * possible, rel=1e-4)

    def test_leaves_the_validation_loss_alone(self, make):
        setting = self.setting(make)
        loss, _, log = setting.run(setting.batch(0, 1), training=False)
        assert log["ctc_loss"] > 0 and loss.item() == pytest.approx(log["st_loss"].item())

    def test_too_few_frames_give_no_loss(self, make):
        setting = self.setting(make)
        batch = setting.batch(0)
        batch["net_input"]["src_tokens"] = batch["net_input"]["src_tokens"][:, :2_000]
        batch["net_input"]["src_lengths"] = torch.tensor([2_000])
        loss, _, log = setting.run(batch)
        assert log["ctc_loss"] == 0 and loss.isfinite()
        loss.backward()
        gradients = [p.grad for p in setting.model.parameters() if p.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)

    def test_needs_a_head(self, make):
        setting = make("--st-training", "--ctc-weight", "0.3")
        with pytest.raises(ConfigError, match="--ctc-head"):
            setting.run(setting.batch(0))


class TestMetrics:
    def test_of_parts_are_those_of_the_whole(self, make):
        setting = make("--st-training", "--mt-finetune", "--ctc-head", "--ctc-weight", "0.3")
        whole = setting.run(setting.batch(0, 1, 2, 3, 4))[2]
        parts = [setting.run(setting.batch(*rows))[2] for rows in ((0, 1, 2), (3,), (4,))]
        one, several = reduced(setting, whole), reduced(setting, *parts)
        assert one.keys() == several.keys()
        for name, value in one.items():
            assert several[name] == pytest.approx(value, abs=2e-3, rel=1e-3), name

    def test_are_in_bits_a_token_and_per_cent(self, make):
        setting = make("--st-training", "--mt-finetune")
        batch = setting.batch(0, 1, 2)
        values = reduced(setting, setting.run(batch)[2])
        count, bit = batch["ntokens"], math.log(2)
        speech, nll, hits = expected(logits_of(setting, batch), batch["target"])
        text, text_nll, _ = expected(logits_of(setting, batch, text=True), batch["target"])
        wanted = {
            "loss": (speech + text) / count / bit,
            "nll_loss": nll / count / bit,
            "st_loss": speech / count / bit,
            "mt_nll_loss": text_nll / count / bit,
            "st_accuracy": 100 * hits / count,
        }
        assert {name: values[name] for name in wanted} == pytest.approx(wanted, abs=1e-3)
        assert values["ppl"] == pytest.approx(2 ** (nll / count / bit), rel=1e-3)

    def test_of_modes_that_did_not_occur_are_absent(self, make):
        setting = make("--st-training")
        values = reduced(setting, setting.run(setting.batch(0))[2])
        assert not any(name.startswith(("mt_", "ext_mt_", "ctc_")) for name in values)

    def test_every_mode_logs_the_same_keys(self, make):
        """fairseq's sum over processes takes the keys of the first of several batches."""
        flags = ("--st-training", "--mt-finetune", "--ctc-head", "--ctc-weight", "0.3")
        speech, text = make(*flags), make(*flags, "--text-input")
        logs = [
            speech.run(speech.batch(0))[2],
            text.run(text.batch(0, mode="mt"))[2],
            text.run(text.batch(0, mode="ext_mt"))[2],
        ]
        assert logs[0].keys() == logs[1].keys() == logs[2].keys()

    def test_sentence_average(self, make):
        setting = make("--st-training")
        setting.criterion.sentence_avg = True
        assert setting.run(setting.batch(0, 1, 2))[1] == 3


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_logits_are_normalised_in_single(make, dtype):
    setting = make("--st-training", "--mt-finetune", "--ctc-head", "--ctc-weight", "0.3")
    batch = setting.batch(0, 1, 2, 3)
    exact = setting.run(batch)[0]
    setting.model.to(dtype)
    batch["net_input"]["src_tokens"] = batch["net_input"]["src_tokens"].to(dtype)
    loss, _, log = setting.run(batch)
    assert logits_of(setting, batch).dtype == dtype
    assert loss.dtype == log["ctc_loss"].dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)


def test_huge_half_precision_logits_give_a_finite_loss(make):
    setting = make("--st-training")
    setting.model.half()
    with torch.no_grad():
        setting.model.decoder.output_projection.weight.mul_(1_000)
    batch = setting.batch(0, 1)
    batch["net_input"]["src_tokens"] = batch["net_input"]["src_tokens"].half()
    logits = logits_of(setting, batch)
    assert logits.abs().max() > 1_000
    assert setting.run(batch)[0].item() == pytest.approx(
        expected(logits, batch["target"])[0], rel=1e-4
    )

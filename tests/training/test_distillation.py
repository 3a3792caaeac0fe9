"""The teacher next to the student: same inputs, right sums, out of sight of everything else."""

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics

from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.models.states import find_modules, watch_layers, watch_projections
from tests.helpers.training_options import (
    NO_DROPOUT,
    make_model,
    make_task,
    parse,
    save_checkpoint,
    save_start,
)

PAD = 1
# A rounding to 8 bits may tip over between two runs of a model whose sums differ in the last bit.
CLOSE = 1e-3
MODES = ["--st-training", "--mt-finetune"]


@pytest.fixture(scope="module")
def teacher(prepared, hubert, tmp_path_factory):
    """The checkpoint of a full-precision model."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    save_start(prepared, hubert, path, *MODES)
    return path


class Setting:
    """A quantised student of the teacher's checkpoint, without dropout, and its criterion."""

    def __init__(self, data, teacher, *flags, distill=True):
        given = ("--teacher-model", teacher) if distill else ()
        flags = [*MODES, "--label-smoothing", "0.1", *given, *flags]
        self.cfg = parse(
            data,
            "--finetuned-st-model",
            teacher,
            "--quant-policy",
            "decoder_encoder",
            *NO_DROPOUT,
            *flags,
            arch="quant_transformer",
        )
        self.task = make_task(data, *flags)
        self.model = make_model(self.cfg, self.task)
        self.criterion = self.task.build_criterion(self.cfg.criterion)
        self.task.load_dataset("dev")
        dataset = self.task.dataset("dev")
        self.batch = dataset.collater([dataset[i] for i in range(4)])

    def run(self, training=True, **changes):
        """(loss, log) of the batch."""
        loss, _, log = self.criterion(self.model.train(training), {**self.batch, **changes})
        return loss, log

    @property
    def inputs(self) -> dict:
        text = self.batch["source_text"]
        return {
            **self.batch["net_input"],
            "text_tokens": text["src_tokens"],
            "text_lengths": text["src_lengths"],
        }


@pytest.fixture
def make(prepared, teacher):
    return lambda *flags, **options: Setting(prepared, teacher, *flags, **options)


def divergence(student, teacher, target, temperature) -> float:
    """KL(teacher || student) over the real tokens, written out."""
    real = target != PAD
    p = (teacher[real].double() / temperature).softmax(-1)
    q = (student[real].double() / temperature).softmax(-1)
    return float((p * (p / q).log()).sum() * temperature**2)


def test_the_divergence_is_that_of_speech_and_of_transcripts(make):
    setting = make("--distill-kl-weight", "0.7", "--distill-temperature", "2")
    plain = make(distill=False)
    loss, log = setting.run()
    own, own_text = both(setting.model, setting.inputs)
    their, their_text = both(setting.criterion.distillation.teacher, setting.inputs)
    target = setting.batch["target"]
    wanted = divergence(own, their, target, 2) + divergence(own_text, their_text, target, 2)
    assert wanted > 1
    assert log["distill_kl"].item() == pytest.approx(wanted, rel=CLOSE)
    assert log["distill_ntokens"] == 2 * (target != PAD).sum()
    assert loss.item() == pytest.approx(plain.run()[0].item() + 0.7 * wanted, rel=CLOSE)


@torch.no_grad()
def both(model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    logits, extra = model(**inputs)
    return logits, extra["text_output"][0]


def test_hidden_states_of_the_named_layers(make):
    setting = make(
        "--distill-kl-weight",
        "0",
        "--distill-hidden-weight",
        "3",
        "--distill-hidden-layers",
        "decoder.layers.-1,encoder.layers.0",
    )
    loss, log = setting.run()
    names = ("decoder.layers.0", "encoder.layers.0")
    seen = []
    for model in (setting.model, setting.criterion.distillation.teacher):
        parts = {name: model.get_submodule(name) for name in names}
        with torch.no_grad(), watch_layers(parts) as states:
            model(**setting.inputs)
        seen.append(states)
    value = 0.0
    for name in names:
        for (own, padding), (their, _) in zip(seen[0][name], seen[1][name]):
            distance = (F.normalize(own, dim=-1) - F.normalize(their, dim=-1)).square().sum(-1)
            real = torch.ones_like(distance, dtype=bool) if padding is None else ~padding.t()
            value += distance[real].mean().item() / 2
    ntokens = setting.batch["ntokens"]
    assert log["distill_hidden"].item() == pytest.approx(value * ntokens, rel=CLOSE)
    plain, _ = make(distill=False).run()
    assert loss.item() == pytest.approx(plain.item() + 3 * value * ntokens, rel=CLOSE)
    assert "distill_kl" not in log


@pytest.mark.parametrize("form", ["softmax", "direction"])
def test_relations(make, form):
    options = ["--distill-relation-weight", "2", "--distill-relation-form", form]
    setting = make("--distill-kl-weight", "0", *options)
    loss, log = setting.run()
    plain, _ = make(distill=False).run()
    added = 2 * log["distill_relation"].item()
    assert added > 0 and loss.item() == pytest.approx(plain.item() + added, rel=CLOSE)


def test_queries_are_kept_before_fairseq_scales_them(make):
    setting = make()
    for model in (setting.model, setting.criterion.distillation.teacher):
        attention = {"a": model.decoder.layers[0].self_attn}
        with watch_projections(attention) as seen, torch.no_grad():
            inputs = []
            handle = attention["a"].q_proj.register_forward_pre_hook(
                lambda module, args, inputs=inputs: inputs.append(args[0])
            )
            model(**setting.batch["net_input"])
            handle.remove()
        assert torch.equal(seen["a.q_proj"][0][0], attention["a"].q_proj(inputs[0]))


TERMS = [
    "--distill-hidden-weight",
    "1",
    "--distill-relation-weight",
    "1",
    "--distill-relation-layers",
    "decoder.layers.-1.self_attn,encoder.layers.*.self_attn",
]


def test_padding_and_batch_mates_do_not_count(make):
    """The terms of a batch are those of its sentences alone (hidden states, by their means)."""
    setting = make()
    dataset = setting.task.dataset("dev")
    _, whole = setting.run(training=False)
    parts = []
    for row in range(4):
        loss, _, log = setting.criterion(setting.model, dataset.collater([dataset[row]]))
        parts.append(log["distill_kl"].item())
    assert whole["distill_kl"].item() == pytest.approx(sum(parts), rel=0.02)


@pytest.mark.parametrize("mode", ["mt", "ext_mt"])
def test_a_batch_of_text_is_distilled_too(make, mode):
    setting = make(*TERMS)
    text = setting.batch["source_text"]
    net_input = {**setting.batch["net_input"], **text}
    sample = {**setting.batch, "net_input": net_input, "mode": mode}
    loss, _, log = setting.criterion(setting.model, sample)
    assert torch.isfinite(loss)
    assert log["distill_kl"] > 0 and log["distill_hidden"] > 0 and log["distill_relation"] > 0


def test_cached_features_reach_the_teacher(make):
    setting = make()
    net_input = setting.batch["net_input"]
    with torch.no_grad():
        features, padding = setting.model.encoder.hubert.eval()(
            net_input["src_tokens"], net_input["src_lengths"]
        )
    _, expected = setting.run(training=False)
    cached = {**net_input, "src_tokens": features, "src_lengths": (~padding).sum(1)}
    _, log = setting.run(training=False, net_input=cached)
    assert log["distill_kl"].item() == pytest.approx(expected["distill_kl"].item(), rel=1e-3)


class TestTeacher:
    def test_learns_nothing_and_is_seen_by_nobody(self, make):
        setting = make(*TERMS)
        teacher = setting.criterion.distillation.teacher
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        setting.criterion.train()
        loss, _ = setting.run()
        loss.backward()
        assert not teacher.training and not any(m.training for m in teacher.modules())
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
        assert list(setting.criterion.parameters()) == []
        assert setting.criterion.state_dict() == {}
        ours = {id(parameter) for parameter in setting.model.parameters()}
        assert not ours & {id(parameter) for parameter in teacher.parameters()}

    def test_moves_the_student_only_by_its_terms(self, make):
        """A gradient flows through each term: there is no .item() in between."""
        for flags in (
            ["--distill-kl-weight", "1"],
            ["--distill-kl-weight", "0", "--distill-hidden-weight", "1"],
            ["--distill-kl-weight", "0", "--distill-relation-weight", "1"],
        ):
            setting, plain = make(*flags), make(distill=False)
            name = "decoder.layers.0.self_attn.q_proj.weight"
            gradients = []
            for each in (setting, plain):
                each.run()[0].backward()
                gradients.append(each.model.get_parameter(name).grad)
            assert not torch.allclose(*gradients), flags

    def test_validation_compares_by_the_cross_entropy_alone(self, make):
        setting, plain = make(*TERMS), make(distill=False)
        with torch.no_grad():
            loss, log = setting.run(training=False)
            expected, _ = plain.run(training=False)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert log["distill_kl"] > 0

    def test_in_half_precision(self, make):
        setting, exact = make("--teacher-fp16"), make()
        assert next(setting.criterion.distillation.teacher.parameters()).dtype == torch.float16
        _, log = setting.run()
        _, expected = exact.run()
        assert log["distill_kl"].item() == pytest.approx(expected["distill_kl"].item(), rel=2e-2)

    def test_under_a_student_in_half_precision(self, make):
        setting = make(*TERMS)
        setting.model.half()
        loss, log = setting.run()
        loss.backward()
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        gradients = [p.grad for p in setting.model.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)

    def test_that_is_missing_stops_training_but_not_validation(self, make):
        setting = make("--teacher-model", "nowhere.pt")
        setting.criterion.eval()
        _, log = setting.run(training=False)
        assert "distill_kl" not in log
        with pytest.raises(CheckpointError, match="--teacher-model nowhere.pt: no such file"):
            setting.criterion.train()


def test_the_terms_warm_up(make):
    setting = make(*TERMS, "--distill-kl-warmup", "10", "--distill-hidden-warmup", "4")
    distillation = setting.criterion.distillation
    weights = [[distillation.weight(term, n) for n in (0, 2, 10, 20)] for term in ("kl", "hidden")]
    assert weights == [[0, 0.2, 1, 1], [0, 0.5, 1, 1]]
    losses = []
    for updates in (0, 5):
        setting.criterion.set_num_updates(updates)
        loss, log = setting.run()
        losses.append(loss.item())
    assert losses[1] - losses[0] == pytest.approx(
        0.5 * log["distill_kl"].item() + log["distill_hidden"].item(), rel=1e-3
    )


def test_each_term_is_logged_by_token(make):
    setting = make(*TERMS)
    logs = [setting.run(training=False)[1], setting.run(training=False)[1]]
    with metrics.aggregate(new_root=True) as aggregated:
        setting.criterion.reduce_metrics(logs)
    values = aggregated.get_smoothed_values()
    for name in ("distill_kl", "distill_hidden", "distill_relation"):
        expected = (logs[0][name] / logs[0]["distill_ntokens"]).item()
        assert values[name] == pytest.approx(expected, abs=1e-4)


class TestBadOptions:
    @pytest.mark.parametrize(
        "flags, message",
        [
            (["--distill-temperature", "0"], "--distill-temperature 0.0: expected more than 0"),
            (["--distill-kl-weight", "-1"], "--distill-kl-weight -1.0"),
            (
                ["--distill-hidden-weight", "1", "--distill-hidden-layers", "decoder.layers.7"],
                "--distill-hidden-layers: 'decoder.layers.7' names no module",
            ),
            (
                ["--distill-relation-weight", "1", "--distill-relation-layers", "decoder.layers.0"],
                "expected a self-attention",
            ),
        ],
    )
    def test_are_refused(self, make, flags, message):
        with pytest.raises(ConfigError, match=message):
            make(*flags)

    @pytest.mark.parametrize("option", ["--distill-hidden-weight", "--distill-kl-weight"])
    def test_a_term_without_a_teacher(self, make, option):
        with pytest.raises(ConfigError, match=f"{option} needs --teacher-model"):
            make(option, "0.5", distill=False)

    def test_a_teacher_of_another_vocabulary(self, prepared, teacher, tmp_path):
        state = torch.load(teacher, weights_only=True)
        state["task_state"]["dictionary_digest"] = "other"
        torch.save(state, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="other.pt: .*another dictionary"):
            Setting(prepared, teacher, "--teacher-model", tmp_path / "other.pt")

    def test_a_quantised_teacher(self, make, prepared, teacher, tmp_path):
        student = make(distill=False)
        path = save_checkpoint(tmp_path / "few.pt", student.cfg, student.task, student.model)
        with pytest.raises(ConfigError, match="few.pt: has 16 quantised layers; expected a full"):
            Setting(prepared, teacher, "--teacher-model", path)

    def test_a_teacher_that_is_none(self, prepared, teacher, hubert):
        with pytest.raises(CheckpointError, match="hubert.pt: is of arch 'hubert'"):
            Setting(prepared, teacher, "--teacher-model", hubert)


def test_modules_by_pattern(make):
    model = make(distill=False).model
    found = find_modules(model, "encoder.hubert.encoder.layers.-1, decoder.layers.*", "--x")
    assert list(found) == ["encoder.hubert.encoder.layers.1", "decoder.layers.0"]
    with pytest.raises(ConfigError, match="--x"):
        find_modules(model, "decoder.layers.-2", "--x")

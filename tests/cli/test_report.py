"""cress-svcd report: what became of the layers, and which of them are sensitive."""

import csv
import json

import pytest
import torch
from torch import nn

from cress_svcd import kernels
from cress_svcd.cli.main import main
from cress_svcd.kernels.backend_choice import BACKEND_VARIABLE
from cress_svcd.models.attention import call_quantized_projections
from cress_svcd.quantization import Policy, apply_policy, quantization_map
from tests.helpers.training_options import make_model, make_task, parse, save_checkpoint

PLANTED = "decoder.layers.0.fc1"
CHOICE = {"rules": [{"match": "*.layers.*", "exclude": "*.hubert.*", "activation_bits": "off"}]}


@pytest.fixture(scope="module")
def folder(prepared, hubert, tmp_path_factory):
    """full.pt, all of whose layers are exact in 1 bit but for one; quantised.pt out of it."""
    folder = tmp_path_factory.mktemp("report")
    cfg = parse(prepared, "--hubert-model-path", hubert)
    task = make_task(prepared)
    model = make_model(cfg, task)
    generator = torch.Generator().manual_seed(4)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name and "hubert" not in name:
            drawn = torch.randn(module.weight.shape, generator=generator)
            exact = torch.where(drawn > 0, 0.25, -0.25)
            module.weight.data.copy_(drawn**3 if name == PLANTED else exact)
    save_checkpoint(folder / "full.pt", cfg, task, model)
    (folder / "choice.yaml").write_text(json.dumps(CHOICE))
    apply_policy(model, Policy.from_dict(CHOICE))
    call_quantized_projections(model)
    with torch.no_grad():  # as after a training
        model.decoder.layers[0].fc2.weight.neg_()
    cfg.model = parse(prepared, arch="quant_transformer").model
    full = torch.load(folder / "full.pt", weights_only=True)["cfg"]["model"]
    for key, value in full.items():
        if key != "_name" and key in cfg.model:
            cfg.model[key] = value
    cfg.model.quantization_map = json.dumps(quantization_map(model))
    save_checkpoint(folder / "quantised.pt", cfg, task, model)
    return folder


@pytest.fixture
def report(folder, prepared, tmp_path, capsys):
    """Runs the command; returns what it wrote as JSON, and its output."""

    def run(checkpoint, *flags):
        path = tmp_path / "report.json"
        command = ["report", folder / checkpoint, "--json", path, "--device", "cpu", *flags]
        code = main([str(word) for word in command])
        captured = capsys.readouterr()
        if code:
            return code, captured.err
        return json.loads(path.read_text()), captured.out

    run.data = ["--data", prepared]
    return run


def test_the_layers_of_a_checkpoint_against_full_precision(report, folder, tmp_path, drawn):
    rows, picture = tmp_path / "layers.csv", tmp_path / "layers.png"
    flags = ["--reference", folder / "full.pt", "--csv", rows, "--png", picture]
    found, printed = report("quantised.pt", *report.data, *flags)
    layers = {row["name"]: row for row in found["layers"]}
    assert len(layers) == found["summary"]["quantized_layers"] == 16 and found["sentences"] == 12
    assert layers["decoder.layers.0.fc2"]["cosine"] < -0.99
    assert layers["encoder.layers.0.fc1"]["relative_error"] < 1e-3
    assert layers[PLANTED]["relative_error"] > 0.1
    assert layers[PLANTED]["method"] == "svcd" and layers[PLANTED]["activation_bits"] is None
    for name in layers:
        assert name in printed
    with rows.open() as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == list(layers)
    assert float(table[0]["cosine"]) == layers[table[0]["name"]]["cosine"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [panel.get_xlabel() for panel in drawn] == [
        "bits a weight, with scales",
        "stored size (KB)",
        "relative error of the output",
        "cosine with full precision",
    ]
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == list(layers)
    bits = [row["bits"] / row["parameters"] for row in layers.values()]
    assert widths(drawn[0]) == pytest.approx(bits)
    assert widths(drawn[3]) == pytest.approx([row["cosine"] for row in layers.values()])


def widths(panel) -> list[float]:
    """Of the bars of a picture, from above."""
    return [bar.get_width() for bar in panel.patches]


def test_without_data_there_are_sizes_alone(report, tmp_path, drawn):
    found, printed = report("quantised.pt", "--png", tmp_path / "sizes.png")
    assert [panel.get_xlabel() for panel in drawn][1:] == ["stored size (KB)"]
    assert all("cosine" not in row for row in found["layers"]) and "cosine" not in printed
    weights = sum(row["parameters"] for row in found["layers"])
    assert found["summary"]["quantized_weights"] == weights
    assert f"{weights:,}" in printed


def test_what_a_policy_would_make_of_a_full_precision_checkpoint(report):
    found, _ = report(
        "full.pt",
        *report.data,
        "--quant-policy",
        "decoder",
        "--quant-method",
        "onebit",
        "--sentences",
        "3",
    )
    assert found["sentences"] == 3 and len(found["layers"]) == 10
    assert {row["method"] for row in found["layers"]} == {"onebit"}
    (planted,) = [row for row in found["layers"] if row["name"] == PLANTED]
    assert planted["relative_error"] > 0.1


def test_a_policys_bits_of_embeddings_and_convolutions_count(report):
    everything, _ = report("full.pt", "--quant-policy", "everything")
    whole, _ = report("full.pt", "--quant-policy", "whole_model")
    assert whole["layers"] == everything["layers"]
    assert whole["summary"]["full_bits"] == everything["summary"]["full_bits"]
    assert whole["summary"]["bits"] < everything["summary"]["bits"] / 2


@pytest.mark.slow
def test_the_sensitive_layer_is_found_and_spared(report, tmp_path):
    policy = tmp_path / "policy.yaml"
    found, printed = report(
        "full.pt",
        *report.data,
        "--sensitivity",
        "--quant-policy",
        "decoder",
        "--quant-activation-bits",
        "off",
        "--budget-bits",
        "8",
        "-o",
        policy,
        "--bleu",
    )
    losses = {row["name"]: abs(row["loss"]) for row in found["units"]}
    assert max(losses, key=losses.get) == PLANTED
    assert losses.pop(PLANTED) > 1000 * max(losses.values())
    assert {"nll", "bleu"} <= found["baseline"].keys() and "BLEU" in printed
    assert found["proposal"]["bits_per_weight"] <= 8
    chosen = Policy.load(policy)
    assert chosen == Policy.from_dict(found["proposal"]["policy"])
    again, _ = report("full.pt", "--quant-policy", policy)
    assert {row["name"] for row in again["layers"]} == set(found["proposal"]["units"])


def test_a_stopped_search_goes_on(report, tmp_path, folder, drawn):
    trials = tmp_path / "trials.jsonl"
    flags = [
        *report.data,
        "--sensitivity",
        "--quant-policy",
        folder / "choice.yaml",
        "--by",
        "block",
        "--sentences",
        "4",
        "--trials",
        trials,
    ]
    whole, _ = report("full.pt", *flags, "--png", tmp_path / "losses.png")
    assert [panel.get_xlabel() for panel in drawn] == [
        "loss (bits a token)",
        "loss for a megabit saved",
    ]
    assert widths(drawn[0]) == [row["loss"] for row in whole["units"]]
    assert {row["name"] for row in whole["units"]} == {"encoder.layers.0", "decoder.layers.0"}
    lines = trials.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    # Stopped while the last was written; what was measured before is taken as it stands.
    changed = lines[2].replace('"nll": ', '"nll": 1')
    trials.write_text("".join([*lines[:2], changed, lines[3][:20]]))
    again, _ = report("full.pt", *flags)
    nll = {row["name"]: row["nll"] for row in whole["units"]}
    found = {row["name"]: row["nll"] for row in again["units"]}
    assert trials.read_text().splitlines(keepends=True) == [*lines[:2], changed, lines[3]]
    first, last = (json.loads(line)["quantized"] for line in lines[2:])
    assert found[first] > nll[first] + 5 and found[last] == nll[last]
    code, message = report("full.pt", *flags, "--seed", "2")
    assert code == 2 and "was measured with other settings" in message
    for broken, told in (("3", "no quantized and nll in it"), ("[" * 100_000, "is not JSON")):
        trials.write_text("".join([lines[0], broken, "\n"]))
        code, message = report("full.pt", *flags)
        assert code == 2 and f"--trials {trials}:2: {told}" in message


@pytest.mark.parametrize(
    "checkpoint, flags, message",
    [
        ("full.pt", [], "has no quantised layer; give --quant-policy"),
        ("quantised.pt", ["--quant-policy", "decoder"], "is quantised already"),
        ("quantised.pt", ["--sensitivity", "--data", "DATA"], "is quantised already"),
        ("quantised.pt", ["--reference", "x.pt"], "give --data"),
        ("quantised.pt", ["--quant-bits", "1"], "changes a --quant-policy"),
        ("full.pt", ["--sensitivity"], "give --data"),
        ("full.pt", ["--budget-bits", "2"], "belong to --sensitivity"),
        ("full.pt", ["--sensitivity", "--data", "DATA", "-o", "x"], "give --budget-bits or"),
        ("full.pt", ["--sensitivity", "--data", "DATA", "--budget-bits", "1"], "cannot be reached"),
        ("nowhere.pt", [], "nowhere.pt"),
    ],
)
def test_bad_input(report, prepared, checkpoint, flags, message):
    code, error = report(checkpoint, *[prepared if flag == "DATA" else flag for flag in flags])
    assert code == 2 and message in error


def test_a_reference_of_another_kind_is_refused(report, folder):
    code, error = report("quantised.pt", *report.data, "--reference", folder / "quantised.pt")
    assert code == 2 and "it has a BitLinear, expected a full-precision layer" in error


@pytest.fixture(scope="module")
def packed(folder):
    path = folder / "packed.pt"
    assert main(["pack", str(folder / "quantised.pt"), "-o", str(path)]) == 0
    return path


class TestKernels:
    def test_it_is_a_report_of_its_own(self, packed, capsys):
        assert main(["report", str(packed), "--kernels", "--sensitivity", "--data", "x"]) == 2
        assert "--kernels is a report of its own" in capsys.readouterr().err
        assert main(["report", str(packed), "--kernels", "--png", "x.png"]) == 2
        assert "--kernels has no figures to draw" in capsys.readouterr().err

    def test_of_a_packed_model_every_kind_is_reported(self, report, packed, tmp_path):
        rows = tmp_path / "kernels.csv"
        found, printed = report(packed.name, "--kernels", "--csv", rows)
        signs = [row for row in found["kernels"] if row["operation"] == "sign_gemm"]
        assert {row["m"] for row in signs} == {1, 8, 64, 1024}
        assert sum(row["layers"] for row in signs if row["m"] == 1) == 16
        backend = kernels.choose(torch.device("cpu"))
        expected = {"cpu": "cpu/sign_gemm", "torch": "torch_int8"}.get(backend, backend)
        assert {row["kernel"] for row in signs} == {expected}
        assert f"  {expected}: {signs[0]['when']}" in printed and "back ends here:" in printed
        with rows.open() as file:
            table = list(csv.DictReader(file))
        assert [row["kernel"] for row in table] == [row["kernel"] for row in found["kernels"]]

    def test_the_environment_chooses_the_back_end(self, report, packed, monkeypatch):
        monkeypatch.setenv(BACKEND_VARIABLE, "reference")
        found, printed = report(packed.name, "--kernels")
        signs = [row for row in found["kernels"] if row["operation"] == "sign_gemm"]
        assert {row["kernel"] for row in signs} == {"reference"}
        assert "reference: always: signs are unpacked" in printed

    def test_a_model_in_training_is_told_as_well(self, report):
        found, _ = report("quantised.pt", "--kernels", *report.data)
        assert {row["operation"] for row in found["kernels"]} == {"conv_positions", "training"}
        assert sum(row["layers"] for row in found["kernels"] if row["m"] == 1) == 16

    def test_a_full_precision_model_has_positions_alone(self, report):
        found, printed = report("full.pt", "--kernels", *report.data)
        (row,) = found["kernels"]
        assert (row["operation"], row["kernel"]) == ("conv_positions", "modules")
        assert "back ends here:" in printed

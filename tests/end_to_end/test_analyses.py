"""The analyses of the method's description, on the tiny corpus."""

import csv
import json

import pytest

from cress_svcd.atomic_files import write_text
from cress_svcd.cli.main import main
from cress_svcd.quantization import Policy
from cress_svcd.recipes.recipe_file import load_recipe
from tests.helpers.fairseq_commands import USER_DIR, run_series

RECIPES = USER_DIR.parent / "scripts" / "recipes"
NAMES = ("submodules", "constraint", "initialisation", "bitnet")


@pytest.mark.parametrize("name", NAMES)
def test_each_ends_in_a_table_and_a_picture_as_all_of_them_do(name):
    (*_, last) = load_recipe(RECIPES / f"analysis-{name}.yaml").stages
    assert [path.rpartition("/")[2] for path in last.makes] == [f"{name}.csv", f"{name}.png"]
    stages = {stage.name: stage for stage in load_recipe(RECIPES / "analyses.yaml").stages}
    assert stages[last.name] == last


def test_the_cuts_are_those_of_the_demos_features():
    demo = load_recipe(RECIPES / "demo.yaml").stages
    (made,) = (stage.commands[0] for stage in demo if stage.name == "features")
    trainings = [
        command
        for stage in load_recipe(RECIPES / "analyses.yaml").stages
        for command in stage.commands
        if command[0] == "fairseq-train"
    ]
    assert len(trainings) > 4
    for option in ("--vary-cuts", "--join-segments"):
        value = made[made.index(option) + 1]
        assert all(f"{option}={value}" in training for training in trainings)


def test_as_published_every_projection_has_a_policy(monkeypatch):
    monkeypatch.chdir(USER_DIR.parent)
    published = {"policies": "configs/quant/published/cross_attention", "variant": "paper"}
    stages = load_recipe(RECIPES / "analyses.yaml", published).stages
    flags = [word for command in stages[0].commands for word in command]
    policies = [flag.partition("=")[2] for flag in flags if flag.startswith("--quant-policy=")]
    assert len(policies) == 4
    assert all(not rule.spec.keep_weight for path in policies for rule in Policy.load(path).rules)


def test_constraint_against_none(prepared, averaged, tmp_path):
    """In half precision, with a loss scale that both must first bring down."""
    out = tmp_path / "out"
    settings = {
        "data": prepared,
        "start": averaged,
        "out": out,
        "speech": "[]",
        "curve_updates": "3",
        "curve_samples": "200000",
        "warmup": "1",
        "log_interval": "1",
        "num_workers": "0",
        "half": f"[--fp16, --cpu, --fp16-init-scale={2**24}]",
    }
    changes = {key: str(value) for key, value in settings.items()}
    *trainings, last = load_recipe(RECIPES / "analysis-constraint.yaml", changes).stages
    # In one process: to start one takes seconds.
    outcomes = run_series({stage.name: stage.commands[0] for stage in trainings}, USER_DIR.parent)
    for stage in trainings:
        assert not outcomes[stage.name].failed, outcomes[stage.name].output[-3000:]
        write_text(*stage.outputs, outcomes[stage.name].output)
    assert main(last.commands[0][1:]) == 0
    with (out / "constraint.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("constraint", "without"):
        mine = [row for row in rows if row["log"] == name]
        assert [row["num_updates"] for row in mine] == ["1.0", "2.0", "3.0"]
        assert all(float(row["overflows"]) > 0 and float(row["loss"]) > 0 for row in mine)
        assert float(mine[0]["loss_scale"]) < 2**24
    constraint, without = json.loads((out / "constraint.json").read_text())
    assert constraint["overflows"] < without["overflows"]
    assert (out / "constraint.png").read_bytes().startswith(b"\x89PNG")

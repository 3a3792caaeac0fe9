"""The bench of 1-bit layers, a row of it on the tiny corpus."""

import json
import sys
from pathlib import Path

import pytest
from fairseq_cli import generate

from cress_svcd.atomic_files import write_text
from cress_svcd.cli.main import main
from cress_svcd.recipes.recipe_file import load_recipe
from tests.helpers.fairseq_commands import USER_DIR, run_series

BENCH = USER_DIR.parent / "scripts" / "bench" / "quantization.yaml"


def test_a_row_from_training_to_the_picture(prepared, averaged, speech, tmp_path, monkeypatch):
    full = tmp_path / "full"
    write_text(full / "results" / "speech.txt", speech)
    settings = {
        "full": full,
        "data": prepared,
        "start": averaged,
        "arch": "quant_transformer",
        "parts": "false",
        "methods": "false",
        "row": "decoder",
        "row_options": "[--quant-policy=decoder]",
        "updates": "4",
        "warmup": "1",
        "averaged": "1",
        "save_every": "2",
        "max_tokens": "300000",
        "num_workers": "0",
        "precision": "[--cpu]",
        "cached": "[]",
    }
    recipe = load_recipe(BENCH, {key: str(value) for key, value in settings.items()})
    (stage,) = recipe.stages
    assert all(Path(file).exists() for file in stage.needs)
    # Not a process each: to start one takes seconds.
    train, average, translate, *rest = stage.commands
    (outcome,) = run_series({"train": train}, USER_DIR.parent).values()
    assert not outcome.failed, outcome.output[-3000:]
    assert main(average[1:]) == 0
    monkeypatch.chdir(USER_DIR.parent)
    monkeypatch.setattr(sys, "argv", translate)
    generate.cli_main()
    for command in rest:
        assert main(command[1:]) == 0, command
    assert all(Path(file).exists() for file in stage.makes)
    report = json.loads((recipe.folder / "decoder" / "report.json").read_text())
    assert {row["method"] for row in report["layers"]} == {"svcd"} and report["sentences"] == 12
    assert all("cosine" in row for row in report["layers"])
    systems = json.loads((recipe.folder / "decoder.json").read_text())["systems"]
    assert [row["name"] for row in systems] == ["full", "decoder"]
    assert all(row["sentences"] == 12 for row in systems)


@pytest.mark.parametrize("group, rows", [("parts", 4), ("methods", 6)])
def test_every_row_goes_through_every_stage(group, rows):
    stages = [s for s in load_recipe(BENCH).stages if s.name.split("-")[0] == group]
    words = [word for command in stages[0].commands for word in command]
    folders = [word.partition("=")[2] for word in words if word.startswith("--save-dir=")]
    assert len(set(folders)) == rows and [len(stage.commands) for stage in stages[:4]] == [rows] * 4
    for stage in stages[1:4]:
        for folder, command in zip(folders, stage.commands):
            assert any(f"{folder}/" in word for word in command), (stage.name, folder)
    for command in stages[4].commands:
        assert all(any(f"{folder}/" in word for word in command) for folder in folders)

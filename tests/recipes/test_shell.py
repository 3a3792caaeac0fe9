"""Recipes as a script: an option a line, each stage's words where the recipe keeps them."""

import shlex
import subprocess

import pytest
import yaml

from cress_svcd.recipes.recipe_file import load_recipe
from cress_svcd.recipes.shell import one_option_a_line, script


@pytest.mark.parametrize(
    "command, lines",
    [
        (["x"], ["x"]),
        (["cress-svcd", "score", "a b.txt", "c"], ["cress-svcd score 'a b.txt' c"]),
        (
            ["train", "data", "--lr", "0.1", "-1", "--betas=(0.9, 1)", "-o", "-", "--amp"],
            ["train data", "--lr 0.1 -1", "'--betas=(0.9, 1)'", "-o -", "--amp"],
        ),
        (["python", "-m", "x.y", "--n", "größe"], ["python", "-m x.y", "--n 'größe'"]),
    ],
)
def test_an_option_has_a_line_with_its_values(command, lines):
    assert one_option_a_line(command).split(" \\\n  ") == lines
    assert one_option_a_line(command, "> f").split(" \\\n  ") == [*lines, "> f"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [
        {
            "name": "one",
            "does": "say two things",
            "commands": [["echo", "a b"], ["echo", "--c", "d"]],
        },
        {
            "name": "both",
            "does": "x",
            "together": True,
            "commands": [["echo", "e"], ["ls", "none"]],
        },
        {"name": "kept", "does": "y", "commands": [["echo", "f"]], "output": "{out}/results/f.txt"},
        {
            "name": "each",
            "does": "z",
            "together": True,
            "commands": [["echo", "g"], ["echo", "h"]],
            "output": ["{out}/results/g.txt", "{out}/results/h.txt"],
        },
    ]
    content = {"settings": {"out": "my runs/out"}, "stages": stages}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_recipe("r.yaml")


def test_many_values_take_several_lines():
    values = [f"system{number}=results/system{number}/generate.txt" for number in range(9)]
    command = ["cress-svcd", "compare", *values, "--json", "a b.json"]
    lines = one_option_a_line(command).split(" \\\n  ")
    assert max(map(len, lines)) <= 100 and lines[-1] == "--json 'a b.json'"
    assert shlex.split(" ".join(lines)) == command


def test_the_lines_of_a_recipe(recipe):
    logs = "'my runs/out/logs"
    assert list(script(recipe, 1, 4)) == [
        "# 1 one: say two things",
        "mkdir -p 'my runs/out/logs'",
        f"echo 'a b' \\\n  > {logs}/01-one.log' 2>&1",
        f"echo \\\n  --c d \\\n  >> {logs}/01-one.log' 2>&1",
        "# 2 both: x",
        f"echo e \\\n  > {logs}/02-both-1.log' 2>&1",
        f"ls none \\\n  > {logs}/02-both-2.log' 2>&1",
        "# 3 kept: y",
        "mkdir -p 'my runs/out/results'",
        "echo f \\\n  > 'my runs/out/results/f.txt' 2>&1",
        "# 4 each: z",
        "echo g \\\n  > 'my runs/out/results/g.txt' 2>&1",
        "echo h \\\n  > 'my runs/out/results/h.txt' 2>&1",
    ]
    assert list(script(recipe, 3, 3))[0] == "# 3 kept: y"


def test_a_shell_runs_them(recipe, tmp_path):
    subprocess.run(["bash", "-c", "\n".join(script(recipe, 1, 4))], check=True)
    folder = tmp_path / "my runs" / "out"
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.*")}
    assert "none" in found.pop("logs/02-both-2.log")
    assert found == {
        "logs/01-one.log": "a b\n--c d\n",
        "logs/02-both-1.log": "e\n",
        "results/f.txt": "f\n",
        "results/g.txt": "g\n",
        "results/h.txt": "h\n",
    }

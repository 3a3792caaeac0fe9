"""Recipes that take their steps from another file."""

from pathlib import Path

import pytest
import yaml

from cress_svcd.errors import ConfigError
from cress_svcd.recipes.recipe_file import load_recipe
from cress_svcd.shipped import PARTS, shipped_files, shipped_names

STEPS = {
    "about": "the steps",
    "settings": {"lang": None, "rate": 1, "out": "runs/{lang}", "flags": ["--to={lang}"]},
    "stages": [
        {"name": "a", "commands": [["make", "{lang}", "{flags}"]], "needs": ["{flags}", "x"]},
        {"name": "b", "commands": [["use", "{rate}"]]},
    ],
    "report": [{"name": "row", "scores": "{out}/scores.json"}],
}


@pytest.fixture
def write(tmp_path):
    """Writes a recipe into a folder of its own, next to that of the steps; returns its path."""

    def write(content: dict, name="pair.yaml") -> Path:
        path = tmp_path / "pairs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    (tmp_path / "steps.yaml").write_text(yaml.safe_dump(STEPS, sort_keys=False), encoding="utf-8")
    return write


def include(**keys) -> dict:
    return {"include": "../steps.yaml", **keys}


def commands(recipe) -> list:
    return [stage.commands for stage in recipe.stages]


class TestIncluding:
    def test_settings_are_replaced_and_reach_what_is_made_of_them(self, write):
        recipe = load_recipe(write(include(name="p", settings={"lang": "ro", "rate": 2})))
        assert commands(recipe) == [[["make", "ro", "--to=ro"]], [["use", "2"]]]
        assert recipe.settings["out"] == "runs/ro" and recipe.stages[0].needs == ["--to=ro", "x"]
        assert (recipe.name, recipe.about) == ("p", "the steps")
        assert recipe.report == [{"name": "row", "scores": "runs/ro/scores.json"}]

    def test_a_command_line_replaces_both(self, write):
        path = write(include(settings={"lang": "ro"}))
        recipe = load_recipe(path, {"lang": "no", "rate": "3"})
        assert commands(recipe) == [[["make", "no", "--to=no"]], [["use", "3"]]]

    def test_single_stages_with_changes_of_their_keys(self, write):
        stages = [
            {"use": "b", "needs": ["{more}"]},
            {"name": "c", "commands": [["own", "{more}"]]},
        ]
        path = write(include(settings={"lang": "de", "more": "y"}, stages=stages))
        recipe = load_recipe(path)
        assert commands(recipe) == [[["use", "1"]], [["own", "y"]]]
        assert recipe.stages[0].needs == ["y"]

    def test_over_two_files(self, write):
        write(include(settings={"lang": "de"}), "between.yaml")
        recipe = load_recipe(write({"include": "between.yaml", "settings": {"rate": 5}}))
        assert commands(recipe) == [[["make", "de", "--to=de"]], [["use", "5"]]]


class TestErrors:
    @pytest.mark.parametrize(
        "content, message",
        [
            (include(), "steps.yaml.*{lang}.*setting lang has no value: .*--set lang="),
            (include(settings={"lnag": "de"}), "pair.yaml: settings: .*no setting lnag.*lang"),
            (include(stages=[{"use": "z"}]), "pair.yaml: use: .*no stage z; it has a, b"),
            (include(stages=[{"use": "a", "dose": 1}]), "pair.yaml: stage .*'dose'"),
            ({"stages": [{"use": "a"}]}, "pair.yaml: stage .*needs name and commands.*'use'"),
            ({"include": "none.yaml"}, "none.yaml: cannot be read"),
            ({"include": ["../steps.yaml"]}, "pair.yaml: include: expected the name of one"),
            ({"include": "pair.yaml"}, "pair.yaml: include: .*includes this file in its turn"),
            (include(stage=[]), "pair.yaml: no recipe has a key stage; known are .*stages"),
            (
                include(settings={"lang": "de"}, stages=[{"use": "b", "does": "{nothing}"}]),
                "pair.yaml: '{nothing}': no setting 'nothing'",
            ),
        ],
    )
    def test_they_name_file_and_key(self, write, content, message):
        with pytest.raises(ConfigError, match=f"(?s){message}"):
            load_recipe(write(content))

    def test_a_fault_of_the_included_file_is_told_as_its_own(self, write, tmp_path):
        steps = dict(STEPS, stages=[{"name": "a", "commands": [["x", "{absent}"]]}])
        (tmp_path / "steps.yaml").write_text(yaml.safe_dump(steps, sort_keys=False))
        with pytest.raises(ConfigError, match="steps.yaml: '{absent}': no setting 'absent'"):
            load_recipe(write(include(settings={"lang": "de"})))


@pytest.mark.parametrize("value, there", [("", ["b"]), ("x", ["a"]), ([], ["b"]), (0, ["b"])])
def test_either_of_two_stages_and_rows(write, value, there):
    either = [{"name": "a", "when": "{key}"}, {"name": "b", "unless": "{key}"}]
    stages = [{**choice, "commands": [["x"]]} for choice in either]
    settings = {"out": "o", "key": value}
    recipe = load_recipe(write({"settings": settings, "stages": stages, "report": either}))
    assert [stage.name for stage in recipe.stages] == there
    assert recipe.report == [{"name": name} for name in there]


WORDS = [
    *("no", "yes", "on", "off", "0012", "1:30", "1_000", "1.10", "1e5", "2024-01-01", "0x10", "~"),
    *("null", "nan", ".inf", "NA", "True", "true", "12", "1.5", "5e-4"),
]


@pytest.fixture
def plain(tmp_path):
    """Writes a recipe as text, scalars as they stand; returns its path."""

    def write(text: str) -> Path:
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "a.yaml"

    return write


@pytest.mark.parametrize("word", WORDS)
def test_arguments_and_settings_stay_as_they_are_written(plain, word):
    text = f"settings:\n  out: o\n  key: {word}\n  many: [{word}]\nstages:\n"
    text += (
        f"- {{name: {word}, needs: [{word}], commands: [[x, {word}, '{{many}}', '--a={{key}}']]}}\n"
    )
    nothing = word in ("~", "null")
    path = plain(text.replace(f"key: {word}", "key: x") if nothing else text)
    stage = load_recipe(path).stages[0]
    word = "True" if word == "true" else word
    assert stage.commands == [
        ["x", *["True" if word == "True" else word] * 2, stage.commands[0][3]]
    ]
    assert stage.commands[0][3] == ("--a=x" if nothing else f"--a={word}")
    assert stage.needs == [word]


@pytest.mark.parametrize("word", WORDS)
def test_a_command_line_changes_settings_as_written(plain, word):
    text = "settings: {out: o, name: x, rate: 1, many: [1]}\n"
    path = plain(
        f"{text}stages: [{{name: a, commands: [[x, '{{name}}', '{{rate}}', '{{many}}']]}}]\n"
    )
    recipe = load_recipe(path, {"name": word, "many": f"[{word}]"})
    assert recipe.stages[0].commands == [["x", word, "1", "True" if word == "true" else word]]
    if word not in ("~", "null"):
        changed = load_recipe(path, {"rate": word}).stages[0].commands[0][2]
        assert changed == ("True" if word == "true" else word)


@pytest.mark.parametrize(
    "word, is_set", [("no", 0), ("off", 0), ("false", 0), ("yes", 1), ("on", 1)]
)
def test_words_for_yes_and_no(plain, word, is_set):
    text = f"settings: {{out: o, key: {word}}}\nstages:\n"
    text += f"- {{name: a, commands: [[x]], together: {word}}}\n"
    path = plain(text + "- {name: b, when: '{key}', commands: [[x]]}\n")
    recipe = load_recipe(path)
    assert recipe.stages[0].together == bool(is_set)
    assert len(recipe.stages) == 1 + is_set
    assert len(load_recipe(path, {"key": "false"}).stages) == 1


class TestOutput:
    text = "settings: {{out: o, none: ''}}\nstages:\n- {{name: a, commands: [[x], [y]], {}}}\n"

    @pytest.mark.parametrize(
        "given, found",
        [("p", ["p"]), ("'{none}'", []), ("[p, q]", ["p", "q"]), ("[]", [])],
    )
    def test_one_file_or_one_for_each_command(self, plain, given, found):
        path = plain(self.text.format(f"together: true, output: {given}"))
        assert load_recipe(path).stages[0].outputs == found

    @pytest.mark.parametrize(
        "given",
        ["[p]", "[p, p]", "[p, q, r]", "[p, '{none}']", "[p, {when: '{none}', words: [q]}]"],
    )
    def test_no_other_number(self, plain, given):
        path = plain(self.text.format(f"together: true, output: {given}"))
        with pytest.raises(ConfigError, match="stage a: output: expected .* commands, 2; found"):
            load_recipe(path)

    def test_commands_one_after_the_other_have_one(self, plain):
        with pytest.raises(ConfigError, match="stage a: output: expected one file"):
            load_recipe(plain(self.text.format("output: [p, q]")))


@pytest.mark.parametrize("encoding", ["utf-8-sig"])
def test_byte_order_mark(plain, encoding):
    path = plain("settings: {out: o}\nstages: [{name: a, commands: [[x, \u00e9]]}]\n")
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert load_recipe(path).stages[0].commands == [["x", "\u00e9"]]


@pytest.mark.parametrize("name", ["demo", "en-de", "analyses"])
def test_cuts_that_are_not_varied_leave_no_word_in_the_shipped_recipes(name):
    """Their commands are those of the time before, whose stages count as done."""
    off = load_recipe(shipped_files("recipes")[name], {"vary_cuts": "0", "join_segments": "0"})
    on = load_recipe(shipped_files("recipes")[name])
    words = [
        [word for stage in recipe.stages for command in stage.commands for word in command]
        for recipe in (off, on)
    ]
    named = [[word for word in each if "cuts" in word or "join" in word] for each in words]
    assert not named[0] and "--vary-cuts=0.5" in named[1] and "--join-segments=0.05" in named[1]
    assert "--variants" not in words[0]
    assert not [word for word in words[1] if "transforms" in word]


def test_audio_transforms_reach_the_trainings_from_speech():
    recipe = load_recipe(shipped_files("recipes")["en-de"], {"audio_transforms": "speed,noise=0.2"})
    words = [command for stage in recipe.stages for command in stage.commands]
    asked = [command for command in words if "--audio-transforms=speed,noise=0.2" in command]
    assert len(asked) == 2 and all("--st-training" in command for command in asked)


def test_parts_of_recipes_are_known_as_such():
    """What needs a setting before it can be loaded is a part of others."""
    for name, path in shipped_files("recipes").items():
        if name in PARTS["recipes"]:
            with pytest.raises(ConfigError, match="has no value"):
                load_recipe(path)
        else:
            assert load_recipe(path).stages
    assert set(shipped_names("recipes")) == shipped_files("recipes").keys() - {*PARTS["recipes"]}


def test_a_setting_whose_name_is_a_number(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("settings: {3: x, out: runs}\nstages: [{name: a, commands: [[echo]]}]\n")
    with pytest.raises(ConfigError, match="no setting other; it has 3, out"):
        load_recipe(path, {"other": "1"})


@pytest.mark.parametrize("name", ["en-de", "en-8"])
def test_what_a_pair_trained_without_few_shapes_stays_finished(name):
    path = Path(__file__).parents[2] / f"scripts/recipes/{name}.yaml"
    given = {"mustc": "m", "hubert": "h.pt"}
    today, before = (
        {stage.name: stage for stage in load_recipe(path, changes).stages}
        for changes in (given, given | {"batch_shapes": "0"})
    )
    trainings = [
        stage for stage in today.values() if "--batch-shapes=24" in sum(stage.commands, [])
    ]
    assert [stage.name for stage in trainings] == ["mt", "st", "svcd"]
    for stage in trainings:
        assert stage.former_digest() == before[stage.name].digest()

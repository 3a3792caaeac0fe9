"""The recipes of the project: all dry-run, all started, one run from the release to the scores."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from cress_svcd.atomic_files import read_yaml
from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.recipes.recipe_file import load_recipe
from cress_svcd.recipes.runner import resolve
from tests.helpers.deltalm_files import TINY as TINY_DELTALM
from tests.helpers.deltalm_files import TINY_HEADS
from tests.helpers.dry_run import printed_commands
from tests.helpers.fairseq_commands import run_stages
from tests.helpers.large_vocabulary import write_vocabulary
from tests.helpers.training_options import TINY_MODEL

SCRIPTS = Path(__file__).parents[2] / "scripts"
PAIRS = sorted((SCRIPTS / "recipes").glob("en-[a-z]*.yaml"))
ANALYSES = sorted((SCRIPTS / "recipes").glob("anal*.yaml"))
RUNNABLE = [
    *PAIRS,
    SCRIPTS / "recipes" / "en-8.yaml",
    SCRIPTS / "recipes" / "demo.yaml",
    SCRIPTS / "recipes" / "demo-2.yaml",
    *ANALYSES,
    *sorted((SCRIPTS / "bench").glob("*.yaml")),
]
# Of CRESS, on MuST-C.
LENGTH_PENALTIES = {
    "de": 1.2,
    "es": 0.6,
    "fr": 1.8,
    "it": 1.0,
    "nl": 1.0,
    "pt": 1.4,
    "ro": 1.4,
    "ru": 0.8,
}


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_every_recipe_of_the_project_can_be_dry_run(path, capsys):
    recipe = load_recipe(path)
    assert recipe.about and all(stage.does for stage in recipe.stages)
    assert main(["recipe", str(path), "--dry-run"]) == 0
    printed = printed_commands(capsys.readouterr().out)
    assert printed == [command for stage in recipe.stages for command in stage.commands]
    assert not any(re.search(r"{\w+}", word) for command in printed for word in command)


def test_there_is_a_recipe_for_each_pair():
    recipes = [load_recipe(path) for path in PAIRS]
    found = {recipe.settings["lang"]: recipe.settings["lenpen"] for recipe in recipes}
    assert found == LENGTH_PENALTIES
    for path, recipe in zip(PAIRS, recipes):
        assert path.stem == recipe.name == f"en-{recipe.settings['lang']}"
        assert recipe.folder == Path("runs") / recipe.name
        translate = next(stage for stage in recipe.stages if stage.name == "translate-full")
        assert f"--lenpen={recipe.settings['lenpen']}" in translate.commands[0]


@pytest.mark.parametrize("deltalm", ["", "deltalm"])
def test_the_recipe_of_all_pairs_is_about_each_of_them(deltalm):
    recipe = load_recipe(SCRIPTS / "recipes" / "en-8.yaml", {"deltalm": deltalm})
    languages = recipe.settings["lang"].split(",")
    assert languages == sorted(LENGTH_PENALTIES)
    stages = {stage.name: stage for stage in recipe.stages}
    prepare = stages["prepare-for-deltalm" if deltalm else "prepare"].commands[0]
    assert prepare[prepare.index("--tgt-lang") + 1] == ",".join(languages)
    for command, language in zip(stages["text"].commands, languages, strict=True):
        assert command[command.index("--tgt-lang") + 1] == language
    for name in ("translate-full", "translate-packed"):
        named = [word for command in stages[name].commands for word in command]
        assert [word for word in named if "--tgt-lang" in word] == [
            f"--tgt-lang={language}" for language in languages
        ]
    for name in ("deltalm", "svcd-with-deltalm") if deltalm else ("mt", "svcd"):
        assert not any("--tgt-lang" in word for word in stages[name].commands[0])
    assert len(stages["score"].commands) == 8
    made = {file for stage in recipe.stages for file in stage.makes}
    for stage in recipe.stages:
        assert {file for file in stage.needs if file.startswith("runs/")} <= made, stage.name


def test_external_text_takes_the_place_of_the_corpus_alone():
    pair = load_recipe(PAIRS[0], {"external": "[wmt.en, wmt.de]"})
    names = [stage.name for stage in pair.stages]
    assert "external-text" in names and "text" not in names
    (command,) = pair.stages[names.index("external-text")].commands
    assert command[command.index("--split") :][:4] == ["--split", "train", "wmt.en", "wmt.de"]
    assert pair.stages[1].makes == load_recipe(PAIRS[0]).stages[1].makes


def test_deltalm_takes_the_place_of_the_transformer():
    plain, pair = (
        load_recipe(PAIRS[0], {"deltalm": folder, "external": "[wmt.en, wmt.de]"})
        for folder in ("", "deltalm")
    )
    commands = {stage.name: stage.commands[0] for stage in pair.stages}
    archs = [word for command in commands.values() for word in command if "--arch" in word]
    assert archs == ["--arch=hubert_deltalm"] * 2 + ["--arch=quant_deltalm"]
    assert not [word for command in commands.values() for word in command if "layers" in word]
    assert "deltalm/deltalm-base.pt" in pair.stages[0].needs
    assert {"wmt.en", "wmt.de"} <= set(commands["vocabulary"])
    assert "runs/en-de/deltalm/spm.model" in commands["prepare-for-deltalm"]
    assert "--deltalm-model-path=runs/en-de/deltalm/deltalm-base.pt" in commands["deltalm"]
    # Each side makes what the common stages need.
    made = [{file for stage in recipe.stages for file in stage.makes} for recipe in (plain, pair)]
    assert made[0] < made[1]


@pytest.mark.parametrize("name", ["demo", "demo-2"])
def test_what_the_demo_averages_ends_with_its_last_update(name):
    settings = load_recipe(SCRIPTS / "recipes" / f"{name}.yaml").settings
    for updates, interval in [
        ("st_updates", "save_interval"),
        ("decoder_updates", "svcd_save_interval"),
        ("everything_updates", "svcd_save_interval"),
    ]:
        assert int(settings[updates]) % int(settings[interval]) == 0, updates


@pytest.mark.parametrize("path", [SCRIPTS / "recipes" / "demo.yaml", *PAIRS[:2]])
@pytest.mark.parametrize("deltalm", ["", "deltalm"])
def test_the_segmenter_comes_after_all_trainings_and_into_the_packed_model(path, deltalm):
    """So that a run of before it trains nothing again, and starts from what it started from."""
    demo = path.stem == "demo"
    recipe = load_recipe(path, {} if demo else {"deltalm": deltalm})
    names = [stage.name for stage in recipe.stages]
    place = names.index("segmenter")
    for number, stage in enumerate(recipe.stages):
        if any("train" in word.split(".")[-1] for word in stage.commands[0][:6]):
            assert number <= place, stage.name
    stage, pack = recipe.stages[place], recipe.stages[names.index("pack")]
    assert stage.together and len(stage.commands) == 2
    for command, made in zip(stage.commands, stage.makes):
        assert command[:2] == ["cress-svcd", "train-segmenter"] and command[2] in stage.needs
        assert command[command.index("-o") + 1] == made and made not in stage.needs
    assert pack.commands[0][2] == stage.makes[1] == pack.needs[0] and place < names.index("pack")
    assert [other.makes for other in recipe.stages].count(pack.makes) == 1
    trained = recipe.stages[names.index("average")].makes
    assert trained == [f"{recipe.folder}/st/averaged.pt"] and stage.commands[0][2] == trained[0]


def test_without_the_segmenter_all_is_as_before_it():
    """The digest is what a run of before the segmenter wrote for this folder."""
    recipe = load_recipe(PAIRS[0], {"segmenter": "false", "out": "/runs/en-de"})
    stages = {stage.name: stage for stage in recipe.stages}
    assert "segmenter" not in stages
    assert stages["pack"].digest() == "4498e32f0e5dfc4b"
    assert stages["pack"].needs == ["/runs/en-de/svcd/averaged.pt"]


def test_several_processes_are_a_setting(capsys):
    launch = "train=[torchrun, --nproc-per-node=4, -m, fairseq_cli.train]"
    assert main(["recipe", str(PAIRS[0]), "--dry-run", "--set", launch]) == 0
    printed = printed_commands(capsys.readouterr().out)
    start = ["torchrun", "--nproc-per-node=4", "-m", "fairseq_cli.train", "runs/en-de/data"]
    assert sum(command[: len(start)] == start for command in printed) == 3
    assert resolve(["torchrun", "x"]) == [sys.executable, "-m", "torch.distributed.run", "x"]


# The sentences of the tiny release, phrase by phrase.
PHRASES = {
    "en": "the man|a woman|the dog|my child|sees|buys|wants|takes|the house|an apple|"
    "a red book|water",
    "es": "el hombre|una mujer|el perro|mi hijo|ve|compra|quiere|toma|la casa|una manzana|"
    "un libro rojo|agua",
    "fr": "l'homme|une femme|le chien|mon enfant|voit|achète|veut|prend|la maison|une pomme|"
    "un livre rouge|de l'eau",
    "it": "l'uomo|una donna|il cane|mio figlio|vede|compra|vuole|prende|la casa|una mela|"
    "un libro rosso|acqua",
    "nl": "de man|een vrouw|de hond|mijn kind|ziet|koopt|wil|neemt|het huis|een appel|"
    "een rood boek|water",
    "pt": "o homem|uma mulher|o cão|meu filho|vê|compra|quer|toma|a casa|uma maçã|"
    "um livro vermelho|água",
    "ro": "bărbatul|o femeie|câinele|copilul meu|vede|cumpără|vrea|ia|casa|un măr|"
    "o carte roșie|apă",
    "ru": "мужчина|женщина|собака|мой ребёнок|видит|покупает|хочет|берёт|дом|яблоко|"
    "красную книгу|воду",
}


def translate(text: str, language: str) -> str:
    for english, other in zip(PHRASES["en"].split("|"), PHRASES[language].split("|")):
        text = text.replace(english, other)
    return text


@pytest.fixture(scope="module")
def translated(release, tmp_path_factory):
    """Makes the tiny release in another language: the same recordings, another translation."""

    def make(language: str) -> Path:
        root = tmp_path_factory.mktemp(language)
        for split in ("train", "dev", "tst-COMMON"):
            source = release / "en-de" / "data" / split
            folder = root / f"en-{language}" / "data" / split
            (folder / "txt").mkdir(parents=True)
            (folder / "wav").symlink_to(source / "wav")
            for suffix in ("yaml", "en"):
                shutil.copy(source / "txt" / f"{split}.{suffix}", folder / "txt")
            english = (source / "txt" / f"{split}.en").read_text(encoding="utf-8")
            target = folder / "txt" / f"{split}.{language}"
            target.write_text(translate(english, language), encoding="utf-8")
        return root

    return make


@pytest.mark.parametrize("language", sorted(PHRASES.keys() - {"en"}))
def test_each_pair_starts_with_its_own_release(translated, tmp_path, language):
    settings = {"mustc": translated(language), "out": tmp_path / "out"}
    # Russian has letters of its own.
    settings["vocab_size"] = 60 if language == "ru" else 48
    changes = {key: str(value) for key, value in settings.items()}
    recipe = load_recipe(SCRIPTS / "recipes" / f"en-{language}.yaml", changes)
    # In this process: to start one takes seconds.
    assert recipe.stages[0].name == "prepare"
    (prepare,) = recipe.stages[0].commands
    assert all(Path(file).exists() for file in recipe.stages[0].needs)
    assert main(prepare[1:]) == 0
    assert all(Path(file).exists() for file in recipe.stages[0].makes)
    data = tmp_path / "out" / "data"
    assert read_yaml(data / "config.yaml", "the config")["tgt_lang"] == language
    rows = read_manifest(data / "tst-COMMON.tsv")
    assert len(rows) == 12 and set(rows["tgt_lang"]) == {language}
    assert list(rows["tgt_text"]) == [translate(text, language) for text in rows["src_text"]]
    assert not set(rows["tgt_text"]) & set(rows["src_text"])


def test_one_pair_from_the_release_to_the_scores(release, hubert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(SCRIPTS.parent)
    settings = {
        "mustc": release,
        "hubert": hubert,
        "out": tmp_path / "out",
        "vocab_size": 50,
        "precision": ["--cpu"],
        "mt_updates": 12,
        "mt_tokens": 600,
        "st_samples": 400_000,
        "st_update_freq": 1,
        "st_epochs": 2,
        "svcd_epochs": 2,
        "averaged": 2,
        "beam": 2,
        "num_workers": 0,
        "segmenter_options": ["--updates=2", "--windows=6"],
        "packing": ["--dtype=fp32"],
        "transformer": ["--arch=hubert_transformer", *TINY_MODEL],
    }
    recipe = tmp_path / "tiny.yaml"
    content = {
        "include": str(SCRIPTS / "recipes" / "en-de.yaml"),
        "settings": {
            key: str(value) if isinstance(value, Path) else value for key, value in settings.items()
        },
    }
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    # A process for each command, as whoever runs the recipe; of what follows some share one.
    by_the_command = ["recipe", str(recipe), "--to-stage", "mt"]
    assert main(by_the_command) == 0
    loaded = load_recipe(recipe)
    done = [stage.name for stage in loaded.stages].index("mt") + 1
    assert done == 3 and "done before" not in capsys.readouterr().out
    run_stages(loaded.stages[done:], SCRIPTS.parent)
    assert main(by_the_command) == 0
    printed = capsys.readouterr().out
    assert printed.count("done before") == done
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert len(report["results"]) == len(loaded.report)
    for row in report["results"]:
        assert row["sentences"] == 12 and row["megabytes"] > 0 and 0 <= row["bleu"] <= 100
        assert row["name"] in printed
    comparison = json.loads((tmp_path / "out" / "results" / "comparison.json").read_text())
    assert [row["name"] for row in comparison["systems"]] == ["full", "svcd", "packed", "text"]
    assert comparison["systems"][2]["bleu"] == comparison["systems"][1]["bleu"]
    assert "tok:13a|smooth:exp" in comparison["bleu_signature"]


@pytest.fixture
def deltalm(translated, tmp_path) -> dict[str, str | list[str]]:
    """What the DeltaLM branch of a recipe starts from: a release, DeltaLM's files, external
    text."""
    release, folder = translated("es"), tmp_path / "deltalm"
    folder.mkdir()
    shutil.copy(TINY_DELTALM, folder / "deltalm-tiny.pt")
    texts = {
        language: (release / f"en-es/data/train/txt/train.{language}").read_text("utf-8")
        for language in ("en", "es")
    }
    write_vocabulary(folder, "".join(texts.values()).splitlines(), 100)
    external = []
    for language, text in texts.items():
        lines = text.splitlines()
        pairs = [f"{one} {two}\n" for one, two in zip(lines, lines[1:])]
        external.append(tmp_path / f"external.{language}")
        external[-1].write_text("".join(pairs), encoding="utf-8")
    return {
        "mustc": str(release),
        "deltalm": str(folder),
        "external": [str(file) for file in external],
    }


def test_another_pair_with_deltalm_and_external_text(deltalm, hubert, tmp_path):
    steps = read_yaml(SCRIPTS / "recipes" / "steps.yaml", "the steps")["settings"]
    heads = [f"--{name.replace('_', '-')}={number}" for name, number in TINY_HEADS.items()]
    settings = {
        **deltalm,
        "deltalm_size": "tiny",
        "hubert": str(hubert),
        "out": str(tmp_path / "out"),
        "precision": ["--cpu"],
        "mt_updates": 8,
        "mt_tokens": 600,
        "st_samples": 400_000,
        "st_update_freq": 1,
        "st_epochs": 1,
        "svcd_epochs": 1,
        "averaged": 1,
        "beam": 2,
        "num_workers": 0,
        "segmenter_options": ["--updates=2", "--windows=6"],
        "packing": ["--dtype=fp32"],
        "text_training": [*steps["text_training"], *heads],
        "speech_training": [*steps["speech_training"], "--conv-channels=24"],
    }
    changes = {
        key: yaml.safe_dump(value) if isinstance(value, list) else str(value)
        for key, value in settings.items()
    }
    recipe = load_recipe(SCRIPTS / "recipes" / "en-es.yaml", changes)
    assert "svcd-with-deltalm" in [stage.name for stage in recipe.stages]
    run_stages(recipe.stages, SCRIPTS.parent)
    comparison = json.loads((tmp_path / "out" / "results" / "comparison.json").read_text())
    scores = {row["name"]: row["bleu"] for row in comparison["systems"]}
    assert scores.keys() == {"full", "svcd", "packed", "text"}
    assert scores["packed"] == scores["svcd"]
    # The external pairs are in the text that the translation model was trained on.
    summary = json.loads((tmp_path / "out" / "text" / "summary.json").read_text())
    assert summary["train"]["pairs"] == 40 + 39

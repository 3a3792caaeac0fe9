"""The demo's recipe, on a smaller language: a model that listens, seen by what it does without."""

import itertools
from pathlib import Path

import pytest

from cress_svcd.recipes.recipe_file import load_recipe
from cress_svcd.recipes.runner import Runner
from tests.helpers.fairseq_commands import run_stages

ROOT = Path(__file__).parents[2]
SUBJECTS = {
    "the man": "der Mann",
    "a woman": "eine Frau",
    "the dog": "der Hund",
    "my child": "mein Kind",
    "your sister": "deine Schwester",
    "this teacher": "dieser Lehrer",
}
VERBS = {
    "sees": "sieht",
    "buys": "kauft",
    "wants": "will",
    "takes": "nimmt",
    "finds": "findet",
    "brings": "bringt",
}
OBJECTS = {
    "the house": "das Haus",
    "an apple": "einen Apfel",
    "water": "Wasser",
    "a red book": "ein rotes Buch",
    "two chairs": "zwei Stühle",
    "our car": "unser Auto",
}


def write_text(folder: Path) -> None:
    """216 sentences: 30 to test and 10 to develop on, the others to train on, spoken twice."""
    pairs = [
        (f"{' '.join(english)}.", f"{' '.join(german)}.")
        for english, german in (
            zip(*choice)
            for choice in itertools.product(SUBJECTS.items(), VERBS.items(), OBJECTS.items())
        )
    ]
    unseen = pairs[::5][:40]
    seen = [pair for pair in pairs if pair not in unseen]
    splits = {"tst-COMMON": unseen[:30], "dev": unseen[30:], "train": 2 * seen, "mt": seen}
    folder.mkdir(parents=True)
    for split, part in splits.items():
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in part)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("demo")
    write_text(out / "text")
    settings = {
        "out": out,
        "workers": 1,
        "train": "[fairseq-train]",  # two processes, and what starts them, take longer to start
        "voices": "[en-us]",
        "vocab_size": 70,
        "hubert_options": "[--set, ctc.optimization.max_update=150, "
        "--set, ctc.lr_scheduler.warmup_updates=40, "
        "--set, dataset.max_tokens=120000, --set, task.max_sample_size=120000]",
        "mt_updates": 200,
        "mt_warmup": 40,
        "st_updates": 100,
        "st_warmup": 40,
        "st_frozen": 10,
        "st_samples": 960_000,
        "save_interval": 11,
        "averaged": 2,
        "svcd_save_interval": 7,
        "svcd_warmup": 5,
        "decoder_updates": 40,
        "everything_updates": 30,
        "everything_samples": 480_000,
        "segmenter": "[--updates=100, --windows=60]",
    }
    changes = {key: str(value) for key, value in settings.items()}
    recipe = load_recipe(ROOT / "scripts" / "recipes" / "demo.yaml", changes)
    text, *stages = recipe.stages
    assert text.name == "text"
    run_stages(stages, ROOT)
    return Runner(recipe).write_report()


def test_a_model_that_listens_fails_with_the_recordings_shuffled(report):
    bleu = {row["name"]: row["bleu"] for row in report["results"]}
    assert bleu["from speech, full precision"] > 80
    assert bleu["from transcripts, text model"] > 80
    assert bleu["from speech, recordings shuffled"] < 30


def test_one_bit_keeps_the_translations(report):
    bleu = {row["name"]: row["bleu"] for row in report["results"]}
    assert bleu["from speech, decoder in 1 bit"] > 0.8 * bleu["from speech, full precision"]
    # A few updates at a few samples do not bring everything back.
    assert bleu["from speech, everything in 1 bit"] > bleu["from speech, recordings shuffled"]


def test_the_packed_model_is_small_and_says_the_same(report):
    rows = {row["name"]: row for row in report["results"]}
    trained, packed = rows["from speech, everything in 1 bit"], rows["the same, packed"]
    assert abs(trained["bleu"] - packed["bleu"]) < 5, "embeddings and convolutions are in int8"
    assert packed["megabytes"] < rows["from speech, full precision"]["megabytes"] / 4
    assert packed["seconds"] > 0


def test_the_report_shows_translations_next_to_references(report):
    for row in report["results"]:
        assert row["sentences"] == 30 and row["chrf"] > 0 and row["megabytes"] > 0
        assert len(row["translations"]) == 30
        assert all(each["reference"] and "hypothesis" in each for each in row["translations"])

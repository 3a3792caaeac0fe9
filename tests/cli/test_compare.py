"""Comparing outputs of fairseq-generate."""

import json
import os
import random

import pytest
from sacrebleu.metrics import BLEU, CHRF

from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import write_manifest
from cress_svcd.evaluation.significance import compare

WORDS = [
    "das",
    "Haus",
    "ist",
    "größer",
    "als",
    "ein",
    "Hund",
    "und",
    "die",
    "Katze",
    "mit",
    "dem",
    "roten",
    "Buch",
    "im",
    "Garten",
]


def sentences(seed: int = 1, count: int = 80) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=9)) + "." for _ in range(count)]


def worse(texts: list[str], errors: float, seed: int = 2) -> list[str]:
    """Each word is another one with the probability ``errors``."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < errors else word for word in text.split())
        for text in texts
    ]


REFERENCES = sentences()
SYSTEMS = {
    "full": worse(REFERENCES, 0.3),
    "near": worse(REFERENCES, 0.3, seed=4),
    "poor": worse(REFERENCES, 0.6),
}


@pytest.fixture
def outputs(tmp_path) -> dict:
    """A file of fairseq-generate's form for each system, and the manifest."""
    files = {}
    for name, hypotheses in SYSTEMS.items():
        files[name] = tmp_path / f"{name}.txt"
        lines = [
            line
            for number, hypothesis in reversed(list(enumerate(hypotheses)))
            for line in (f"T-{number}\t{REFERENCES[number]}", f"D-{number}\t-0.5\t{hypothesis}")
        ]
        files[name].write_text("\n".join(lines), encoding="utf-8")
    rows = [
        {"id": f"t_{i}", "audio": "a.wav", "n_frames": 5, "tgt_text": text, "src_text": "x"}
        for i, text in enumerate(REFERENCES)
    ]
    files["manifest"] = tmp_path / "tst.tsv"
    write_manifest(files["manifest"], rows)
    return files


def run(*arguments) -> int:
    return main(["compare", *map(str, arguments)])


def test_scores_are_those_of_sacrebleu():
    report = compare(SYSTEMS, REFERENCES)
    for row in report["systems"]:
        hypotheses = SYSTEMS[row["name"]]
        assert row["bleu"] == round(BLEU().corpus_score(hypotheses, [REFERENCES]).score, 2)
        assert row["chrf"] == round(CHRF().corpus_score(hypotheses, [REFERENCES]).score, 2)
        assert row["sentences"] == 80 and 0 < row["bleu_interval"] < 10
    assert "|bs:1000|seed:12345|" in report["bleu_signature"]
    assert "tok:13a" in report["bleu_signature"]


def test_a_clear_difference_is_found_and_chance_is_not():
    full, near, poor = compare(SYSTEMS, REFERENCES)["systems"]
    assert poor["bleu_p"] < 0.01 and poor["chrf_p"] < 0.01 and poor["bleu_difference"] < -10
    assert near["bleu_p"] > 0.05 and near["chrf_p"] > 0.05
    assert "bleu_p" not in full and "same_sentences" not in full


def test_p_is_what_its_definition_says():
    """Counted again over resamples of our own."""
    resamples, rng = 400, random.Random(5)
    bleu = BLEU()
    near = compare({name: SYSTEMS[name] for name in ("full", "near")}, REFERENCES)["systems"][1]
    differences = []
    for _ in range(resamples):
        chosen = rng.choices(range(80), k=80)
        scores = [
            bleu.corpus_score(
                [SYSTEMS[name][i] for i in chosen], [[REFERENCES[i] for i in chosen]]
            ).score
            for name in ("full", "near")
        ]
        differences.append(abs(scores[1] - scores[0]))
    mean = sum(differences) / resamples
    beyond = sum(value - mean > abs(near["bleu_difference"]) for value in differences)
    assert near["bleu_p"] == pytest.approx((beyond + 1) / (resamples + 1), abs=0.08)


def test_the_seed_decides_and_the_environment_is_left_alone(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    few = {name: SYSTEMS[name] for name in ("full", "near")}
    one, again, other = (compare(few, REFERENCES, resamples=100, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one["systems"][1]["bleu_p"] != other["systems"][1]["bleu_p"]
    assert os.environ["SACREBLEU_SEED"] == "none"


def test_equal_translations_are_no_significant_difference():
    full, copy = compare({"full": SYSTEMS["full"], "copy": SYSTEMS["full"]}, REFERENCES)["systems"]
    assert copy["bleu_p"] is copy["chrf_p"] is None and copy["bleu_difference"] == 0
    assert copy["same_sentences"] == 80


def test_the_command(outputs, tmp_path, capsys):
    code = run(
        f"full precision={outputs['full']}",
        outputs["poor"],
        f"packed={outputs['full']}",
        "--manifest",
        outputs["manifest"],
        "--json",
        tmp_path / "out.json",
        "--resamples",
        "200",
    )
    assert code == 0
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["baseline"] == "full precision" and report["resamples"] == 200
    assert [row["name"] for row in report["systems"]] == ["full precision", "poor", "packed"]
    assert report["systems"][1]["output"] == str(outputs["poor"])
    assert report["translations"][3] == {
        "id": "t_3",
        "source": "x",
        "reference": REFERENCES[3],
        "hypotheses": {
            "full precision": SYSTEMS["full"][3],
            "poor": SYSTEMS["poor"][3],
            "packed": SYSTEMS["full"][3],
        },
    }
    head, full, poor, packed, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["BLEU", "diff.", "p", "chrF2", "diff.", "p", "length", "same"]
    assert f"{report['systems'][1]['bleu']:.2f} ± " in poor and poor.count("*") == 2
    assert packed.split().count("same") == 2 and packed.split()[-1] == "80"
    assert len({len(line) for line in (head, full, poor, packed)}) == 1
    assert rest[-2:] == [report["bleu_signature"], report["chrf_signature"]]


def test_without_a_manifest_the_references_are_those_of_the_outputs(outputs, tmp_path):
    run(outputs["full"], outputs["poor"], "--resamples", "50", "--json", tmp_path / "a")
    run(
        outputs["full"],
        outputs["poor"],
        "--resamples",
        "50",
        "--json",
        tmp_path / "b",
        "--manifest",
        outputs["manifest"],
    )
    one, other = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert one.pop("translations") != other.pop("translations"), "the manifest knows sources"
    assert one == other


class TestErrors:
    def check(self, capsys, message, *arguments):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    def test_only_one(self, outputs, capsys):
        self.check(capsys, "two or more can be compared", outputs["full"])

    def test_one_name_twice(self, outputs, capsys):
        self.check(capsys, "both called full", outputs["full"], outputs["full"])

    def test_other_sentences(self, outputs, tmp_path, capsys):
        other = tmp_path / "other.txt"
        other.write_text("T-0\tx\nD-0\t-1\tx\n")
        message = "1 sentences with their references, which are not the 80"
        self.check(capsys, message, outputs["full"], other)

    def test_no_file(self, outputs, capsys):
        self.check(capsys, "none.txt: cannot be read", outputs["full"], "x=none.txt")

    def test_no_seed(self, outputs, capsys):
        with pytest.raises(SystemExit):
            run(outputs["full"], outputs["poor"], "--seed", "0")
        assert "expected 1 or more" in capsys.readouterr().err

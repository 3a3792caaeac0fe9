"""Scoring the output of fairseq-generate."""

import json

import pytest
import sacrebleu

from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import write_manifest

RAW = ["Das Haus ist größer.", "Ein Hund – und eine Katze.", "Ja, Wasser!"]
SEEN = ["Das Haus ist gr<unk>er.", "Ein Hund <unk> und eine Katze.", "Ja, Wasser!"]
HYPOTHESES = ["Das Haus ist größer.", "Ein Hund und eine Katze.", "Wasser!"]
# As fairseq writes them: the longest first.
ORDER = [1, 0, 2]


def lines(hypotheses=HYPOTHESES, references=SEEN, others=()) -> list[str]:
    out = ["2026-01-01 | INFO | fairseq_cli.generate | {'_name': None}"]
    for number in ORDER:
        if references:
            out.append(f"T-{number}\t{references[number]}")
        out.append(f"H-{number}\t-0.5\t▁pieces")
        out.append(f"D-{number}\t-0.5\t{hypotheses[number]}")
        out.append(f"P-{number}\t-0.5 -0.5")
        for other in others:
            out += [f"H-{number}\t-1.5\t▁x", f"D-{number}\t-1.5\t{other}", f"P-{number}\t-1.5"]
    return [*out, "Generate tst with beam=5: BLEU4 = 1.00"]


@pytest.fixture
def output(tmp_path):
    path = tmp_path / "generate-tst.txt"
    path.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def manifest(tmp_path):
    rows = [
        {"id": f"t_{i}", "audio": "a.wav", "n_frames": 5, "tgt_text": text, "src_text": f"s{i}"}
        for i, text in enumerate(RAW)
    ]
    write_manifest(tmp_path / "tst.tsv", rows)
    return tmp_path / "tst.tsv"


def run(*arguments) -> int:
    return main(["score", *map(str, arguments)])


def report(tmp_path, *arguments):
    assert run(*arguments, "--json", tmp_path / "out.json") == 0
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))


def bleu(references) -> float:
    return round(sacrebleu.corpus_bleu(HYPOTHESES, [references]).score, 2)


def test_the_seconds_of_translating_are_taken_from_the_log(output, tmp_path):
    assert "seconds" not in report(tmp_path, output)
    log = "INFO:fairseq_cli.generate:Translated 1,200 sentences (13,217 tokens) in 10.7s (18.75 "
    output.write_text(output.read_text(encoding="utf-8") + log + "sentences/s)\n", "utf-8")
    assert report(tmp_path, output)["seconds"] == 10.7


def test_against_what_the_model_saw(output, tmp_path):
    result = report(tmp_path, output)
    assert result["bleu"] == bleu(SEEN)
    assert [each["reference"] for each in result["translations"]] == SEEN


def test_against_the_references_as_they_stand(output, manifest, tmp_path, capsys):
    result = report(tmp_path, output, "--manifest", manifest)
    assert result["bleu"] == bleu(RAW) != bleu(SEEN)
    assert result["chrf"] == round(sacrebleu.corpus_chrf(HYPOTHESES, [RAW]).score, 2)
    assert result["output"] == str(output) and result["sentences"] == 3
    assert result["translations"][1] == {
        "id": "t_1",
        "source": "s1",
        "reference": RAW[1],
        "hypothesis": HYPOTHESES[1],
    }
    printed = capsys.readouterr().out
    assert f"BLEU {result['bleu']:.2f}" in printed and result["bleu_signature"] in printed


def test_the_best_of_several_hypotheses_counts(tmp_path, manifest, output):
    several = tmp_path / "nbest.txt"
    several.write_text("\n".join(lines(others=["falsch", "auch falsch"])), encoding="utf-8")
    best = report(tmp_path, several, "--manifest", manifest)
    assert best["bleu"] == report(tmp_path, output, "--manifest", manifest)["bleu"]


def test_an_empty_hypothesis_is_one(tmp_path, manifest):
    path = tmp_path / "x.txt"
    path.write_text("\n".join(lines(hypotheses=["", "Ein Hund", "x"])), encoding="utf-8")
    result = report(tmp_path, path, "--manifest", manifest)
    assert result["translations"][0]["hypothesis"] == ""


def test_several_outputs_give_several_reports(output, tmp_path):
    results = report(tmp_path, output, output)
    assert [result["bleu"] for result in results] == [bleu(SEEN)] * 2


def test_one_that_cannot_be_scored_leaves_the_others(output, tmp_path, capsys):
    (tmp_path / "bad.txt").write_text("something else\n")
    outputs = [output, tmp_path / "bad.txt", tmp_path / "nowhere.txt", output]
    assert run(*outputs, "--json", tmp_path / "out.json") == 1
    said = capsys.readouterr()
    assert said.out.count(str(output)) == 2
    assert "error: " in said.err and "bad.txt: no 'D-' line" in said.err
    assert said.err.rstrip().endswith("2 of 4 outputs could not be scored")
    assert len(json.loads((tmp_path / "out.json").read_text())) == 2
    assert run(*outputs[1:3]) == 2 and "none of 2 outputs" in capsys.readouterr().err
    assert run(output, output, "--manifest", tmp_path / "nowhere.tsv") == 2
    assert capsys.readouterr().err.count("nowhere.tsv") == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_an_output_with_a_byte_order_mark(output, tmp_path, encoding):
    expected = report(tmp_path, output)
    output.write_text("\n".join(lines()[1:]) + "\n", encoding=encoding)
    assert report(tmp_path, output) == expected


def test_another_tokenizer(output, tmp_path):
    result = report(tmp_path, output, "--tokenize", "char")
    assert "tok:char" in result["bleu_signature"]


def test_one_word_references(tmp_path, capsys):
    digits = ["eins", "zwei", "drei"]
    path = tmp_path / "digits.txt"
    path.write_text("\n".join(lines(hypotheses=digits, references=digits)), encoding="utf-8")
    result = report(tmp_path, path)
    assert (result["bleu"], result["exact_match"], result["chrf"]) == (0, 100, 100)
    warning = "BLEU means nothing here, as no reference has four tokens; exact match 100.00 %"
    assert warning in capsys.readouterr().out
    assert main(["compare", f"a={path}", f"b={path}", "--resamples", "20"]) == 0
    assert capsys.readouterr().out.count(warning) == 2


class TestErrors:
    def check(self, capsys, message, *arguments):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    def test_missing_rows(self, tmp_path, manifest, capsys):
        path = tmp_path / "part.txt"
        path.write_text("\n".join(line for line in lines() if "-2\t" not in line), encoding="utf-8")
        self.check(capsys, "2 translations, but", path, "--manifest", manifest)

    def test_more_rows_than_the_manifest(self, tmp_path, manifest, capsys):
        path = tmp_path / "more.txt"
        path.write_text("\n".join([*lines(), "D-3\t-1\tx"]), encoding="utf-8")
        self.check(capsys, "4 translations, but", path, "--manifest", manifest)

    def test_no_references(self, tmp_path, capsys):
        path = tmp_path / "x.txt"
        path.write_text("\n".join(lines(references=None)), encoding="utf-8")
        self.check(capsys, "no 'T-' line for sentence 0; give --manifest", path)

    def test_no_translations(self, tmp_path, capsys):
        (tmp_path / "x.txt").write_text("something else\n")
        self.check(capsys, "x.txt: no 'D-' line", tmp_path / "x.txt")

    def test_no_text(self, tmp_path, capsys):
        (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
        self.check(capsys, "x.txt: is not UTF-8", tmp_path / "x.txt")

    def test_no_file(self, tmp_path, capsys):
        self.check(capsys, "x.txt: cannot be read", tmp_path / "x.txt")

    def test_an_unknown_tokenizer(self, output, capsys):
        with pytest.raises(SystemExit):
            run(output, "--tokenize", "nonsense")
        assert "13a" in capsys.readouterr().err


def test_numbers_that_no_output_has_are_passed_over(tmp_path, capsys):
    """Of a log that something else wrote into."""
    strange = f"D-{'9' * 5_000}\t-1\tx\nTranslated 1 sentences (2 tokens) in 1.2.3s\n"
    path = tmp_path / "out.txt"
    path.write_text(strange + "T-0\tDas Haus\nD-0\t-1\tDas Haus\n", encoding="utf-8")
    assert main(["score", str(path), "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert found["sentences"] == 1 and "seconds" not in found
    path.write_text("T-0\t\nD-0\t-1\tDas Haus\n")
    assert main(["score", str(path)]) == 2
    assert "no reference in it has a word" in capsys.readouterr().err

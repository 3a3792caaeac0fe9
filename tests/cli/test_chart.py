"""BLEU by system and against bits, out of the files of score, compare and report."""

import csv
import json

import pytest

from cress_svcd.cli.main import main
from cress_svcd.evaluation.bleu_chrf import measure

REFERENCES = ["das Haus ist groß und alt", "ein Hund sieht eine Katze", "ja , Wasser ist gut"]


def write(path, hypotheses):
    path.write_text(json.dumps(measure(hypotheses, REFERENCES)))
    return path


@pytest.fixture
def files(tmp_path):
    """Scores of a perfect system and of two runs of another, and the other's size."""
    worse = [REFERENCES[0], REFERENCES[1], "Wasser"]
    worst = [REFERENCES[0], "ein Hund", "Wasser"]
    size = {"bits": 4_000_000, "full_bits": 16_000_000, "bits_per_weight": 1.25}
    (tmp_path / "size.json").write_text(json.dumps({"summary": size, "layers": []}))
    return {
        "full": write(tmp_path / "full.json", REFERENCES),
        "one": write(tmp_path / "one.json", worse),
        "two": write(tmp_path / "two.json", worst),
        "size": tmp_path / "size.json",
    }


def chart(tmp_path, *arguments) -> list[dict]:
    out = tmp_path / "out"
    flags = ["--csv", f"{out}.csv", "--png", f"{out}.png"]
    assert main(["chart", *map(str, arguments), *flags]) == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out.csv").open() as file:
        return list(csv.DictReader(file))


def test_runs_of_one_name_become_a_row_and_keep_a_share(files, tmp_path, capsys):
    first, second = chart(
        tmp_path,
        files["full"],
        f"1 bit={files['one']}",
        f"1 bit={files['two']}",
        "--sizes",
        f"1 bit={files['size']}",
    )
    one, two = (json.loads(files[name].read_text())["bleu"] for name in ("one", "two"))
    assert (first["name"], first["bleu"], first["bits"]) == ("full", "100.0", "16")
    assert float(second["bleu"]) == pytest.approx((one + two) / 2, abs=0.01)
    assert float(second["bleu_deviation"]) == pytest.approx(abs(one - two) / 2**0.5, abs=0.01)
    assert float(second["share"]) == pytest.approx((one + two) / 2, abs=0.1)
    assert (second["runs"], second["bits"], second["megabytes"]) == ("2", "4.0", "0.5")
    assert "1 bit" in capsys.readouterr().out


def test_systems_of_a_comparison(files, tmp_path):
    systems = [
        {"name": name, **json.loads(files[name].read_text())} for name in ("full", "one", "two")
    ]
    (tmp_path / "comparison.json").write_text(json.dumps({"systems": systems}))
    rows = chart(tmp_path, tmp_path / "comparison.json")
    assert [row["name"] for row in rows] == ["full", "one", "two"]
    assert [float(row["bleu"]) for row in rows] == [row["bleu"] for row in systems]
    assert "bits" not in rows[0]
    rows = chart(tmp_path, files["full"], f"two={tmp_path / 'comparison.json'}")
    assert [row["name"] for row in rows] == ["full", "two"]


@pytest.fixture
def comparison(files, tmp_path):
    """As 'cress-svcd compare' writes it, with half of the confidence interval of each system."""
    intervals = {"full": 0.0, "one": 12.5, "two": 9.25}
    systems = [
        {"name": name, **json.loads(files[name].read_text()), "bleu_interval": interval}
        for name, interval in intervals.items()
    ]
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({"baseline": "full", "systems": systems}))
    return path


def test_confidence_intervals_of_a_comparison_are_shown(comparison, tmp_path, capsys, drawn):
    rows = chart(tmp_path, comparison)
    assert [row["bleu_interval"] for row in rows] == ["0.0", "12.5", "9.25"]
    lines = capsys.readouterr().out.splitlines()
    assert "95 % ±" in lines[0] and [line.split()[-1] for line in lines[1:]] == [
        "0.00",
        "12.50",
        "9.25",
    ]
    (panel,) = drawn
    assert panel.get_ylabel() == "BLEU ± 95 % confidence interval"
    scores = [float(row["bleu"]) for row in rows]
    halves = [0, 12.5, 9.25]
    assert ends(panel) == [
        pytest.approx([score - half, score + half]) for score, half in zip(scores, halves)
    ]


def test_against_bits_and_next_to_runs(comparison, files, tmp_path, drawn):
    """The interval of one run, the deviation of several; and of a score alone neither."""
    rows = chart(
        tmp_path,
        f"full={comparison}",
        f"one={comparison}",
        f"seeds={files['one']}",
        f"seeds={files['two']}",
        f"alone={files['two']}",
        *("--sizes", f"one={files['size']}", "--sizes", f"seeds={files['size']}"),
    )
    assert [row["bleu_interval"] for row in rows] == ["0.0", "12.5", "", ""]
    (panel,) = drawn
    expected = "BLEU ± standard deviation of the runs or 95 % confidence interval"
    assert panel.get_ylabel() == expected
    deviation = float(rows[2]["bleu_deviation"])
    spans = [high - low for container in panel.containers for low, high in ends(container)]
    assert spans == pytest.approx([0, 25, 2 * deviation])


def test_against_the_bits_of_quantised_weights(comparison, files, tmp_path, drawn):
    """A system without any is a line across, with its interval."""
    sizes = ("--sizes", f"one={files['size']}", "--bits-of", "weights")
    full, one = chart(tmp_path, f"full={files['full']}", f"one={comparison}", *sizes)
    (panel,) = drawn
    assert panel.get_xlabel() == "bits of a quantised weight, scales included"
    assert panel.get_xscale() == "log"
    across, point = panel.get_lines()[-1], panel.containers[0].lines[0]
    assert list(point.get_xdata()) == [float(one["weight_bits"])] == [1.25]
    assert list(across.get_ydata()) == [float(full["bleu"])] * 2
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["full", "one"]


def test_many_systems_are_named_next_to_the_picture(files, tmp_path, drawn):
    names = [f"system{number}" for number in range(8)]
    scores = [f"{name}={files['one']}" for name in names]
    sizes = [word for name in names for word in ("--sizes", f"{name}={files['size']}")]
    chart(tmp_path, *scores, *sizes)
    (panel,) = drawn
    assert [text.get_text() for text in panel.get_legend().get_texts()] == names
    assert not panel.texts and panel.get_ylabel() == "BLEU"


DIGITS = ["eins", "zwei", "drei", "vier"]


def compared(path, **systems: list[str]):
    """The file of 'cress-svcd compare' over translations of DIGITS."""
    for name, hypotheses in systems.items():
        lines = [
            f"T-{number}\t{reference}\nD-{number}\t-1\t{hypothesis}\n"
            for number, (reference, hypothesis) in enumerate(zip(DIGITS, hypotheses))
        ]
        path.with_name(f"{name}.txt").write_text("".join(lines))
    outputs = [str(path.with_name(f"{name}.txt")) for name in systems]
    assert main(["compare", *outputs, "--resamples", "20", "--json", str(path)]) == 0
    return path


WHY = "BLEU means nothing here, as no reference has four tokens; share is of "


@pytest.mark.parametrize("against_bits", [False, True])
def test_of_single_words_exact_match_is_shown(files, tmp_path, capsys, drawn, against_bits):
    """The second system says more than it should: of the two its BLEU is the higher one."""
    long = ["zwei drei vier eins", "zwei", "zwei", "vier"]
    one = compared(tmp_path / "one.json", a=DIGITS, b=long)
    two = compared(tmp_path / "two.json", a=DIGITS, b=[*DIGITS[:3], "fier"])
    sizes = ("--sizes", f"b={files['size']}") if against_bits else ()
    capsys.readouterr()
    first, second = chart(tmp_path, f"a={one}", f"b={one}", f"b={two}", *sizes)
    assert float(first["bleu"]) == 0 < float(second["bleu"])
    assert [first[key] for key in ("exact_match", "share", "share_of")] == [
        "100.0",
        "100.0",
        "exact_match",
    ]
    assert (second["exact_match"], second["share"]) == ("62.5", "62.5")
    assert float(second["exact_match_deviation"]) == pytest.approx(25 / 2**0.5, abs=0.01)
    assert "bleu_interval" not in first
    head, *_, b, why = capsys.readouterr().out.splitlines()
    assert why == WHY + "exact match"
    assert "exact %" in head and "62.50  17.68   62.5 %" in b
    (panel,) = drawn
    assert panel.get_ylabel() == "exact match, % ± standard deviation of the runs"
    if against_bits:
        heights = [float(container.lines[0].get_ydata()[0]) for container in panel.containers]
    else:
        heights = [bar.get_height() for bar in panel.patches]
        assert [text.get_text() for text in panel.texts] == ["100.0", "62.5"]
    assert heights == [100, 62.5]


def test_where_the_first_has_no_exact_match_the_share_is_of_chrf(tmp_path, capsys):
    near = [f"{word}s" for word in DIGITS]
    path = compared(tmp_path / "c.json", a=near, b=DIGITS)
    capsys.readouterr()
    first, second = chart(tmp_path, path)
    assert (first["exact_match"], second["exact_match"]) == ("0.0", "100.0")
    assert first["share_of"] == second["share_of"] == "chrf"
    kept = 100 * float(second["chrf"]) / float(first["chrf"])
    assert float(second["share"]) == pytest.approx(kept, abs=0.06) and kept > 100
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == f"{WHY}chrF, as the first system has no exact match"
    )


def test_one_reference_of_four_tokens_leaves_all_as_it_was(files, tmp_path, capsys, drawn):
    rows = chart(tmp_path, files["full"], files["one"])
    assert list(rows[0]) == ["name", "runs", "bleu", "bleu_deviation", "chrf", "share"]
    out = capsys.readouterr().out
    assert "exact" not in out and "nothing" not in out and len(out.splitlines()) == 3
    assert drawn[0].get_ylabel() == "BLEU"


def ends(panel) -> list[list[float]]:
    """Where the error bars of a picture, or of a container of it, begin and end."""
    container = panel.containers[0] if hasattr(panel, "containers") else panel
    return [list(each[:, 1]) for lines in container.lines[2] for each in lines.get_segments()]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_scores_with_a_byte_order_mark(files, tmp_path, encoding):
    files["one"].write_text(files["one"].read_text(), encoding=encoding)
    assert [row["name"] for row in chart(tmp_path, files["full"], files["one"])] == ["full", "one"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.json"], "cannot be read"),
        (["{size}"], "expected a file of 'cress-svcd score --json'"),
        (["{full}", "--sizes", "{size}"], "expected NAME=JSON"),
        (["{full}", "--sizes", "two={size}"], "two: no scores of that name; full"),
    ],
)
def test_bad_input(files, capsys, arguments, message):
    assert main(["chart", *(item.format(**files) for item in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        '{"bleu": NaN, "chrf": 1}',
        '{"bleu": true, "chrf": 1}',
        '{"bleu": "9", "chrf": 1}',
        '{"bleu": 9}',
        f'{{"bleu": {"9" * 400}, "chrf": 1}}',
        '{"systems": 3}',
        '{"systems": ["a"]}',
        '{"systems": [{"bleu": 1, "chrf": 1}]}',
        '{"systems": [{"name": "a", "bleu": 1, "chrf": 1, "bleu_interval": "x"}]}',
        '[{"bleu": 1, "chrf": 1}]',
        '{"bleu": 0, "chrf": 1, "reference_4grams": 0}',
    ],
)
def test_scores_that_are_none(tmp_path, capsys, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    for item in (path, f"a={path}"):
        assert main(["chart", str(item)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{item}: expected a file of 'cress-svcd score --json' of one output" in line


@pytest.mark.parametrize(
    "summary", ["3", "{}", '{"bits": 0, "full_bits": 1}', '{"bits": 1, "full_bits": "1"}']
)
def test_sizes_that_are_none(files, tmp_path, capsys, summary):
    path = tmp_path / "x.json"
    path.write_text(f'{{"summary": {summary}}}')
    assert main(["chart", f"full={files['full']}", "--sizes", f"full={path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected NAME=JSON, of 'cress-svcd report --json'" in line


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5_000, '{"a": 1, "a": 2}', "\0", "\xff"])
def test_scores_that_are_no_json(tmp_path, capsys, content):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    assert main(["chart", str(tmp_path / "x.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = "UTF-8" if content == "\xff" else "JSON"
    assert f"x.json: is not {expected}" in line or f"x.json:1: is not {expected}" in line

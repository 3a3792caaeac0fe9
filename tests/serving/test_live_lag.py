"""The bench of live translation: its lag, its table, its picture."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts" / "bench" / "live_lag.py"
EXAMPLES = ROOT / "scripts" / "examples"
# What voice-1.flac says: the first sample and the number of them, and what the model makes of it.
SENTENCES = {
    (6250, 24500): "Wo hat Anna die Frau getroffen?",
    (53250, 28500): "Ich werde am Freitag einen Film sehen.",
    (91500, 22250): "Wir rufen deinen Vater an.",
    (120000, 19750): "Er sollte ein Buch schreiben.",
}
HEADER = ("id", "audio", "n_frames", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCH.parent)  # as Python does for a script
    return runpy.run_path(str(BENCH))


def test_lag_is_that_of_the_articles_formula(bench):
    lag = bench["lag"]
    # A word a second, each shown a second after its beginning; all at the end; half as many words.
    assert lag([1, 2, 3, 4], words=4, seconds=4) == pytest.approx(1)
    assert lag([4, 4, 4, 4], words=4, seconds=4) == pytest.approx(4)
    assert lag([2, 4], words=4, seconds=4) == pytest.approx((2 + 3) / 2)
    # More words than the reference has are not rewarded: they are given less time each.
    assert lag([1, 2, 3, 3, 4, 4, 4, 4], words=4, seconds=4) == pytest.approx(1.6)


@pytest.mark.parametrize("spec", ["agreement", "agreement:x", "hold:0.5", "other:2", ""])
def test_policies_that_are_none(bench, spec):
    with pytest.raises(SystemExit, match="expected agreement:NUMBER or hold:NUMBER or"):
        bench["policy_of"](spec)


@pytest.mark.slow
def test_a_recording_whose_words_are_known(tmp_path):
    pytest.importorskip("mweralign", reason="pip install 'cress_svcd[score]'")
    rows = [
        (str(n), f"{EXAMPLES}/voice-1.flac:{first}:{count}", str(count), text, "a", "", "en", "de")
        for n, ((first, count), text) in enumerate(SENTENCES.items())
    ]
    manifest = tmp_path / "tst.tsv"
    manifest.write_text("".join("\t".join(row) + "\n" for row in (HEADER, *rows)), "utf-8")
    table, picture = tmp_path / "lag.json", tmp_path / "lag.png"
    command = [sys.executable, BENCH, EXAMPLES / "en-de.pt", manifest, "-o", table]
    options = ["--policies", "attention:0.6", "--picture", picture]
    result = subprocess.run(
        [str(word) for word in [*command, *options]], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(table.read_text(encoding="utf-8"))
    assert (found["recordings"], found["sentences"]) == (1, 4)
    assert found["offline_bleu"] == pytest.approx(100)  # as the README of the examples has it
    early, final = found["rows"]
    assert (early["policy"], final["policy"]) == ("attention:0.6", "final")
    # Words that are shown before a segment ends come earlier; computing takes time.
    assert 0 < early["lag"] < final["lag"] and final["bleu"] > 90
    assert all(row["lag_with_computing"] > row["lag"] for row in found["rows"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        *("1", "policy", "attention:0.6", "final", "translate"),
    ]

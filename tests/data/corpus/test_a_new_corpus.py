"""A corpus that the package does not know: one class and one line, and the preparation takes it."""

import dataclasses
import json
from pathlib import Path

import pytest
import soundfile
import yaml

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.corpora import CORPORA
from cress_svcd.data.corpus.corpus import Utterance
from cress_svcd.data.corpus.fingerprints import file_fingerprint, folder_fingerprint
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.data.corpus.text import read_lines
from cress_svcd.errors import ReleaseError
from tests.helpers.mustc_release import RATE, WORDS, noise, rewrite


@dataclasses.dataclass
class JsonLines:
    """A toy: ``SPLIT.jsonl`` beside a folder of clips, a file an utterance; Czech into anything."""

    audio_root: Path
    tgt_lang: str
    src_lang: str = "cs"

    @classmethod
    def find(cls, root, tgt_lang):
        if not list(Path(root).glob("*.jsonl")):
            raise ReleaseError(f"{root}: holds no SPLIT.jsonl")
        return cls(Path(root), tgt_lang)

    def find_splits(self, wanted=None):
        there = sorted(path.stem for path in self.audio_root.glob("*.jsonl"))
        missing = set(wanted or ()) - set(there)
        if missing:
            raise ReleaseError(f"{self.audio_root}: no split {' '.join(missing)}")
        return list(wanted or there)

    def listing(self, split):
        return self.audio_root / f"{split}.jsonl"

    def read(self, split):
        utterances = []
        for line, text in enumerate(read_lines(self.listing(split), ReleaseError), start=1):
            try:
                row = json.loads(text)
                place = {key: row[key] for key in ("offset", "duration") if key in row}
                utterances.append(
                    Utterance(
                        id=f"{split}-{line}",
                        recording=row["clip"],
                        audio=f"clips/{row['clip']}",
                        source=row[self.src_lang],
                        target=row[self.tgt_lang],
                        line=line,
                        speaker=row.get("speaker", ""),
                        precut=not place,
                        **place,
                    )
                )
            except (ValueError, KeyError) as error:
                raise ReleaseError(f"{self.listing(split)}:{line}: {error!r}") from None
        return utterances

    def fingerprint(self, split):
        return {
            "rows": file_fingerprint(self.listing(split)),
            "clips": folder_fingerprint(self.audio_root / "clips"),
        }


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(CORPORA, "jsonl", JsonLines)


@pytest.fixture
def root(tmp_path) -> Path:
    """Clips of growing length, at 16 kHz and in train at 8 kHz too; spoken by two people."""
    root = tmp_path / "corpus"
    (root / "clips").mkdir(parents=True)
    for split, count in (("dev", 3), ("train", 8)):
        rows = []
        for number in range(count):
            rate = RATE // 2 if number == 7 else RATE
            clip = f"{split}_{number}.wav"
            soundfile.write(root / "clips" / clip, noise(RATE // 2 + 100 * number), rate)
            words = " ".join(WORDS[number : number + 6])
            row = {"clip": clip, "cs": words, "en": words[::-1], "speaker": f"s{number % 2}"}
            rows.append(json.dumps(row) + "\n")
        (root / f"{split}.jsonl").write_text("".join(rows))
    return root


def prepare(root, *options, corpus="jsonl", language="en") -> int:
    command = ["prepare-mustc", str(root), "-o", str(root.parent / "out"), "--corpus", corpus]
    return main([*command, "--tgt-lang", language, "--vocab-size", "40", *options])


def error_of(capsys, *arguments, **keywords) -> str:
    capsys.readouterr()
    assert prepare(*arguments, **keywords) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_from_clips_to_a_folder_to_train_from(root):
    out = root.parent / "out"
    assert prepare(root, "--text-data") == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["src_lang"], config["tgt_lang"]) == ("cs", "en")
    assert config["audio_root"] == str(root)
    table = read_manifest(out / "train.tsv")
    assert list(table["id"]) == [f"train-{line}" for line in range(1, 9)]
    assert list(table["speaker"]) == ["s0", "s1"] * 4
    assert list(table["src_text"]) == [" ".join(WORDS[n : n + 6]) for n in range(8)]
    assert list(table["tgt_text"]) == [text[::-1] for text in table["src_text"]]
    assert set(table["src_lang"]) == {"cs"} and set(table["tgt_lang"]) == {"en"}
    assert table["audio"][2] == "clips/train_2.wav:0:8200"
    assert list(table["n_frames"]) == [8_000 + 100 * n for n in range(7)] + [17_400]
    for row in table.to_dict("records"):
        assert len(read_audio(row["audio"], config["audio_root"])) == row["n_frames"]
    assert len(read_manifest(out / "dev.tsv")) == 3
    assert (out / "binary" / "dev.cs-en.cs.idx").exists()


def test_segments_of_a_recording_get_in_order_of_time(root):
    path = root / "dev.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, offset in zip(rows, (0.25, 0.125, 0)):
        row |= {"clip": "dev_0.wav", "offset": offset, "duration": 0.125}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert prepare(root) == 0
    table = read_manifest(root.parent / "out" / "dev.tsv")
    assert list(table["id"]) == ["dev-3", "dev-2", "dev-1"]
    assert list(table["audio"]) == [f"clips/dev_0.wav:{at}:2000" for at in (0, 2000, 4000)]


def test_only_what_changed_is_done_again(root):
    def times() -> list[int]:
        assert prepare(root) == 0
        files = [root.parent / "out" / name for name in ("train.tsv", "dev.tsv")]
        return [path.stat().st_mtime_ns for path in files]

    first = times()
    assert times() == first
    rewrite(root / "dev.jsonl", "tall", "small")
    train, dev = times()
    assert train == first[0] and dev != first[1]


class Loud(JsonLines):
    def read(self, split):
        utterances = super().read(split)
        return [utterance._replace(source=utterance.source.upper()) for utterance in utterances]


def test_another_reader_of_the_same_files_makes_them_again(root, monkeypatch):
    monkeypatch.setitem(CORPORA, "loud", Loud)
    assert prepare(root) == 0 and prepare(root, corpus="loud") == 0
    assert read_manifest(root.parent / "out" / "dev.tsv")["src_text"][0].isupper()


def test_errors_name_its_own_files(root, capsys):
    assert "--corpus nosuch: expected one of mustc, jsonl" in error_of(
        capsys, root, corpus="nosuch"
    )
    assert "--tgt-lang cs: expected the code of a language other than cs" in error_of(
        capsys, root, language="cs"
    )
    assert "no split tst" in error_of(capsys, root, "--splits", "tst")
    assert "dev.jsonl:1: KeyError('de')" in error_of(capsys, root, language="de")
    rewrite(root / "dev.jsonl", '"clip": "dev_1.wav"', '"clip": "dev_1.wav", "duration": 9')
    message = error_of(capsys, root)
    assert "dev.jsonl:2: row 2: ends at 9.00 s, but" in message and "mend the jsonl" in message
    assert "none of 8 segments can be used (too short: 8)" in error_of(
        capsys, root, "--splits", "train", "--min-frames", "99999"
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"offset": "0,75"}, "offset is '0,75'; expected a number of seconds"),
        ({"duration": "1.5"}, "duration is '1.5'; expected a number of seconds"),
        ({"duration": True}, "duration is True; expected a number"),
        ({"offset": None}, "offset is None; expected a number"),
        ({"offset": -1}, "offset is -1; expected a number"),
        ({"duration": float("nan")}, "duration is nan; expected a number"),
        ({"speaker": None}, "speaker is None; expected text"),
        ({"speaker": 12}, "speaker is 12; expected text"),
        ({"en": 5}, "target is 5; expected text"),
    ],
)
def test_what_a_reader_hands_on_unchecked_is_refused_by_row(root, capsys, change, message):
    path = root / "dev.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"dev.jsonl:2: row 2: {message}" in error_of(capsys, root, "--splits", "dev", "train")

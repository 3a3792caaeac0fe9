"""Makes small releases in MuST-C layout, intact or broken on purpose."""

import dataclasses
from pathlib import Path

import numpy as np
import soundfile

PAIR = ("Hello.", "Hallo.")

RATE = 16_000


@dataclasses.dataclass
class Talk:
    """A file of a split and its segments: (offset, duration, source, target), times in seconds."""

    wav: str
    segments: list[tuple[float, float, str, str]]
    seconds: float = 10.0
    speaker: str | None = "spk.1"


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def make_split(data: Path, split: str, talks: list[Talk], tgt_lang: str = "de") -> None:
    """Write one split below ``data``, the folder en-XX/data."""
    txt, wav = data / split / "txt", data / split / "wav"
    txt.mkdir(parents=True)
    wav.mkdir()
    rows, sources, targets = [], [], []
    for talk in talks:
        soundfile.write(wav / talk.wav, noise(int(talk.seconds * RATE)), RATE)
        speaker = "" if talk.speaker is None else f"speaker_id: {talk.speaker}, "
        for offset, duration, source, target in talk.segments:
            rows.append(
                f"- {{duration: {duration}, offset: {offset}, rW: 9, uW: 0, "
                f"{speaker}wav: {talk.wav}}}\n"
            )
            sources.append(source + "\n")
            targets.append(target + "\n")
    (txt / f"{split}.yaml").write_text("".join(rows))
    (txt / f"{split}.en").write_bytes("".join(sources).encode())
    (txt / f"{split}.{tgt_lang}").write_bytes("".join(targets).encode())


WORDS = [
    "the",
    "red",
    "house",
    "stood",
    "near",
    "seven",
    "tall",
    "trees",
    "while",
    "birds",
    "sang",
    "about",
    "rain",
    "and",
    "wind",
]


def make_release(root: Path, tgt_lang: str = "de", talks: int = 3, segments: int = 12) -> Path:
    """train, dev and tst-COMMON of noise and word salad; returns the folder en-XX/data."""
    data = root / f"en-{tgt_lang}" / "data"
    rng = np.random.default_rng(5)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, 6)).capitalize() + "."

    for split in ("train", "dev", "tst-COMMON"):
        make_split(
            data,
            split,
            [
                Talk(
                    f"ted_{number}.wav",
                    [(0.5 * i, 0.45, sentence(), sentence()[::-1]) for i in range(segments)],
                )
                for number in range(talks)
            ],
            tgt_lang,
        )
    return data


def rewrite(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))

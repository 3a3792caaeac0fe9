"""Which segments sound otherwise in an epoch, and how: ``--audio-transforms``.

Everything follows from the seed, the epoch and the number of the segment: the number of workers
changes nothing, and a resumed training hears what an uninterrupted one would.
"""

from dataclasses import dataclass

import numpy as np
import soxr

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.errors import ConfigError

SPEED = "speed"
SHARES = {
    SPEED: 0.7,
    "room": 0.3,
    "noise": 0.5,
    "band": 0.3,
    "codec": 0.2,
    "gain": 0.5,
    "mask": 0.3,
}
"""Share of the segments that each changes unless it is given; in the order in which they follow."""

SPEEDS = (0.85, 1.2)
ALL = "all"
OPTION = "--audio-transforms"

# Apart from what varied cuts draw from the same seed.
_SPEEDS, _SOUNDS = 81, 82


@dataclass(frozen=True)
class AudioTransforms:
    """What is changed of training's speech.

    Attributes:
        shares: name → share of the segments, in each epoch.
        seed: of everything.
    """

    shares: dict[str, float]
    seed: int = 1

    @classmethod
    def parse(cls, text: str, seed: int = 1) -> "AudioTransforms | None":
        """``speed,noise=0.5``, or ``all``; None for nothing.

        Raises:
            ConfigError: an unknown name, or a share that is none.
        """
        shares: dict[str, float] = {}
        for item in filter(None, (item.strip() for item in text.split(","))):
            name, equals, share = (part.strip() for part in item.partition("="))
            names = list(SHARES) if name == ALL else [name]
            if names[0] not in SHARES:
                raise ConfigError(
                    f"{OPTION}: {item!r}; expected NAME or NAME=SHARE of {', '.join(SHARES)}, "
                    f"or {ALL}"
                )
            for each in names:
                shares[each] = _share(item, share) if equals else SHARES[each]
        shares = {name: shares[name] for name in SHARES if shares.get(name)}
        return cls(shares, seed) if shares else None

    def speeds(self, epoch: int, lengths: np.ndarray, longest: int | None = None) -> np.ndarray:
        """How fast each segment is in an epoch; 1: as it is.

        Args:
            lengths: samples of each segment.
            longest: samples beyond which no segment is made slower.
        """
        random, count = np.random.default_rng([self.seed, _SPEEDS, epoch]), len(lengths)
        changed = random.random(count) < self.shares.get(SPEED, 0.0)
        speeds = np.where(changed, random.uniform(*SPEEDS, count), 1.0)
        if longest is None:
            return speeds
        return np.where(self.lengths(lengths, speeds) > longest, np.maximum(speeds, 1.0), speeds)

    @staticmethod
    def lengths(lengths: np.ndarray, speeds: np.ndarray) -> np.ndarray:
        """Samples of each segment at its speed."""
        return np.maximum(1, np.rint(lengths / speeds)).astype(np.int64)

    def apply(self, wave: np.ndarray, speed: float, epoch: int, index: int) -> np.ndarray:
        """A segment as it sounds in an epoch.

        Args:
            wave: float32 of shape (samples,), at 16 kHz.
            speed: of ``speeds``.
            index: of the segment.
        Returns:
            float32 of as many samples as ``lengths`` says.
        """
        # scipy's import takes a third of a second, and translating needs none of it.
        from cress_svcd.data.augmentation.effects import EFFECTS

        samples = int(self.lengths(np.array([len(wave)]), np.array([speed]))[0])
        if speed != 1:
            faster = soxr.resample(wave, SAMPLE_RATE * speed, SAMPLE_RATE)
            wave = np.pad(faster[:samples], (0, max(0, samples - len(faster))))
        for name, share in self.shares.items():
            # Each from a seed of its own: one more changes nothing of the others.
            random = np.random.default_rng([self.seed, _SOUNDS + place_of(name), epoch, index])
            if name in EFFECTS and random.random() < share:
                wave = EFFECTS[name](wave, random)
        return np.ascontiguousarray(wave, dtype=np.float32)


def place_of(name: str) -> int:
    """Of a transform among all."""
    return list(SHARES).index(name)


def _share(item: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"{OPTION}: {item!r}; expected a share from 0 to 1 after '='")
    return share

"""How far a translation is, for a person at a terminal."""

from typing import Any

from tqdm import tqdm


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 02:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


class SoundProgress(tqdm):
    """A bar that counts seconds of sound.

    It shows the position in all of it, the real-time factor (seconds of computing for a second of
    sound), and the time that remains; where it is not known how much there is (a list), the time
    that has passed.
    """

    KNOWN = (
        "{desc}: {percentage:3.0f}%|{bar}| {position} of {whole}, RTF {factor}, {remaining} left"
    )
    UNKNOWN = "{desc}: {position}, RTF {factor}, {elapsed} passed"

    def __init__(self, total: float | None = None, **options: Any):
        options.setdefault("bar_format", self.KNOWN if total else self.UNKNOWN)
        super().__init__(total=total, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What ``bar_format`` can name: tqdm's own, and ours."""
        values: dict[str, Any] = super().format_dict
        done, elapsed = values["n"], values["elapsed"]
        return values | {
            "position": clock(done),
            "whole": clock(values["total"] or 0),
            "factor": f"{elapsed / done:.3f}" if done else "?",
        }

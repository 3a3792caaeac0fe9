"""Checking a value that a user chose, with an error that helps to choose again."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from cress_svcd.errors import ConfigError


def near(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The names of ``known`` that look most like ``name``, best first."""
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """A question to append to an error message; empty where nothing looks alike."""
    candidates = near(str(name), known)
    return f"; did you mean {' or '.join(repr(item) for item in candidates)}?" if candidates else ""


def require_choice(key: str, value: Any, choices: Collection[Any]) -> Any:
    """The one of ``choices`` that equals ``value`` (so that 1.0 becomes 1).

    Raises:
        ConfigError: naming ``key``, what was found and what may stand there.  ``True`` is no 1.
    """
    for choice in choices:
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return choice
    labels = ["off" if choice is None else str(choice) for choice in choices]
    raise ConfigError(
        f"{key}: found {value!r}, expected one of: {', '.join(labels)}{did_you_mean(value, labels)}"
    )


def require_share(key: str, value: Any) -> float:
    """``value``, a share of something; ConfigError unless it is a float between 0 and 1."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise ConfigError(f"{key}: found {value!r}, expected a number between 0 and 1")
    return value


def require_keys(where: str, found: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for the first of ``found`` that is not among ``known``."""
    for key in found:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}, expected: {', '.join(known)}"
                f"{did_you_mean(key, known)}"
            )

"""How many threads a machine bears: far more than it has cores crash OpenMP instead of an error."""

import os

from cress_svcd.errors import ConfigError

MOST_THREADS = max(64, os.cpu_count() or 1)
"""More than cores do no good; some more do no harm."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Where torch reads its number of threads."""


def require_threads(count: int, name: str) -> None:
    """Raise ConfigError, which begins with ``name``, unless so many threads can run."""
    if not 1 <= count <= MOST_THREADS:
        cores = os.cpu_count() or 1
        raise ConfigError(
            f"{name} is {count}, expected 1 to {MOST_THREADS} (this machine has {cores} "
            f"core{'s' * (cores > 1)})"
        )


def require_sane_environment() -> None:
    """Raise ConfigError if a variable asks torch for more threads than can run.

    What is no number OpenMP itself reports, and leaves out.
    """
    for name in VARIABLES:
        for count in os.environ.get(name, "").split(","):  # of nested regions
            if count.strip().isdecimal() and int(count) > MOST_THREADS:
                require_threads(int(count), name)

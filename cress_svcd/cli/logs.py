"""What a command says next to its results, on standard error: our words, not others' chatter."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

# Their log lines and warnings are about themselves: configurations, fonts, what will be deprecated.
# Errors of theirs are shown.
OTHERS = (
    "absl",
    "fairseq",
    "fairseq_cli",
    "fsspec",
    "hydra",
    "matplotlib",
    "numba",
    "numexpr",
    "omegaconf",
    "PIL",
    "sacrebleu",
    "sklearn",
    "tensorboard",
    "torch",
    "torchaudio",
    "triton",
)
OURS = "cress_svcd"


class Lines(logging.StreamHandler):
    """Lines on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")
        with bars.tqdm.external_write_mode(self.stream) if bars else contextlib.nullcontext():
            super().emit(record)


def is_shown(record: logging.LogRecord) -> bool:
    """Whether it is not one of OTHERS that logs less than an error."""
    return record.levelno >= logging.ERROR or record.name.split(".")[0] not in OTHERS


def shows_notes() -> bool:
    """Whether more is to be said than errors."""
    return logging.getLogger(OURS).isEnabledFor(logging.WARNING)


@contextlib.contextmanager
def logs(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Context in which this process says things on standard error.

    Args:
        quiet: errors alone, and no progress bars.
        verbose: also our details, and what others say.
    """
    handler = Lines(sys.stderr)
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(message)s",
        datefmt="%H:%M:%S",
        level=max(level, logging.INFO),  # details of all others would be thousands of lines
        handlers=[handler],
        force=True,  # importing fairseq may have configured it already
    )
    logging.getLogger(OURS).setLevel(level)
    with contextlib.ExitStack() as stack:
        stack.callback(logging.getLogger(OURS).setLevel, logging.NOTSET)
        stack.enter_context(warnings.catch_warnings())
        if not verbose:
            handler.addFilter(is_shown)
            for name in OTHERS:
                # Of their modules; a warning about a line of ours is ours to mend.
                warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        if quiet:
            warnings.simplefilter("ignore")
            stack.enter_context(hidden_progress())
        yield


@contextlib.contextmanager
def hidden_progress() -> Iterator[None]:
    """Context in which no progress bar is shown, whatever its maker asks for."""
    from tqdm import tqdm

    make = tqdm.__init__

    def hidden(self: tqdm, *args, **options) -> None:
        make(self, *args, **{**options, "disable": True})

    tqdm.__init__ = hidden
    try:
        yield
    finally:
        tqdm.__init__ = make

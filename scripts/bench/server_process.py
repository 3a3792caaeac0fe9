"""A server to be measured: ``cress-svcd serve`` at a free port of this machine."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

PROGRAM = [sys.executable, "-m", "cress_svcd.cli.main"]
END_SECONDS = 120.0


@contextlib.contextmanager
def serving(model: str, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Context of a server: its process, which has ended after it, and its address.

    Raises:
        SystemExit: it does not start; it has said why.
    """
    command = [*PROGRAM, "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found = re.search(r"at (http://\S+)", process.stdout.readline())
    if not found:
        raise SystemExit(process.wait() or 1)
    try:
        yield process, found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)

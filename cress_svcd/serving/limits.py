"""How much a server takes on."""

import math
from dataclasses import dataclass

from cress_svcd.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What is more than that gets an answer that says so.

    Args:
        upload_megabytes: of a request's body.
        recording_seconds: of an uploaded recording.
        requests: recordings that are under way at a time, waiting ones included.
        client_requests: those of one client.
        live: live connections at a time.
        wait_seconds: until the first segment of a recording is taken.
        silence_seconds: in which a client that is to send, or to read, does nothing.
        header_seconds: from a connection, or the answer before, to the end of a request's headers.
        upload_rate: bytes a second that an upload has at least, after ``silence_seconds``.
        batch_seconds: speech that is translated together.
        ahead_seconds: speech of one recording that waits in memory.
        grace_seconds: for what is under way when the server is stopped.
    Raises:
        ConfigError: a value that nothing can be served with.
    """

    upload_megabytes: float = 100.0
    recording_seconds: float = 7200.0
    requests: int = 64
    client_requests: int = 48
    live: int = 16
    wait_seconds: float = 60.0
    silence_seconds: float = 30.0
    header_seconds: float = 15.0
    upload_rate: float = 4000.0
    batch_seconds: float = 60.0
    ahead_seconds: float = 60.0
    grace_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if isinstance(value, int) else 0
            if not least <= value < math.inf:
                raise ConfigError(f"serve: {name} is {value}, expected {least} or more")

    @property
    def upload_bytes(self) -> int:
        return round(self.upload_megabytes * 1e6)

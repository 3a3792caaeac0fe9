"""Who is under way, and who gives its place to others.

While there is room, a client may take its time (``Limits.silence_seconds``).  Where there is none,
whoever sends next to nothing makes room for the next one, so that a few hundred clients that do
nothing, or little, do not shut out those that want something.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator
from typing import Any

from cress_svcd.serving.limits import Limits
from cress_svcd.serving.problems import Problem
from cress_svcd.serving.web import Receive

PATIENCE = 2.0  # seconds that a client has in any case


class Sender:
    """A client that is to send something: all that it has sent, and since when.

    Attributes:
        client: its address.
        size: bytes that came.
        gave_way: it had to make room.
    """

    def __init__(self, client: str = ""):
        self.client, self.size, self.gave_way = client, 0, False
        self.begun = self.last = time.monotonic()
        self._waiting: asyncio.Timeout | None = None

    async def receive(self, receive: Receive, seconds: float) -> Any:
        """The next message; raises TimeoutError if it takes too long or the place is needed."""
        if self.gave_way:
            raise TimeoutError
        try:
            async with asyncio.timeout(seconds) as self._waiting:
                message = await receive()
        finally:
            self._waiting = None
        self.last = time.monotonic()
        return message

    def silent(self) -> float:
        """Seconds for which nothing came that the server was ready to take."""
        return 0.0 if self._waiting is None else time.monotonic() - self.last

    def rate(self) -> float:
        """Bytes a second."""
        return self.size / max(time.monotonic() - self.begun, 1e-9)

    def give_way(self) -> None:
        self.gave_way = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())


class Places:
    """Recordings under way.

    Attributes:
        taken: who sent them.
        uploads: those of them who are still sending.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.taken: set[Sender] = set()
        self.uploads: set[Sender] = set()

    @contextlib.contextmanager
    def take(self, client: str) -> Iterator[Sender]:
        """Context in which a recording of this client is under way.

        Raises:
            Problem: there are too many.
        """
        limits = self.limits
        if len(self.taken) >= limits.requests and not self._make_room(self.uploads):
            raise Problem(
                503,
                f"{limits.requests} recordings are under way; try again later",
                code="overloaded",
            )
        if sum(sender.client == client for sender in self.taken) >= limits.client_requests and (
            not self._make_room({u for u in self.uploads if u.client == client})
        ):
            raise Problem(
                429,
                f"{limits.client_requests} recordings of yours are under way; wait for one",
                code="rate_limit_exceeded",
            )
        sender = Sender(client)
        self.taken.add(sender)
        self.uploads.add(sender)
        try:
            yield sender
        finally:
            self.uploads.discard(sender)
            self.taken.discard(sender)

    def arrived(self, sender: Sender) -> None:
        """The recording is here: its place is kept until it is translated."""
        self.uploads.discard(sender)

    def _make_room(self, uploads: Collection[Sender]) -> bool:
        """Whether an upload that hardly comes has given its place."""
        late = time.monotonic() - PATIENCE
        slow = [u for u in uploads if u.begun < late and u.rate() < self.limits.upload_rate]
        if not slow:
            return False
        slowest = min(slow, key=Sender.rate)
        slowest.give_way()
        self.uploads.discard(slowest)
        self.taken.discard(slowest)
        return True

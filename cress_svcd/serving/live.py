"""Live audio over a WebSocket.

The client sends text {"type": "start", "model": …, "language": …, "token": …}, then binary messages
of PCM (16 kHz, 16 bits, little endian, one channel), then {"type": "stop"}.  The server sends
  {"type": "ready", "model": …, "rate": 16000}
  {"type": "partial", "id", "start", "end", "text", "stable"}   stable: what it begins with, which
      stays; of its last word an ending may be to come; empty where the engine cannot say
  {"type": "final", …}     as a segment of verbose_json; "id" counts them
  {"type": "error", "error": {…}}
  {"type": "done", "text": …}, and closes; after too long a recording, an error in its place.
One translation runs per connection, and what is still being said has at most PARTIAL_SHARE of the
time: the busier the server, the rarer its partial words.  While a connection is behind, nothing
more is read: the client's network has to wait, rather than memory to grow.
"""

import asyncio
import contextlib
import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from cress_svcd.data.audio import SAMPLE_RATE
from cress_svcd.serving.answers import segment as as_segment
from cress_svcd.serving.batching import Batcher, Job
from cress_svcd.serving.gate import bearer, fits
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.live_audio import LiveAudio
from cress_svcd.serving.models import Models, ServedModel
from cress_svcd.serving.places import PATIENCE, Sender
from cress_svcd.serving.problems import Problem, stopping
from cress_svcd.serving.recordings import refuse_long
from cress_svcd.serving.web import Headers, WebSocket, WebSocketDisconnect
from cress_svcd.translation.recordings import Segment
from cress_svcd.translation.result import Translation
from cress_svcd.translation.stable_prefix import AlignAtt, StablePrefix

STEP = SAMPLE_RATE // 2  # new samples that are worth another look
BEHIND = 5 * SAMPLE_RATE  # samples that have come and were not looked at
# Of the time, for translations of what is still being said, their waiting included.
PARTIAL_SHARE = 0.5
# Seconds without sound after which a connection gives its place, where there is no other.
PAUSE = 10.0
# A word stays if it attends to nothing of the last so many seconds (scripts/bench/live_lag.py).
HELD_SECONDS = 0.6


class Shared(Protocol):
    """What the connections share with all else; see ``app.Service``."""

    models: Models
    limits: Limits
    token: str | None
    batcher: Batcher
    readers: ThreadPoolExecutor
    stopping: bool
    live: "set[LiveSession]"


class LiveSession:
    """One connection: a task listens, another one follows with the translations.

    Attributes:
        changed: there is something to look at: new samples, or the end.
        looked: the follower has looked, and the listener may have more to take.
        seen: samples that were looked at.
        ended: nothing comes any more.
        started: the first message was taken.
        texts: of the final segments.
    """

    def __init__(self, service: Shared, socket: WebSocket):
        self.service, self.socket = service, socket
        self.sender = Sender()
        self.changed, self.looked = asyncio.Event(), asyncio.Event()
        self.seen = 0
        self.started = self.ended = False
        self.texts: list[str] = []

    def end(self) -> None:
        """Nothing comes any more: the rest is translated, then the connection closed."""
        self.ended = True
        self.changed.set()

    async def run(self) -> None:
        await self.socket.accept()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            try:
                model = await self._start()
                await self._translate(model)
            except Problem as problem:
                await self._send({"type": "error", **problem.body()})
                await self.socket.close(1013 if problem.status == 503 else 1008)

    async def _start(self) -> ServedModel:
        """The model that the first message names.

        Raises:
            Problem: it is none, or not allowed.
        """
        service = self.service
        if service.stopping:
            raise stopping()
        if len(service.live) > service.limits.live and not self._make_room():
            raise Problem(
                503, f"{service.limits.live} live connections are open", code="overloaded"
            )
        message = await self._receive()
        wish = read_message(message.get("text"))
        token = wish.get("token")
        given = bearer(Headers(scope=self.socket.scope)) or (
            token if isinstance(token, str) else None
        )
        if not fits(service.token, given):
            raise Problem(401, "the token is missing or wrong", code="invalid_api_key")
        if wish.get("type") != "start":
            raise Problem(400, 'expected {"type": "start"} first')
        names = [wish.get(key) or "" for key in ("model", "language")]
        if not all(isinstance(name, str) for name in names):
            raise Problem(400, "model and language are no text", "model")
        model = service.models.choose(*names)
        self.started = True
        await self._send({"type": "ready", "model": model.name, "rate": SAMPLE_RATE})
        return model

    def _make_room(self) -> bool:
        """Whether a connection on which nothing comes has given its place."""
        silent = [
            (other.sender.silent(), other)
            for other in self.service.live
            if other is not self and other.sender.silent() > (PAUSE if other.started else PATIENCE)
        ]
        if not silent:
            return False
        _, longest = max(silent, key=lambda pair: pair[0])
        longest.sender.give_way()
        self.service.live.discard(longest)
        return True

    async def _translate(self, model: ServedModel) -> None:
        audio = LiveAudio(model.translator.segmentation)
        listening = asyncio.create_task(self._listen(audio))
        final = Job(model, timed=False)
        partial = Job(model, timed=model.translator.continues)
        following = asyncio.create_task(self._follow(audio, final, partial))
        try:
            await asyncio.wait((listening, following), return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                listening.result()  # raises what went wrong with it
            await following
            refuse_long(audio.received / SAMPLE_RATE, self.service.limits)
            await self._send({"type": "done", "text": " ".join(filter(None, self.texts))})
            await self.socket.close(1001 if self.service.stopping else 1000)
        finally:
            for job in (final, partial):
                self.service.batcher.drop(job)
            listening.cancel()
            following.cancel()
            await asyncio.gather(listening, following, return_exceptions=True)

    async def _listen(self, audio: LiveAudio) -> None:
        """Take in what comes until the client stops, or it is more than a recording may have.

        Raises:
            Problem: it sends what is not expected, or nothing.
            WebSocketDisconnect: it left.
        """
        limit = self.service.limits.recording_seconds * SAMPLE_RATE
        try:
            while audio.received <= limit:
                while audio.received - self.seen > BEHIND:
                    self.looked.clear()
                    await self.looked.wait()
                message = await self._receive()
                if message.get("bytes") is not None:
                    audio.append(message["bytes"])
                    if audio.received - self.seen >= STEP:
                        self.changed.set()
                elif read_message(message.get("text")).get("type") == "stop":
                    return
                else:
                    raise Problem(400, 'expected PCM in binary messages, or {"type": "stop"}')
        finally:
            self.end()

    async def _follow(self, audio: LiveAudio, whole: Job, partial: Job) -> None:
        """Translate what was said, and what is being said, until the end."""
        loop = asyncio.get_running_loop()
        stable = new_prefix()
        rested = 0.0  # from when on a partial translation may begin
        while True:
            await self.changed.wait()
            self.changed.clear()
            ended = self.ended
            received = audio.received
            final, open_one = await loop.run_in_executor(
                self.service.readers, audio.segments, ended
            )
            for segment in final:
                found = await self._translated(whole, segment, stable)
                stable = new_prefix()
                number = len(self.texts)
                self.texts.append(found.text)
                await self._send({"type": "final", **as_segment(whole.model, number, found)})
            self.seen = received
            self.looked.set()
            if ended:
                return
            if open_one is None or final:
                continue
            started = time.monotonic()
            if started < rested:
                loop.call_later(rested - started, self.changed.set)
            else:
                await self._send(await self._partial(partial, open_one, stable))
                now = time.monotonic()
                rested = now + (now - started) * (1 / PARTIAL_SHARE - 1)

    async def _partial(self, job: Job, segment: Segment, stable: StablePrefix) -> dict[str, Any]:
        """The message about a segment that is still being said; ``stable`` grows."""
        found = await self._translated(job, segment, stable)
        translator = job.model.translator
        tokens = stable.update(found, segment.end) if translator.continues else ()
        return {
            "type": "partial",
            "id": len(self.texts),
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": found.text,
            "stable": translator.text_of(tokens) if tokens else "",
        }

    async def _translated(self, job: Job, segment: Segment, stable: StablePrefix) -> Translation:
        segment = dataclasses.replace(segment, prefix=stable.tokens)
        return await self.service.batcher.submit(job, segment)

    async def _receive(self) -> Any:
        seconds = self.service.limits.silence_seconds
        try:
            message = await self.sender.receive(self.socket.receive, seconds)
        except TimeoutError:
            if self.sender.gave_way:
                raise Problem(408, "nothing came, and others needed the place") from None
            raise Problem(408, f"nothing came for {seconds:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message

    async def _send(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False)
        await asyncio.wait_for(self.socket.send_text(text), self.service.limits.silence_seconds)


def new_prefix() -> StablePrefix:
    """Of a segment of which nothing was said yet."""
    return StablePrefix(AlignAtt(HELD_SECONDS))


def read_message(text: str | None) -> dict[str, Any]:
    """Raises Problem: it is no JSON object."""
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Problem(400, "expected a JSON object in a text message")
    return message

"""Who may come in: what stands before all routes."""

import asyncio
import contextlib
import hmac
from collections.abc import Collection, Sequence
from urllib.parse import SplitResult, urlsplit

from cress_svcd.serving.metrics import Metrics
from cress_svcd.serving.problems import Problem, stopping
from cress_svcd.serving.web import ASGIApp, Headers, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What shows nothing of the models: whether the server lives; the pages, which ask for the token.
OPEN = ("/", "/docs", "/health")
OPEN_BELOW = "/page/"
DRAIN_SECONDS = 5.0
MOST_DRAINING = 64  # bodies at a time; the others break off
PROTECTION = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; worker-src 'self' blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
}


def fits(token: str | None, given: str | None) -> bool:
    """Whether what a client gives is the token, in a time that tells nothing of it."""
    if token is None:
        return True
    # JSON may hold half a surrogate pair, which is no letter and no token either.
    known, told = token.encode(), (given or "").encode("utf-8", "surrogatepass")
    return given is not None and hmac.compare_digest(told, known)


def bearer(headers: Headers) -> str | None:
    kind, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else None


def address(url: str) -> SplitResult:
    """The parts of an address; of what is none, empty ones."""
    try:
        return urlsplit(url if url.isprintable() else "")
    except ValueError:
        return urlsplit("")


def is_origin(text: str) -> bool:
    """Whether browsers may say this of a page: scheme and host, in small letters, no path."""
    parts = address(text)
    return text in ("*", "null") or (
        bool(parts.netloc) and text == f"{parts.scheme}://{parts.netloc}".lower()
    )


class Body:
    """The body of a request, of which an error leaves a part unread.

    A connection that is closed with something unread is reset, and many clients that are still
    sending then never see why: what they send is thrown away for a while first.
    """

    def __init__(self, scope: Scope, receive: Receive):
        headers = Headers(scope=scope)
        # A client that waits to be asked for its body has not sent any.
        self.unread = "expect" not in headers and (
            headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        )
        self._receive = receive

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self.unread = False
        return message

    async def drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self.unread:
                    await self.receive()


class NotRead(Exception):
    """The client reads nothing of its answer."""


class Gate:
    """Middleware: names of this host alone (where it is bound to itself), no pages of others but
    those that were named, the token; it counts the answers.

    hosts: names under which the server may be asked; None: any.
    origins: pages of other hosts that may ask; "*": any.
    paths: those of which answers are counted apart; a client cannot make others.
    read_seconds: in which a client reads nothing of its answer, before it is taken to be gone.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None = None,
        hosts: Sequence[str] | None = None,
        origins: Collection[str] = (),
        paths: Collection[str] = (),
        read_seconds: float = 30.0,
    ):
        self.read_seconds, self.draining = read_seconds, 0
        self.app, self.metrics, self.token = app, metrics, token
        self.hosts, self.origins, self.paths = hosts, origins, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        problem = self._problem(scope, Headers(scope=scope))
        if scope["type"] == "websocket":
            if problem is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": problem.message})
            return

        body, started = Body(scope, receive), False

        async def counted(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                if message["status"] >= 400 and message["status"] != 408:  # who sends nothing
                    await self._drain(body)
                path = scope["path"] if scope["path"] in self.paths else "other"
                self.metrics.requests.labels(path, message["status"]).inc()
                have = {key.lower() for key, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (k.encode(), v.encode())
                        for k, v in PROTECTION.items()
                        if k.encode() not in have
                    ),
                ]
            try:
                await asyncio.wait_for(send(message), self.read_seconds)
            except TimeoutError:
                raise NotRead from None

        app = self.app if problem is None else problem.response()
        try:
            await app(scope, body.receive, counted)
        except NotRead:
            self.metrics.gone.inc()
        except asyncio.CancelledError:  # by uvicorn, which does not wait any longer
            if not started:
                await stopping().response()(scope, body.receive, send)

    async def _drain(self, body: Body) -> None:
        if self.draining < MOST_DRAINING:
            self.draining += 1
            try:
                await body.drain()
            finally:
                self.draining -= 1

    def _problem(self, scope: Scope, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        name = address(f"//{host}").hostname
        if self.hosts is not None and name not in self.hosts:
            return Problem(421, f"this server is not {host[:80]!r}; ask {self.hosts[0]}")
        origin = headers.get("origin")
        if origin is not None and not self._may_ask(origin, host):
            return Problem(
                403, f"pages of {origin[:80]} may not ask this server (--cors names them)"
            )
        path = scope["path"]
        if path in OPEN or path.startswith(OPEN_BELOW) or scope["type"] == "websocket":
            return None  # a live connection gives its token in its first message
        if not fits(self.token, bearer(headers)):
            return Problem(401, "the bearer token is missing or wrong", code="invalid_api_key")
        return None

    def _may_ask(self, origin: str, host: str) -> bool:
        return origin in self.origins or "*" in self.origins or address(origin).netloc == host

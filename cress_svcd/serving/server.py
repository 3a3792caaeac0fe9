"""The process of the server: its socket, its signals, its end."""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from cress_svcd.errors import ConfigError
from cress_svcd.serving.app import Service, make_app
from cress_svcd.serving.web import (
    H11Protocol,
    UvicornServer,
    WebSocketsProtocol,
    h11,
    uvicorn,
)

BACKLOG = 128  # connections that are accepted at a time
# Of a connection, in the kernel; by itself it takes minutes of live audio that nobody looks at yet.
RECEIVE_BUFFER = 1 << 19
# Connections without a request; one more, and one has to go.  Several times as many as are accepted
# before what they say is read.
MOST_WAITING = 4 * BACKLOG
SPARE_CONNECTIONS = 256  # beyond those under way: who looks, and who is told to come later
OPEN_FILES = 4096  # many systems give a process 1,024, which connections alone may take
MOST_UNREAD = 1 << 18  # bytes of a live connection that are sent; a client gets no more pongs then
CLOSING_SECONDS = 2.0  # for a client of live audio to agree to the end


class Server(UvicornServer):
    """uvicorn, but for its signals: it raises them again at its end, which is none of an error."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Protocol(H11Protocol):
    """HTTP, whose clients do not take for ever to say what they want: uvicorn lets them.

    header_seconds: see ``Limits``.
    waiting: those of whose next request the headers are not there yet, who waits longest first.
    """

    header_seconds = 15.0
    waiting: "dict[Protocol, None]" = {}
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # a request has come, with its headers
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.header_seconds, self._too_late)
            self.waiting[self] = None
            if len(self.waiting) > MOST_WAITING:
                never_asked = (one for one in self.waiting if one.cycle is None)
                next(never_asked, next(iter(self.waiting)))._too_late()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self.waiting.pop(self, None)

    def _too_late(self) -> None:
        self._stop()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
            self.transport.close()


class LiveProtocol(WebSocketsProtocol):
    """WebSockets, whose clients do not take long to leave."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.close_timeout = CLOSING_SECONDS

    def handle_ping(self) -> None:
        if self.transport.get_write_buffer_size() < MOST_UNREAD:
            super().handle_ping()
        else:  # pongs that nobody reads would be kept without end
            self.conn.data_to_send()


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address; 0: any free port.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{host}:{port} cannot be listened at ({reason}): take another --host or --port"
        ) from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # also of accepted
    return listening


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def shorter(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: what a client sends is no reason for a traceback."""
    if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
        record.exc_info = None
    return True


def make_server(service: Service) -> Server:
    """A server, not yet started."""
    limits = service.limits
    own = {"header_seconds": limits.header_seconds, "waiting": {}}
    places = limits.requests + limits.live
    config = uvicorn.Config(
        make_app(service),
        http=type("Protocol", (Protocol,), own),
        ws=LiveProtocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=places + MOST_WAITING + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(limits.grace_seconds)),
        proxy_headers=False,
        ws_max_size=1 << 20,
    )
    logging.getLogger("uvicorn.error").addFilter(shorter)
    return Server(config)


def allow_open_files(count: int = OPEN_FILES) -> None:
    """Let this process have so many open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def serve(service: Service, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way; a second signal ends at once.

    Args:
        started: called when requests are answered.
    """
    allow_open_files()
    asyncio.run(run(make_server(service), service, listening, started))


async def run(
    server: Server, service: Service, listening: socket.socket, started: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def stop() -> None:
        await service.finish_live()
        server.should_exit = True

    def on_signal() -> None:
        if service.stopping:
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # of what is broken off now
            server.should_exit = server.force_exit = True
            return
        service.stopping = True
        tasks.add(loop.create_task(stop()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    serving = loop.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        started()
    await serving

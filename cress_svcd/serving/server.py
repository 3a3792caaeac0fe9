"""The process of the server: its socket, its signals, its end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

from cress_svcd.errors import ConfigError
from cress_svcd.serving.app import Service, make_app
from cress_svcd.serving.web import UvicornServer, uvicorn

BACKLOG = 128
# Of a connection, in the kernel; by itself it takes minutes of live audio that nobody looks at yet.
RECEIVE_BUFFER = 1 << 19
SPARE_CONNECTIONS = 128  # beyond those under way: who looks, and who is told to come later


class Server(UvicornServer):
    """uvicorn, but for its signals: it raises them again at its end, which is none of an error."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address; 0: any free port.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
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


def serve(service: Service, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way; a second signal ends at once.

    Args:
        started: called when requests are answered.
    """
    limits = service.limits
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.requests + limits.live + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(limits.grace_seconds)),
        proxy_headers=False,
        ws_max_size=1 << 20,
    )
    asyncio.run(run(Server(config), service, listening, started))


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

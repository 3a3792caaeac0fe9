"""What the server uses of other packages, those of the extra ``serve``.

Without them the modules of this folder can be imported all the same, and ``require`` says what is
missing.
"""

# ruff: noqa: F401

from typing import Any

from cress_svcd.errors import ConfigError

MISSING: str | None = None

try:
    import h11
    import python_multipart
    import uvicorn
    import websockets
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import Headers, UploadFile
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import (
        FileResponse,
        JSONResponse,
        PlainTextResponse,
        Response,
        StreamingResponse,
    )
    from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketDisconnect
    from uvicorn import Server as UvicornServer
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import (
        WebSocketsSansIOProtocol as WebSocketsProtocol,
    )
except ModuleNotFoundError as error:
    MISSING = error.name

    class Absent(Exception):
        """In the place of what is not there."""

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return Absent


def require() -> None:
    """Raises ConfigError: a package is missing."""
    if MISSING is not None:
        raise ConfigError(f"the package {MISSING} is not there: pip install 'cress_svcd[serve]'")

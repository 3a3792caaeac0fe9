"""The routes of the server, and what they share."""

import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cress_svcd.serving.answers import ANSWERS, TIMED, segment
from cress_svcd.serving.batching import Batcher, Job
from cress_svcd.serving.gate import Gate
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.live import LiveSession
from cress_svcd.serving.metrics import Metrics
from cress_svcd.serving.models import Models, ServedModel
from cress_svcd.serving.openapi import document
from cress_svcd.serving.places import Places, Sender
from cress_svcd.serving.problems import Problem, answer_http, answer_problem, stopping
from cress_svcd.serving.recordings import length_of, problem_of, translate_recording
from cress_svcd.serving.uploads import Form, read_form
from cress_svcd.serving.web import (
    BaseRoute,
    ClientDisconnect,
    CORSMiddleware,
    FileResponse,
    HTTPException,
    JSONResponse,
    Middleware,
    Mount,
    Receive,
    Request,
    Response,
    Route,
    Scope,
    Send,
    Starlette,
    StaticFiles,
    StreamingResponse,
    WebSocket,
    WebSocketRoute,
)
from cress_svcd.translation.result import Translation, join

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
READERS = 2  # threads that decode and cut; as many for recordings of which there is much to read
GONE = 499  # by custom, of a client that left: nobody reads it


class Events(StreamingResponse):
    """Server-sent events; ``stack`` is closed at their end, also of those that nobody reads."""

    def __init__(self, events: AsyncIterator[str], stack: contextlib.ExitStack):
        super().__init__(events, media_type="text/event-stream")
        self.stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.stack:
            await super().__call__(scope, receive, send)


class Service:
    """What all routes share; all of it is the event loop's, and the threads of the pools only get
    what they are given.

    readers: threads that decode and cut.
    patient_readers: those for recordings of which there is much to read.
    places: recordings under way.
    live: connections with live audio.
    stopping: no new recordings are taken.
    folder: for uploads; while the server runs.
    """

    folder: Path

    def __init__(
        self,
        models: Models,
        limits: Limits = Limits(),
        token: str | None = None,
        hosts: Sequence[str] | None = None,
        origins: Collection[str] = (),
        workers: int = 1,
    ):
        self.models, self.limits, self.token = models, limits, token
        self.hosts, self.origins = hosts, origins
        self.metrics = Metrics()
        self.batcher = Batcher(limits, self.metrics, workers)
        self.readers = ThreadPoolExecutor(READERS, "read")
        self.patient_readers = ThreadPoolExecutor(READERS, "read-much")
        self.places = Places(limits)
        self.live: set[LiveSession] = set()
        self.stopping = False
        self.metrics.show(
            "requests_under_way", "Recordings under way.", lambda: len(self.places.taken)
        )
        self.metrics.show("live_connections", "Live connections.", lambda: len(self.live))

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="cress-svcd-serve-") as folder:
            self.folder = Path(folder)
            async with self.batcher.running():
                yield
            self.readers.shutdown(cancel_futures=True)
            self.patient_readers.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def admitted(self, request: Request) -> Iterator[Sender]:
        """Context in which a recording is under way.

        Raises:
            Problem: there are too many, or the server is being stopped.
        """
        if self.stopping:
            raise stopping()
        client = request.client.host if request.client else ""
        with self.places.take(client) as sender, self.metrics.seconds.time():
            yield sender

    async def translations(self, request: Request) -> Response:
        """``POST /v1/audio/translations``."""
        stack = contextlib.ExitStack()
        try:
            sender = stack.enter_context(self.admitted(request))
            form = await read_form(request, self.limits, self.folder, sender)
            self.places.arrived(sender)
            stack.callback(form.path.unlink, missing_ok=True)
            answer = await unless_gone(request, self.answer(form, stack))
            if answer is None:
                raise ClientDisconnect
            return answer
        except ClientDisconnect:
            self.metrics.gone.inc()
            return Response(status_code=GONE)
        finally:
            stack.close()

    async def answer(self, form: Form, stack: contextlib.ExitStack) -> Response:
        """The whole answer to a form, or its stream, which takes over what is in ``stack``.

        Raises:
            Problem: it cannot be answered.
        """
        fields = form.fields
        model = self.models.choose(fields.get("model", "").strip(), fields.get("language", ""))
        form_of_answer = fields.get("response_format") or "json"
        if form_of_answer not in ANSWERS:
            raise Problem(
                400,
                f"response_format is {form_of_answer[:40]!r}; expected one of {', '.join(ANSWERS)}",
                "response_format",
            )
        streams = is_true(fields.get("stream", ""))
        job = Job(model, streams or form_of_answer in TIMED)
        try:
            loop = asyncio.get_running_loop()
            seconds, much = await loop.run_in_executor(
                self.readers, length_of, form.path, self.limits
            )
            readers = self.patient_readers if much else self.readers
            parts = translate_recording(form.path, job, self.batcher, readers)
            if not streams:
                return ANSWERS[form_of_answer](model, [part async for part in parts], seconds)
            first = await anext(parts, None)
        except Exception as error:
            raise problem_of(error, form.path) from error
        events = self.events(model, form.path, first, parts, seconds)
        return Events(events, stack.pop_all())

    async def events(
        self,
        model: ServedModel,
        path: Path,
        first: Translation | None,
        rest: AsyncIterator[Translation],
        seconds: float,
    ) -> AsyncIterator[str]:
        """Server-sent events: a segment each as it comes, then all words."""
        found: list[Translation] = []
        try:
            while first is not None:
                found.append(first)
                about = segment(model, len(found) - 1, first)
                yield event({"type": "transcript.text.segment", **about})
                first = await anext(rest, None)
        except Exception as error:
            yield event({"type": "error", **problem_of(error, path).body()})
            return
        finally:
            await rest.aclose()  # type: ignore[attr-defined]
        done = {"text": join(found).text, "duration": round(seconds, 3), "model": model.name}
        yield event({"type": "transcript.text.done", **done})

    async def listen(self, socket: WebSocket) -> None:
        """Live audio; see ``live``."""
        session = LiveSession(self, socket)
        self.live.add(session)
        try:
            await session.run()
        except Exception:
            logger.exception("a live connection failed")
            with contextlib.suppress(Exception):
                await socket.close(1011)
        finally:
            self.live.discard(session)

    async def finish_live(self) -> None:
        """Let live connections have the last of their words."""
        for session in self.live:
            session.end()
        end = time.monotonic() + self.limits.grace_seconds
        while self.live and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def list_models(self, request: Request) -> Response:
        cards = [model.card() for model in self.models]
        return JSONResponse({"object": "list", "data": cards})

    async def one_model(self, request: Request) -> Response:
        return JSONResponse(self.models.find(request.path_params["name"]).card())

    async def health(self, request: Request) -> Response:
        if self.stopping:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok", "models": len(self.models.by_name)})

    async def measured(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document([model.name for model in self.models]))

    async def page(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def docs(self, request: Request) -> Response:
        return FileResponse(PAGE / "docs.html")

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.page),
            Route("/docs", self.docs),
            Route("/health", self.health),
            Route("/metrics", self.measured),
            Route("/openapi.json", self.openapi),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name}", self.one_model),
            Route("/v1/audio/translations", self.translations, methods=["POST"]),
            WebSocketRoute("/v1/audio/translations/live", self.listen),
            Mount("/page", StaticFiles(directory=PAGE)),
        ]


def is_true(value: str) -> bool:
    """What the field ``stream`` says; raises Problem if it is neither true nor false."""
    if value.lower() not in ("true", "1", "false", "0", ""):
        raise Problem(400, f"stream is {value[:40]!r}; expected true or false", "stream")
    return value.lower() in ("true", "1")


def event(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def unless_gone(request: Request, work: Any) -> Any:
    """What ``work`` returns; None if the client leaves before, and the work is dropped."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def answer_bug(request: Request, error: Exception) -> Response:
    """Starlette logs the error, and has this sent."""
    return Problem(500, "the server failed; its log has the details").response()


def make_app(service: Service) -> Starlette:
    routes = service.routes()
    gate = Middleware(
        Gate,
        service.metrics,
        service.token,
        service.hosts,
        service.origins,
        paths=[route.path for route in routes if isinstance(route, Route)],
        read_seconds=service.limits.silence_seconds,
    )
    middleware = [gate]
    if service.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(service.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
        middleware.insert(0, cors)
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            Problem: answer_problem,
            HTTPException: answer_http,
            Exception: answer_bug,
        },
        lifespan=service.lifespan,
    )

"""A server in the process of the test, whose model says what it is told, and how to watch one."""

import asyncio
import contextlib
import io
import socket
import threading
import time

import httpx
import numpy as np
import soundfile

from cress_svcd.serving.app import Service
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.models import Models, ServedModel
from cress_svcd.serving.server import address_of, bind, make_server
from cress_svcd.translation.recording_translator import RecordingTranslator
from cress_svcd.translation.result import Translation

TRANSLATE = "/v1/audio/translations"
HEAD = f"POST {TRANSLATE} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"


class Translator(RecordingTranslator):
    """Says a word of each segment, as soon as it ``may``; ``asked``: it has been asked for one."""

    segmentation = None

    def __init__(self, words: str = "ja"):
        self.words, self.may, self.asked = words, threading.Event(), threading.Event()
        self.may.set()

    def translate_segments(self, segments, wanted=None):
        for segment in segments:
            self.asked.set()
            self.may.wait(30)
            yield segment, Translation(self.words, 0.0, (), segment.start, segment.end)


@contextlib.contextmanager
def served(*translators, host="127.0.0.1", token=None, **limits):
    """The address of a server in this process, and what it shares; its models are m, m1, m2."""
    models = [
        ServedModel(f"m{number or ''}", translator, "de", "en", 1, 1)
        for number, translator in enumerate(translators or [Translator()])
    ]
    service = Service(Models(models), Limits(**limits), token)
    with bind(host, 0) as listening:
        server = make_server(service)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        until(lambda: server.started)
        try:
            yield address_of(listening), service
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def sound(seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.ones(round(16_000 * seconds)) / 2, 16_000, format="WAV")
    return file.getvalue()


def place_of(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


def connect(url: str) -> socket.socket:
    return socket.create_connection(place_of(url), timeout=10)


def answer_to(client: socket.socket) -> str:
    """All that comes until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(4096):
            found += part
    return found.decode()


def metric(url, name, **options) -> float:
    lines = httpx.get(f"{url}/metrics", **options).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"cress_svcd_{name} "))


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)

"""Hundreds of clients that do nothing, or little: those that want something are served at once."""

import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync import client as websocket

from cress_svcd.serving import live, places, recordings, server
from cress_svcd.serving.app import READERS
from cress_svcd.translation.segmentation import Segmentation
from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.divide import Frames
from tests.helpers.served import (
    HEAD,
    TRANSLATE,
    Translator,
    answer_to,
    connect,
    served,
    sound,
    until,
)

CROWD = 400
UPGRADE = (
    "GET /v1/audio/translations/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What takes seconds takes tenths of them."""
    monkeypatch.setattr(places, "PATIENCE", 0.2)
    monkeypatch.setattr(live, "PATIENCE", 0.2)


@contextlib.contextmanager
def crowd(url: str, said: str):
    """A crowd of connections that say this, and nothing more."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(CROWD):
            clients.append(stack.enter_context(connect(url)))
            with contextlib.suppress(OSError):
                clients[-1].sendall(said.encode())
        httpx.get(f"{url}/health", timeout=60)  # it comes last: all others have been taken in
        time.sleep(0.5)  # more than what a client has in any case
        yield clients


def served_well(url: str) -> bool:
    started = time.monotonic()
    with httpx.Client(base_url=url, timeout=10) as client:
        for _ in range(3):
            assert client.get("/health").status_code == 200
            answer = client.post(TRANSLATE, files={"file": sound()})
            assert (answer.status_code, answer.json()) == (200, {"text": "ja"})
    return time.monotonic() - started < 10


@pytest.mark.parametrize(
    "said",
    [
        "",
        "GET /health HTTP/1.1\r\nX",
        f"{HEAD}Content-Length: 100000\r\n\r\n--x\r\n",
        "POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
        UPGRADE,
    ],
    ids=["nothing", "half a header", "half an upload", "half of an error", "live audio"],
)
def test_a_crowd_that_waits(said):
    with served() as (url, _), crowd(url, said):
        assert served_well(url)


def test_a_process_may_have_open_files_for_all_of_them():
    words = (
        "import resource as r; from cress_svcd.serving.server import allow_open_files as allow\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, 900)); allow(); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["900"]


def test_who_waits_longest_goes_first(monkeypatch):
    monkeypatch.setattr(server, "MOST_WAITING", 100)
    with served() as (url, _), crowd(url, "GET") as clients:
        gone = clients[: CROWD - server.MOST_WAITING]
        assert all(answer_to(client).startswith("HTTP/1.1 408 ") for client in gone)
        clients[-1].sendall(b" /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer_to(clients[-1]).startswith("HTTP/1.1 200 ")


def test_an_upload_that_drips_gives_its_place(monkeypatch):
    monkeypatch.setattr(places, "PATIENCE", 2.0)
    with served(client_requests=1) as (url, service), connect(url) as client:
        client.sendall(f"{HEAD}Content-Length: 100000\r\n\r\n--x\r\n".encode())
        until(lambda: len(service.places.taken) == 1)
        assert httpx.post(url + TRANSLATE, files={"file": sound()}).status_code == 429
        for _ in range(5):
            time.sleep(0.5)
            client.sendall(b"drip")
        assert httpx.post(url + TRANSLATE, files={"file": sound()}).status_code == 200
        assert "others needed its place" in answer_to(client)


def test_an_upload_that_comes_keeps_its_place():
    with served(client_requests=1) as (url, service), connect(url) as client:
        part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        client.sendall(f"{HEAD}Content-Length: 4000000\r\n\r\n{part}".encode() + bytes(100_000))
        until(lambda: len(service.places.taken) == 1)
        time.sleep(0.4)
        assert httpx.post(url + TRANSLATE, files={"file": sound()}).status_code == 429


def test_a_silent_live_connection_gives_its_place(monkeypatch):
    monkeypatch.setattr(live, "PAUSE", 2.0)
    start = json.dumps({"type": "start"})
    with served(live=1) as (url, _):
        address = url.replace("http", "ws") + TRANSLATE + "/live"

        def begun(connection: socket.socket) -> str:
            with contextlib.suppress(ConnectionClosed):  # it is told at once that all are taken
                connection.send(start)
            return json.loads(connection.recv(10))["type"]

        with websocket.connect(address):
            time.sleep(0.4)  # it has not begun
            with websocket.connect(address) as second:
                assert begun(second) == "ready"
                with websocket.connect(address) as third:
                    assert begun(third) == "error"
                time.sleep(2.2)
                with websocket.connect(address) as fourth:
                    assert begun(fourth) == "ready"
                    assert "others needed" in json.loads(second.recv(10))["error"]["message"]


def test_recordings_of_which_there_is_much_to_read_hold_up_no_others(monkeypatch):
    """Those that take minutes to decode and have nothing to be translated."""
    may, reading = threading.Event(), threading.Semaphore(0)
    read = recordings.read_segments

    def slow(path, *arguments):
        if soundfile.info(path).duration > 100:
            reading.release()
            may.wait(30)
        return read(path, *arguments)

    monkeypatch.setattr(recordings, "read_segments", lambda *a: (yield from slow(*a)))
    content = silence(400)
    with served() as (url, service), ThreadPoolExecutor(4) as pool:
        long = [
            pool.submit(httpx.post, url + TRANSLATE, files={"file": content}, timeout=60)
            for _ in range(4)
        ]
        until(lambda: len(service.places.taken) == 4)
        try:
            assert all(reading.acquire(timeout=30) for _ in range(READERS))
            assert served_well(url)
        finally:
            may.set()
        assert all(answer.result().status_code == 200 for answer in long)


class Slow(Segmenter):
    """Hears nothing, and takes its time from the first block on.

    heard: blocks.
    """

    def __init__(self):
        super().__init__(Segmentation())
        self.heard, self.may, self.ended = 0, threading.Event(), threading.Event()

    def listen(self, blocks, rate):
        try:
            for _ in blocks:
                self.heard += 1
                self.may.wait(30)
        finally:
            self.ended.set()
        return Frames(np.zeros(1), 160.0, 160)


@pytest.fixture
def slow():
    translator = Translator()
    translator.segmentation = Slow()
    yield translator
    translator.segmentation.may.set()


def silence(seconds: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(seconds * 16_000), 16_000, format="FLAC")
    return file.getvalue()


def test_nothing_is_read_for_a_client_that_has_left(slow):
    segmenter, content = slow.segmentation, silence(400)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    with served(slow) as (url, service):
        with connect(url) as client:
            client.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: segmenter.heard == 1)
        until(lambda: not service.places.taken)
        segmenter.may.set()
        assert segmenter.ended.wait(30) and segmenter.heard == 1


def test_a_recording_that_no_reader_is_free_for_does_not_wait_for_ever(slow):
    with served(slow, wait_seconds=0.3) as (url, _), ThreadPoolExecutor(READERS) as pool:
        files = {"file": silence(400)}
        first = [
            pool.submit(httpx.post, url + TRANSLATE, files=files, timeout=60)
            for _ in range(READERS)
        ]
        until(lambda: slow.segmentation.heard == READERS)
        answer = httpx.post(url + TRANSLATE, files=files, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        slow.segmentation.may.set()
        assert [one.result().status_code for one in first] == [200] * READERS


def test_crowds_that_come_and_go():
    """Threads that connect and leave, in the middle of anything, while others are served."""
    stop = threading.Event()

    def come_and_go(url: str, said: str) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(url) as client:
                client.sendall(said.encode())

    with served(requests=1000, client_requests=1000) as (url, service):  # all have one address
        threads = [
            threading.Thread(target=come_and_go, args=(url, said))
            for said in ("", "GET / HT", f"{HEAD}Content-Length: 9\r\n\r\n--x", UPGRADE)
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.5)
            assert served_well(url)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        until(lambda: not service.places.taken and not service.live)

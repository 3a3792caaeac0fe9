"""Clients that take their time, a queue that does not move, a disk that is full."""

import contextlib
import socket
import threading
import time

import pytest

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx

from tests.helpers.served import (
    HEAD,
    TRANSLATE,
    Translator,
    answer_to,
    connect,
    metric,
    served,
    sound,
    until,
)


@pytest.mark.parametrize("sent", ["", "GET / HT", "GET /health HTTP/1.1\r\nX: "])
def test_headers_that_do_not_come(sent):
    with served(header_seconds=0.3) as (url, _), connect(url) as client:
        client.sendall(sent.encode())
        assert answer_to(client).startswith("HTTP/1.1 408 ")


def test_headers_that_come_in_drops():
    with served(header_seconds=0.3) as (url, _), connect(url) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(40):
                client.sendall(b"G")
                time.sleep(0.02)
        assert "200" not in answer_to(client)


def test_a_request_may_take_longer_than_its_headers():
    translator = Translator()
    translator.may.clear()
    with served(translator, header_seconds=0.3) as (url, _):
        threading.Timer(0.8, translator.may.set).start()
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(2):
                answer = client.post(TRANSLATE, files={"file": sound()})
                assert answer.json() == {"text": "ja"}


def test_an_upload_that_stops_or_drips():
    with served(silence_seconds=0.3, upload_rate=1e6) as (url, service):
        with connect(url) as client:
            client.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n--x\r\n".encode())
            assert "nothing of the upload came for 0.3 s" in answer_to(client)
        with connect(url) as client:
            client.sendall(f"{HEAD}Content-Length: 1000000\r\n\r\n--x\r\n".encode())
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(100):
                    client.sendall(b"drip")
                    time.sleep(0.01)
            assert "less than 1000 kB a second" in answer_to(client)
        until(lambda: not service.places.taken)
        assert not list(service.folder.iterdir())


def test_an_answer_that_is_not_read():
    translator = Translator("word " * 2_000_000)
    with served(translator, silence_seconds=0.3) as (url, service), connect(url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        form = b'\r\n--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--\r\n'
        body = head + sound(60) + form
        client.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: metric(url, "hang_ups_total") == 1)
        until(lambda: not service.places.taken)
        assert not list(service.folder.iterdir())


def test_a_queue_that_does_not_move():
    translator = Translator()
    translator.may.clear()
    with served(translator, wait_seconds=0.3) as (url, _):
        first = threading.Thread(
            target=httpx.post, args=(url + TRANSLATE,), kwargs={"files": {"file": sound()}}
        )
        first.start()
        assert translator.asked.wait(30)
        answer = httpx.post(url + TRANSLATE, files={"file": sound()}, timeout=30)
        translator.may.set()
        first.join(30)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "overloaded"
        assert httpx.post(url + TRANSLATE, files={"file": sound()}).status_code == 200


def test_a_disk_without_room(checkpoint, start_server, recordings):
    """Of a process whose files may have 100 kB; others and it go on."""
    content = recordings[0].read_bytes()
    assert len(content) > 200_000
    with start_server(checkpoint, most_bytes=100_000) as server:
        answer = httpx.post(server.url + TRANSLATE, files={"file": content}, timeout=60)
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "no_room" and "File too large" in error["message"]
        assert httpx.get(f"{server.url}/health").status_code == 200
        short = httpx.post(server.url + TRANSLATE, files={"file": sound()}, timeout=60)
        assert short.status_code == 200
    assert "Traceback" not in server.log


@pytest.mark.parametrize("host", ["::1", "::"])
def test_addresses_of_the_sixth_version(host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(host=host) as (url, _):
        port = url.rsplit(":", 1)[1]
        assert httpx.get(f"http://[::1]:{port}/health").json()["status"] == "ok"
        if host == "::":
            assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200

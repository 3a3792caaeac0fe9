"""Who may come in, how much is taken on, how it ends."""

import socket
import threading
import time

import pytest

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx

from cress_svcd.cli.main import build_command_parser
from cress_svcd.cli.serve import limits_of, origins_of, token_of
from cress_svcd.errors import ConfigError
from cress_svcd.serving.limits import Limits
from cress_svcd.serving.models import named_paths
from tests.helpers.served import TRANSLATE, metric, until


def send(url, content, timeout=60, **options):
    return httpx.post(url + TRANSLATE, files={"file": content}, timeout=timeout, **options)


def test_the_token_opens_the_server(checkpoint, start_server, recordings):
    content = recordings[0].read_bytes()
    with start_server(checkpoint, "--max-upload", "2", CRESS_SVCD_TOKEN="Geheimnis") as server:
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Bearer é"}):
            raw = {key: value.encode("latin-1") for key, value in headers.items()}
            answer = send(server.url, content, headers=raw)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert httpx.get(f"{server.url}/metrics", headers=raw).status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
        good = {"authorization": "Bearer Geheimnis"}
        assert send(server.url, content, headers=good).status_code == 200
        # A client that is still sending hears of it too.
        answer = send(server.url, b"0" * 3_000_000, headers=good)
        assert answer.status_code == 413 and "2 MB" in answer.json()["error"]["message"]
        assert send(server.url, b"0" * 3_000_000).status_code == 401

        def chunks():
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(30):
                yield b"0" * 100_000

        form = {"content-type": "multipart/form-data; boundary=x"}
        url = server.url + TRANSLATE
        assert httpx.post(url, content=chunks(), headers=good | form).status_code == 413
        assert send(server.url, content, headers=good).status_code == 200


def test_other_hosts_and_their_pages_are_not_served(server):
    url = f"{server.url}/v1/models"
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 421
    assert httpx.get(url, headers={"origin": "https://evil.example"}).status_code == 403
    for broken in ("http://[::1", "http://[x]", "null"):
        assert httpx.get(url, headers={"origin": broken}).status_code == 403
    assert httpx.get(url, headers={"host": "[::1"}).status_code == 421
    assert httpx.get(url, headers={"origin": server.url}).status_code == 200
    assert "access-control-allow-origin" not in httpx.get(url).headers


def test_long_recordings_and_too_many(checkpoint, start_server, recordings):
    limits = ["--max-recording-seconds", "60", "--max-requests", "2", "--max-client-requests", "1"]
    with start_server(checkpoint, *limits, "--cors", "https://good.example") as server:
        address = server.url.removeprefix("http://").split(":")
        head = (
            f"POST {TRANSLATE} HTTP/1.1\r\nHost: {':'.join(address)}\r\nContent-Length: 1000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        with socket.create_connection((address[0], int(address[1]))) as slow:
            slow.sendall(head.encode())
            until(lambda: metric(server.url, "requests_under_way") == 1)
            answer = send(server.url, recordings[0].read_bytes())
            assert answer.status_code == 429 and answer.headers["retry-after"]
            assert answer.json()["error"]["type"] == "rate_limit_error"
        # Who hangs up makes room.
        until(lambda: metric(server.url, "requests_under_way") == 0)
        origin = {"origin": "https://good.example"}
        answer = send(server.url, recordings[0].read_bytes(), headers=origin)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        assert metric(server.url, "hang_ups_total") == 1


def test_recordings_that_are_too_long(checkpoint, start_server, recordings):
    with start_server(checkpoint, "--max-recording-seconds", "1") as server:
        answer = send(server.url, recordings[0].read_bytes())
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "recording_too_long"


def test_sigterm_finishes_what_is_under_way(checkpoint, start_server, recordings):
    with start_server(checkpoint) as server:
        expected = send(server.url, recordings[0].read_bytes()).text
        found = []

        def slowly():
            boundary = b"--x\r\n"
            content = recordings[0].read_bytes()
            head = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

            def chunks():
                yield boundary + head + content[:1000]
                sent.set()
                going.wait(30)
                yield content[1000:] + b"\r\n--x--\r\n"

            form = {"content-type": "multipart/form-data; boundary=x"}
            url = server.url + TRANSLATE
            found.append(httpx.post(url, content=chunks(), headers=form, timeout=60))

        sent, going = threading.Event(), threading.Event()
        thread = threading.Thread(target=slowly)
        thread.start()
        sent.wait(30)
        until(lambda: metric(server.url, "requests_under_way") == 1)
        server.terminate()
        time.sleep(0.5)
        assert server.process.poll() is None
        going.set()
        thread.join(60)
        assert found[0].status_code == 200 and found[0].text == expected
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_what_is_not_done_in_time_is_told(checkpoint, start_server):
    with start_server(checkpoint, "--grace", "1") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(
                f"POST {TRANSLATE} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode()
            )
            until(lambda: metric(server.url, "requests_under_way") == 1)
            server.terminate()
            answer = slow.makefile().read()
        assert answer.startswith("HTTP/1.1 503 ") and '"stopping"' in answer
        assert server.wait() == 0 and "Traceback" not in server.log


def test_values_that_nothing_can_be_served_with(checkpoint, run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("cress-svcd", "serve", checkpoint, "--port", port, check=False)
    assert result.returncode == 2 and "cannot be listened at" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    result = run("cress-svcd", "serve", tmp_path / "none.pt", "--port", "0", check=False)
    assert result.returncode == 2 and "none.pt" in result.stderr.splitlines()[-1]
    with pytest.raises(ConfigError, match="requests is 0"):
        Limits(requests=0)


@pytest.mark.parametrize(
    "option", ["--max-upload=-1", "--max-wait=inf", "--grace=x", "--max-live=0"]
)
def test_a_limit_that_is_none_is_named_by_its_option(option, capsys):
    with pytest.raises(SystemExit):
        build_command_parser("serve").parse_args(["model.pt", option])
    assert option.split("=")[0] in capsys.readouterr().err.splitlines()[-1]


def test_limits_are_those_of_the_options():
    parse = build_command_parser("serve").parse_args
    assert limits_of(parse(["m.pt"])) == Limits()
    args = parse(["m.pt", "--max-upload", "7", "--grace", "8", "--batch-seconds", "9"])
    assert limits_of(args) == Limits(upload_megabytes=7, grace_seconds=8, batch_seconds=9)


def test_names_of_models():
    values = ["a.pt", "x/b.packed.pt", "y/b.packed.pt", "bit=c.pt"]
    names = [name for name, _ in named_paths(values)]
    assert names == ["a", "x-b.packed", "y-b.packed", "bit"]
    with pytest.raises(ConfigError, match="two models are named"):
        named_paths(["n=a.pt", "n=b.pt"])


def test_tokens_and_origins_that_nobody_can_say(tmp_path):
    file = tmp_path / "token"
    for content in ("", " \n", "a b", "é"):
        file.write_text(content, encoding="utf-8")
        given = [["--token-file", str(file)]] + ([] if content == "" else [["--token", content]])
        for words in given:
            args = build_command_parser("serve").parse_args(["model.pt", *words])
            with pytest.raises(ConfigError, match="expected a token"):
                token_of(args)
    file.write_text("Geheimnis\n", encoding="utf-8")
    args = build_command_parser("serve").parse_args(["model.pt", "--token-file", str(file)])
    assert token_of(args) == "Geheimnis"

    good = ["https://example.org", "http://localhost:3000", "chrome-extension://abc", "null", "*"]
    args = build_command_parser("serve").parse_args(["model.pt", "--cors", *good])
    assert origins_of(args) == good
    for origin in ("example.org", "https://example.org/", "https://Example.org", "http://[", ""):
        args = build_command_parser("serve").parse_args(["model.pt", "--cors", origin])
        with pytest.raises(ConfigError, match="--cors .*: expected scheme and host"):
            origins_of(args)

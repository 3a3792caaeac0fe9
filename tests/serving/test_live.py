"""Live audio over a real WebSocket."""

import itertools
import json
import socket
import threading

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("websockets.sync.client", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

from websockets import exceptions
from websockets.sync import client

from cress_svcd.serving.live_audio import LiveAudio
from cress_svcd.translation.segmentation import Segmentation
from cress_svcd.translation.segmentation.base import Segmenter
from cress_svcd.translation.segmentation.options import Span
from tests.helpers.served import Translator, metric, place_of, served, until

RATE = 16_000
LIVE = "/v1/audio/translations/live"
SPOKEN = 150  # segments, of 64 kB: megabytes more than what the kernel keeps of a connection


def pcm_of(path) -> bytes:
    wave, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return wave.astype("<i2").tobytes()


def connect(server, **options):
    address = server.url.replace("http", "ws") + LIVE
    return client.connect(address, max_size=None, **options)


def start(socket, **wish) -> dict:
    socket.send(json.dumps({"type": "start", **wish}))
    return json.loads(socket.recv(30))


def speech(segments: int):
    """PCM of a second of sound and one of silence each."""
    generator = np.random.default_rng(3)
    time = np.arange(RATE) / RATE
    loud = 0.3 * np.sin(2 * np.pi * 300 * time) * (1 + np.sin(2 * np.pi * 4 * time)) / 2
    for _ in range(segments):
        wave = np.concatenate([loud, np.zeros(RATE)]) + 0.001 * generator.normal(size=2 * RATE)
        yield (32767 * wave).astype("<i2").tobytes()


def messages(socket) -> list[dict]:
    found = []
    while True:
        try:
            found.append(json.loads(socket.recv(60)))
        except exceptions.ConnectionClosed:
            return found


def test_speech_becomes_partial_and_final_words(server, recordings):
    pcm = pcm_of(recordings[0])
    with connect(server) as socket:
        assert start(socket, model="two")["model"] == "two"
        begun = 2 * 2 * RATE  # bytes of two seconds: speech that has not ended
        socket.send(pcm[:begun])
        # Heard all at once, on a busy machine, speech may be final before it was partial.
        found = [json.loads(socket.recv(60))]
        for at in range(begun, len(pcm), 6400):
            socket.send(pcm[at : at + 6400])
        socket.send(json.dumps({"type": "stop"}))
        found += messages(socket)
    finals = [one for one in found if one["type"] == "final"]
    assert [one["id"] for one in finals] == list(range(len(finals))) and len(finals) > 2
    assert all(a["end"] <= b["start"] for a, b in zip(finals, finals[1:]))
    assert found[-1] == {
        "type": "done",
        "text": " ".join(one["text"] for one in finals if one["text"]),
    }
    partials = [one for one in found if one["type"] == "partial"]
    assert partials
    for one in partials:
        assert one["text"].startswith(one["stable"])
    # What stays, stays: until the segment is final.
    for before, after in zip(found, found[1:]):
        if before["type"] == "partial" and before["id"] == after.get("id"):
            assert after.get("stable", after["text"]).startswith(before["stable"])


@pytest.mark.parametrize(
    "wish, status",
    [({"model": "three"}, 1008), ({"language": "ro"}, 1008), ({"model": 7}, 1008)],
)
def test_wishes_that_cannot_be_met(server, wish, status):
    with connect(server) as socket:
        assert start(socket, **wish)["error"]["message"]
        assert messages(socket) == [] and socket.close_code == status


def test_rubbish_and_hang_ups_leave_the_server_as_it_is(server, recordings):
    for rubbish in ("no JSON", "[1]", "{}", b"\0\0"):
        with connect(server) as socket:
            socket.send(rubbish)
            assert json.loads(socket.recv(30))["type"] == "error"
    with connect(server) as socket:
        start(socket)
        socket.send(pcm_of(recordings[0])[:64_000])
    with connect(server) as socket:
        start(socket)
        socket.send(b"\x01")  # half a sample
        socket.send("rubbish")
        assert messages(socket)[-1]["type"] == "error"
    with connect(server) as socket:
        start(socket, token="\ud800")  # half of a letter; no token is asked for
    with pytest.raises(exceptions.InvalidStatus):
        connect(server, origin="https://evil.example")
    with connect(server) as socket:
        start(socket)
        socket.send(json.dumps({"type": "stop"}))
        assert messages(socket) == [{"type": "done", "text": ""}]


def test_a_token_and_the_end_of_the_server(checkpoint, start_server, recordings):
    with start_server(checkpoint, "--token", "abc", "--max-live", "1") as server:
        for wish in ({}, {"token": ["abc"]}, {"token": "\ud800"}, {"token": "é"}):
            with connect(server) as socket:
                assert start(socket, **wish)["error"]["code"] == "invalid_api_key"
        with connect(server, additional_headers={"Authorization": "Bearer abc"}) as socket:
            assert start(socket)["type"] == "ready"
        headers = {"authorization": "Bearer abc"}
        until(lambda: metric(server.url, "live_connections", headers=headers) == 0)
        with connect(server) as socket:
            assert start(socket, token="abc")["type"] == "ready"
            with connect(server) as second:
                assert "1 live" in json.loads(second.recv(30))["error"]["message"]
            pcm = pcm_of(recordings[0])
            socket.send(pcm[: 4 * RATE])
            assert json.loads(socket.recv(30))["type"] in ("partial", "final")
            server.terminate()
            found = messages(socket)
        assert found[-1]["type"] == "done" and found[-1]["text"]
        assert server.wait() == 0 and "Traceback" not in server.log


def test_a_recording_that_is_too_long_is_translated_as_far_as_it_may_be():
    with served(recording_seconds=5) as (url, _):
        with client.connect(url.replace("http", "ws") + LIVE) as live:
            start(live)
            for two_seconds in speech(4):
                live.send(two_seconds)
            found = messages(live)
    *finals, last = [one for one in found if one["type"] != "partial"]
    assert [one["text"] for one in finals] == ["ja"] * 3
    assert last["error"]["code"] == "recording_too_long"
    assert "expected at most 5" in last["error"]["message"]


def test_who_is_not_followed_has_to_wait():
    """While a translation takes its time the server reads no more than some seconds of sound."""
    translator = Translator()
    translator.may.clear()
    with served(translator) as (url, _), socket.create_connection(place_of(url)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        with client.connect(f"ws://x{LIVE}", sock=connection, max_size=None) as live:
            start(live)
            sent = itertools.count()

            def speak():
                for two_seconds in speech(SPOKEN):
                    live.send(two_seconds)
                    next(sent)
                live.send(json.dumps({"type": "stop"}))

            speaker = threading.Thread(target=speak)
            speaker.start()
            speaker.join(2)
            assert speaker.is_alive() and next(sent) < SPOKEN / 2
            translator.may.set()
            found = messages(live)
            speaker.join(30)
    assert found[-1] == {"type": "done", "text": " ".join(["ja"] * SPOKEN)}


def test_memory_of_a_live_recording_stays_small():
    audio, words = LiveAudio(None), 0
    for pcm in speech(40):
        for at in range(0, len(pcm), RATE):
            audio.append(pcm[at : at + RATE])
            final, _ = audio.segments()
            words += len(final)
            assert len(audio.wave) <= 13 * RATE
    final, open_one = audio.segments(ended=True)
    assert open_one is None and words + len(final) == 40


def test_the_end_of_a_final_segment_is_not_said_again():
    """A segmenter hears the end of the last span a little later when more has come."""

    class Hears(Segmenter):
        PAUSE = 0.1

        def cut(self, blocks, rate):
            samples = sum(len(block) for block in blocks)
            return [Span(0, RATE + (80 if samples > 2 * RATE else 0))]

    audio = LiveAudio(Hears(Segmentation()))
    audio.append(bytes(2 * 2 * RATE))
    final, open_one = audio.segments()
    assert [(one.start, one.end) for one in final] == [(0, 1)] and open_one is None
    audio.append(bytes(2 * RATE))
    assert audio.segments(ended=True) == ([], None)


def test_samples_may_be_cut_between_any_two_bytes():
    wave = np.random.default_rng(3).integers(-9000, 9000, 4 * RATE, dtype="<i2")
    whole, parts = LiveAudio(None), LiveAudio(None)
    pcm = wave.tobytes()
    whole.append(pcm)
    for at in range(0, len(pcm), 1_001):
        parts.append(pcm[at : at + 1_001])
    assert parts.received == whole.received == len(wave)
    for audio in (whole, parts):
        audio.segments(ended=True)
    assert np.array_equal(parts.wave, whole.wave)


def frame(opcode: int, data: bytes) -> bytes:
    """A short message of a client, under the mask that changes nothing."""
    assert len(data) < 126
    return bytes([0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0]) + data


def test_answers_to_pings_that_nobody_reads_are_not_kept():
    """A hundred thousand pings at once; their answers are more than the sockets hold."""
    count, ping = 100_000, b"p" * 125
    with served(Translator()) as (url, _), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(place_of(url))
        connection.sendall(
            f"GET {LIVE} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {22 * 'A'}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
        connection.sendall(frame(1, b'{"type": "start"}'))
        for _ in range(count // 1000):
            connection.sendall(frame(9, ping) * 1000)
        connection.sendall(frame(1, b'{"type": "stop"}'))
        found = bytearray()
        while b'"done"' not in found:
            found += connection.recv(1 << 16)
    assert 1_000 < found.count(ping) < count * 3 // 4

"""Clients of OpenAI's protocol: theirs, unmodified, and bare HTTP."""

import io
import json
import threading

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("openai", reason="pip install 'cress_svcd[test]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx
import openai
from starlette.routing import Route, WebSocketRoute

from cress_svcd.data.audio import read_audio
from cress_svcd.serving.answers import ANSWERS
from cress_svcd.serving.app import Service
from cress_svcd.serving.models import Models
from tests.helpers.served import TRANSLATE


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def translate(client, path, model="one", **fields):
    with open(path, "rb") as file:
        return client.audio.translations.create(file=file, model=model, **fields)


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_formats_are_those_of_translate(client, recordings, said, form):
    assert translate(client, recordings[0], response_format=form) == said(recordings[0], form)


def test_json_has_the_words(client, recordings, said):
    words = said(recordings[0], "text").split()
    assert translate(client, recordings[0]).text.split() == words
    assert words


def test_verbose_json_has_segments_with_times_and_scores(client, recordings, said):
    found = translate(client, recordings[0], response_format="verbose_json")
    lines = [json.loads(line) for line in said(recordings[0], "jsonl").splitlines()]
    assert found.language == "de" and len(found.segments) == len(lines)
    assert found.duration == pytest.approx(soundfile.info(recordings[0]).duration, abs=1e-3)
    for segment, line in zip(found.segments, lines):
        assert segment.text == line["text"]
        assert (segment.start, segment.end) == (line["start"], line["end"])
        assert segment.score == pytest.approx(line["score"], abs=1e-3)
        assert segment.avg_logprob == pytest.approx(line["score"] * np.log(2), abs=1e-3)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["one", "two"]
    assert client.models.retrieve("two").id == "two"


def test_a_client_that_knows_whisper_alone_is_served(client, recordings):
    expected = translate(client, recordings[0]).text
    assert translate(client, recordings[0], model="whisper-1").text == expected
    named = translate(client, recordings[0], model="", extra_body={"language": "DE"})
    assert named.text == expected


def test_segments_come_as_events(server, recordings, said):
    form = {"stream": "true"}
    with open(recordings[0], "rb") as file:
        answer = httpx.post(server.url + TRANSLATE, data=form, files={"file": file}, timeout=60)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["type"] for event in events[-2:]] == [
        "transcript.text.segment",
        "transcript.text.done",
    ]
    texts = [" ".join(event["text"].split()) for event in events[:-1]]
    assert texts == said(recordings[0], "text").splitlines()


@pytest.mark.parametrize(
    "fields, content, status, param",
    [
        ({"model": "three"}, None, 404, "model"),
        ({"model": "one", "language": "ro"}, None, 400, "language"),
        ({"language": "ro"}, None, 400, "language"),
        ({"response_format": "docx"}, None, 400, "response_format"),
        ({"stream": "perhaps"}, None, 400, "stream"),
        ({}, b"rubbish, no sound at all" * 50, 400, "file"),
        ({}, b"", 400, "file"),
    ],
)
def test_errors_are_those_of_the_protocol(server, recordings, fields, content, status, param):
    content = recordings[0].read_bytes() if content is None else content
    name = "../../etc/<script>alert(1)</script>.wav"
    answer = httpx.post(
        server.url + TRANSLATE, data=fields, files={"file": (name, content)}, timeout=60
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert "script" not in answer.text and "/tmp" not in answer.text


@pytest.mark.parametrize(
    "how, status",
    [
        ({"json": {"file": "talk.wav"}}, 415),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"files": {"sound": b"x"}}, 400),
        ({"files": {"file": (None, "text, not a file")}}, 400),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}, 400),
    ],
)
def test_bodies_that_are_no_form_with_a_file(server, how, status):
    answer = httpx.post(server.url + TRANSLATE, **how)
    assert answer.status_code == status and "expected" in answer.json()["error"]["message"]


def test_other_addresses_and_methods(server):
    assert httpx.get(f"{server.url}/v2").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(server.url + TRANSLATE).status_code == 405
    assert httpx.get(f"{server.url}/page/../app.py").status_code == 404
    assert httpx.get(f"{server.url}/page/%2e%2e/app.py").status_code == 404


def test_a_waveform_of_numpy(client, recordings, tmp_path):
    wave = io.BytesIO()
    np.save(wave, read_audio(str(recordings[0])))

    def ask(content):
        return client.audio.translations.create(file=("talk", content), model="one").text

    assert ask(wave.getvalue()) == ask(recordings[0].read_bytes())
    with pytest.raises(openai.BadRequestError, match="the recording: .*numpy.save"):
        ask(wave.getvalue()[:20])


def test_a_recording_in_which_nothing_is_said(client, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    assert translate(client, tmp_path / "silent.wav").text == ""
    assert translate(client, tmp_path / "silent.wav", response_format="text") == ""


def test_users_at_a_time_get_the_words_that_each_gets_alone(client, recordings):
    alone = [translate(client, path).text for path in recordings]
    jobs = [(path, model) for path in recordings for model in ("one", "two")] * 2
    found: dict[int, str] = {}

    def ask(number, path, model):
        found[number] = translate(client, path, model=model).text

    threads = [threading.Thread(target=ask, args=(i, *job)) for i, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(jobs))] == [
        alone[recordings.index(path)] for path, _ in jobs
    ]


def test_health_metrics_and_description(server):
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "cress_svcd_requests_under_way 0.0" in metrics
    assert "cress_svcd_waiting_segments 0.0" in metrics
    document = httpx.get(f"{server.url}/openapi.json").json()
    routes = Service(Models([])).routes()
    paths = {route.path for route in routes if isinstance(route, Route | WebSocketRoute)}
    paths -= {"/", "/docs", "/openapi.json"}
    assert {path.split(":")[0].rstrip("}") for path in paths} == {
        path.rstrip("}") for path in document["paths"]
    }
    form = document["paths"][TRANSLATE]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["properties"]["response_format"]["enum"] == list(ANSWERS)

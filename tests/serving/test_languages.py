"""A model of several target languages: one in the list for each, one in memory for all."""

import json

import pytest

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx
from websockets.sync.client import connect

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from tests.helpers.quantized_checkpoints import RULES, quantize
from tests.helpers.translation_model import make_checkpoint

TRANSLATE = "/v1/audio/translations"
SEARCH = ["--beam", "2", "--max-len-b", "12", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def packed(two_languages, hubert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_served")
    full = make_checkpoint(folder / "full.pt", two_languages, hubert)
    quantize(folder / "svcd.pt", two_languages, full, RULES["svcd"])
    path = folder / "two.pt"
    assert main(["pack", str(folder / "svcd.pt"), "-o", str(path)]) == 0
    return path


def test_each_language_by_name_and_by_language(packed, start_server, recordings, tmp_path):
    said = {}
    for language in ("de", "ro"):
        output = tmp_path / language
        command = ["translate", packed, recordings[0], "--tgt-lang", language, "-o", output]
        assert main([str(word) for word in [*command, *SEARCH]]) == 0
        said[language] = output.read_text(encoding="utf-8")
    assert said["de"] != said["ro"]

    with start_server(packed) as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def ask(**fields):
            files = {"file": recordings[0].read_bytes()}
            return client.post(TRANSLATE, files=files, data={"response_format": "text", **fields})

        models = client.get("/v1/models").json()["data"]
        assert [(one["id"], one["language"]) for one in models] == [
            ("two-de", "de"),
            ("two-ro", "ro"),
        ]
        for language, words in said.items():
            assert ask(model=f"two-{language}").text == words
            assert ask(model="two", language=language).text == words
            assert ask(language=language.upper()).text == words
            whole = ask(model="two", language=language, response_format="verbose_json").json()
            assert (whole["language"], whole["model"]) == (language, f"two-{language}")
        assert ask().text == said["de"]
        assert ask(model="two-de", language="de").text == said["de"]

        for fields in ({"model": "two"}, {"model": "two", "language": "fr"}, {"language": "fr"}):
            answer = ask(**fields)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "language")
            assert "de, ro" in answer.json()["error"]["message"]
        assert ask(model="two-de", language="ro").status_code == 400

        pcm = (read_audio(str(recordings[0])) * 32767).astype("<i2").tobytes()
        address = server.url.replace("http", "ws") + f"{TRANSLATE}/live"
        for language in ("de", "ro"):
            with connect(address) as socket:
                socket.send(json.dumps({"type": "start", "model": "two", "language": language}))
                assert json.loads(socket.recv(timeout=30))["model"] == f"two-{language}"
                socket.send(pcm[: 4 * 32_000])
                socket.send(json.dumps({"type": "stop"}))
                types = [json.loads(message)["type"] for message in socket]
                assert types[-1] == "done" and "final" in types
    assert "Traceback" not in server.log

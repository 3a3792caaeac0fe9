"""The server with the models and recordings to try."""

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"


def test_both_languages_of_one_recording(start_server):
    with start_server(EXAMPLES / "en-de.pt", EXAMPLES / "en-ro.pt") as server:
        cards = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [(card["id"], card["language"]) for card in cards] == [
            ("en-de", "de"),
            ("en-ro", "ro"),
        ]
        content = (EXAMPLES / "voice-1.flac").read_bytes()
        for language, word in (("de", "Frau"), ("ro", "femeia")):
            answer = httpx.post(
                f"{server.url}/v1/audio/translations",
                files={"file": content},
                data={"language": language},
                timeout=60,
            )
            assert word in answer.json()["text"]

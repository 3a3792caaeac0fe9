"""``cress-svcd serve --engine native``: a real server, which imports no torch."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")

import httpx
import yaml

from tests.native.conftest import NATIVE
from tests.native.test_languages import files as two_languages_files  # noqa: F401
from tests.serving.conftest import ROOT, SEARCH, Process
from tests.serving.test_live import messages, pcm_of
from tests.serving.test_live import start as start_live

PATH = "/v1/audio/translations"


@pytest.fixture(scope="module")
def environment(engine, tmp_path_factory):
    """Of a process in which ``cress_runtime`` is installed."""
    library = engine.parent / "libcress.so"
    build = ["make", "-s", "-C", NATIVE, f"BUILD={engine.parent}", library]
    subprocess.run([*map(str, build)], check=True)
    folder = tmp_path_factory.mktemp("site")
    package = shutil.copytree(NATIVE / "python" / "cress_runtime", folder / "cress_runtime")
    shutil.copy(library, package)
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture(scope="module")
def model(exported):
    return exported("full", "--allow-full", "--dtype", "fp32")[1]


@pytest.fixture(scope="module")
def server(model, environment):
    process = Process(model, "--engine", "native", "--workers", "2", **environment)
    yield process
    process.close()


@pytest.fixture(scope="module")
def talks(release) -> list[Path]:
    return sorted((release / "en-de" / "data" / "tst-COMMON" / "wav").iterdir())


@pytest.fixture(scope="module")
def said(model, environment, talks):
    """What ``translate --engine native`` prints of each."""

    def words(talk: Path) -> str:
        command = [sys.executable, "-m", "cress_svcd.cli.main", "translate", model, talk]
        done = subprocess.run(
            [*map(str, command), "--engine", "native", *SEARCH],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return [words(talk) for talk in talks]


def test_words_are_those_of_translate(server, talks, said):
    def ask(number: int) -> str:
        files, data = {"file": talks[number].read_bytes()}, {"response_format": "text"}
        return httpx.post(server.url + PATH, files=files, data=data, timeout=60).text

    turns = [*range(len(talks))] * 2
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(ask, turns)] == [said[number] for number in turns]
    maps = Path(f"/proc/{server.process.pid}/maps")
    if maps.exists():
        assert "libcress.so" in maps.read_text() and "libtorch" not in maps.read_text()


def test_segments_have_times_tokens_and_words(server, talks, said, prepared):
    (card,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    config = yaml.safe_load((prepared / "config.yaml").read_text())
    assert (card["language"], card["source_language"]) == (config["tgt_lang"], config["src_lang"])
    data = {"response_format": "verbose_json", "language": config["tgt_lang"]}
    files = {"file": talks[0].read_bytes()}
    found = httpx.post(server.url + PATH, files=files, data=data, timeout=60).json()
    assert [one["text"] for one in found["segments"]] == said[0].splitlines()
    entries = (prepared / config["vocab_filename"]).read_text(encoding="utf-8").splitlines()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(line.rsplit(" ", 1)[0] for line in entries)]
    for one in found["segments"]:
        pieces = "".join(tokens[number] for number in one["tokens"])
        assert pieces.replace("▁", " ").split() == one["text"].split()
        assert [word["word"] for word in one["words"]] == one["text"].split()


def test_live_words_are_final_when_a_segment_ends(server, talks):
    client = pytest.importorskip("websockets.sync.client")
    pcm = pcm_of(talks[0])
    with client.connect(server.url.replace("http", "ws") + PATH + "/live") as socket:
        assert start_live(socket)["type"] == "ready"
        for at in range(0, len(pcm), 6400):
            socket.send(pcm[at : at + 6400])
        socket.send('{"type": "stop"}')
        found = messages(socket)
    finals = [one["text"] for one in found if one["type"] == "final"]
    assert finals and found[-1]["text"] == " ".join(filter(None, finals))
    # It cannot be told how a translation is to begin, so that no word stays before the end.
    assert {one["stable"] for one in found if one["type"] == "partial"} <= {""}
    assert "Traceback" not in server.log


def test_each_language_of_a_model_of_two(two_languages_files, environment, talks):  # noqa: F811
    two = two_languages_files[1]
    server = Process(two, "--engine", "native", **environment)
    try:
        cards = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [one["id"] for one in cards] == ["two-de", "two-ro"]
        words = {}
        for language in ("de", "ro"):
            command = [sys.executable, "-m", "cress_svcd.cli.main", "translate", two, talks[0]]
            command += ["--engine", "native", "--tgt-lang", language, *SEARCH]
            done = subprocess.run(
                [*map(str, command)], env=os.environ | environment, capture_output=True, text=True
            )
            answer = httpx.post(
                server.url + PATH,
                files={"file": talks[0].read_bytes()},
                data={"model": "two", "language": language, "response_format": "text"},
                timeout=60,
            )
            words[language] = answer.text
            assert answer.text == done.stdout
        assert words["de"] != words["ro"]
    finally:
        server.close()


def test_a_file_of_another_kind_is_one_line(environment, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no model")
    command = [sys.executable, "-m", "cress_svcd.cli.main", "serve", tmp_path / "model.pt"]
    done = subprocess.run(
        [*map(str, command), "--engine", "native", "--port", "0"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "cress-svcd export" in done.stderr
    assert len(done.stderr.splitlines()) == 1

"""The page without a server of ours, in a real browser: files, a microphone, and what can go wrong.

Skipped without emscripten (``scripts/test.sh --native`` installs it), playwright or Chromium.
"""

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("safetensors", reason="pip install 'cress_svcd[export]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")
pytest.importorskip("playwright.sync_api", reason="pip install 'cress_svcd[test]'")

from playwright import sync_api as api

from cress_svcd.cli.main import main
from tests.helpers.served import until
from tests.native.conftest import NATIVE

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt install chromium"),
]


class Server(http.server.SimpleHTTPRequestHandler):
    """Any server of files: one that does not know of WebAssembly, either."""

    extensions_map = {".js": "text/javascript", ".html": "text/html", ".css": "text/css"}

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder for a web server, in which the page lies in a folder of its own."""
    if not shutil.which("emcc"):
        pytest.skip("no emcc: apt-get install emscripten")
    site, build = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("build") / "page"
    probe = build.with_name("probe.c")
    probe.write_text("int main(void) { return 0; }\n")
    command = ["emcc", "-sSTANDALONE_WASM", probe, "-o", probe.with_suffix(".wasm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"emcc does not work here: {done.stderr[-200:]}")
    made = ["make", "-s", "-j2", "-C", str(NATIVE / "page"), f"BUILD={build}"]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    shutil.copytree(build, site / "some" / "page")
    assert not [path for path in build.iterdir() if path.suffix in (".c", ".o")]
    assert main(["export", str(EXAMPLES / "en-de.pt"), "-o", str(site / "en-de.cress")]) == 0
    return site


@pytest.fixture(scope="module")
def url(site):
    handler = functools.partial(Server, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/some/page/"
        server.shutdown()


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A recording as WAV."""
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, soundfile.read(EXAMPLES / "voice-1.flac", dtype="int16")[0], 16_000)
    return path


@pytest.fixture(scope="module")
def said(engine, site, voice):
    """What the command says of the recording in a format."""

    def translate(form, *options) -> str:
        command = [engine, "translate", *options, "--output-format", form]
        command += [site / "en-de.cress", voice]
        return subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=True
        ).stdout

    return translate


@pytest.fixture(scope="module")
def playwright():
    with api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright, voice):
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={voice}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]
    browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
    yield browser
    browser.close()


@contextlib.contextmanager
def opened(browser, address, site_url):
    """A page of which nothing may go wrong in the console, and which asks no other server."""
    with browser.new_context(accept_downloads=True) as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
        server = re.match(r"https?://[^/]+/", site_url)[0]
        own = (server, f"blob:{server}", "data:")
        context.on("request", lambda asked: asked.url.startswith(own) or wrong.append(asked.url))
        page.goto(address)
        yield page
        assert [line for line in wrong if "status of 404" not in line] == []


@pytest.fixture
def page(browser, url):
    with opened(browser, url, url) as page:
        yield page


@pytest.fixture
def ready(page, site):
    """With the model from a file."""
    page.set_input_files("#model-file", site / "en-de.cress")
    status(page, "ready")
    return page


def status(page, words):
    api.expect(page.locator("#status")).to_contain_text(words, timeout=60_000)


def words_of(page) -> list[str]:
    return [place.inner_text() for place in page.locator(".words").all()]


def test_a_file_is_translated_as_by_the_command(ready, voice, said):
    api.expect(ready.locator("#about")).to_have_text("en-de.cress, 1.5 MB, en → de")
    ready.set_input_files("#file", voice)
    status(ready, "Done: 4 segments of 9.4 s")
    assert words_of(ready) == said("text").splitlines()
    assert ready.locator(".words").first.get_attribute("lang") == "de"
    for name, form in (("Text", "text"), ("SRT", "srt")):
        with ready.expect_download() as download:
            ready.get_by_role("button", name=name, exact=True).click()
        content = download.value.path().read_text(encoding="utf-8")
        assert content == said(form)
        suffix = {"text": "txt"}.get(form, form)
        assert download.value.suggested_filename == f"translation.de.{suffix}"
    # By the keyboard: the second segment is heard, and nothing behind it.
    start, end = (json.loads(said("jsonl").splitlines()[1])[key] for key in ("start", "end"))
    ready.locator("#segments button").nth(1).focus()
    ready.keyboard.press("Enter")
    heard = "document.querySelector('#audio').currentTime"
    until(lambda: ready.evaluate(heard) > start)
    until(lambda: ready.evaluate("document.querySelector('#audio').paused"))
    assert ready.evaluate(heard) < end + 0.6


def test_words_of_a_long_recording_come_before_all_of_it_is_heard(ready, voice, said, tmp_path):
    """Of two channels, one of which is silent, cut by the model a minute at a time."""
    wave = soundfile.read(voice, dtype="int16")[0]
    wave = np.concatenate([wave, np.zeros(16_000, np.int16)])
    silent = np.zeros(24 * len(wave), np.int16)
    soundfile.write(tmp_path / "long.flac", np.stack([np.tile(wave, 24), silent], 1), 16_000)
    ready.set_input_files("#file", tmp_path / "long.flac")
    ready.wait_for_selector("#segments li", timeout=60_000)
    assert float(ready.locator("#progress").get_attribute("value")) < 0.5
    status(ready, "Done: 96 segments of 249.6 s")
    pairs = zip(words_of(ready), 24 * said("text").splitlines(), strict=True)
    # The toy says something else of a fourth of them if the command gets the long one, too.
    assert sum(one == other for one, other in pairs) >= 72
    assert ready.locator("#progress").is_hidden()


def test_a_model_of_an_address_and_options(browser, url, voice, said):
    with opened(browser, f"{url}?model=../../en-de.cress", url) as page:
        status(page, "ready")
        assert page.locator("#model-url").input_value() == "../../en-de.cress"
        page.locator("summary").click()
        page.select_option("#cutting", "energy")
        page.fill("#beam", "2")
        page.set_input_files("#file", EXAMPLES / "voice-1.flac")
        status(page, "Done")
        assert words_of(page) == said("text", "--segmenter", "energy", "--beam", "2").splitlines()
        page.fill("#model-url", "../../en-de.cress")
        page.get_by_role("button", name="Load").click()
        status(page, "ready")


def test_words_come_while_somebody_speaks(ready, said):
    ready.get_by_role("button", name="Speak").click()
    api.expect(ready.locator("#speak")).to_have_text("Stop")
    ready.wait_for_selector("#segments li", timeout=60_000)
    assert ready.locator("#speak").inner_text() == "Stop"
    expected = said("text", "--segmenter", "energy").split()
    api.expect(ready.locator(".words")).to_have_count(4, timeout=60_000)
    ready.get_by_role("button", name="Stop").click()
    status(ready, "Done: 4 segments")
    assert " ".join(words_of(ready)).split() == expected
    with ready.expect_download() as download:
        ready.get_by_role("button", name="SRT").click()
    assert download.value.path().read_text(encoding="utf-8").count(" --> ") >= 4


def test_cancelled_and_begun_again(ready, voice, said, tmp_path):
    wave = soundfile.read(voice, dtype="int16")[0]
    soundfile.write(tmp_path / "long.wav", np.tile(wave, 100), 16_000)
    ready.set_input_files("#file", tmp_path / "long.wav")
    ready.get_by_role("button", name="Cancel").click()
    status(ready, "Cancelled")
    assert ready.locator("#downloads").is_hidden()
    ready.set_input_files("#file", voice)
    status(ready, "Done: 4 segments of 9.4 s")
    assert words_of(ready) == said("text").splitlines()


def damaged_header(model: bytes) -> bytes:
    return model.replace(b'"U8"', b'"U9"', 1)


BAD_MODELS = {
    "text": (lambda model: b"no model at all", "is not a model for this page"),
    "packed": (
        lambda model: (EXAMPLES / "en-de.pt").read_bytes(),
        'which "cress-svcd export" writes',
    ),
    "empty": (lambda model: b"", "is not a model for this page"),
    "in_header": (lambda model: model[:5000], "is not complete: load it again"),
    "cut": (lambda model: model[:-5000], "is damaged: it has the checksum"),
    "damaged": (damaged_header, "is damaged: it has the checksum"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models_are_said_and_a_good_one_follows(page, site, tmp_path, kind):
    make, reason = BAD_MODELS[kind]
    (tmp_path / "bad.cress").write_bytes(make((site / "en-de.cress").read_bytes()))
    page.set_input_files("#model-file", tmp_path / "bad.cress")
    alert = page.get_by_role("alert")
    api.expect(alert).to_contain_text(reason, timeout=30_000)
    assert alert.inner_text().startswith("bad.cress is ") and "\n" not in alert.inner_text()
    assert page.locator("#speak").is_disabled() and page.locator("#cancel").is_hidden()
    page.set_input_files("#model-file", site / "en-de.cress")
    status(page, "ready")
    assert alert.inner_text() == ""


def test_an_address_without_a_model(page, url):
    page.get_by_role("button", name="Load").click()
    api.expect(page.get_by_role("alert")).to_contain_text("There is no address")
    page.fill("#model-url", "nowhere.cress")
    page.keyboard.press("Enter")
    message = f"{url}nowhere.cress answers 404: check the address."
    api.expect(page.get_by_role("alert")).to_have_text(message)
    page.fill("#model-url", "https://:nowhere")
    page.keyboard.press("Enter")
    api.expect(page.get_by_role("alert")).to_contain_text("https://:nowhere is no address")


def test_bad_recordings_are_said(ready, voice, tmp_path):
    alert = ready.get_by_role("alert")
    (tmp_path / "rubbish.wav").write_bytes(b"no sound" * 100)
    ready.set_input_files("#file", tmp_path / "rubbish.wav")
    api.expect(alert).to_contain_text("rubbish.wav holds no sound that this browser can read")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    ready.set_input_files("#file", tmp_path / "empty.wav")
    api.expect(alert).to_contain_text("empty.wav holds no sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(48_000), 16_000)
    ready.set_input_files("#file", tmp_path / "silent.wav")
    api.expect(alert).to_contain_text("Nothing was heard in this recording", timeout=30_000)
    # Two channels of opposite poles are no silence.
    wave = soundfile.read(voice)[0]
    soundfile.write(tmp_path / "poles.wav", np.stack([wave, -wave], 1), 16_000)
    ready.set_input_files("#file", tmp_path / "poles.wav")
    status(ready, "Done: 4 segments")
    assert alert.inner_text() == ""


def test_there_is_no_microphone(playwright, url, site):
    browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
    with opened(browser, f"{url}?model=../../en-de.cress", url) as page:
        status(page, "ready")
        page.get_by_role("button", name="Speak").click()
        alert = page.get_by_role("alert")
        api.expect(alert).to_contain_text("The microphone cannot be used: ")
        assert re.search("it is not allowed here|there is none", alert.inner_text())
        api.expect(page.locator("#speak")).to_have_text("Speak")
    browser.close()


def test_too_old_a_browser_and_no_server_are_said(browser, url, site):
    with browser.new_context() as context:
        old = context.new_page()
        old.add_init_script("WebAssembly.validate = () => false")
        old.goto(url)
        api.expect(old.get_by_role("alert")).to_contain_text("This browser is too old")
        from_disk = context.new_page()
        from_disk.goto((site / "some" / "page" / "index.html").as_uri())
        api.expect(from_disk.get_by_role("alert")).to_contain_text("works from a web server only")


def test_without_the_engine(browser, site, tmp_path):
    shutil.copytree(site / "some" / "page", tmp_path / "page")
    (tmp_path / "page" / "cress.wasm").unlink()
    handler = functools.partial(Server, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/page/"
        with opened(browser, address, address) as page:
            page.set_input_files("#model-file", site / "en-de.cress")
            api.expect(page.get_by_role("alert")).to_contain_text("cress.wasm is missing")
        server.shutdown()


def test_phones_have_room_and_night_is_dark(ready, voice):
    ready.set_viewport_size({"width": 320, "height": 640})
    ready.set_input_files("#file", voice)
    status(ready, "Done")
    ready.locator("summary").click()
    assert ready.evaluate("document.documentElement.scrollWidth") <= 320
    colours = set()
    for scheme in ("dark", "light"):
        ready.emulate_media(color_scheme=scheme)
        colours.add(ready.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_axe_finds_nothing(page, site, voice):
    """Rules of WCAG, by axe-core: before a model, with a translation, on a dark phone."""
    reason = "pip install 'cress_svcd[test]'"
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason).Axe()
    assert axe.run(page).response["violations"] == []
    page.set_input_files("#model-file", site / "en-de.cress")
    status(page, "ready")
    page.set_input_files("#file", voice)
    status(page, "Done")
    page.locator("summary").click()
    assert axe.run(page).response["violations"] == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 700})
    found = axe.run(page).response
    assert found["violations"] == [] and len(found["passes"]) > 10

"""The page in a real browser, with a microphone that plays a recording."""

import contextlib
import re
import shutil

import pytest
import soundfile

pytest.importorskip("starlette", reason="pip install 'cress_svcd[serve]'")
pytest.importorskip("httpx", reason="pip install 'cress_svcd[test]'")
pytest.importorskip("playwright.sync_api", reason="pip install 'cress_svcd[test]'")

from playwright import sync_api as api

from tests.helpers.served import Translator, served, sound, until

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="there is no Chromium: apt install chromium"
)


@pytest.fixture(scope="module")
def browser(recordings):
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={recordings[0]}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def axe():
    """axe-core, which knows rules of WCAG."""
    module = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install 'cress_svcd[test]'"
    )
    return module.Axe()


@contextlib.contextmanager
def opened(browser, url, script=None, refused=400):
    """The page, of which nothing may go wrong in the console but answers with this status.

    script: that runs before the page's own.
    """
    with browser.new_context(accept_downloads=True) as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
        if script:
            page.add_init_script(script)
        page.goto(url)
        if refused == 400:
            page.wait_for_selector("#model-0 option", state="attached")
        yield page
        assert [line for line in wrong if f"status of {refused}" not in line] == []


@pytest.fixture
def page(browser, server):
    with opened(browser, server.url) as page:
        yield page


def say(page, words: str):
    api.expect(page.locator("#status")).to_have_text(re.compile(words), timeout=60_000)


def columns_of(page):
    return page.locator(".column").all()


def done(page):
    say(page, "^Done")


def test_a_file_by_two_models(page, recordings, said):
    page.set_input_files("#file", recordings[0])
    done(page)
    expected = [line.split() for line in said(recordings[0], "text").splitlines()]
    columns = page.locator(".column")
    assert columns.count() == 2
    for column in columns.all():
        words = [place.inner_text().split() for place in column.locator(".words").all()]
        assert words == expected
        assert re.fullmatch(r"[\d.]+ MB, [\d.]+ s", column.locator(".facts").inner_text())
    assert page.locator("mark").count() == 0  # both are the same
    assert page.locator("#marks button").count() == len(expected)
    page.locator("#marks button").nth(1).focus()
    page.keyboard.press("Enter")
    until(lambda: page.evaluate("document.querySelector('#audio').currentTime") > 0.3)
    assert page.locator(".playing").count() == 3  # over the waveform, and in both columns
    with page.expect_download() as download:
        columns.first.get_by_role("button", name="SRT").click()
    assert download.value.suggested_filename == "translation.de.srt"
    assert download.value.path().read_text(encoding="utf-8") == said(recordings[0], "srt")


def test_speaking(page, recordings):
    page.select_option("#model-1", "")
    page.get_by_role("button", name="Speak").click()
    api.expect(page.locator("#speak")).to_have_text("Stop")
    page.wait_for_selector(".segments[aria-live=polite] li", timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    done(page)
    segments = page.locator(".segments[aria-live=off] li")
    assert segments.count() == page.locator("#marks button").count() > 0
    api.expect(page.locator(".column .downloads")).to_contain_text("translated again")


def test_words_that_differ_are_marked(browser, tmp_path):
    (tmp_path / "a.wav").write_bytes(sound())
    two = Translator("das Haus ist rot"), Translator("das alte Haus war rot")
    with served(*two) as (url, _), opened(browser, url) as page:
        page.set_input_files("#file", tmp_path / "a.wav")
        done(page)
        marked = [column.locator("mark").all_inner_texts() for column in columns_of(page)]
        assert marked == [["ist"], ["alte", "war"]]


def test_a_file_takes_the_page_over_from_speech(browser, tmp_path):
    (tmp_path / "a.wav").write_bytes(sound(3))
    with served() as (url, service), opened(browser, url) as page:
        page.get_by_role("button", name="Speak").click()
        say(page, "^Listening")
        until(lambda: len(service.live) == 1)
        page.set_input_files("#file", tmp_path / "a.wav")
        done(page)
        api.expect(page.locator("#speak")).to_have_text("Speak")
        until(lambda: not service.live)
        page.wait_for_timeout(300)  # what the connection said last would have come
        assert page.evaluate("document.querySelector('#audio').duration") == 3
        assert page.locator(".segments li").count() == page.locator("#marks button").count() == 1


def test_speech_is_heard_by_two_models(browser):
    with served(Translator("so"), Translator("anders")) as (url, service):
        with opened(browser, url) as page:
            page.get_by_role("button", name="Speak").click()
            until(lambda: len(service.live) == 2)
            for column in columns_of(page):
                column.locator(".segments li").first.wait_for(timeout=60_000)
            page.get_by_role("button", name="Stop").click()
            done(page)
            for column, word in zip(columns_of(page), ("so", "anders")):
                assert set(column.locator("mark").all_inner_texts()) == {word}
                assert "s after the end" in column.locator(".facts").inner_text()


DROP = """async (bytes) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(bytes)], "a.wav"));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
}"""


def test_a_file_that_is_dropped_and_one_that_is_chosen_again(browser, tmp_path):
    (tmp_path / "a.wav").write_bytes(sound())
    with served() as (url, _), opened(browser, url) as page:
        page.evaluate(DROP, list(sound()))
        done(page)
        assert page.locator(".words").all_inner_texts() == ["ja"]
        assert page.evaluate("document.querySelector('#file').files[0].name") == "a.wav"
        page.set_input_files("#file", tmp_path / "a.wav")
        done(page)
        with page.expect_file_chooser() as chooser:
            page.locator("#file").click()
        with page.expect_request("**/v1/audio/translations"):
            chooser.value.set_files(tmp_path / "a.wav")
        done(page)


ASK_FIRST = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
const allowed = new Promise((resolve) => { window.allow = resolve; });
navigator.mediaDevices.getUserMedia = async (wish) => {
  await allowed;
  return (window.stream = await ask(wish));
};
"""


def test_a_microphone_that_is_allowed_too_late_is_closed(browser):
    with served() as (url, service), opened(browser, url, ASK_FIRST) as page:
        page.get_by_role("button", name="Speak").click()
        page.get_by_role("button", name="Stop").click()
        done(page)
        page.evaluate("allow()")
        closed = (
            "window.stream?.getTracks().every((track) => track.readyState === 'ended') ?? false"
        )
        until(lambda: page.evaluate(closed))
        api.expect(page.locator("#speak")).to_have_text("Speak")
        until(lambda: not service.live)


def test_a_microphone_that_cannot_be_used_is_told(browser):
    with (
        served() as (url, service),
        opened(browser, url, "delete Navigator.prototype.mediaDevices") as page,
    ):
        page.get_by_role("button", name="Speak").click()
        api.expect(page.get_by_role("alert")).to_contain_text("microphone cannot be used")
        api.expect(page.locator("#speak")).to_have_text("Speak")
        until(lambda: not service.live)


def test_a_token_is_asked_for(browser):
    with served(token="abc") as (url, _), opened(browser, url, refused=401) as page:
        field = page.get_by_label("Bearer token")
        field.fill("abc")  # it is shown when the server has refused the page
        field.press("Enter")
        page.wait_for_selector("#model-0 option", state="attached")
        api.expect(page.locator("#error")).to_be_empty()


def test_errors_are_said(page, tmp_path):
    (tmp_path / "rubbish.wav").write_bytes(b"no sound" * 100)
    page.set_input_files("#file", tmp_path / "rubbish.wav")
    api.expect(page.get_by_role("alert")).to_contain_text("is not audio", timeout=30_000)


def test_words_of_others_are_no_html_and_phones_have_room(page, recordings):
    page.set_viewport_size({"width": 360, "height": 700})
    page.set_input_files("#file", recordings[0])
    done(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_every_control_has_a_name(page):
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select")]
        .filter((e) => !(e.textContent.trim() || e.labels?.length || e.ariaLabel))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_axe_finds_nothing(page, axe, recordings):
    """Before a recording, with its translation, on a dark phone."""
    assert axe.run(page).response["violations"] == []
    page.set_input_files("#file", recordings[0])
    done(page)
    assert axe.run(page).response["violations"] == []
    # Without motion: a colour that fades from light to dark has any contrast.
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size({"width": 360, "height": 700})
    found = axe.run(page).response
    assert found["violations"] == [] and len(found["passes"]) > 10


def test_requests_are_described_to_people(page, axe):
    page.click("text=For programs")
    rows = page.locator("section:has(code:text('POST')) .fields tbody tr")
    api.expect(rows.first).to_have_text("filefilea recording; required")
    assert "json, text, srt, vtt, verbose_json" in " ".join(rows.all_inner_texts())
    headings = page.locator("h2").all_inner_texts()
    assert "GET /v1/audio/translations/live" in headings and "GET /health" in headings
    assert axe.run(page).response["violations"] == []


def test_requests_are_described_to_whoever_has_the_token(browser):
    with served(token="secret") as (url, _):
        with opened(browser, f"{url}/docs", refused=401) as page:
            api.expect(page.locator("#error")).to_contain_text("asks for a token")


def test_two_users_at_a_time(browser, server, recordings, said):
    expected = said(recordings[0], "text").split()
    assert soundfile.info(recordings[0]).frames
    pages = [browser.new_context().new_page() for _ in range(2)]
    for page in pages:
        page.goto(server.url)
        page.wait_for_selector("#model-0 option", state="attached")
        page.set_input_files("#file", recordings[0])
    for page in pages:
        done(page)
        words = page.locator(".column").first.locator(".words").all()
        assert " ".join(place.inner_text() for place in words).split() == expected
        page.context.close()

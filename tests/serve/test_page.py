"""The page in a browser: upload, result, overlay, timeline, webcam; and no request to anywhere else."""

import json
import shutil
from urllib.parse import urlsplit

import pytest
from serving import serving

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FAKE_WEBCAM = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox"]
OPAQUE = """() => { const overlay = document.getElementById("overlay");
  const values = overlay.getContext("2d").getImageData(0, 0, overlay.width, overlay.height).data;
  return values.filter((value, i) => i % 4 == 3 && value > 100).length }"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no browser is installed, expected one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=FAKE_WEBCAM)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(clips):
    with serving(clips / "best.pt", "--max_mb", "1") as server:
        yield server


@pytest.fixture
def page(browser, server):
    """The page, opened; at the end nothing was asked of anybody else, and its scripts had no error."""
    context = browser.new_context(permissions=["camera"])
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)
    yield page
    here = urlsplit(server.address).netloc
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {here}
    assert errors == []
    context.close()


def until(page, function: str, argument=None) -> None:
    """Wait for a function of the page to be true. It is asked from here: the page's own policy forbids to evaluate text
    later on, as `wait_for_function` does."""
    for _ in range(300):
        if page.evaluate(function, argument):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"not true within 30 s: {function}")


def upload(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector("#best tbody tr")


def test_an_upload_is_answered_with_bars_and_a_file(page, clips, tmp_path):
    upload(page, clips / "short.mp4")
    rows = page.locator("#best tbody tr")
    assert rows.count() == 5
    assert page.locator("#timeline").is_hidden()
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "answer.json")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["path"] == "short.mp4"
    shown = [float(text.split()[0]) for text in page.locator("#best td.n").all_inner_texts()]
    assert shown == [round(100 * one["probability"], 1) for one in answer["predictions"]]


def test_a_video_can_be_dropped(page, clips):
    data = page.evaluate_handle(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "short.mp4"));
        return data }""",
        list((clips / "short.mp4").read_bytes()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait_for_selector("#best tbody tr")


def test_salience_follows_the_player_and_can_be_switched_off(page, clips):
    upload(page, clips / "long.mp4")
    page.evaluate("document.getElementById('video').pause()")
    for seconds in (1.0, 3.0):  # later the square is out of the picture
        page.evaluate("seconds => { document.getElementById('video').currentTime = seconds }", seconds)
        until(page, "s => Math.abs(document.getElementById('overlay').dataset.seconds - s) < 0.1", seconds)
    assert page.evaluate(OPAQUE) > 20
    page.uncheck("#salience")
    until(page, f"() => ({OPAQUE})() === 0")


def test_a_click_on_the_timeline_goes_there(page, clips):
    upload(page, clips / "long.mp4")
    page.evaluate("document.getElementById('video').pause()")
    page.locator(".cells").first.locator("button").nth(3).click()
    until(page, "() => Math.abs(document.getElementById('video').currentTime - 1.75) < 0.1")


def test_what_the_browser_cannot_play_is_shown_as_small_frames(page, clips):
    upload(page, clips / "old.avi")
    page.wait_for_selector("#stage.tiles")
    page.uncheck("#salience")
    until(page, f"() => ({OPAQUE})() > 1000")  # the frame itself


def test_refusals_say_why(page, clips):
    page.set_input_files("#file", clips / "bad.mp4")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "bad.mp4: not a video, or damaged at its start"
    page.set_input_files("#file", {"name": "big.mp4", "mimeType": "video/mp4", "buffer": bytes(1_100_000)})
    until(page, "() => document.getElementById('error').textContent.includes('larger than 1 MB')")
    assert page.locator("#result").is_hidden()


def test_a_webcam_is_watched_until_it_is_stopped(page):
    page.click("#webcam")
    page.wait_for_selector("#best tbody tr")
    until(page, f"() => ({OPAQUE})() > 0")
    assert page.inner_text("#webcam") == "Stop the webcam"
    page.click("#webcam")
    assert page.locator("#result").is_hidden()
    assert page.inner_text("#webcam") == "Use the webcam"

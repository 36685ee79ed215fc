"""The page of `condiff web` in a real browser: Debian's Chromium, driven by Playwright."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condiff.cli import main
from tests.conftest import make_photo

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytest.importorskip("uvicorn", reason="the page needs uvicorn")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

ROOT = Path(__file__).parents[1]
GREY = ROOT / "examples" / "grey.jpg"
WAIT = 60_000  # milliseconds; the machine may be busy


@contextmanager
def serving(folder, *flags):
    """The address of a `condiff web` with temporary files in `folder`, removed at its end."""
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "condiff", "web", "--port", "0", "--no-browser", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=20)
    assert not list(folder.glob("condiff-web-*")), "temporary files outlive the server"


@pytest.fixture(scope="module")
def tiny_server(tiny_folder, sketch_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "temporary"
    with serving(folder, "-m", str(tiny_folder), "--drawing-model", str(sketch_folder)) as url:
        yield url, folder


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def opened(browser, url, **options):
    """The page in a fresh profile; fails on a request to another host, and on any error."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    requests, errors = [], []
    context.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert requests
    assert not [each for each in requests if not each.startswith((url, f"blob:{url}"))]
    assert not errors


def until(page, selector, text="Done"):
    sync_api.expect(page.locator(selector)).to_have_text(text, timeout=WAIT)


@contextmanager
def coloured(browser, url, photo, **options):
    """The page in a fresh profile, once it has coloured a photo."""
    with opened(browser, url, **options) as page:
        page.set_input_files("#files", photo)
        until(page, "#message")
        yield page


def shown(page, selector="#stage .after"):
    """The pixels of an image of the page: (H,W,3)."""
    source = page.locator(selector).get_attribute("src")
    content = page.request.get(page.url.rstrip("/") + source).body()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)


def stroke(page, selector, *points):
    """Draw with the mouse through points, shares of the element's width and height."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def chroma(pixels):
    return pixels - pixels.mean(axis=2, keepdims=True)


@pytest.mark.parametrize("width, height", [(1280, 720), (390, 844)])
def test_a_result_and_its_download_are_seen_without_scrolling(browser, tiny_server, width, height):
    size = {"width": width, "height": height}
    with coloured(browser, tiny_server[0], GREY, viewport=size) as page:
        assert page.evaluate("window.scrollY") == 0
        for selector in ("#download", "#more-samples", "#stage", "#message"):
            box = page.locator(selector).bounding_box()
            assert box["y"] + box["height"] <= height, selector
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, selector


def test_pictures_are_made_and_seen_beside_the_pad_without_scrolling(browser, tiny_server):
    size = {"width": 1280, "height": 720}
    with opened(browser, tiny_server[0], viewport=size) as page:
        page.click("#tab-draw")
        stroke(page, "#pad", (0.2, 0.2), (0.8, 0.8))
        page.click("#render")
        until(page, "#pad-message")
        assert page.evaluate("window.scrollY") == 0
        boxes = {
            selector: page.locator(selector).bounding_box()
            for selector in ("#render", "#pad", "#pad-message", "#pictures figure:first-child")
        }
        for selector, box in boxes.items():
            assert box["y"] + box["height"] <= size["height"], selector
        pad, picture = boxes["#pad"], boxes["#pictures figure:first-child"]
        assert pad["x"] + pad["width"] < picture["x"] < size["width"] / 2


def test_a_photo_from_upload_to_the_command_lines_bytes(browser, tmp_path):
    with (
        serving(tmp_path / "temporary") as url,
        opened(browser, url, viewport={"width": 1200, "height": 1000}) as page,
    ):
        page.set_input_files("#files", GREY)
        until(page, "#message")
        first = shown(page)
        assert np.abs(chroma(first)).mean() > 2  # there are colours

        page.focus("#divide")
        before = page.locator("#stage .after").evaluate("e => getComputedStyle(e).clipPath")
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        after = page.locator("#stage .after").evaluate("e => getComputedStyle(e).clipPath")
        assert (before, after) == ("inset(0px 0px 0px 50%)", "inset(0px 0px 0px 60%)")

        page.click("#mode-paint")
        page.fill("#color", "#d02020")
        stroke(page, "#stage canvas", (0.75, 0.1), (0.95, 0.1))  # the sky
        until(page, "#message")
        painted = shown(page)
        changed = np.abs(chroma(painted) - chroma(first)).mean(axis=2)
        height, width = changed.shape
        there = changed[: height // 6, int(width * 0.75) :].mean()
        elsewhere = changed[int(height * 0.85) :, : width // 4].mean()
        assert there > 8
        assert elsewhere < there / 5

        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "grey.color.jpg"
        made = Path(download.value.path()).read_bytes()
        seed = page.input_value("#seed")
        strokes = page.evaluate(
            """async () => {
                const canvas = document.querySelector("#stage canvas");
                const blob = await new Promise((done) => canvas.toBlob(done));
                return [...new Uint8Array(await blob.arrayBuffer())];
            }"""
        )
        (tmp_path / "strokes.png").write_bytes(bytes(strokes))
        result = str(tmp_path / "grey.color.jpg")
        command = ["colorize", str(GREY), "-o", result, "--seed", seed]
        assert main([*command, "--hints", str(tmp_path / "strokes.png")]) == 0
        assert made == (tmp_path / "grey.color.jpg").read_bytes()

        page.keyboard.press("Control+z")
        until(page, "#message")
        sync_api.expect(page.locator("#undo")).to_be_disabled()
        assert np.array_equal(shown(page), first)

        page.click("#mode-compare")
        page.click("text=Quiet")
        until(page, "#message")
        assert np.abs(chroma(shown(page))).mean() < np.abs(chroma(first)).mean()
        page.click("#more-samples")
        sync_api.expect(page.locator("#samples button")).to_have_count(4, timeout=WAIT)
        until(page, "#message")
        page.click("#samples button:nth-child(3)")
        third = shown(page)
        assert np.array_equal(third, shown(page, "#samples button:nth-child(3) img"))
        page.check("#unsure")
        assert page.locator("#stage .unsure").is_visible()


def test_from_the_sketch_pad_to_pictures(browser, tiny_server):
    with opened(browser, tiny_server[0]) as page:
        page.click("#tab-draw")
        page.click("#render")
        assert "Draw something" in page.locator("#pad-trouble").inner_text()
        stroke(page, "#pad", (0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.2))
        stroke(page, "#pad", (0.1, 0.9), (0.9, 0.9))
        page.click("#pad-undo")
        ink = "e => e.getContext('2d').getImageData(0, 420, 512, 92).data.some((v) => v)"
        assert not page.locator("#pad").evaluate(ink)
        page.click("#draw summary")
        page.fill("#draw-steps", "3")
        page.press("#draw-steps", "Tab")
        page.uncheck("#draw-keep_lines")
        page.click("#render")
        picks = page.locator("#pictures button.pick:not([disabled])")
        sync_api.expect(picks).to_have_count(4, timeout=WAIT)
        last = shown(page, "#pictures figure:nth-child(1) img")
        page.locator("#film-step").fill("0")
        noise = shown(page, "#pictures figure:nth-child(1) img")
        assert last.shape[0] == 512
        assert noise.std(axis=(0, 1)).mean() > 20
        with page.expect_download() as download:
            page.click("#pictures figure:nth-child(2) .bar button")
        picture = Image.open(download.value.path())
        assert (picture.format, picture.size) == ("PNG", (512, 512))
        assert '"steps": 3' in picture.text["condiff"]
        assert '"keep_lines": false' in picture.text["condiff"]


def test_a_bad_file_gives_a_sentence_and_its_name_is_text(browser, tiny_server, tmp_path):
    bad = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    bad.write_bytes(b"no photo at all")
    with opened(browser, tiny_server[0]) as page:
        page.set_input_files("#files", bad)
        said = page.locator("#list .failed")
        sync_api.expect(said).to_contain_text("it is not a photo", timeout=WAIT)
        assert bad.name in said.inner_text()
        assert page.locator("#list img").count() == 0


def test_twenty_photos_become_a_zip(browser, tiny_server, tmp_path):
    for number in range(20):
        make_photo(60, 44, seed=number).save(tmp_path / f"photo{number:02}.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with opened(browser, tiny_server[0]) as page:
        page.set_input_files("#files", sorted(tmp_path.glob("*.jpg")))
        colored = page.locator("#list img[src*='/files/']:not([src$='before.jpg'])")
        sync_api.expect(colored).to_have_count(20, timeout=WAIT)
        with page.expect_download() as download:
            page.click("#zip")
        with zipfile.ZipFile(download.value.path()) as packed:
            wanted = {f"photo{number:02}.color.jpg" for number in range(20)}
            assert set(packed.namelist()) == wanted | {"failed.txt"}
            assert packed.read("failed.txt").startswith(b"broken.jpg: cannot read broken.jpg")


def test_cancel_and_go_on(browser, tiny_server, tmp_path):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg") as page:
        page.click("#colorize summary")
        page.fill("#colorize-steps", "1000")
        page.press("#colorize-steps", "Tab")
        sync_api.expect(page.locator("#message")).to_contain_text("of 1000", timeout=WAIT)
        page.click("#cancel")
        until(page, "#message", "Canceled")
        sync_api.expect(page.locator("#progress")).to_be_hidden()
        page.fill("#colorize-steps", "2")
        page.press("#colorize-steps", "Tab")
        until(page, "#message")


def test_a_page_says_when_condiff_was_stopped(browser, tiny_folder, tmp_path):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with serving(tmp_path / "temporary", "-m", str(tiny_folder)) as url:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#files", tmp_path / "photo.jpg")
        until(page, "#message")
        page.click("#colorize summary")
        page.fill("#colorize-steps", "1000")
        page.press("#colorize-steps", "Tab")
        sync_api.expect(page.locator("#message")).to_contain_text("of 1000", timeout=WAIT)
    sync_api.expect(page.locator("#trouble")).to_contain_text("condiff was stopped")
    page.click("text=Vivid")
    sync_api.expect(page.locator("#trouble")).to_contain_text("cannot reach condiff any more")
    context.close()


def test_a_reference_is_added_and_taken_away(browser, tiny_server, tmp_path):
    make_photo(60, 44).convert("L").save(tmp_path / "photo.png")
    make_photo(60, 44).save(tmp_path / "colors.png")
    with opened(browser, tiny_server[0]) as page:
        page.set_input_files("#files", tmp_path / "photo.png")
        until(page, "#message")
        first = shown(page)
        page.set_input_files("#reference", tmp_path / "photo.png")
        sync_api.expect(page.locator("#reference-trouble")).to_contain_text("no colours")
        page.set_input_files("#reference", tmp_path / "colors.png")
        sync_api.expect(page.locator("#remarks")).to_contain_text("matches a reference")
        assert not np.array_equal(shown(page), first)
        page.click("#references button")
        sync_api.expect(page.locator("#remarks")).not_to_contain_text("matches a reference")
        assert np.array_equal(shown(page), first)


def test_a_stroke_by_keys_alone(browser, tiny_server, tmp_path):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg") as page:
        first = shown(page)
        page.focus("#mode-paint")
        page.keyboard.press("Enter")
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('#stage canvas')"):
                break
        for key in ("ArrowRight", " ", "Shift+ArrowRight", "Shift+ArrowDown"):
            page.keyboard.press(key)
        assert page.locator("#stage .pen-mark.down").is_visible()
        page.keyboard.press(" ")
        sync_api.expect(page.locator("#undo")).to_be_enabled()
        until(page, "#message")
        assert not np.array_equal(shown(page), first)
        page.keyboard.press("Control+z")
        sync_api.expect(page.locator("#undo")).to_be_disabled()
        until(page, "#message")
        assert np.array_equal(shown(page), first)
        page.focus("#stage canvas")
        for key in ("Control+y", " ", "Shift+ArrowLeft"):
            page.keyboard.press(key)
        assert page.locator("#stage .pen-mark.down").count()
        page.keyboard.press("Control+z")  # ends the stroke, and undoes it
        assert not page.locator("#stage .pen-mark.down").count()


def look_at(page, selector="#stage"):
    """The zoom of the frame's layer, and the visible part's corner as shares of it."""
    return page.evaluate(
        """(selector) => {
            const frame = document.querySelector(selector).getBoundingClientRect();
            const layer = document.querySelector(`${selector} .layer`).getBoundingClientRect();
            return [layer.width / frame.width, (frame.x - layer.x) / layer.width,
                    (frame.y - layer.y) / layer.height];
        }""",
        selector,
    )


def strokes_of(page, selector="#stage canvas"):
    """The painted pixels of a canvas: (H,W,4)."""
    size, data = page.locator(selector).evaluate(
        """(canvas) => [[canvas.height, canvas.width],
            [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]]"""
    )
    return np.array(data, np.uint8).reshape(*size, 4)


def center_of(strokes):
    """The middle of the painted pixels, as shares of width and height."""
    rows, columns = np.nonzero(strokes[..., 3] > 128)
    return columns.mean() / strokes.shape[1], rows.mean() / strokes.shape[0]


def test_a_stroke_lands_where_the_zoomed_picture_shows_it(browser, tiny_server, tmp_path):
    make_photo(400, 300).save(tmp_path / "photo.jpg")
    with coloured(
        browser, tiny_server[0], tmp_path / "photo.jpg", viewport={"width": 1200, "height": 900}
    ) as page:
        page.locator("#stage").scroll_into_view_if_needed()
        box = page.locator("#stage").bounding_box()
        point = 0.75, 0.4  # of the frame, and, since wheels zoom around it, of the picture
        page.mouse.move(box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"])
        page.mouse.wheel(0, -500)
        page.wait_for_function("document.querySelector('#stage').matches('.zoomed')")
        zoom, x, y = look_at(page)
        assert zoom == pytest.approx(np.exp(1.25), rel=0.01)
        assert (x + point[0] / zoom, y + point[1] / zoom) == pytest.approx(point, abs=0.002)

        page.mouse.down()  # away from the divider: the picture moves, and the divider stays
        page.mouse.move(box["x"] + 0.65 * box["width"], box["y"] + 0.3 * box["height"], steps=4)
        page.mouse.up()
        moved = look_at(page)
        assert moved == pytest.approx([zoom, x + 0.1 / zoom, y + 0.1 / zoom], abs=0.003)
        assert page.input_value("#divide") == "50"
        clip = page.locator("#stage .after").evaluate("e => getComputedStyle(e).clipPath")
        share = float(clip.split()[-1].rstrip("%)")) / 100  # of the picture, at the frame's middle
        assert share == pytest.approx(moved[1] + 0.5 / zoom, abs=0.003)

        page.click("#mode-paint")
        stroke(page, "#stage", (0.3, 0.6), (0.31, 0.6))
        until(page, "#message")
        wanted = moved[1] + 0.305 / zoom, moved[2] + 0.6 / zoom
        assert center_of(strokes_of(page)) == pytest.approx(wanted, abs=0.004)
        page.focus("#stage")
        page.keyboard.press("0")
        assert look_at(page) == pytest.approx([1, 0, 0], abs=1e-6)
        for key in ("+", "+", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        assert look_at(page) == pytest.approx([2.25, 0.278 + 0.044, 0.278 + 0.044], abs=0.002)
        page.click("#zoom button:last-of-type")
        assert look_at(page)[0] == pytest.approx(1)


def test_two_fingers_zoom_and_one_paints(browser, tiny_server, tmp_path):
    make_photo(400, 300).save(tmp_path / "photo.jpg")
    phone = {"viewport": {"width": 400, "height": 800}, "has_touch": True, "is_mobile": True}
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg", **phone) as page:
        page.locator("#stage").scroll_into_view_if_needed()
        send = page.context.new_cdp_session(page).send

        def touch(kind, *points):
            box = page.locator("#stage").bounding_box()
            at = [
                {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
                for number, (x, y) in enumerate(points)
            ]
            send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        def pinch(center):
            x, y = center
            touch("touchStart", (x - 0.1, y))
            touch("touchStart", (x - 0.1, y), (x + 0.1, y))
            for reach in (0.13, 0.17, 0.2):
                touch("touchMove", (x - reach, y), (x + reach, y))
            touch("touchEnd", (x - 0.2, y))
            touch("touchEnd")

        pinch((0.6, 0.5))
        zoom, x, y = look_at(page)
        assert zoom == pytest.approx(2, abs=0.05)
        assert (x + 0.6 / zoom, y + 0.5 / zoom) == pytest.approx((0.6, 0.5), abs=0.02)
        assert page.input_value("#divide") == "50"

        page.click("#mode-paint")
        page.locator("#stage").scroll_into_view_if_needed()
        touch("touchStart", (0.4, 0.4))
        touch("touchMove", (0.45, 0.4))
        touch("touchEnd")
        sync_api.expect(page.locator("#undo")).to_be_enabled()
        painted = strokes_of(page)
        wanted = x + 0.425 / zoom, y + 0.4 / zoom
        assert center_of(painted) == pytest.approx(wanted, abs=0.02)
        until(page, "#message")
        pinch((0.5, 0.5))  # its first finger leaves no stroke
        assert look_at(page)[0] == pytest.approx(2 * zoom, abs=0.1)
        assert np.array_equal(strokes_of(page), painted)
        assert page.evaluate("visualViewport.scale") == 1


def test_an_eraser_and_undo_and_redo_of_strokes(browser, tiny_server, tmp_path):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg") as page:
        first = shown(page)
        page.click("#mode-paint")
        page.fill("#brush-size", "12")
        stroke(page, "#stage", (0.2, 0.5), (0.8, 0.5))
        until(page, "#message")
        whole = (strokes_of(page)[..., 3] > 128).sum()
        page.click("#brush-erase")
        stroke(page, "#stage", (0.5, 0.3), (0.5, 0.7))
        until(page, "#message")
        strokes = strokes_of(page)[..., 3]
        assert 0 < (strokes > 128).sum() < whole
        assert strokes[22, 30] == 0
        page.click("#clear")
        until(page, "#message")
        assert np.array_equal(shown(page), first)
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+z")
        assert (strokes_of(page)[..., 3] > 128).sum() == whole
        page.keyboard.press("Control+Shift+z")
        assert np.array_equal(strokes_of(page)[..., 3], strokes)
        until(page, "#message")


def test_what_is_painted_grey_stays_grey_and_swapped_alone_has_colours(
    browser, tiny_server, tmp_path
):
    make_photo(480, 352).save(tmp_path / "photo.jpg")
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg") as page:
        page.click("#mode-mask")
        page.fill("#brush-size", "24")
        stroke(page, "#stage", (0.1, 0.3), (0.4, 0.3))
        until(page, "#message")
        inside, outside = (slice(98, 113), slice(80, 160)), (slice(240, 320), slice(280, 440))
        after = np.abs(chroma(shown(page)))
        assert after[inside].mean() < 2 < after[outside].mean() / 2
        page.click("#swap")
        until(page, "#message")
        swapped = np.abs(chroma(shown(page)))
        assert swapped[outside].mean() < 2 < swapped[inside].mean() / 2
        page.click("#mode-paint")  # has strokes of its own
        sync_api.expect(page.locator("#undo")).to_be_disabled()
        with page.expect_download() as download:
            page.click("#download")
        made = np.asarray(Image.open(download.value.path()).convert("RGB"), float)
        assert np.abs(chroma(made))[outside].mean() < 2


def test_settings_and_colours_are_remembered_and_words_and_photos_are_not(
    browser, tiny_server, tmp_path
):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg") as page:
        page.click("text=Vivid")
        page.fill("#colorize-saturation", "1.5")
        page.click("#colorize summary")
        page.fill("#colorize-background", "#336699")
        page.press("#colorize-background", "Tab")
        page.click("#mode-paint")
        for color in ("#123456", "#abcdef"):
            page.fill("#color", color)
            stroke(page, "#stage", (0.4, 0.4), (0.6, 0.4))
        until(page, "#message")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.locator("#list li").count() == 0
        page.set_input_files("#files", tmp_path / "photo.jpg")
        until(page, "#message")
        assert page.is_checked("#looks input[value=vivid]")
        assert page.input_value("#colorize-saturation") == "1.5"
        assert page.input_value("#colorize-background") == ""
        used = page.locator("#swatches [aria-label*='used before']")
        colors = used.evaluate_all("buttons => buttons.map((button) => button.dataset.color)")
        assert colors == ["#abcdef", "#123456"]
        page.click("#mode-paint")
        used.nth(1).click()
        assert page.input_value("#color") == "#123456"
        kept = page.evaluate("JSON.stringify(localStorage)")
        assert "336699" not in kept
        assert "photo" not in kept
        page.click("#reset")
        until(page, "#message")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.is_checked("#looks input[value=natural]")


def test_what_was_remembered_for_another_model_is_left_out(browser, tiny_server, tmp_path):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with opened(browser, tiny_server[0]) as page:
        page.evaluate(
            """localStorage.condiff = JSON.stringify({look: "loud", colors: ["red", "#00ff00"],
                colorize: {steps: 0, scheduler: "none such", saturation: 2, nothing: 1}})"""
        )
        page.reload()
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#files", tmp_path / "photo.jpg")
        until(page, "#message")
        assert page.is_checked("#looks input[value=natural]")
        assert page.input_value("#colorize-saturation") == "2"
        assert page.input_value("#colorize-steps") == ""


def test_from_one_photo_to_the_next(browser, tiny_server, tmp_path):
    for number in range(3):
        make_photo(60 + number, 44, seed=number).save(tmp_path / f"{number}.jpg")
    with opened(browser, tiny_server[0]) as page:
        page.set_input_files("#files", sorted(tmp_path.glob("*.jpg")))
        sync_api.expect(page.locator("#count")).to_have_text("3 of 3 coloured", timeout=WAIT)
        sync_api.expect(page.locator("#turned")).to_have_text("1 of 3")
        assert page.is_disabled("#previous")
        page.click("#next")
        page.click("#next")
        sync_api.expect(page.locator("#turned")).to_have_text("3 of 3")
        assert page.is_disabled("#next")
        assert shown(page).shape == (44, 62, 3)
        page.click("#previous")
        assert shown(page).shape == (44, 61, 3)


def test_colours_on_a_drawing(browser, tiny_server, tmp_path):
    drawing = Image.new("L", (200, 100), 255)
    drawing.paste(0, (20, 20, 180, 23))
    drawing.save(tmp_path / "drawing.png")
    with opened(browser, tiny_server[0]) as page:
        page.click("#tab-draw")
        page.click("#draw summary")
        page.fill("#draw-steps", "2")
        page.press("#draw-steps", "Tab")
        page.set_input_files("#drawing", tmp_path / "drawing.png")
        until(page, "#pad-message")
        page.check("#keep-seed")
        pictures = page.locator("#pictures button.pick:not([disabled])")
        page.click("#render")
        until(page, "#pad-message")
        sync_api.expect(pictures).to_have_count(4)
        plain = shown(page, "#pictures figure:nth-child(1) img")
        page.click("#crayons button[data-color='#2c4fa0']")
        page.click("#pad-zoom [aria-label='Zoom in']")
        _, x, y = look_at(page, "#pad-frame")
        stroke(page, "#pad-frame", (0.4, 0.7), (0.6, 0.7))
        painted = strokes_of(page, "#pad-colors")
        assert painted.shape == (100, 200, 4)
        wanted = x + 0.5 / 1.5, y + 0.7 / 1.5
        assert center_of(painted) == pytest.approx(wanted, abs=0.01)
        page.click("#render")
        until(page, "#pad-message")
        sync_api.expect(pictures).to_have_count(4)
        colored = shown(page, "#pictures figure:nth-child(1) img")
        column, row = (round(share * side) for share, side in zip(wanted, (200, 100), strict=True))
        assert np.abs(colored[row, column] - (0x2C, 0x4F, 0xA0)).max() < 12
        assert np.abs(plain[row, column] - (0x2C, 0x4F, 0xA0)).max() > 40
        page.click("#back-to-pad")
        assert page.locator("#pad").is_visible()
        assert not strokes_of(page, "#pad-colors").any()


def test_two_tabs_at_once_and_a_closed_one_takes_its_files_along(browser, tiny_server, tmp_path):
    url, folder = tiny_server
    (root,) = folder.glob("condiff-web-*")
    there = set(root.iterdir())
    for number in range(2):
        make_photo(60 + number, 44, seed=number).save(tmp_path / f"{number}.jpg")
    with opened(browser, url) as first, opened(browser, url) as second:
        for number, page in enumerate((first, second)):
            page.set_input_files("#files", tmp_path / f"{number}.jpg")
        for number, page in enumerate((first, second)):
            until(page, "#message")
            assert shown(page).shape == (44, 60 + number, 3)
        own = set(root.iterdir()) - there
        assert len(own) == 2
        second.close(run_before_unload=True)
        first.wait_for_timeout(1000)
        assert len(set(root.iterdir()) - there) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_on_a_phone(browser, tiny_server, tmp_path, scheme):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "color_scheme": scheme}
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg", **phone) as page:
        assert page.locator("#stage").bounding_box()["y"] < 400
        buttons = ("#mode-paint", "#mode-mask", "#colorize summary")
        for button in (*buttons, "#tab-draw", "#crayon", "#draw summary"):
            page.click(button)
            assert page.evaluate("document.documentElement.scrollWidth") == 360
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, canvas")].filter((e) =>
                !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim() ||
                  e.querySelector("img"))).map((e) => e.outerHTML)"""
        )
        assert unnamed == []


def test_a_chosen_alternative_stays_when_a_setting_changes(browser, tiny_server, tmp_path):
    make_photo(60, 44).save(tmp_path / "photo.jpg")
    with coloured(browser, tiny_server[0], tmp_path / "photo.jpg") as page:
        first, seed = shown(page), int(page.input_value("#seed"))
        page.click("#more-samples")
        sync_api.expect(page.locator("#samples button")).to_have_count(4, timeout=WAIT)
        until(page, "#message")
        page.click("#samples button:nth-child(3)")
        assert not np.array_equal(shown(page), first)
        assert page.input_value("#seed") == str(seed + 2)
        after = page.locator("#stage .after")
        third = after.get_attribute("src")  # named by seed and settings
        page.fill("#colorize-saturation", "1.2")
        sync_api.expect(page.locator("#samples button")).to_have_count(0, timeout=WAIT)
        sync_api.expect(after).not_to_have_attribute("src", third)
        page.fill("#colorize-saturation", "1")
        sync_api.expect(after).to_have_attribute("src", third, timeout=WAIT)
        assert page.input_value("#seed") == str(seed + 2)


def test_an_unreadable_drawing_leaves_the_pad_and_its_pictures(browser, tiny_server, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")
    with opened(browser, tiny_server[0]) as page:
        page.click("#tab-draw")
        page.click("#draw summary")
        page.fill("#draw-steps", "2")
        page.press("#draw-steps", "Tab")
        stroke(page, "#pad", (0.2, 0.2), (0.8, 0.8))
        page.click("#render")
        until(page, "#pad-message")
        page.set_input_files("#drawing", tmp_path / "broken.png")
        sync_api.expect(page.locator("#pad-trouble")).to_contain_text("broken.png", timeout=WAIT)
        assert page.locator("#pad").is_visible()
        assert shown(page, "#pictures figure:nth-child(1) img").shape == (512, 512, 3)
        page.click("#render")  # the same drawing
        until(page, "#pad-message")
        assert page.locator("#pictures button.pick:not([disabled])").count() == 4


def test_negative_and_page_hold_for_one_photo(browser, tiny_server, tmp_path):
    for number in range(3):
        make_photo(60 + number, 44, seed=number).save(tmp_path / f"{number}.jpg")
    with opened(browser, tiny_server[0]) as page:
        page.set_input_files("#files", [tmp_path / "0.jpg", tmp_path / "1.jpg"])
        sync_api.expect(page.locator("#count")).to_have_text("2 of 2 coloured", timeout=WAIT)
        page.click("#colorize summary")
        page.fill("#colorize-saturation", "1.5")
        page.check("#colorize-invert")
        until(page, "#message")
        page.click("#everywhere")
        until(page, "#zip-message")
        page.set_input_files("#more-files", tmp_path / "2.jpg")
        sync_api.expect(page.locator("#count")).to_have_text("3 of 3 coloured", timeout=WAIT)
        assert page.is_checked("#colorize-invert")
        for _ in range(2):
            page.click("#next")
            assert not page.is_checked("#colorize-invert")
            assert page.input_value("#colorize-saturation") == "1.5"


@pytest.mark.parametrize(
    ("locale", "language", "tab"),
    [
        ("de-DE", "de", "Zeichnen"),
        ("fr-CA", "fr", "Dessiner"),
        ("es-MX", "es", "Dibujar"),
        ("ja-JP", "en", "Draw"),
    ],
)
def test_the_page_speaks_the_language_of_the_browser(browser, tiny_server, locale, language, tab):
    with opened(browser, tiny_server[0], locale=locale) as page:
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("#tab-draw").inner_text() == tab


def test_every_language_has_the_keys_and_the_placeholders_of_english(browser, tiny_server):
    def shape(texts):
        """The same with each text replaced by its placeholders."""
        if isinstance(texts, dict):
            # "one" is 1 in English, but 0 and 1 in French, which needs the number
            return {key: shape(value) for key, value in texts.items() if key != "one"}
        if isinstance(texts, list):
            return [shape(value) for value in texts]
        return sorted(re.findall(r"\{\w+\}", texts or ""))  # None: English takes the server's text

    with opened(browser, tiny_server[0]) as page:
        source = page.locator("script[type=module]").get_attribute("src").replace("app", "strings")
        tables = page.evaluate("async (source) => (await import(source)).STRINGS", source)
    english = shape(tables.pop("en"))
    assert set(tables) == {"de", "es", "fr"}
    for language, texts in tables.items():
        assert shape(texts) == english, language

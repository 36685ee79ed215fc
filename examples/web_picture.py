"""The picture of docs/guide/web.md: the page of `condiff web` with four photos.

    python examples/web_picture.py docs/web.jpg

Needs the extra `web`, playwright and Chromium.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright
from shipped_photos import open_photo

GREY = Path(__file__).parent / "grey.jpg"
SIZE = {"width": 1280, "height": 900}
WAIT = 120_000  # milliseconds


def main() -> None:
    """Start the server, give it the photos, save what the browser shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = [GREY]
        for name in ("astronaut", "coffee", "flower"):
            photos.append(Path(folder) / f"{name}.jpg")
            Image.fromarray(open_photo(name)).convert("L").save(photos[-1])
        command = [sys.executable, "-m", "condiff", "web", "--port", "0", "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                screenshot = photograph(server.stdout.readline().strip(), photos)
            finally:
                server.terminate()
    Image.open(io.BytesIO(screenshot)).convert("RGB").save(arguments.picture, quality=88)


def photograph(url: str, photos: list[Path]) -> bytes:
    """A PNG of the page at `url` once it has coloured the photos; the first is shown."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#files", photos)
        count = len(photos)
        page.get_by_text(f"{count} of {count} coloured").wait_for(timeout=WAIT)
        expect(page.locator("#message")).to_have_text("Done", timeout=WAIT)
        screenshot = page.screenshot()
        browser.close()
    return screenshot


if __name__ == "__main__":
    main()

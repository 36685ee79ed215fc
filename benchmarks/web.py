"""Seconds of the page of `condiff web`, and of the command line for the same photos.

    python benchmarks/web.py             over HTTP, without a browser
    python benchmarks/web.py --browser   in Chromium, too, by playwright

Each photo is sent to a server that has coloured one before. Preview: until the first colours.
Draft and stroke: from a stroke's end until its colour is spread, and until the model's result for
it. File: from the first preview until the file is there. The file's bytes are compared with those
that the command line wrote. Best of --repeats; ratios within one run are more reliable than seconds
between runs, since other programs disturb the measurement: the load is printed.
"""

import argparse
import base64
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colorize import make_photo
from PIL import Image, ImageDraw

MEGAPIXELS = (1, 12)
SEED = 7
COLUMNS = ("preview", "draft", "stroke", "file")


def main() -> None:
    """Parse the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", action="store_true", help="measure in Chromium, too")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = {size: make_photo(Path(folder), size) for size in MEGAPIXELS}
        results = {}
        commands = {
            size: min(measure_command(photo) for _ in range(arguments.repeats))
            for size, photo in photos.items()
        }
        with serving() as address:
            Client(address).measure(photos[1])  # the first photo loads the model
            for size, photo in photos.items():
                runs = [Client(address).measure(photo) for _ in range(arguments.repeats)]
                same = all(run.pop("content") == commands[size][1] for run in runs)
                results[size] = {name: min(run[name] for run in runs) for name in COLUMNS}
                results[size]["same"] = same
            seen = measure_browser(address, photos) if arguments.browser else {}
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"load {load}; seconds; in brackets the share of the command line's\n")
    print("|  | command line | preview | draft | stroke | file | same bytes |")
    print("|---|---|---|---|---|---|---|")
    for size, row in results.items():
        whole = commands[size][0]
        cells = [f"{row[name]:.2f} ({row[name] / whole:.2f})" for name in COLUMNS]
        print(f"| {size} MP | {whole:.2f} | {' | '.join(cells)} | {row['same']} |")
    for size, (preview, file) in seen.items():
        print(f"\nin Chromium, {size} MP: preview {preview:.2f}, file {file:.2f}", end="")
    print()


@contextmanager
def serving() -> Iterator[str]:
    """The host and port of a server."""
    command = [sys.executable, "-m", "condiff", "web", "--port", "0", "--no-browser", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield server.stdout.readline().strip().removeprefix("http://").rstrip("/")
        server.send_signal(signal.SIGTERM)


def measure_command(photo: Path) -> tuple[float, bytes]:
    """Seconds of `condiff colorize` in a new process, and the bytes of its result."""
    target = photo.with_suffix(".color.jpg")
    command = [sys.executable, "-m", "condiff", "colorize", str(photo), "-o", str(target), "-f"]
    started = time.perf_counter()
    subprocess.run([*command, "-q", "--seed", str(SEED)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started, target.read_bytes()


class Client:
    """A session with the server, like the page's."""

    def __init__(self, address: str):
        self.connection = http.client.HTTPConnection(address)
        self.base = "/api/" + json.loads(self.post("/api/session", {}).read())["session"]

    def post(self, url: str, body: Any) -> http.client.HTTPResponse:
        """Send JSON or bytes."""
        is_file = isinstance(body, bytes)
        kind = "application/octet-stream" if is_file else "application/json"
        content = body if is_file else json.dumps(body).encode()
        self.connection.request("POST", url, content, {"Content-Type": kind})
        return self.connection.getresponse()

    def get(self, url: str) -> bytes:
        """The bytes at an address."""
        self.connection.request("GET", url)
        return self.connection.getresponse().read()

    def wait(self, url: str, body: Any, *keys: str) -> tuple[dict[str, Any], list[float]]:
        """All events merged, and the time of each key's first event."""
        response, joined, moments = self.post(url, body), {}, {}
        for line in response:
            event = json.loads(line)
            joined |= event
            for key in event.keys() & set(keys):
                moments.setdefault(key, time.perf_counter())
        if "error" in joined:
            raise SystemExit(joined["error"])
        return joined, [moments[key] for key in keys]

    def measure(self, photo: Path) -> dict[str, Any]:
        """The seconds of COLUMNS, and the file's content."""
        content = photo.read_bytes()
        started = time.perf_counter()
        sent, _ = self.wait(f"{self.base}/photo/upload?name={photo.name}", content)
        make = f"{self.base}/make/{sent['upload']}"
        files = f"{self.base}/files/{sent['upload']}"
        made, (preview,) = self.wait(make, {"seed": SEED}, "preview")
        self.get(f"{files}/{made['preview']}")
        seen = time.perf_counter()
        written, _ = self.wait(f"{self.base}/write/{sent['upload']}/{made['result']}", {})
        file = self.get(f"{files}/{written['file']}")
        ended = time.perf_counter()
        strokes = base64.b64encode(draw_stroke((sent["width"], sent["height"]))).decode()
        painted = time.perf_counter()
        _, (draft, answer) = self.wait(make, {"seed": SEED, "strokes": strokes}, "draft", "preview")
        self.post(f"{self.base}/end", {}).read()
        return {
            "preview": seen - started,
            "file": ended - seen,
            "draft": draft - painted,
            "stroke": answer - painted,
            "content": file,
        }


def draw_stroke(size: tuple[int, int]) -> bytes:
    """The PNG of a stroke on a photo of this size, as the page sends it."""
    scale = 1024 / max(size)
    picture = Image.new("RGBA", (round(size[0] * scale), round(size[1] * scale)))
    ImageDraw.Draw(picture).line([(700, 60), (950, 60)], (208, 32, 32, 255), 24)
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return packed.getvalue()


def measure_browser(address: str, photos: dict[int, Path]) -> dict[int, tuple[float, float]]:
    """Seconds in Chromium until the first colours are visible, and from there to the download."""
    from playwright.sync_api import sync_playwright

    seen = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for size, photo in photos.items():
            page = browser.new_page()
            page.goto(f"http://{address}/")
            page.wait_for_selector("body[data-ready]")
            started = time.perf_counter()
            page.set_input_files("#files", photo)
            page.wait_for_selector("#download:not([disabled])")
            page.locator("#stage .after").evaluate("image => image.decode()")
            shown = time.perf_counter()
            with page.expect_download() as download:
                page.click("#download")
            download.value.path()
            seen[size] = shown - started, time.perf_counter() - shown
            page.close()
        browser.close()
    return seen


if __name__ == "__main__":
    main()

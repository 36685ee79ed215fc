"""Temporal stability of a film's colours, and the speed of colouring.

    python benchmarks/video.py                      # warp errors
    python benchmarks/video.py --film bikes.mp4     # warp errors of a real film in colour
    python benchmarks/video.py --speed              # frames a second at 480p and 1080p
    python benchmarks/video.py --speed --threads 1 2    # the same with two threads, and the ratio

Clips are made from photos that come with scikit-image: the camera pans and zooms over each, and in
one a figure moves over a moving background, so that the motion of every pixel is known. The warp
error is the mean distance of chroma, (a,b) of Lab, between a pixel and the place where it was in
the frame before; pixels that were not visible there are left out. It is measured on the frames that
go to the codec, with U and V of half the size. "true" is the clip's own colours. The motion of a
real film is estimated from its frames at full size, by a slower search than condiff's own.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

from condiff import Pipeline
from condiff.video.coloring import Coloring, chroma_planes, steady_for
from condiff.video.film import color_segments
from condiff.video.parts import Parts
from condiff.video.reading import read_film, read_frames
from condiff.video.steady import EVERY, OWN_SHARE
from condiff.video.writing import Encoding
from condiff.video.yuv import MATRICES

SIZE = (640, 480)
BT709 = 1
KR, KB = MATRICES[BT709]


@dataclass(frozen=True)
class View:
    """A frame with its motion: RGB (H,W,3) uint8; where each pixel was, (H,W,2), and if seen."""

    pixels: np.ndarray
    places: np.ndarray
    seen: np.ndarray


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=36, help="of a clip")
    parser.add_argument("--clips", nargs="*", default=[*CLIPS], help=", ".join(CLIPS))
    parser.add_argument("--film", type=Path, help="a film in colour instead of the clips")
    parser.add_argument("--every", type=int, nargs="*", default=[EVERY])
    parser.add_argument("--own-share", type=float, nargs="*", default=[OWN_SHARE])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    parser.add_argument("--model", default="colorize")
    arguments = parser.parse_args()

    def load(threads: int) -> Coloring:
        colorize = Pipeline.from_pretrained(arguments.model, threads=threads)
        return Coloring(colorize, colorize.sampling, seed=1)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.speed:
            print_speed({n: load(n) for n in arguments.threads}, Path(folder), arguments.frames)
        else:
            settings = [(n, share) for n in arguments.every for share in arguments.own_share]
            clips = {name: list(CLIPS[name](arguments.frames, SIZE)) for name in arguments.clips}
            if arguments.film:
                clips = {arguments.film.stem: read_views(arguments.film, arguments.frames)}
            print_warp_errors(load(arguments.threads[0]), Path(folder), clips, settings)


def photo(name: str) -> np.ndarray:
    """A photo (H,W,3) uint8 of scikit-image."""
    return np.ascontiguousarray(getattr(data, name)())


def camera(shape: tuple[int, ...], t: float, size: tuple[int, int], *, zoom: float) -> np.ndarray:
    """The affine map (2,3) from a photo to a frame at time t, 0 to 1."""
    height, width = shape[:2]
    aspect = size[0] / size[1]
    wide = min(width, height * aspect) * (0.8 + (zoom - 0.8) * t)
    high = wide / aspect
    x, y = (width - wide) * (0.1 + 0.8 * t), (height - high) * (0.3 + 0.4 * t)
    scale = size[0] / wide
    return np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])


def follow(now: np.ndarray, before: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where the pixels (H,W,2) of a frame were, for the maps of this frame and the one before."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float64)
    flat = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    source = np.linalg.inv(np.vstack([now, [0, 0, 1]])) @ flat
    return (before @ source).T.reshape(size[1], size[0], 2).astype(np.float32)


def inside(places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    x, y = places[..., 0], places[..., 1]
    return (x >= 0) & (y >= 0) & (x <= size[0] - 1) & (y <= size[1] - 1)


def pan(name: str, frames: int, size: tuple[int, int], zoom: float) -> Iterator[View]:
    """The camera moves over a photo."""
    picture = photo(name)
    times = np.arange(frames) / (frames - 1)
    before = camera(picture.shape, float(times[0]), size, zoom=zoom)
    for t in times:
        now = camera(picture.shape, float(t), size, zoom=zoom)
        pixels = cv2.warpAffine(picture, now, size, flags=cv2.INTER_CUBIC)
        places = follow(now, before, size)
        yield View(pixels, places, inside(places, size))
        before = now


def passer(frames: int, size: tuple[int, int]) -> Iterator[View]:
    """A disc cut out of one photo crosses another, over which the camera moves the other way."""
    figure = cv2.resize(photo("chelsea")[30:290, 90:350], (size[1] // 2, size[1] // 2))
    side = len(figure)
    disc = np.zeros((side, side), np.uint8)
    cv2.circle(disc, (side // 2, side // 2), side // 2 - 2, 1, -1)

    def placed(t: float) -> np.ndarray:
        x, y = (size[0] - side) * t, (size[1] - side) * (0.5 + 0.2 * np.sin(5 * t))
        return np.array([[1, 0, x], [0, 1, y]])

    last = None
    for view, t in zip(
        pan("coffee", frames, size, 0.7), np.arange(frames) / (frames - 1), strict=True
    ):
        now = placed(1 - float(t))
        mask = cv2.warpAffine(disc, now, size, flags=cv2.INTER_NEAREST) > 0
        pixels = view.pixels.copy()
        pixels[mask] = cv2.warpAffine(figure, now, size, flags=cv2.INTER_CUBIC)[mask]
        before, covered = last or (now, mask)
        places = np.where(mask[..., None], follow(now, before, size), view.places)
        there = cv2.remap(covered.astype(np.float32), places, None, cv2.INTER_LINEAR)
        seen = inside(places, size) & (np.abs(there - mask) < 0.01)
        yield View(pixels, places, seen)
        last = now, mask


def read_views(film: Path, frames: int) -> list[View]:
    """The first frames of a film, and their motion where forward and backward flow agree."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    views: list[View] = []
    last = None
    with av.open(str(film)) as opened:
        for _, frame in zip(range(frames), opened.decode(video=0), strict=False):
            pixels = frame.to_ndarray(format="rgb24")
            pixels = pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
            grey = np.rint(255 * luma(pixels)).astype(np.uint8)
            before = grey if last is None else last
            back, ahead = search.calc(grey, before, None), search.calc(before, grey, None)
            y, x = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]].astype(np.float32)
            places = np.dstack([x, y]) + back
            missed = np.linalg.norm(back + cv2.remap(ahead, places, None, cv2.INTER_LINEAR), axis=2)
            seen = inside(places, grey.shape[::-1]) & (missed < 0.5)
            views.append(View(np.ascontiguousarray(pixels), places, seen))
            last = grey
    return views


CLIPS = {
    "astronaut": lambda n, size: pan("astronaut", n, size, 0.6),
    "coffee": lambda n, size: pan("coffee", n, size, 0.95),
    "chelsea": lambda n, size: pan("chelsea", n, size, 0.7),
    "rocket": lambda n, size: pan("rocket", n, size, 0.8),
    "passer": passer,
}


def luma(pixels: np.ndarray) -> np.ndarray:
    """RGB (H,W,3) uint8 -> Y' (H,W) in [0,1]."""
    return (pixels / np.float32(255)) @ np.array([KR, 1 - KR - KB, KB], np.float32)


def write_grey(path: Path, pictures: list[np.ndarray], *, codec: str = "ffv1") -> None:
    """A film of the Y' of RGB pictures, BT.709."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = BT709
        for pixels in pictures:
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane in frame.planes:
                np.frombuffer(memoryview(plane), np.uint8)[:] = 128
            rows = np.frombuffer(memoryview(frame.planes[0]), np.uint8)
            rows = rows.reshape(-1, frame.planes[0].line_size)
            rows[:height, :width] = np.rint(16 + 219 * luma(pixels))
            frame.colorspace = BT709
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))


def true_chroma(pixels: np.ndarray) -> np.ndarray:
    """(a,b) (h,w,2) of a true frame, with U and V halved and rounded as in a codec."""
    y = luma(pixels)
    cb = (pixels[..., 2] / np.float32(255) - y) / (2 * (1 - KB))
    cr = (pixels[..., 0] / np.float32(255) - y) / (2 * (1 - KR))
    half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    y, cb, cr = (cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in (y, cb, cr))
    return lab_chroma(y, np.rint(cb * 224) / 224, np.rint(cr * 224) / 224)


def lab_chroma(y: np.ndarray, cb: np.ndarray, cr: np.ndarray) -> np.ndarray:
    """Y', Cb, Cr (h,w) -> (a,b) (h,w,2)."""
    red, blue = y + 2 * (1 - KR) * cr, y + 2 * (1 - KB) * cb
    green = (y - KR * red - KB * blue) / (1 - KR - KB)
    rgb = np.dstack([red, green, blue]).clip(0, 1).astype(np.float32)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[..., 1:]


def warp_error(chroma: list[np.ndarray], views: list[View]) -> float:
    """The mean distance of chroma along the known motion, of all frames but the first."""
    total = count = 0.0
    for before, now, view in zip(chroma, chroma[1:], views[1:], strict=False):
        size = now.shape[1::-1]
        # Pixel centres: a place x at full size is (x + 0.5) / 2 - 0.5 at half.
        places = (cv2.resize(view.places, size, interpolation=cv2.INTER_AREA) + 0.5) / 2 - 0.5
        seen = cv2.erode(view.seen.astype(np.uint8), np.ones((5, 5), np.uint8))[::2, ::2] > 0
        there = cv2.remap(before, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += float(np.linalg.norm(now - there, axis=2)[seen].sum())
        count += float(seen.sum())
    return total / count


def made_chroma(path: Path, coloring: Coloring, every: int, own_share: float) -> list[np.ndarray]:
    """(a,b) of every frame as written."""
    film = read_film(path)
    engine = replace(steady_for(film, coloring), every=every, own_share=own_share)
    made = []
    for item in engine.run(read_frames(film, [])):
        u, v = (plane.astype(np.float32) for plane in chroma_planes(item))
        made.append(lab_chroma(item.frame.luma_of_chroma(), (u - 128) / 224, (v - 128) / 224))
    return made


def colorful(chroma: list[np.ndarray]) -> float:
    """Mean length of (a,b)."""
    return float(np.mean([np.linalg.norm(part, axis=2).mean() for part in chroma]))


def print_warp_errors(
    coloring: Coloring,
    folder: Path,
    clips: dict[str, list[View]],
    settings: list[tuple[int, float]],
) -> None:
    """A row for each clip: warp errors with mean chroma in brackets, and their ratios."""
    names = [f"steady, every {n}, own {share:g}" for n, share in settings]
    ratios = [f"{kind} / {than}" for kind in names for than in ("each", "true")]
    print("| clip | true | each frame by itself |", " | ".join([*names, *ratios]), "|")
    print("|---|" + "---|" * (2 + 3 * len(names)))
    rows = []
    for clip, views in clips.items():
        path = folder / f"{clip}.mkv"
        write_grey(path, [view.pixels for view in views])
        kinds = [[true_chroma(view.pixels) for view in views]]
        kinds += [made_chroma(path, coloring, n, s) for n, s in [(1, 1.0), *settings]]
        errors = [warp_error(chroma, views) for chroma in kinds]
        cells = [f"{e:.2f} ({colorful(c):.1f})" for e, c in zip(errors, kinds, strict=True)]
        print_row(clip, cells, errors)
        rows.append(errors)
    means = [float(np.mean(column)) for column in zip(*rows, strict=True)]
    print_row("mean", [f"{mean:.2f}" for mean in means], means)


def print_row(name: str, cells: list[str], errors: list[float]) -> None:
    true, each, *steady = errors
    ratios = [f"{error / other:.2f}" for error in steady for other in (each, true)]
    print(f"| {name} |", " | ".join([*cells, *ratios]), "|", flush=True)


def print_speed(colorings: dict[int, Coloring], folder: Path, frames: int) -> None:
    """Frames a second from H.264 to H.264 by number of threads, with the model loaded.

    On a busy machine wall time is not reliable: the other figures are processor time.
    """
    print("| film | threads | frames/s | ratio | by processor time | a key frame, processor s |")
    print("|---|---|---|---|---|---|")
    for size in ((854, 480), (1920, 1080)):
        path = folder / f"{size[1]}.mp4"
        views = CLIPS["astronaut"](frames, size)
        write_grey(path, [view.pixels for view in views], codec="libx264")
        first = None
        for threads, coloring in colorings.items():
            clock, seconds, key = time_film(path, coloring, threads)
            first = first or clock
            cells = (f"{frames / clock:.1f}", f"{first / clock:.2f}", f"{frames / seconds:.1f}")
            print(f"| {size[0]}x{size[1]} | {threads} |", " | ".join(cells), f"| {key:.2f} |",
                  flush=True)  # fmt: skip


def time_film(path: Path, coloring: Coloring, threads: int) -> tuple[float, float, float]:
    """Wall and processor seconds for a film, and processor seconds for a key frame."""
    film = read_film(path)
    parts = Parts(path.with_suffix(f".{threads}.mp4"))
    parts.folder.mkdir()
    frame = next(read_frames(film, []))
    coloring.sample(frame.picture(), film.guide_size, None)  # the engine's own start
    started = time.process_time()
    coloring.sample(frame.picture(), film.guide_size, None)
    key = time.process_time() - started
    clock, started = time.perf_counter(), time.process_time()
    for _ in color_segments(film, parts, coloring, Encoding("h264", None, threads)):
        pass
    return time.perf_counter() - clock, time.process_time() - started, key


if __name__ == "__main__":
    main()

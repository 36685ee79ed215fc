"""The gain from the treatment of scans, and its false alarms, on photos of a parquet.

    python benchmarks/scans.py borders|dark|found --data val.parquet

borders: distance of chroma to that of the photo alone, with a border around it: kept, and cut off
dark: the same for a photo at 40 % brightness, or faded: unchanged, and with normalised levels
found: how many unchanged photos are detected as framed, dark, faded or negatives
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from condiff import ColorEdits, Pipeline
from condiff.color.lab import lightness, rgb_to_lab
from condiff.color.scans import find_frame, is_colour_negative, normalise_levels
from condiff.photos.photo import Photo
from condiff.photos.reading import read_image
from condiff.resize import shrink_to
from condiff.sources.folders import open_source

AS_IS, DEFAULT = ColorEdits(as_is=True), ColorEdits()


def load(data: Path, count: int) -> list[np.ndarray]:
    """(H,W,3) uint8 of this many photos, evenly spaced over the data."""
    source = open_source(str(data))
    total = source.total
    assert total, "the number of photos is known"
    wanted = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
    items = (item for number, item in enumerate(source.items()) if number in wanted)
    return [np.asarray(read_image(item.image.opened())) for item in items]


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 with R = G = B, the luma."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def chroma(pipeline: Pipeline, pixels: np.ndarray, edits: ColorEdits = AS_IS) -> np.ndarray:
    """a and b (H,W,2) of the result."""
    (result,) = pipeline(Photo(pixels), seed=1, edits=edits)
    return rgb_to_lab(result.pixels)[..., 1:]


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean distance in ab."""
    return float(np.linalg.norm(found - expected, axis=2).mean())


def measure_borders(pipeline: Pipeline, photos: list[np.ndarray]) -> None:
    """Measure black and white borders in turn, with noise."""
    rows = []
    for number, photo in enumerate(photos):
        photo = cv2.resize(photo, (512, 512))
        alone = chroma(pipeline, photo)
        pad = ((40, 40), (60, 60), (0, 0))
        scan = np.pad(photo, pad, constant_values=(8, 240)[number % 2]).astype(np.float32)
        scan += 3 * np.random.default_rng(number).standard_normal(scan.shape[:2])[..., None]
        scan = scan.clip(0, 255).round().astype(np.uint8)
        both = (chroma(pipeline, scan, edits)[40:-40, 60:-60] for edits in (AS_IS, DEFAULT))
        rows.append([distance(found, alone) for found in both])
    report("borders", rows)


def measure_levels(pipeline: Pipeline, photos: list[np.ndarray]) -> None:
    """Measure the model's output as chroma on a photo of usual levels, whose gamut is wide."""
    made = {
        "40 % brightness": lambda p: 0.4 * p,
        "60 % brightness": lambda p: 0.6 * p,
        "faded to 80..170": lambda p: 80 + 90 / 255 * p,
    }
    for name, spoil in made.items():
        rows = []
        for photo in photos:
            expected = sample(pipeline, lightness(shrink_to(photo)))
            L = lightness(shrink_to(np.rint(spoil(photo.astype(np.float32))).astype(np.uint8)))
            both = (sample(pipeline, seen) for seen in (L, normalise_levels(L)))
            rows.append([distance(found, expected) for found in both])
        report(name, rows)


def sample(pipeline: Pipeline, L: np.ndarray) -> np.ndarray:
    """The model's chroma (h,w,2) for an L*."""
    encoded = pipeline.encode_condition(L[..., None] / 50 - 1)
    *_, x_0 = pipeline.sample(encoded, seed=1)
    return pipeline.backend.to_numpy(x_0)[0].transpose(1, 2, 0) * 50


def report(name: str, rows: list[list[float]]) -> None:
    """Print means over the photos."""
    before, after = np.mean(rows, axis=0)
    print(f"{name}, {len(rows)} photos: {before:.2f} as is, {after:.2f} treated")


def count_found(photos: list[np.ndarray]) -> None:
    """Count the photos with detections: false alarms if they have no borders and are not faded."""
    framed = sum(find_frame(photo) is not None for photo in photos)
    levels = [lightness(shrink_to(photo)) for photo in photos]
    changed = sum(normalise_levels(L) is not L for L in levels)
    negatives = sum(is_colour_negative(photo) for photo in photos)
    # A negative film: its orange mask, denser where the photo is light.
    light = (0.15 + 0.85 * (1 - photo / 255.0) for photo in photos)
    scans = [np.rint(np.array([242, 158, 107]) * each).astype(np.uint8) for each in light]
    recognised = sum(is_colour_negative(scan) for scan in scans)
    print(f"of {len(photos)} photos {framed} with a border, {changed} dark or faded")
    print(f"{negatives} taken for colour negatives; {recognised} of their negatives recognised")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["borders", "dark", "found"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=40, help="evenly spaced over the data")
    options = parser.parse_args()
    photos = load(options.data, options.photos)
    if options.what == "found":
        count_found(photos)
        return
    pipeline = Pipeline.from_pretrained("colorize", engine="onnx")
    greys = [to_grey(photo) for photo in photos]
    {"borders": measure_borders, "dark": measure_levels}[options.what](pipeline, greys)


if __name__ == "__main__":
    main()

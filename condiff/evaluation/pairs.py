"""Reads the photos of an evaluation: true photos, or two folders matched by name."""

from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from condiff.arrays import Pixels
from condiff.errors import DataError, ImageError
from condiff.photos.reading import list_images, read_image
from condiff.sources.folders import local_parts
from condiff.sources.source import Item, Source


def pair_folders(result_dir: Path, truth_dir: Path) -> list[tuple[Path, Path]]:
    """(result, truth) for every photo below result_dir, by relative path without suffix.

    photo.png and photo.color.jpg both belong to photo.jpg; truths without a result are left out.
    Raises DataError for a missing folder, a result without a truth, two truths of one name, and two
    results of one truth.
    """
    truths: dict[Path, Path] = {}
    for path in _listed(truth_dir):
        name = path.relative_to(truth_dir).with_suffix("")
        if name in truths:
            raise DataError(f"{truths[name]} and {path} have the same name: keep one of them.")
        truths[name] = path
    pairs: dict[Path, Path] = {}
    orphans = []
    for path in _listed(result_dir):
        name = path.relative_to(result_dir).with_suffix("")
        truth = truths.get(name) or truths.get(name.with_suffix(""))
        if truth is None:
            orphans.append(path)
        elif truth in pairs:
            raise DataError(f"{pairs[truth]} and {path} are both results of {truth}: keep one.")
        else:
            pairs[truth] = path
    if not pairs:
        raise DataError(f"no photo in {result_dir} has the name of one in {truth_dir}.")
    if orphans:
        raise DataError(f"{orphans[0]} has no truth of its name in {truth_dir}: add it.")
    return [(result, truth) for truth, result in pairs.items()]


def read_pair(result: Path, truth: Path) -> tuple[Pixels, Pixels]:
    """A result and its truth; DataError if their sizes differ."""
    pictures = read_pixels(result), read_pixels(truth)
    (height, width), (tall, wide) = (picture.shape[:2] for picture in pictures)
    if (height, width) != (tall, wide):
        raise DataError(
            f"{result} is {width}x{height}, but its truth {truth} is {wide}x{tall}: give pictures "
            "of the same size."
        )
    return pictures


def read_truths(path: Path, limit: int | None = None) -> list[Pixels]:
    """The first `limit` photos, uint8 RGB (H,W,3), of a folder, a parquet or a tar file.

    In a folder with photos and archives, the photos are read, in the order of their names. Raises
    DataError if there are none, or one cannot be read.
    """
    if not path.exists():
        raise DataError(f"There is nothing at {path}.")
    parts = local_parts(path)
    photos = [part for part in parts if not part.is_archive]
    items = Source(path.name, photos or parts, "").items()
    truths = [_decode(item) for item in islice(items, limit)]
    if not truths:
        raise DataError(f"{path} contains neither photos nor parquet files with any.")
    return truths


def _decode(item: Item) -> Pixels:
    if item.fault:
        raise DataError(f"{item.name} cannot be read: {item.fault}.")
    try:
        return read_pixels(item.image.opened())
    except ImageError as error:
        raise DataError(f"{item.name} cannot be read: {item.image.reason(error)}.") from error


def read_pixels(source: Path | BinaryIO) -> Pixels:
    """A photo as upright uint8 RGB (H,W,3)."""
    return np.asarray(read_image(source).convert("RGB"))


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    return list_images(folder)

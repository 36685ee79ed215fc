"""Reads the photos of an evaluation: true photos, or two folders matched by name."""

from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from condiff.data.parquet import read_parquet
from condiff.errors import DataError
from condiff.photos.reading import list_images, read_image

Pixels = npt.NDArray[np.uint8]


def pair_folders(result_dir: Path, truth_dir: Path) -> list[tuple[Path, Path]]:
    """(result, truth) for every photo below result_dir, by relative path without suffix.

    photo.png and photo.color.jpg both belong to photo.jpg; truths without a result are left out.
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


def read_truths(path: Path, limit: int | None = None) -> list[Pixels]:
    """The first `limit` photos, uint8 RGB (H,W,3), of a folder or of a parquet file's `image`.

    A folder without photos may contain parquet shards; both are read in the order of their names.
    """
    if path.is_dir() and (files := list_images(path)):
        photos = (read_photo(file) for file in files)
    elif path.exists():
        shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        photos = (read_photo(BytesIO(photo)) for shard in shards for photo in read_parquet(shard))
    else:
        raise DataError(f"There is nothing at {path}.")
    truths = list(islice(photos, limit))
    if not truths:
        raise DataError(f"{path} contains neither photos nor parquet files with any.")
    return truths


def read_photo(source: Path | BinaryIO) -> Pixels:
    """A photo as upright uint8 RGB (H,W,3)."""
    return np.asarray(read_image(source).convert("RGB"))


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    return list_images(folder)

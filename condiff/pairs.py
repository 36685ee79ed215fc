"""The photos of an evaluation: true photos from a file or folder, two folders matched by name."""

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from condiff.errors import DataError, ImageError

Pixels = npt.NDArray[np.uint8]

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".jp2"}
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = {5, 6, 7, 8}  # its values that swap width and height


def pair_folders(result_dir: Path, truth_dir: Path) -> list[tuple[Path, Path]]:
    """(result, truth) for every photo below result_dir, by relative path without suffix.

    photo.png and photo.color.jpg both belong to photo.jpg; truths without a result are left out.
    """
    truths: dict[Path, Path] = {}
    for path in _photos_in(truth_dir):
        name = path.relative_to(truth_dir).with_suffix("")
        if name in truths:
            raise DataError(f"{truths[name]} and {path} have the same name: keep one of them.")
        truths[name] = path
    pairs: dict[Path, Path] = {}
    orphans = []
    for path in _photos_in(result_dir):
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
    for truth, result in pairs.items():
        have, want = _upright_size(result), _upright_size(truth)
        if have != want:
            raise DataError(
                f"{result} is {have[0]}x{have[1]} but its truth {truth} is {want[0]}x{want[1]}: "
                "give results of the truth's size."
            )
    return [(result, truth) for truth, result in pairs.items()]


def read_truths(path: Path, limit: int | None = None) -> list[Pixels]:
    """The first `limit` photos, uint8 RGB (H,W,3), of a folder or of a parquet file's `image`.

    A folder without photos may hold parquet shards; both are read in the order of their names.
    """
    if path.is_file():
        photos = _parquet_photos(path)
    elif files := _photos_in(path):
        photos = (read_photo(file) for file in files)
    else:
        photos = (
            photo for file in sorted(path.glob("*.parquet")) for photo in _parquet_photos(file)
        )
    truths = list(islice(photos, limit))
    if not truths:
        raise DataError(f"{path} holds neither photos nor parquet files with any.")
    return truths


def read_photo(path: Path) -> Pixels:
    """A photo as upright uint8 RGB (H,W,3)."""
    return _decode(path, str(path))


def _decode(file: Path | BinaryIO, name: str) -> Pixels:
    try:
        with Image.open(file) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise ImageError(f"{name} cannot be read as a photo: {error}") from error


def _parquet_photos(path: Path) -> Iterator[Pixels]:
    """The photos of column `image`: file bytes, or a struct that has them as `bytes`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DataError(
            f"reading {path} needs pyarrow: pip install 'condiff[train]', or give a folder."
        ) from error
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable parquet file: {error}") from error
    with file:
        if "image" not in file.schema_arrow.names:
            columns = ", ".join(file.schema_arrow.names)
            raise DataError(f"{path} has no column 'image', only {columns}.")
        # A row group may hold gigabytes of photos, and `limit` be ten.
        number = 0
        for batch in file.iter_batches(batch_size=32, columns=["image"]):
            for value in batch.column(0):
                number += 1
                data = _photo_bytes(value.as_py())
                if data is None:
                    raise DataError(f"row {number} of {path} holds no photo's bytes in 'image'.")
                yield _decode(BytesIO(data), f"row {number} of {path}")


def _photo_bytes(value: Any) -> bytes | None:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


def _photos_in(folder: Path) -> list[Path]:
    """All photos below a folder in a stable order, without hidden files."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
    )


def _upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a photo as it is looked at, from its header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    except OSError as error:
        raise ImageError(f"{path} cannot be read as a photo: {error}") from error
    return (height, width) if sideways else (width, height)

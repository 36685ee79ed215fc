"""Reads photos from parquet and tar (webdataset) files."""

import json
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from condiff.errors import DependencyError
from condiff.photos.formats import IMAGE_COLUMNS
from condiff.prep.items import TEXT_KEYS, Item, Part, is_photo, row_item, text_of

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_BATCH = 16  # rows in memory; a row group may hold gigabytes of photos


def is_archive(path: str) -> bool:
    """Whether a path is a parquet or tar file, by its name."""
    return path.lower().endswith((".parquet", *TAR_SUFFIXES)) and os.path.isfile(path)


def parquet_part(path: Path, name: str) -> Part:
    """Photos of a parquet file, with captions if it has a column of TEXT_KEYS.

    Raises ValueError where it has no column of photos.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DependencyError.of("Reading parquet needs pyarrow", extra="train") from error
    with pq.ParquetFile(path) as file:
        schema, total = file.schema_arrow, file.metadata.num_rows
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if image is None:
        raise ValueError(f"it has no column image, only {', '.join(schema.names)}")
    text = next((key for key in TEXT_KEYS if key in schema.names), None)

    def items(start: int) -> Iterator[Item]:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            group, number = 0, 0
            while group < len(sizes) and number + sizes[group] <= start:
                number, group = number + sizes[group], group + 1
            for batch in file.iter_batches(
                PARQUET_BATCH,
                row_groups=range(group, len(sizes)),
                columns=[image, *([text] if text else [])],
            ):
                for row in batch.to_pylist():
                    if number >= start:
                        yield row_item(f"{name}#{number}", row[image], text and row[text])
                    number += 1

    return Part(name, total, text is not None, items)


def tar_part(path: Path, name: str) -> Part:
    """Photos of a tar file; `0001.txt` or `0001.json` is the caption of `0001.jpg`."""
    with tarfile.open(path) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        captions: dict[str, str] = {}
        for file, member in files.items():
            stem, _, suffix = file.rpartition(".")
            if suffix in ("txt", "json"):
                content = _member(tar, member).decode("utf-8", "replace")
                text = content.strip() if suffix == "txt" else _json_text(content)
                if text is not None:
                    captions.setdefault(stem, text)
    photos = [file for file in files if is_photo(file) and not _is_hidden(file)]
    has_text = any(photo.rpartition(".")[0] in captions for photo in photos)

    def items(start: int) -> Iterator[Item]:
        with tarfile.open(path) as tar:
            for photo in islice(photos, start, None):
                data = _member(tar, files[photo])
                yield Item(f"{name}/{photo}", data, captions.get(photo.rpartition(".")[0]))

    return Part(name, len(photos), has_text, items)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") and part != "." for part in path.split("/"))


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _json_text(content: str) -> str | None:
    try:
        row = json.loads(content)
    except ValueError:
        return None  # webdataset puts all kinds of notes there; a caption it is not
    return text_of(row) if isinstance(row, dict) else None

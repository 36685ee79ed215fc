"""The parts and items of a source of photos, in a fixed order."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condiff.photos.formats import FORMATS, READ_ONLY

PHOTO_SUFFIXES = FORMATS.keys() | READ_ONLY
TEXT_KEYS = ("text", "caption")  # the first that is there


@dataclass(frozen=True, slots=True)
class Item:
    """A photo: the path or the bytes of its file, and its caption; or the fault that it has."""

    source: str
    data: Path | bytes = b""
    text: str | None = None
    fault: str | None = None

    @property
    def size(self) -> int:
        """Bytes that are sent to a worker process."""
        return 0 if isinstance(self.data, Path) else len(self.data)


@dataclass(frozen=True)
class Source:
    """Photos in a fixed order; items(start) yields them from number `start` on."""

    name: str
    total: int | None  # number of photos; None for a stream of unknown length
    has_text: bool
    fingerprint: str  # changes when the photos do
    items: Callable[[int], Iterator[Item]]


@dataclass(frozen=True, slots=True)
class Part:
    """A photo, or an archive of photos, in a folder."""

    name: str
    total: int
    has_text: bool
    items: Callable[[int], Iterator[Item]]
    fault: str | None = None


def is_photo(name: str) -> bool:
    """Whether a file is a photo by its name, so that even a broken link is reported."""
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES


def text_of(row: dict[str, Any]) -> str | None:
    """The caption in a row, if it has one."""
    return next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)


def row_item(source: str, value: Any, text: str | None) -> Item:
    """The item of a row's image: bytes, bare or as {bytes, path}, or a path to fetch."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return Item(source, data, text)
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        return Item(source, text=text, fault="the row holds no photo")
    if Path(path).is_file():
        return Item(source, Path(path), text)
    try:
        import fsspec  # comes with datasets, whose streams name files on the hub or in archives

        with fsspec.open(path, "rb") as file:
            return Item(source, file.read(), text)
    except (ImportError, OSError, ValueError) as error:
        return Item(source, text=text, fault=f"{path} cannot be fetched: {error}")

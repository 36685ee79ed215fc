"""What a source of photos is made of: items, in parts, in an order that never changes."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condiff.images.formats import FORMATS, READ_ONLY

PHOTO_SUFFIXES = FORMATS.keys() | READ_ONLY
TEXT_KEYS = ("text", "caption")  # the first that is there


@dataclass(frozen=True, slots=True)
class Item:
    """A photo's file: where it lies or its bytes, its caption; or why there is none."""

    source: str
    data: Path | bytes = b""
    text: str | None = None
    fault: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes on its way to another process."""
        return 0 if isinstance(self.data, Path) else len(self.data)


@dataclass(frozen=True)
class Source:
    """Photos in an order that never changes; items(start) begins at any of them."""

    name: str
    total: int | None  # None: a stream that does not know
    has_text: bool
    fingerprint: str  # another one: other photos
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
    """By name alone: a link to nowhere that is counted beats a photo silently left out."""
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES


def text_of(row: dict[str, Any]) -> str | None:
    return next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)


def row_item(source: str, value: Any, text: str | None) -> Item:
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

"""A source: photos in a fixed order, in parts, with their captions and condition images.

A part is a photo's file, a parquet or tar file, or a split of a data set. Its items are read by
column, starting at any number; nothing is decoded.
"""

import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from condiff.errors import DataError
from condiff.files import name_of
from condiff.sources.schema import as_caption, image_column

UNREADABLE = (OSError, ValueError, EOFError, tarfile.TarError, zlib.error)  # of damaged files


class File(NamedTuple):
    """An image file: its path, bytes or an address to fetch it from; and its name."""

    data: Path | bytes | str
    name: str

    def opened(self) -> Path | BytesIO:
        """The path or bytes of a fetched file, for readers of photos."""
        return BytesIO(self.data) if isinstance(self.data, bytes) else Path(self.data)

    def read(self) -> bytes:
        """The bytes of a fetched file."""
        return self.data if isinstance(self.data, bytes) else Path(self.data).read_bytes()

    def reason(self, error: Exception) -> str:
        """Why a reader of photos failed on it: its error without the name that it gives a file."""
        return str(error).removeprefix(f"cannot read {name_of(self.opened())}: ")


class Item(NamedTuple):
    """A photo: its name, its files by column, its caption and split; or the reason of a fault."""

    name: str
    files: Mapping[str, File]
    text: str | None = None
    split: str = ""
    fault: str | None = None

    @property
    def image(self) -> File:
        """The photo's file; the item must not have a fault."""
        return self.files["image"]

    @property
    def size(self) -> int:
        """Bytes in memory, the size of a message to a worker process."""
        return sum(len(data) for data, _ in self.files.values() if isinstance(data, bytes))

    def fetch(self) -> "Item":
        """The item with remote files read into memory; a failure becomes its fault."""
        try:
            return self._replace(files={key: _fetch(file) for key, file in self.files.items()})
        except DataError as error:
            return self._replace(files={}, fault=str(error))


# Column names, a start number -> the items from there on, with their files by column.
ReadItems = Callable[[Sequence[str], int], Iterator[Item]]


@dataclass(frozen=True, slots=True)
class Part:
    """A sequence of photos that are stored together."""

    name: str  # path below the folder, as valid UTF-8, or the split
    total: int | None  # None for a stream of unknown length
    columns: tuple[str, ...]  # all columns, of any kind
    has_text: bool
    read: ReadItems
    splits: Callable[[], list[str]] = list  # each photo's split, "" or missing without one
    path: Path | None = None  # the file, if there is one
    is_archive: bool = True  # False if the part is one photo file
    fault: str | None = None  # why it cannot be read
    text: str = ""  # the caption, if the part is one photo
    stored: Mapping[str, Path] = field(default_factory=dict)  # its condition images, by column
    image: str | None = None  # the column of photos, if its name is not a usual one

    def items(self, columns: Mapping[str, str], start: int = 0) -> Iterator[Item]:
        """Yield the photos from number `start` on, with files under the keys of `columns`.

        Remote files are not fetched yet. Raises DataError if the photos break off.
        """
        try:
            for item in self.read(list(columns.values()), start):
                files = {} if item.fault else {k: item.files[c] for k, c in columns.items()}
                yield item._replace(files=files)
        except UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.name} broke off ({reason}): run the same again to continue there; if it "
                "breaks off again at the same photo, it is damaged."
            ) from error


@dataclass(frozen=True)
class Source:
    """Photos in a fixed order."""

    name: str
    parts: Sequence[Part]
    fingerprint: str  # changes when the photos do

    @property
    def total(self) -> int | None:
        """Number of photos; None for a stream of unknown length."""
        totals = [part.total for part in self.parts]
        return None if None in totals else sum(total for total in totals if total is not None)

    @property
    def has_text(self) -> bool:
        """Whether any photo has a caption."""
        return any(part.has_text for part in self.parts)

    def items(self, start: int = 0) -> Iterator[Item]:
        """Yield the photos from number `start` on, each as the file "image"."""
        for part in self.parts:
            if part.total is not None and start >= part.total:
                start -= part.total
                continue
            column = part.image or image_column(part.columns, None, where=part.name)
            number = 0
            for item in part.items({"image": column}, start):
                number += 1
                yield item.fetch()
            start = 0 if part.total is not None else max(0, start - number)


def one_file(path: Path, name: str, text: str | None, stored: Mapping[str, Path]) -> Part:
    """A photo's own file, with its condition images by column."""
    paths = {"image": path, **stored}

    def read(columns: Sequence[str], start: int) -> Iterator[Item]:
        if start == 0:
            files = {column: File(paths[column], str(paths[column])) for column in columns}
            yield Item(name, files, text)

    return Part(
        name,
        1,
        tuple(paths),
        text is not None,
        read,
        path=path,
        is_archive=False,
        text=text or "",
        stored=stored,
    )


def faulty(name: str, fault: str) -> Part:
    """A part that cannot be read; its only item contains the reason."""

    def read(columns: Sequence[str], start: int) -> Iterator[Item]:
        if start == 0:
            yield Item(name, {}, fault=fault)

    return Part(name, 1, ("image",), False, read, fault=fault)


def to_item(name: str, values: Mapping[str, Any], columns: Sequence[str], text: str | None) -> Item:
    """A row of a table; a cell without a photo becomes its fault."""
    caption = as_caption(values[text]) if text else None
    item = Item(name, {}, caption, str(values.get("split") or ""))
    try:
        return item._replace(files={column: _to_file(values[column]) for column in columns})
    except DataError as error:
        return item._replace(fault=str(error))


def _to_file(value: Any) -> File:
    """A cell's file: bytes, bare or as {bytes, path}, or a path or address."""
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    if isinstance(data, bytes):
        return File(data, Path(path).name if path else "")
    if not isinstance(path, str):
        raise DataError("the row contains no photo")
    return File(path, Path(path).name)


def _fetch(file: File) -> File:
    if not isinstance(file.data, str):
        return file
    if Path(file.data).is_file():
        return File(Path(file.data), file.name)
    try:
        import fsspec  # installed with datasets; streams refer to files on the hub or in archives

        with fsspec.open(file.data, "rb") as opened:
            return File(opened.read(), file.name)
    except (ImportError, OSError, ValueError) as error:
        raise DataError(f"{file.data} cannot be fetched: {error}") from error

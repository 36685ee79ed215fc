"""A source: photos in a fixed order, in parts, with their captions and condition images.

A part is a photo's file, a parquet or tar file, or a split of a data set. Its rows are read by
column from any row on; nothing is decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from condiff.errors import DataError
from condiff.sources.schema import image_column


class File(NamedTuple):
    """An image file: where it lies, or its bytes; and its name."""

    data: Path | bytes
    name: str


class Row(NamedTuple):
    """A photo of a part: its name, its files by column, its caption; or why it has none."""

    name: str
    files: dict[str, File]
    text: str | None = None
    fault: str | None = None


# Column names, a number to start from -> the rows from there on.
ReadRows = Callable[[Sequence[str], int], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Part:
    """A run of photos that are kept together."""

    name: str  # path below the folder, or the split
    total: int | None  # None for a stream of unknown length
    columns: tuple[str, ...]  # all that it has, of any kind
    has_text: bool
    read: ReadRows
    splits: Callable[[], list[str]] = list  # each row's split, "" or missing where there is none
    path: Path | None = None  # the file, where there is one
    is_archive: bool = True  # whether it contains photos, and is not one itself
    fault: str | None = None  # why it cannot be read
    text: str = ""  # the caption, of a part that is one photo
    image: str | None = None  # the column of photos, where its name does not say so


@dataclass(frozen=True, slots=True)
class Item:
    """A photo to prepare: the path or the bytes of its file, its caption; or its fault."""

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
        """Yield the photos from number `start` on."""
        for part in self.parts:
            if part.total is not None and start >= part.total:
                start -= part.total
                continue
            column = part.image or image_column(part.columns, None, where=part.name)
            number = 0
            for row in part.read([column], start):
                number += 1
                file = row.files.get(column)
                data = b"" if file is None else file.data
                yield Item(row.name, data, row.text, row.fault)
            start = 0 if part.total is not None else max(0, start - number)


def one_file(path: Path, name: str, text: str | None) -> Part:
    """A photo's own file."""

    def read(columns: Sequence[str], start: int) -> Iterator[Row]:
        if start == 0:
            yield Row(name, {column: File(path, str(path)) for column in columns}, text)

    return Part(
        name, 1, ("image",), text is not None, read, path=path, is_archive=False, text=text or ""
    )


def faulty(name: str, fault: str) -> Part:
    """A part that cannot be read; its only row says why."""

    def read(columns: Sequence[str], start: int) -> Iterator[Row]:
        if start == 0:
            yield Row(name, {}, fault=fault)

    return Part(name, 1, ("image",), False, read, fault=fault)


def to_file(value: Any) -> File:
    """A cell's file: bytes, bare or as {bytes, path}, or a path to fetch.

    Raises DataError for a cell without a photo, or one that cannot be fetched.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    if isinstance(data, bytes):
        return File(data, Path(path).name if path else "")
    if not isinstance(path, str):
        raise DataError("the row holds no photo")
    if Path(path).is_file():
        return File(Path(path), Path(path).name)
    try:
        import fsspec  # comes with datasets, whose streams name files on the hub or in archives

        with fsspec.open(path, "rb") as file:
            return File(file.read(), Path(path).name)
    except (ImportError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be fetched: {error}") from error


def to_row(name: str, values: dict[str, Any], columns: Sequence[str], text: str | None) -> Row:
    """A row of a table; a cell that contains no photo is its fault."""
    try:
        files = {column: to_file(values[column]) for column in columns}
    except DataError as error:
        return Row(name, {}, text and values[text], str(error))
    return Row(name, files, text and values[text])

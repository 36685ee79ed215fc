"""Parquet files of photos: a column holds image files' bytes, bare or as {bytes, path}."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from condiff.errors import DataError, DependencyError


class File(NamedTuple):
    """An image file: where it lies, or its bytes; and its name."""

    data: Path | bytes
    name: str


class Scan(NamedTuple):
    """What a parquet file says of itself: its columns, and each row's `split` ("" where none)."""

    columns: list[str]
    splits: list[str]


def read_parquet(path: Path, column: str = "image") -> Iterator[bytes]:
    """The encoded photos of a parquet file, a few rows in memory at a time."""
    for row in read_rows(path, [column]):
        data = row[column].data
        assert isinstance(data, bytes)  # to_file takes nothing else from a parquet file
        yield data


def scan_parquet(path: Path) -> Scan:
    """Columns and splits, without reading a photo."""
    with _opened(path) as file:
        names = list(file.schema_arrow.names)
        if "split" not in names:
            return Scan(names, [""] * file.metadata.num_rows)
        values = file.read(columns=["split"]).column(0).to_pylist()
        return Scan(names, [str(value or "") for value in values])


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, File]]:
    """The image files of some columns, row by row, a few rows in memory at a time."""
    with _opened(path) as file:
        for column in columns:
            if column not in file.schema_arrow.names:
                there = ", ".join(file.schema_arrow.names)
                raise DataError(f"{path} has no column {column!r}, only {there}.")
        number = 0
        for batch in file.iter_batches(batch_size=32, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield {
                    column: to_file(row[column], f"Row {number} of {path}", column)
                    for column in columns
                }


def to_file(value: Any, where: str, column: str) -> File:
    """A cell's bytes, bare or as {bytes, path}."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise DataError(f"{where} holds no photo's bytes in {column!r}.")
    name = value.get("path") if isinstance(value, dict) else None
    return File(data, name or "")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DependencyError.of(f"Reading {path} needs pyarrow", extra="train") from error
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error
    with file:
        yield file

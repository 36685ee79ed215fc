"""Parquet files of photos: a column contains the bytes of image files, bare or as {bytes, path}."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condiff.errors import DataError, DependencyError
from condiff.sources.schema import text_column
from condiff.sources.source import Item, Part, to_item

BATCH = 16  # rows in memory; a row group may be gigabytes of photos


def parquet_part(path: Path, name: str) -> Part:
    """The rows of a parquet file, with captions if it has a column of them.

    Raises DataError if it cannot be read.
    """
    with _opened(path) as file:
        columns, total = tuple(file.schema_arrow.names), file.metadata.num_rows
    text = text_column(columns)
    about = [*([text] if text else []), *(["split"] if "split" in columns else [])]

    def read(wanted: Sequence[str], start: int) -> Iterator[Item]:
        with _opened(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            group, number = 0, 0
            while group < len(sizes) and number + sizes[group] <= start:
                number, group = number + sizes[group], group + 1
            for batch in file.iter_batches(
                BATCH,
                row_groups=range(group, len(sizes)),
                columns=[*wanted, *about],
            ):
                for values in batch.to_pylist():
                    if number >= start:
                        yield to_item(f"{name}#{number}", values, wanted, text)
                    number += 1

    def splits() -> list[str]:
        if "split" not in columns:
            return []
        with _opened(path) as file:
            values = file.read(columns=["split"]).column(0).to_pylist()
        return [str(value or "") for value in values]

    return Part(name, total, columns, text is not None, read, splits, path)


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
        reason = " ".join(str(error).replace(str(path), path.name).split()).rstrip(".")
        raise DataError(f"it is not a readable parquet file: {reason}") from error
    with file:
        yield file

"""Parquet files of photos: the column `image` holds a file's bytes, bare or as {bytes, path}."""

from collections.abc import Iterator
from pathlib import Path

from condiff.errors import DataError


def read_parquet(path: Path) -> Iterator[bytes]:
    """The encoded photos of a parquet file, a few rows in memory at a time."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DataError(
            f"Reading {path} takes pyarrow: pip install 'condiff[train]', or give a folder."
        ) from error
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error
    with file:
        if "image" not in file.schema_arrow.names:
            columns = ", ".join(file.schema_arrow.names)
            raise DataError(f"{path} has no column 'image', only {columns}.")
        number = 0
        for batch in file.iter_batches(batch_size=32, columns=["image"]):
            for value in batch.column(0).to_pylist():
                number += 1
                photo = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(photo, bytes):
                    raise DataError(f"Row {number} of {path} holds no photo's bytes in 'image'.")
                yield photo

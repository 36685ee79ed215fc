"""Data sets of the Hugging Face hub, through `datasets`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condiff.config import DataConfig
from condiff.data.columns import is_held_out
from condiff.errors import DataError, DependencyError


def hub_name(source: str | Path) -> str:
    """The name of a hub data set; anything else that is not there is an error."""
    name = str(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise DataError(
            f"There is no data at {name}: give a folder of photos or parquet files, or a hub data "
            "set as owner/name."
        )
    return name


def load_hub(name: str, config: DataConfig, *, streaming: bool) -> Any:
    """A split of a hub data set (or of a folder that `datasets` knows)."""
    if any(is_held_out(split.strip()) for split in config.split.split("+")):
        raise DataError(
            f"data.split {config.split} is for validation or tests, which is never trained on."
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        need = f"There is no file or folder {name}; to read it from the hub needs datasets"
        raise DependencyError.of(need, extra="train") from error
    try:
        return load_dataset(name, split=config.split, streaming=streaming)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"There is no file or folder {name}, and the hub's data set of that name cannot be "
            f"read: {reason}"
        ) from error


class HubColumn(Sequence[Any]):
    """One column of a map-style data set of `datasets`: files' bytes, or their names."""

    def __init__(self, rows: Any, column: str, *, names: bool):
        self.rows, self.names = rows.select_columns([column]), names
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        cell = self.rows[int(index)][self.column]
        if not isinstance(cell, dict):
            return "" if self.names else cell
        if self.names:
            return Path(cell["path"] or "").name
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])


def undecoded(rows: Any, columns: Mapping[str, str]) -> Any:
    """The data set with these columns' image files as they are."""
    from datasets import Image

    for column in columns.values():
        if isinstance((rows.features or {}).get(column), Image):
            rows = rows.cast_column(column, Image(decode=False))
    return rows

"""Sources that `datasets` reads: data sets of the Hugging Face hub, and saved ones."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condiff.errors import DataError, DependencyError
from condiff.sources.schema import text_column
from condiff.sources.source import Part, Row, Source, to_row

if TYPE_CHECKING:
    from datasets import IterableDataset

SAVED = ("state.json", "dataset_dict.json")  # one of them lies in what save_to_disk wrote


def is_saved(folder: Path) -> bool:
    """Whether `datasets` wrote the folder by save_to_disk."""
    return any((folder / name).is_file() for name in SAVED)


def saved_source(folder: Path) -> Source:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        need = f"{folder} was saved by datasets, and reading it needs datasets"
        raise DependencyError.of(need, extra="train") from error
    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{folder} was saved by datasets and is damaged: {error}") from error
    parts = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    splits = {key: part.to_iterable_dataset() for key, part in parts.items()}
    states = [path.read_text("utf-8") for path in sorted(folder.rglob("state.json"))]
    counts = [part.num_rows for part in parts.values()]
    return streamed_source(folder.resolve().name, splits, counts, version="".join(states))


def hub_source(name: str) -> Source:
    """All splits of a data set of the Hugging Face hub, or of a folder that `datasets` knows."""
    splits: dict[str, IterableDataset] = load_hub(name, split=None, streaming=True)
    counts = [split.info.splits[key].num_examples if split.info.splits else None
              for key, split in splits.items()]  # fmt: skip
    return streamed_source(name, splits, counts)


def streamed_source(
    name: str,
    splits: "Mapping[str, IterableDataset]",
    counts: list[int | None],
    *,
    version: str = "",
) -> Source:
    """The splits one after the other; a count is None where it is not known."""
    from datasets import Image

    features = next(iter(splits.values())).features or {}
    image = next((key for key, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        columns = ", ".join(features) or "none that is declared"
        raise DataError(f"The data set {name} has no column of images, only: {columns}.")
    text = text_column(list(features))

    def part(key: str, split: "IterableDataset", count: int | None, first: int) -> Part:
        def read(columns: Sequence[str], start: int) -> Iterator[Row]:
            rows = undecoded(split, columns)
            if start and count is not None:
                rows = rows.skip(start)
            for number, values in enumerate(_unbroken(rows, name), start if count else 0):
                if number >= start:
                    yield to_row(f"{name}/{key}#{first + number}", values, columns, text)

        return Part(key, count, tuple(features), text is not None, read, image=image)

    parts, first = [], 0
    for (key, split), count in zip(splits.items(), counts, strict=True):
        parts.append(part(key, split, count, first))
        first += count or 0
    total = None if None in counts else first
    digest = hashlib.blake2b(f"{name}\0{total}{version}".encode(), digest_size=16).hexdigest()
    return Source(name, parts, digest)


def _unbroken(rows: "IterableDataset", name: str) -> Iterator[dict]:
    """Yield the rows; DataError if the network fails in the middle."""
    try:
        yield from rows
    except OSError as error:  # ConnectionError, after datasets tried again and again
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"The data set {name} broke off ({reason}): run the same again to go on from there."
        ) from error


def hub_name(source: str | Path) -> str:
    """The name of a hub data set; anything else that is not there is an error."""
    name = str(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise DataError(
            f"There is no data at {name}: give a folder of photos or parquet files, or a hub data "
            "set as owner/name."
        )
    return name


def load_hub(name: str, *, split: str | None, streaming: bool) -> Any:
    """A split of a hub data set, or all of them by name; DataError where it cannot be read."""
    try:
        from datasets import config, load_dataset
    except ImportError as error:
        need = f"There is no file or folder {name}; to read it from the hub needs datasets"
        raise DependencyError.of(need, extra="train") from error
    try:
        return load_dataset(name, split=split, streaming=streaming)
    except ConnectionError as error:
        why = (
            "HF_HUB_OFFLINE is set and the hub's data set of that name is not in the cache: unset "
            "it, or check the name"
            if config.HF_HUB_OFFLINE
            else "the hub, where a data set may have that name, cannot be reached: check the "
            "network, or the name"
        )
        raise DataError(f"There is no file or folder {name}, and {why}.") from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
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


def undecoded(rows: Any, columns: Iterable[str]) -> Any:
    """The data set with these columns' image files as they are."""
    from datasets import Image

    for column in columns:
        if isinstance((rows.features or {}).get(column), Image):
            rows = rows.cast_column(column, Image(decode=False))
    return rows

"""Sources read by `datasets`: data sets of the Hugging Face hub, and saved ones."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condiff.errors import DataError, DependencyError, first_line
from condiff.sources.schema import as_caption, text_column
from condiff.sources.source import Item, Part, Source, to_item

if TYPE_CHECKING:
    from datasets import IterableDataset

SAVED = ("state.json", "dataset_dict.json")  # save_to_disk writes one of them


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
    """All splits of a data set of the Hugging Face hub, or of a folder that `datasets` supports."""
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
    """The splits one after the other; a count is None if unknown."""
    from datasets import Image

    features = next(iter(splits.values())).features or {}
    image = next((key for key, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        columns = ", ".join(features) or "none declared"
        raise DataError(f"The data set {name} has no column of images, only: {columns}.")
    parts, first = [], 0
    for (key, split), count in zip(splits.items(), counts, strict=True):
        parts.append(_part(f"{name}/{key}", split, tuple(features), count, first, image))
        first += count or 0
    total = None if None in counts else first
    digest = hashlib.blake2b(f"{name}\0{total}{version}".encode(), digest_size=16).hexdigest()
    return Source(name, parts, digest)


def hub_shards(name: str, split: str) -> list[Part]:
    """A split of a hub data set, shard by shard, of unknown lengths."""
    rows = load_hub(name, split=split, streaming=True)
    columns = tuple(rows.column_names or next(iter(rows)))
    count = int(rows.num_shards)
    return [
        _part(f"{name}/{split}/{i}", rows.shard(num_shards=count, index=i), columns)
        for i in range(count)
    ]


def _part(
    name: str,
    rows: "IterableDataset",
    columns: tuple[str, ...],
    count: int | None = None,
    first: int = 0,
    image: str | None = None,
) -> Part:
    """Rows of `datasets`; their names are numbered from `first` on."""
    text = text_column(columns)

    def read(wanted: Sequence[str], start: int) -> Iterator[Item]:
        about = [column for column in (text, "split") if column in columns]
        chosen = undecoded(rows, wanted).select_columns([*wanted, *about])
        if start and count is not None:
            chosen = chosen.skip(start)
        for number, values in enumerate(chosen, start if count else 0):
            if number >= start:
                yield to_item(f"{name}#{first + number}", values, wanted, text)

    return Part(name, count, columns, text is not None, read, image=image)


class HubRows(Sequence[Item]):
    """Undecoded rows of a map-style data set, with files under the keys of `columns`."""

    def __init__(self, name: str, rows: Any, columns: Mapping[str, str]):
        self.name, self.columns, self.text = name, columns, text_column(rows.column_names)
        self.rows = rows.select_columns([*columns.values(), *([self.text] if self.text else [])])
        self.texts = rows.select_columns([self.text]) if self.text else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        row = self.rows[int(index)]
        values = {key: row[column] for key, column in self.columns.items()}
        item = to_item(f"row {index} of {self.name}", values, list(values), None).fetch()
        return item._replace(text=as_caption(row[self.text]) if self.text else None)

    def caption(self, index: int) -> str | None:
        """The caption of a row, if it has one; its images are not read."""
        return None if self.texts is None else as_caption(self.texts[int(index)][self.text])


def hub_name(source: str | Path) -> str:
    """The name of a hub data set; DataError for any other path that does not exist."""
    name = str(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise DataError(
            f"There is no data at {name}: give a folder of photos or parquet files, or a hub data "
            "set as owner/name."
        )
    return name


def load_hub(name: str, *, split: str | None, streaming: bool) -> Any:
    """A split of a hub data set, or all of them by name; DataError if it cannot be read."""
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
        raise DataError(
            f"There is no file or folder {name}, and the hub's data set of that name cannot be "
            f"read: {first_line(error)}."
        ) from error


def undecoded(rows: Any, columns: Iterable[str]) -> Any:
    """The data set with the image files of these columns undecoded."""
    from datasets import Image

    for column in columns:
        if isinstance((rows.features or {}).get(column), Image):
            rows = rows.cast_column(column, Image(decode=False))
    return rows

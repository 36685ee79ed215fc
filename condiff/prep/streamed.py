"""Sources that `datasets` reads: streams from the Hugging Face hub, and saved data sets."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from condiff.errors import DataError, DependencyError
from condiff.prep.items import TEXT_KEYS, Item, Source, row_item

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
    """A data set of the Hugging Face hub (or a folder that `datasets` knows)."""
    try:
        from datasets import IterableDataset, config, load_dataset
    except ImportError as error:
        need = f"There is no file or folder {name}; to read it from the hub needs datasets"
        raise DependencyError.of(need, extra="train") from error
    try:
        splits: dict[str, IterableDataset] = load_dataset(name, streaming=True)
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
    text = next((key for key in TEXT_KEYS if key in features), None)

    def items(start: int) -> Iterator[Item]:
        number = 0
        for (key, split), count in zip(splits.items(), counts, strict=True):
            if count is not None and number + count <= start:
                number += count
                continue
            rows = split.cast_column(image, Image(decode=False))
            skipped = start - number if number < start and count is not None else 0
            number += skipped
            for row in _told(rows.skip(skipped) if skipped else rows, name):
                if number >= start:
                    yield row_item(f"{name}/{key}#{number}", row[image], text and row[text])
                number += 1

    total = None if None in counts else sum(count for count in counts if count is not None)
    digest = hashlib.blake2b(f"{name}\0{total}{version}".encode(), digest_size=16).hexdigest()
    return Source(name, total, text is not None, digest, items)


def _told(rows: "IterableDataset", name: str) -> Iterator[dict]:
    """Yield the rows; DataError if the network fails in the middle."""
    try:
        yield from rows
    except OSError as error:  # ConnectionError, after datasets tried again and again
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"The data set {name} broke off ({reason}): run the same again to go on from there."
        ) from error

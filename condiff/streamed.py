"""Data sets of the Hugging Face hub, streamed by `datasets`."""

import hashlib
from collections.abc import Iterator

from condiff.errors import DataError
from condiff.items import TEXT_KEYS, Item, Source, row_item


def hub_source(name: str) -> Source:
    """A data set of the Hugging Face hub (or a folder that `datasets` knows), streamed."""
    try:
        from datasets import Image, IterableDataset, load_dataset
    except ImportError as error:
        raise DataError(
            f"There is no file or folder {name}; to read the hub's data set of that name "
            "takes datasets: pip install 'condiff[train]'"
        ) from error
    try:
        splits: dict[str, IterableDataset] = load_dataset(name, streaming=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"There is no file or folder {name}, and the hub's data set of that name cannot be "
            f"read: {reason}"
        ) from error
    first = next(iter(splits.values()))
    features = first.features or {}
    image = next((key for key, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        columns = ", ".join(features) or "none that is declared"
        raise DataError(f"The data set {name} has no column of images, only: {columns}.")
    text = next((key for key in TEXT_KEYS if key in features), None)
    counts = [split.info.splits[key].num_examples if split.info.splits else None
              for key, split in splits.items()]  # fmt: skip

    def items(start: int) -> Iterator[Item]:
        number = 0
        for (key, split), count in zip(splits.items(), counts, strict=True):
            if count is not None and number + count <= start:
                number += count
                continue
            rows = split.cast_column(image, Image(decode=False))
            skipped = start - number if number < start and count is not None else 0
            number += skipped
            for row in rows.skip(skipped) if skipped else rows:
                if number >= start:
                    yield row_item(f"{name}/{key}#{number}", row[image], text and row[text])
                number += 1

    total = None if None in counts else sum(count for count in counts if count is not None)
    digest = hashlib.blake2b(f"{name}\0{total}".encode(), digest_size=16).hexdigest()
    return Source(name, total, text is not None, digest, items)

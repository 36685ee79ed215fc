"""Streams of photos: parquet and tar files, and hub data sets, that are too large for memory.

The training process itself reads the stream, still encoded, and its workers decode. So the order of
photos does not depend on the number of workers.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from condiff.data.crops import Batch, CropSettings, make_row
from condiff.data.photos import (
    open_item,
    report_idle,
    training_columns,
    training_parts,
    training_split,
)
from condiff.errors import DataError
from condiff.inputs import PictureInput
from condiff.sources.hub import hub_name, hub_shards
from condiff.sources.schema import is_held_out
from condiff.sources.source import Item, Part

AHEAD = 4  # batches that are read ahead, still encoded

Key = tuple[int, int, Item]  # epoch, number within it, the photo


class StreamCrops(Dataset[Batch]):
    """views[epoch, number, item] is a view of a photo, a function of these and the seed alone."""

    def __init__(self, settings: CropSettings, *, seed: int):
        self.settings, self.seed = settings, seed

    def __getitem__(self, key: Key) -> Batch:
        epoch, number, item = key
        rng = np.random.default_rng((self.seed, epoch, number))
        photo = open_item(item, self.settings.task.picture)
        return make_row(photo, rng, self.settings)


class StreamDataset:
    """Shards of photos, in another order each epoch, shuffled in blocks.

    A block is `data.shuffle_buffer` photos in a row, the only ones in memory. A shard is a file, or
    a shard of a hub data set. The shuffle of `datasets` is not used: it differs between versions,
    and cannot be resumed without reading all.
    """

    num_photos = None

    def __init__(
        self,
        source: str | Path,
        settings: CropSettings,
        *,
        seed: int,
        condition: PictureInput | None = None,
    ):
        config = settings.config
        self.name, self.parts = _open(source, settings)
        self.columns = training_columns(self.parts, config, condition, where=self.name)
        self.views = StreamCrops(settings, seed=seed)
        self.seed, self.num_workers = seed, config.num_workers
        self.num_shards, self.block = len(self.parts), config.shuffle_buffer
        self.lengths: dict[int, int] = {}  # photos of a shard, where they were counted

    def describe(self) -> str:
        """The number of shards, their source, and how they are shuffled, in words."""
        return (
            f"a stream of {self.num_shards} shards from {self.name}, shuffled among {self.block} "
            "photos"
        )

    def keys(
        self, *, start: int, batch_size: int, process: int, num_processes: int
    ) -> Iterator[list[Key]]:
        """Yield the photos of batch `start`, start + 1, … without end.

        If the number of shards is a multiple of the number of processes, each process reads its own
        shards only. Otherwise each one reads all and keeps its share, so that together they see
        what one process would.
        """
        shards, factor, offset = range(self.num_shards), 1, 0
        if num_processes > 1 and self.num_shards % num_processes == 0:
            shards = shards[process::num_processes]
            factor, offset = num_processes, process  # no two photos of an epoch share a number
            process, num_processes = 0, 1
        taken = batch_size * num_processes
        endless = self._endless(shards, skip=start * taken)
        share = slice(process * batch_size, (process + 1) * batch_size)

        def read() -> list[Key]:
            return [
                (epoch, number * factor + offset, item.fetch())
                for epoch, number, item in list(islice(endless, taken))[share]
            ]

        with closing(_read_ahead(read)) as batches:
            yield from batches

    def _endless(self, shards: Sequence[int], *, skip: int) -> Iterator[Key]:
        """Yield photos epoch after epoch, without the first `skip`."""
        epoch = 0
        while True:
            length = yield from self._epoch(epoch, shards, skip)
            if not length:
                raise DataError(f"{self.name} contains no photos to train on.")
            epoch, skip = epoch + 1, max(0, skip - length)

    def _epoch(self, epoch: int, shards: Sequence[int], skip: int) -> Generator[Key, None, int]:
        """Yield an epoch's photos without the first `skip`; return the number of all of them.

        Skipped shards are not read where their length is known, and nothing skipped is decoded.
        """
        begin = skip - skip % self.block
        number, items = 0, list[Item]()
        for i in np.random.default_rng((self.seed, epoch)).permutation(len(shards)):
            length = self._length(shards[i]) if number < begin else None
            if length is not None and number + length <= begin:
                number += length
                continue
            before = number
            for item in self._read(shards[i]):
                number += 1
                if number > begin:
                    items.append(item)
                if len(items) == self.block:
                    yield from self._shuffled(epoch, number - len(items), items, skip)
                    items = []
            self.lengths[shards[i]] = number - before
        yield from self._shuffled(epoch, number - len(items), items, skip)
        return number

    def _shuffled(self, epoch: int, first: int, items: list[Item], skip: int) -> Iterator[Key]:
        order = np.random.default_rng((self.seed, epoch, first)).permutation(len(items))
        for number, i in enumerate(order, first):
            if number >= skip:
                yield epoch, number, items[i]

    def _length(self, shard: int) -> int | None:
        """The number of training photos of a shard; None if it would have to be read for that."""
        part = self.parts[shard]
        if shard not in self.lengths and part.total is not None:
            self.lengths[shard] = part.total - sum(map(is_held_out, part.splits()))
        return self.lengths.get(shard)

    def _read(self, shard: int) -> Iterator[Item]:
        items = self.parts[shard].items(self.columns)
        return (item for item in items if not is_held_out(item.split))


def _read_ahead(read: Callable[[], list[Key]]) -> Generator[list[Key], None, None]:
    """Yield read() without end, some calls ahead in a thread, so that training need not wait."""
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(read) for _ in range(AHEAD))
        while True:
            yield pending.popleft().result()
            pending.append(pool.submit(read))
    finally:
        # Without waiting: the garbage collector may close this generator in the pool's own thread.
        pool.shutdown(wait=False, cancel_futures=True)


def _open(source: str | Path, settings: CropSettings) -> tuple[str, list[Part]]:
    """The name and the shards of a folder, a parquet or tar file, or a hub data set."""
    root = Path(source)
    if not root.exists():
        name = hub_name(source)
        return name, hub_shards(name, training_split(settings.config))
    parts = [part for part in training_parts(root) if part.is_archive]
    if not parts:
        raise DataError(
            f"{root} contains no parquet or tar files to stream: make them with condiff prep, or "
            "set data.streaming to false."
        )
    report_idle(root, parts, settings.config)
    return str(root), parts

"""Streams of photos: parquet files and hub data sets that are too large for memory.

The training process itself reads the stream, still encoded, and its workers decode. So the order of
photos does not depend on the number of workers.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from condiff.data.crops import Batch, CropSettings, make_crop, to_row
from condiff.data.photos import Files, open_row, training_parts, training_split
from condiff.errors import DataError
from condiff.inputs import PictureInput
from condiff.sources.hub import hub_name, load_hub, undecoded
from condiff.sources.schema import columns_of, is_held_out
from condiff.sources.source import File, Part, to_file

AHEAD = 4  # batches that are read ahead, still encoded

Key = tuple[int, int, Files]  # epoch, number within it, the files
_Numbered = tuple[int, int, dict[str, Any]]  # the same, with the row as `datasets` gives it


class StreamCrops(Dataset[Batch]):
    """views[epoch, number, row] is a view of a row; it depends on these and the seed alone."""

    def __init__(self, settings: CropSettings, *, seed: int, name: str):
        self.settings, self.seed, self.name = settings, seed, name

    def __getitem__(self, key: Key) -> Batch:
        epoch, number, row = key
        rng = np.random.default_rng((self.seed, epoch, number))
        where = f"Photo {number} of epoch {epoch} of {self.name}"
        photo = open_row(row, self.settings.task.picture, where=where)
        return to_row(*make_crop(photo, rng, self.settings))


class StreamDataset:
    """A stream of `datasets`, with its shards in another order each epoch, shuffled in blocks.

    A block is `data.shuffle_buffer` photos in a row, the only ones in memory. The own shuffle of
    `datasets` is not used: it differs between versions, and cannot be resumed without reading all.
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
        rows, self.name, self.parts = _open(source, settings)
        names = rows.column_names or list(next(iter(rows)))
        self.columns = columns_of(names, config.image_column, condition, where=self.name)
        rows = undecoded(rows, self.columns.values())
        self.rows = rows.select_columns(
            [*self.columns.values(), *(["split"] if "split" in names else [])]
        )
        self.views = StreamCrops(settings, seed=seed, name=self.name)
        self.seed, self.num_workers = seed, config.num_workers
        self.num_shards, self.block = int(rows.num_shards), config.shuffle_buffer
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
        """Yield the rows of batch `start`, start + 1, … without end.

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
        mine = slice(process * batch_size, (process + 1) * batch_size)

        def read() -> list[Key]:
            return [
                (epoch, number * factor + offset, self._files(row))
                for epoch, number, row in list(islice(endless, taken))[mine]
            ]

        with closing(_read_ahead(read)) as batches:
            yield from batches

    def _endless(self, shards: Sequence[int], *, skip: int) -> Iterator[_Numbered]:
        """Yield rows epoch after epoch, without the first `skip`."""
        epoch = 0
        while True:
            length = yield from self._epoch(epoch, shards, skip)
            if not length:
                raise DataError(f"{self.name} holds no photos to train on.")
            epoch, skip = epoch + 1, max(0, skip - length)

    def _epoch(
        self, epoch: int, shards: Sequence[int], skip: int
    ) -> Generator[_Numbered, None, int]:
        """Yield an epoch's rows without the first `skip`; return the number of all its rows.

        Skipped shards are not read where their length is known, and nothing skipped is decoded.
        """
        begin = skip - skip % self.block
        number, rows = 0, list[dict[str, Any]]()
        for i in np.random.default_rng((self.seed, epoch)).permutation(len(shards)):
            length = self._length(shards[i]) if number < begin else None
            if length is not None and number + length <= begin:
                number += length
                continue
            before = number
            for row in self._read(shards[i]):
                number += 1
                if number > begin:
                    rows.append(row)
                if len(rows) == self.block:
                    yield from self._shuffled(epoch, number - len(rows), rows, skip)
                    rows = []
            self.lengths[shards[i]] = number - before
        yield from self._shuffled(epoch, number - len(rows), rows, skip)
        return number

    def _shuffled(
        self, epoch: int, first: int, rows: list[dict[str, Any]], skip: int
    ) -> Iterator[_Numbered]:
        order = np.random.default_rng((self.seed, epoch, first)).permutation(len(rows))
        for number, i in enumerate(order, first):
            if number >= skip:
                yield epoch, number, rows[i]

    def _length(self, shard: int) -> int | None:
        """The number of training photos of a shard; None if it would have to be read for that."""
        if shard not in self.lengths and len(self.parts) == self.num_shards:
            part = self.parts[shard]
            held_out = sum(is_held_out(split) for split in part.splits())
            self.lengths[shard] = (part.total or 0) - held_out
        return self.lengths.get(shard)

    def _read(self, shard: int) -> Iterator[dict[str, Any]]:
        rows = self.rows.shard(num_shards=self.num_shards, index=shard)
        return (row for row in self._told(rows) if not is_held_out(str(row.get("split") or "")))

    def _told(self, rows: Any) -> Iterator[dict[str, Any]]:
        iterator = iter(rows)
        while True:
            try:
                row = next(iterator)
            except StopIteration:
                return
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"The stream {self.name} broke off ({reason}): see that it can be read, and "
                    "start the run again."
                ) from error
            yield row

    def _files(self, row: dict[str, Any]) -> Files:
        return {key: self._file(row[column]) for key, column in self.columns.items()}

    def _file(self, cell: Any) -> File:
        try:
            return to_file(cell)
        except DataError as error:
            raise DataError(f"A row of {self.name} cannot be trained on: {error}.") from error


def _read_ahead(read: Callable[[], list[Key]]) -> Generator[list[Key], None, None]:
    """Yield read() without end, some calls ahead in a thread, so that training need not wait."""
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(read) for _ in range(AHEAD))
        while True:
            yield pending.popleft().result()
            pending.append(pool.submit(read))
    finally:
        pool.shutdown(cancel_futures=True)


def _open(source: str | Path, settings: CropSettings) -> tuple[Any, str, list[Part]]:
    """The rows of parquet files below a folder, or of a hub data set; its name; its parts."""
    root = Path(source)
    if not root.exists():
        name = hub_name(source)
        split = training_split(settings.config)
        return load_hub(name, split=split, streaming=True), name, []
    parts = [part for part in training_parts(root) if part.name.endswith(".parquet")]
    if not parts:
        raise DataError(
            f"{root} holds no parquet files to stream: make them with condiff prep, or set "
            "data.streaming to false."
        )
    from datasets import load_dataset

    names = [str(part.path) for part in parts]
    try:
        rows = load_dataset("parquet", data_files=names, split="train", streaming=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"The parquet files in {root} cannot be read: {reason}") from error
    return rows, str(root), parts

"""The frozen backbone's features of one view of each photo, computed once and kept on disk."""

import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from condiff.data.crops import Batch, CropDataset, Features
from condiff.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, or of a user's quota


class FeatureCache(Dataset[Batch]):
    """One view of each photo with the backbone's features, in memory-mapped half precision.

    The arrays are .npy files in a folder: `lightness` is 50 (condition + 1), which for colorize is
    L*; `chroma` is x_0 in the task's units; `features_N` are the maps of stride N. `done` marks the
    rows that are complete, so that filling can be resumed. `channels` are those of the maps, by
    stride, and `backbone` is a digest of the weights that compute them.
    """

    def __init__(
        self, folder: Path, views: CropDataset, channels: dict[int, int], *, backbone: str = ""
    ):
        settings = views.settings
        size, sample_size, task = settings.size, settings.sample_size, settings.task
        shapes = {f"features_{s}": (c, size // s, size // s) for s, c in channels.items()}
        shapes["lightness"] = (task.condition_channels, size, size)
        shapes["chroma"] = (task.space.channels, sample_size, sample_size)
        self.folder, self.views, self.strides = folder, views, tuple(channels)
        self.seed, self.num_workers = views.seed, views.num_workers
        self.num_photos, self.scale = len(views), task.space.scale
        rows = len(views)
        arrays = {name: ((rows, *shape), np.float16) for name, shape in shapes.items()}
        key = f"{views.fingerprint()} {channels} {backbone}"
        self.arrays = open_arrays(folder, arrays | {"done": ((rows,), np.bool_)}, key=key)
        self.done = self.arrays.pop("done")

    def __len__(self) -> int:
        return len(self.views)

    @property
    def is_complete(self) -> bool:
        """Whether all rows are computed."""
        return bool(self.done.all())

    def describe(self) -> str:
        """The number of photos, their source, and the size of their features, in words."""
        megabytes = sum(array.nbytes for array in self.arrays.values()) / 1e6
        return (
            f"{self.num_photos} photos from {self.views.name}, one view of each with its features: "
            f"{megabytes:.1f} MB in {self.folder}"
        )

    def fill(
        self, extract: Callable[[Tensor], Features], rows: Sequence[int], *, batch_size: int = 8
    ) -> Iterator[int]:
        """Compute the rows that are missing; yields how many are complete, after each batch.

        `extract` makes features of conditions (B,N,S,S) in [-1,1].
        """
        missing = [row for row in rows if not self.done[row]]
        yield len(rows) - len(missing)
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            views = [self.views[0, row] for row in chunk]
            condition = torch.stack([view["condition"] for view in views])
            x_0 = torch.stack([view["x_0"] for view in views])
            features = extract(condition)
            self.arrays["lightness"][chunk] = (50 * (condition + 1)).numpy()
            self.arrays["chroma"][chunk] = (self.scale * x_0).numpy()
            for stride in self.strides:
                self.arrays[f"features_{stride}"][chunk] = features[stride].cpu().numpy()
            self.done[chunk] = True
            yield len(rows) - len(missing) + start + len(chunk)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """The photo's only view, whatever the epoch; its caption for a task that takes words."""
        index = key[1]

        def row(name: str) -> Tensor:
            return torch.from_numpy(self.arrays[name][index].astype(np.float32))

        view: Batch = {
            "x_0": row("chroma") / self.scale,
            "condition": row("lightness") / 50 - 1,
            "features": {stride: row(f"features_{stride}") for stride in self.strides},
        }
        if self.views.settings.task.takes_text:
            view["texts"] = [self.views.photos.caption(index)]
        return view


class MappedArrays(dict[str, np.memmap]):
    """Memory-mapped arrays of .npy files by name, which other processes map anew.

    An array alone would be pickled whole, and each worker of a loader get a copy of the cache.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_arrays, ({name: array.filename for name, array in self.items()},)


def _map_arrays(paths: Mapping[str, Path]) -> MappedArrays:
    return MappedArrays(
        {name: np.lib.format.open_memmap(path, mode="r+") for name, path in paths.items()}
    )


def open_arrays(
    folder: Path, arrays: Mapping[str, tuple[tuple[int, ...], type]], *, key: str
) -> MappedArrays:
    """The memory-mapped arrays of a cache's folder, by name, of these shapes and types.

    `key` stands for what the cache depends on. Raises DataError where the folder was made with
    another one, or there is no room for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "views.sha256", f"{key}\n")
        return MappedArrays(
            {
                name: _open_array(folder / f"{name}.npy", shape, dtype)
                for name, (shape, dtype) in arrays.items()
            }
        )
    except OSError as error:
        if error.errno not in FULL:
            raise DataError(
                f"Cannot keep features in {folder}: {error.strerror}. Choose another folder."
            ) from error
        need = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())
        raise DataError(
            f"Cannot keep {need / 1e6:.1f} MB in {folder}: {error.strerror}. Make room, choose "
            "another folder, or set data.cache_features to false."
        ) from error


def _claim(path: Path, key: str) -> None:
    """Write the key into a new folder; raise DataError if the folder contains another key."""
    if not path.exists():
        path.write_text(key, "utf-8")
    elif path.read_text("utf-8") != key:
        raise DataError(
            f"{path.parent} was made from other data, settings or weights: remove that folder."
        )


def _open_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """The array in a .npy file, memory-mapped; a new one has all its room on the disk."""
    if path.exists():
        array = np.lib.format.open_memmap(path, mode="r+")
    else:
        array = np.lib.format.open_memmap(path, mode="w+", shape=shape, dtype=dtype)
    if hasattr(os, "posix_fallocate"):
        # A mapped file is sparse, and on a full disk its first write would kill the process.
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array

"""Endless training batches on the device, the same for any number of loader workers."""

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from condiff.config import TrainConfig
from condiff.data.crops import PREFETCH, Batch, CropDataset, CropSettings
from condiff.data.device_cache import DeviceDataset
from condiff.data.feature_cache import FeatureCache
from condiff.data.latent_cache import FrozenShape, LatentCache
from condiff.data.photos import find_photos
from condiff.data.ram_cache import RamPhotos
from condiff.data.shuffling import Order, batches_of
from condiff.data.stream import StreamDataset
from condiff.errors import CondiffError
from condiff.tasks import Task

__all__ = [
    "Batch", "Dataset", "FeatureCache", "LatentCache", "build_dataset", "collate", "load_batches",
]  # fmt: skip

Dataset = CropDataset | FeatureCache | LatentCache | StreamDataset | DeviceDataset


def build_dataset(
    config: TrainConfig,
    task: Task,
    source: str | Path,
    *,
    cache_dir: Path,
    feature_channels: dict[int, int],
    device: torch.device,
    backbone: str = "",
    frozen: FrozenShape | None = None,
) -> Dataset:
    """The training data of a folder, of parquet files or of a hub data set, by config.data.

    `feature_channels` are the channels of the frozen backbone's maps, by stride, and `backbone` is
    a digest of its weights. With data.cache_features the maps are kept in cache_dir; for a base,
    given by its `frozen` parts, the latents and the embeddings of captions. Raises ConfigError for
    settings that do not go together, DataError for photos that cannot be used.
    """
    task.check(config)
    data = config.data
    settings = CropSettings(task, data, size=data.size, sample_size=task.sample_size(config))
    condition = task.picture if data.conditions == "prepared" else None
    if data.streaming:
        return StreamDataset(source, settings, seed=config.seed, condition=condition)
    photos = find_photos(source, data, seed=config.seed, condition=condition)
    if data.cache == "device":
        return DeviceDataset(photos, settings, seed=config.seed, name=photos.name, device=device)
    kept = RamPhotos(photos, short_side=settings.short_side) if data.cache == "ram" else photos
    views = CropDataset(
        kept, settings, seed=config.seed, name=photos.name, fingerprint=photos.fingerprint
    )
    if data.cache_features and frozen is not None:
        return LatentCache(cache_dir, views, frozen)
    if data.cache_features and feature_channels:
        return FeatureCache(cache_dir, views, feature_channels, backbone=backbone)
    return views


def load_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    start: int = 0,
    process: int = 0,
    num_processes: int = 1,
    device: torch.device | str = "cpu",
    num_workers: int | None = None,
) -> Iterator[Batch]:
    """Yield batch `start`, start + 1, … without end; each process gets its own photos.

    Of P processes with batches of B photos, process r gets the r-th B of positions [b B P,
    (b+1) B P) of the endless shuffled sequence. A batch depends on the seed and its number alone.
    `num_workers` is the data set's if it is None.
    """
    share = {"batch_size": batch_size, "process": process, "num_processes": num_processes}
    if isinstance(dataset, DeviceDataset):
        yield from dataset.batches(start=start, **share)
        return
    rows: TorchDataset[Batch]
    keys: Iterator[list[Any]]
    if isinstance(dataset, StreamDataset):
        rows, keys = dataset.views, dataset.keys(start=start, **share)
    else:
        order = Order(dataset.num_photos, seed=dataset.seed)
        rows, keys = dataset, batches_of(order, start=start, **share)
    workers = dataset.num_workers if num_workers is None else num_workers
    yield from _load(rows, keys, num_workers=workers, device=torch.device(device))


def collate(rows: list[Batch]) -> Batch:
    """Stack single photos into a batch."""
    first = rows[0]["features"]
    batch: Batch = {
        "x_0": torch.stack([row["x_0"] for row in rows]),
        "condition": torch.stack([row["condition"] for row in rows]),
        "features": None
        if first is None
        else {s: torch.stack([r["features"][s] for r in rows if r["features"]]) for s in first},
    }
    if "texts" in rows[0]:
        batch["texts"] = [text for row in rows for text in row["texts"]]
    if "words" in rows[0]:
        batch["words"] = torch.stack([row["words"] for row in rows])
    return batch


class _Batches(TorchDataset[Batch | CondiffError]):
    """batches[keys] is a batch, or an error: a worker that raises would add its own traceback."""

    def __init__(self, rows: TorchDataset[Batch]):
        self.rows = rows

    def __getitem__(self, keys: list[Any]) -> Batch | CondiffError:
        try:
            return collate([self.rows[key] for key in keys])
        except CondiffError as error:
            return error


def _load(
    rows: TorchDataset[Batch], keys: Iterable[list[Any]], *, num_workers: int, device: torch.device
) -> Iterator[Batch]:
    """Yield a batch for each list of keys, in their order; the workers make them."""
    loader = DataLoader(
        _Batches(rows),
        batch_size=None,
        sampler=keys,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the default one would change the run's random state
    )
    for batch in loader:
        if isinstance(batch, CondiffError):
            raise batch
        yield _to_device(batch, device)


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(number: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads
    # Ctrl-C and the end of a job reach all processes. The training process finishes its step and
    # saves, for which it needs the workers, and then ends them.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    features = batch["features"]
    moved: Batch = {
        "x_0": move(batch["x_0"]),
        "condition": move(batch["condition"]),
        "features": None if features is None else {s: move(f) for s, f in features.items()},
    }
    if "texts" in batch:
        moved["texts"] = batch["texts"]
    if "words" in batch:
        moved["words"] = move(batch["words"])
    return moved

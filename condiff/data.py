"""Photos for training: found, decoded, varied; and the frozen backbone's features, cached once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from condiff.color import rgb_to_lab
from condiff.config import DataConfig
from condiff.errors import DataError
from condiff.images import list_images, read_image
from condiff.parquet import read_parquet

HELD_OUT = ("val", "test", "validation")  # files named so are never trained on

Features = dict[int, Tensor]


class Batch(TypedDict):
    """One step's photos: L* (B,1,S,S) in [0,100], chroma (B,2,s,s) in Lab units, features."""

    lightness: Tensor
    chroma: Tensor
    features: Features | None


@dataclass(frozen=True)
class Photos(Sequence[np.ndarray]):
    """Encoded photos, decoded on access: photos[i] is (H,W,3) uint8 RGB."""

    sources: list[Path | bytes]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        source = self.sources[index]
        image = read_image(BytesIO(source) if isinstance(source, bytes) else source)
        return np.asarray(image.convert("RGB"))


def find_photos(root: Path, config: DataConfig, *, seed: int) -> Photos:
    """The training photos below root: parquet shards with an `image` column, or image files.

    `config.files` maps globs to how many photos to take of the files that match; which ones is
    drawn by the seed. Files whose name begins with val or test are left out.
    """
    if not root.exists():
        raise DataError(f"There is no data at {root}: give a folder of photos or parquet files.")
    rng = np.random.default_rng(seed)
    wanted: Mapping[str, int | None] = config.files or {"**/*": None}
    chosen: list[Path | bytes] = []
    for pattern, count in wanted.items():
        found = _photos_in(root, pattern)
        if not found:
            raise DataError(
                f"No photos in {root} match {pattern!r}: looked for images and *.parquet."
            )
        chosen += _draw(found, count, rng)
    return Photos(_draw(chosen, config.max_photos, rng))


def _photos_in(root: Path, pattern: str) -> list[Path | bytes]:
    paths = [root] if root.is_file() else sorted(root.glob(pattern))
    shards = [p for p in paths if p.suffix == ".parquet" and not p.name.startswith(HELD_OUT)]
    if shards:
        return [photo for shard in shards for photo in read_parquet(shard)]
    return [p for p in list_images(root) if p in set(paths)] if root.is_dir() else []


def _draw(
    photos: list[Path | bytes], count: int | None, rng: np.random.Generator
) -> list[Path | bytes]:
    if count is None or count >= len(photos):
        return photos
    return [photos[i] for i in sorted(rng.permutation(len(photos))[:count])]


def make_view(
    pixels: np.ndarray, rng: np.random.Generator, config: DataConfig, *, size: int, sample_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One random look at a photo: L* (size,size) and true chroma (sample_size,sample_size,2).

    A square crop at random, perhaps mirrored; L* perhaps degraded like an old scan, chroma never.
    """
    height, width = pixels.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(config.min_crop, 1)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = pixels[top : top + side, left : left + side]
    if rng.random() < config.flip:
        crop = crop[:, ::-1]
    crop = np.ascontiguousarray(crop)
    lightness = rgb_to_lab(_resize(crop, size))[..., 0]
    chroma = rgb_to_lab(_resize(crop, sample_size))[..., 1:]
    if rng.random() < config.degrade:
        lightness = degrade(lightness, rng)
    return lightness, np.ascontiguousarray(chroma)


def degrade(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """L* as an old photo has it: contrast, softness, grain and JPEG blocks, each at random."""
    if rng.random() < 0.5:
        gamma, low, high = rng.uniform(0.7, 1.4), rng.uniform(0, 12), rng.uniform(88, 100)
        lightness = low + (high - low) * (lightness / 100) ** gamma
    if rng.random() < 0.4:
        lightness = cv2.GaussianBlur(lightness, (0, 0), float(rng.uniform(0.4, 1.8)))
    if rng.random() < 0.4:
        grain = rng.standard_normal(lightness.shape, dtype=np.float32)
        lightness = lightness + rng.uniform(0.5, 5) * cv2.GaussianBlur(grain, (0, 0), 0.6)
    lightness = lightness.clip(0, 100).astype(np.float32)
    if rng.random() < 0.3:
        coded = cv2.imencode(
            ".jpg",
            (lightness * 2.55).round().astype(np.uint8),
            [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))],
        )[1]
        decoded = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
        assert decoded is not None  # our own JPEG
        lightness = decoded.astype(np.float32) / 2.55
    return lightness


def _resize(pixels: np.ndarray, side: int) -> np.ndarray:
    shrinks = side < pixels.shape[0]
    return cv2.resize(
        pixels, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


class ViewDataset(Dataset[Batch]):
    """A random view of each photo; a function of (seed, i)."""

    def __init__(
        self, photos: Photos, config: DataConfig, *, size: int, sample_size: int, seed: int
    ):
        self.photos, self.config, self.seed = photos, config, seed
        self.size, self.sample_size = size, sample_size

    def __len__(self) -> int:
        return len(self.photos)

    def fingerprint(self) -> str:
        """SHA-256 of all that the views depend on: photos, variation, sizes, seed."""
        config = self.config
        settings = (config.min_crop, config.flip, config.degrade)
        digest = sha256(repr((settings, self.size, self.sample_size, self.seed)).encode())
        for source in self.photos.sources:
            if isinstance(source, Path):
                status = source.stat()
                source = f"{source} {status.st_size} {status.st_mtime_ns}".encode()
            digest.update(source)
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, index))
        lightness, chroma = make_view(
            self.photos[index], rng, self.config, size=self.size, sample_size=self.sample_size
        )
        return {
            "lightness": torch.from_numpy(lightness)[None],
            "chroma": torch.from_numpy(chroma).permute(2, 0, 1),
            "features": None,
        }


class FeatureCache(Dataset[Batch]):
    """One view of each photo with the backbone's features, in memory-mapped half precision.

    Arrays lie in a folder as .npy files; `done.npy` marks the rows that are whole, so that filling
    goes on where it was stopped.
    """

    def __init__(self, folder: Path, views: ViewDataset, channels: dict[int, int]):
        size, sample_size = views.size, views.sample_size
        shapes = {f"features_{s}": (c, size // s, size // s) for s, c in channels.items()}
        shapes |= {"lightness": (1, size, size), "chroma": (2, sample_size, sample_size)}
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "views.sha256", f"{views.fingerprint()} {channels}\n")
        self.views, self.strides = views, tuple(channels)
        self.arrays = {
            name: _open_array(folder / f"{name}.npy", (len(views), *shape), np.float16)
            for name, shape in shapes.items()
        }
        self.done = _open_array(folder / "done.npy", (len(views),), np.bool_)

    def __len__(self) -> int:
        return len(self.views)

    def fill(
        self, extract: Callable[[Tensor], Features], rows: Sequence[int], *, batch_size: int = 8
    ) -> Iterator[int]:
        """Compute the rows that are missing; yields how many are whole after each batch."""
        missing = [row for row in rows if not self.done[row]]
        yield len(rows) - len(missing)
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            views = [self.views[row] for row in chunk]
            features = extract(torch.stack([view["lightness"] for view in views]))
            for name in ("lightness", "chroma"):
                self.arrays[name][chunk] = torch.stack([v[name] for v in views]).numpy()  # type: ignore[literal-required]
            for stride in self.strides:
                self.arrays[f"features_{stride}"][chunk] = features[stride].numpy()
            self.done[chunk] = True
            yield len(rows) - len(missing) + start + len(chunk)

    def __getitem__(self, index: int) -> Batch:
        def row(name: str) -> Tensor:
            return torch.from_numpy(self.arrays[name][index].astype(np.float32))

        return {
            "lightness": row("lightness"),
            "chroma": row("chroma"),
            "features": {stride: row(f"features_{stride}") for stride in self.strides},
        }


def _claim(path: Path, key: str) -> None:
    """Leave the key in a new folder; refuse a folder with another one."""
    if not path.exists():
        path.write_text(key, "utf-8")
    elif path.read_text("utf-8") != key:
        raise DataError(f"{path.parent} was made from other data or settings: remove that folder.")


def _open_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", shape=shape, dtype=dtype)


class ShuffledSampler(Sampler[int]):
    """Every photo once an epoch, in an order that is a function of (seed, epoch); then the next."""

    def __init__(self, length: int, *, seed: int):
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        epoch = 0
        while True:
            yield from np.random.default_rng((self.seed, epoch)).permutation(self.length).tolist()
            epoch += 1


def collate(rows: list[Batch]) -> Batch:
    """Stack rows into a batch."""
    first = rows[0]["features"]
    return {
        "lightness": torch.stack([row["lightness"] for row in rows]),
        "chroma": torch.stack([row["chroma"] for row in rows]),
        "features": None
        if first is None
        else {s: torch.stack([r["features"][s] for r in rows if r["features"]]) for s in first},
    }


def build_dataset(config, task, source, *, cache_dir, feature_channels, device):
    photos = find_photos(Path(source), config.data, seed=config.seed)
    size = config.data.size
    sample = size // config.model.fold if task.x_0 == "chroma" else config.model.sample_size
    views = ViewDataset(photos, config.data, size=size, sample_size=sample, seed=config.seed)
    views.task = task
    views.describe = lambda: f"{len(photos)} photos"
    if config.data.cache_features and feature_channels:
        cache = FeatureCache(cache_dir, views, feature_channels)
        cache.describe = lambda: f"{len(photos)} photos, features cached"
        cache.task = task
        return cache
    return views


def load_batches(dataset, *, batch_size, start=0, process=0, num_processes=1, device):
    n = len(dataset)
    b = start
    while True:
        first = b * batch_size * num_processes + process * batch_size
        rows = []
        for position in range(first, first + batch_size):
            epoch, k = divmod(position, n)
            rows.append(dataset[int(np.random.default_rng((0, epoch)).permutation(n)[k])])
        batch = collate(rows)
        chroma, lightness = batch["chroma"], batch["lightness"] / 50 - 1
        task = dataset.task
        if task.x_0 == "chroma":
            yield {
                "x_0": chroma / task.scale,
                "condition": lightness,
                "features": batch["features"],
            }
        else:
            x = lightness.mean(1, keepdim=True).expand(-1, 3, -1, -1)
            yield {"x_0": x, "condition": lightness[:, : task.condition_channels], "features": None}
        b += 1

"""Photos decoded once and kept in main memory."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from condiff.data.photos import Photos, TrainingPhoto
from condiff.data.shared_memory import PackedImages, free_memory
from condiff.errors import DataError
from condiff.resize import shrink_short_side

PROBED = 32  # photos that are decoded to estimate the memory of all
CHUNK = 256  # photos that are decoded, in parallel, before they are packed


class RamPhotos(Sequence[TrainingPhoto]):
    """Photos as pixels, no larger than `short_side` needs, which workers share without a copy."""

    def __init__(self, photos: Photos, *, short_side: int):
        self.kinds = photos[0].kinds
        self.channels = photos.condition.channels if photos.condition else 0
        _check_memory(photos, short_side)
        self.texts: list[str] = []

        def images() -> Iterator[np.ndarray]:
            for image, text in decode_all(photos, short_side):
                self.texts.append(text)
                yield image

        self.images = PackedImages(images())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> TrainingPhoto:  # type: ignore[override]
        read = partial(_planes, self.images[index], self.kinds, self.channels)
        return TrainingPhoto(read, self.kinds, self.texts[index])

    def caption(self, index: int) -> str:
        """The caption of a photo, "" without one."""
        return self.texts[index]

    @property
    def memory(self) -> int:
        """Bytes that the pixels take."""
        return self.images.num_bytes


def _planes(image: np.ndarray, kinds: tuple[str, ...], channels: int, name: str) -> np.ndarray:
    """RGB, or the planes after it of a kind of condition image."""
    first, count = (0, 3) if name == "image" else (3 + channels * kinds.index(name), channels)
    return np.ascontiguousarray(image[..., first : first + count])


def decode_all(
    photos: Sequence[TrainingPhoto], short_side: int
) -> Iterator[tuple[np.ndarray, str]]:
    """Each photo (H,W,3 + its condition images) uint8 and its caption in order.

    They are decoded on all cores, a chunk at a time.
    """
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(photos), CHUNK):
            chunk: Iterable[int] = range(start, min(start + CHUNK, len(photos)))
            yield from pool.map(lambda i: _decode(photos[i], short_side), chunk)


def _decode(photo: TrainingPhoto, short_side: int) -> tuple[np.ndarray, str]:
    pixels = photo.read("image")
    stored = [photo.read_fitted(kind, pixels) for kind in photo.kinds]
    planes = np.concatenate([pixels, *stored], axis=2) if stored else pixels
    return shrink_short_side(planes, short_side), photo.text


def _check_memory(photos: Photos, short_side: int) -> None:
    probed = np.linspace(0, len(photos) - 1, min(PROBED, len(photos))).astype(int)
    mean = np.mean([_decode(photos[int(i)], short_side)[0].size for i in probed])
    need, free = float(mean) * len(photos), free_memory()
    if need > free:
        raise DataError(
            f"{len(photos)} photos of {photos.name} take about {need / 1e9:.1f} GB of memory when "
            f"decoded, and {free / 1e9:.1f} GB are free: set data.cache to none, or "
            "data.max_photos."
        )

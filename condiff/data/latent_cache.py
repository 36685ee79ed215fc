"""Outputs of a base's frozen parts for one view of each photo, computed once, kept on disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from condiff.data.crops import Batch, CropDataset
from condiff.data.feature_cache import open_arrays

# Uncached batch -> moments (B,2C,h,w), latents of the condition (B,C,h,w); texts -> (B,n,d).
Encode = Callable[[Batch], tuple[Tensor, Tensor]]
EncodeWords = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class FrozenShape:
    """The shapes of what the frozen parts of a base compute, and a digest of their weights."""

    fingerprint: str
    factor: int  # pixels of a picture for one of its latents, on a side
    words: tuple[int, int]  # (n,d) of an embedding


class LatentCache(Dataset[Batch]):
    """One view of each photo as latents, and each caption as an embedding, in memory-mapped files.

    The arrays are .npy files in a folder, in single precision, so that training on them equals
    training on the frozen parts' outputs: `moments` are mean and standard deviation of x_0,
    `condition` the latents of the condition, `words` the embeddings of the different captions.
    `done` and `words_done` mark the rows that are complete, so that filling can be resumed. Rows
    are computed one at a time: in batches of other sizes they would round differently.
    """

    def __init__(self, folder: Path, views: CropDataset, frozen: FrozenShape):
        self.folder, self.views = folder, views
        self.seed, self.num_workers, self.num_photos = views.seed, views.num_workers, len(views)
        texts = [views.photos.caption(row) for row in range(len(views))]
        self.texts = sorted(set(texts))
        number = {text: i for i, text in enumerate(self.texts)}
        self.text_of = [number[text] for text in texts]
        side, channels = views.settings.size // frozen.factor, views.settings.task.space.channels
        rows, captions = len(views), sha256(repr(texts).encode("utf-8", "surrogatepass"))
        arrays: dict[str, tuple[tuple[int, ...], type]] = {
            "moments": ((rows, 2 * channels, side, side), np.float32),
            "condition": ((rows, channels, side, side), np.float32),
            "words": ((len(self.texts), *frozen.words), np.float32),
            "done": ((rows,), np.bool_),
            "words_done": ((len(self.texts),), np.bool_),
        }
        key = f"{views.fingerprint()} {captions.hexdigest()} {frozen.fingerprint}"
        self.arrays = open_arrays(folder, arrays, key=key)
        self.done, self.words_done = self.arrays.pop("done"), self.arrays.pop("words_done")

    def __len__(self) -> int:
        return len(self.views)

    @property
    def is_complete(self) -> bool:
        """Whether all rows and all captions are computed."""
        return bool(self.done.all() and self.words_done.all())

    def describe(self) -> str:
        """The number of photos, their source, and the size of their latents, in words."""
        megabytes = sum(array.nbytes for array in self.arrays.values()) / 1e6
        captions = sum(bool(self.texts[number]) for number in self.text_of)
        return (
            f"{self.num_photos} photos from {self.views.name}, {captions} with captions, one "
            f"view of each as latents: {megabytes:.1f} MB in {self.folder}"
        )

    def fill(
        self, encode: Encode, encode_words: EncodeWords, *, process: int = 0, num_processes: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Compute this process's share of what is missing; yields (done, total) after each row."""
        rows = range(process, len(self), num_processes)
        words = range(process, len(self.texts), num_processes)
        missing = [row for row in rows if not self.done[row]]
        missing_words = [row for row in words if not self.words_done[row]]
        total = len(rows) + len(words)
        done = total - len(missing) - len(missing_words)
        yield done, total
        for row in missing_words:
            self.arrays["words"][row] = encode_words([self.texts[row]])[0].cpu().numpy()
            self.words_done[row] = True
            done += 1
            yield done, total
        for row in missing:
            view = self.views[0, row]
            one: Batch = {
                "x_0": view["x_0"][None],
                "condition": view["condition"][None],
                "features": None,
            }
            moments, condition = encode(one)
            self.arrays["moments"][row] = moments[0].cpu().numpy()
            self.arrays["condition"][row] = condition[0].cpu().numpy()
            self.done[row] = True
            done += 1
            yield done, total

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """The photo's only view, whatever the epoch."""
        index = key[1]

        def row(name: str, number: int) -> Any:
            return torch.from_numpy(np.array(self.arrays[name][number]))

        return {
            "x_0": row("moments", index),
            "condition": row("condition", index),
            "features": None,
            "words": row("words", self.text_of[index]),
        }

"""The pipeline: a whole photo in, whole photos out."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from torch import Tensor

from condiff.checkpoint import Loaded, load_model
from condiff.color import join_chroma
from condiff.color import lightness as lightness_of
from condiff.diffusion import build_scheduler, denoise, initial_noise
from condiff.errors import ConfigError
from condiff.photo import Picture, pixels_of, with_pixels

STEPS = 4
SCHEDULER = "ddim"
MODEL_SIZE = 256  # short side of L* as the model sees it
MAX_ASPECT = 3  # a longer panorama is shrunk until its long side is this many times MODEL_SIZE
MIN_SIZE = 32  # the stride of the backbone


class Pipeline:
    """A model folder at work: `Pipeline.from_pretrained("colorize")(image)`."""

    def __init__(self, loaded: Loaded, device: torch.device):
        self.loaded, self.device = loaded, device

    @classmethod
    def from_pretrained(cls, name: str | Path = "colorize", *, device: str = "auto") -> Self:
        """The embedded model of that name, or the model folder at that path."""
        chosen = find_device(device)
        return cls(load_model(name, device=chosen), chosen)

    @property
    def cell(self) -> int:
        """Pixels of L* on a side of one cell of x_t: 4 where the model was trained at 64²."""
        return MODEL_SIZE // int(self.loaded.model.unet.config.sample_size)

    def __call__(
        self,
        image: Picture,
        *,
        steps: int = STEPS,
        scheduler: str = SCHEDULER,
        seed: int | None = None,
        samples: int = 1,
        size: int = MODEL_SIZE,
    ) -> list[Picture]:
        """Colour an image, or a Photo at its own depth, with the seeds seed, seed + 1, …

        Each result is of the same kind, with the photo's size, its L* and its alpha channel; it is
        a function of (model, image, seed, steps, scheduler, size) alone. Without a seed a new one
        is drawn; each result tells its own in `info["seed"]`. `size` is the short side that the
        model sees: more detail in the colours, at a cost that grows with its square.
        """
        if steps < 1 or samples < 1 or size < MIN_SIZE:
            raise ConfigError(
                f"steps and samples are at least 1 and size at least {MIN_SIZE}, "
                f"not {steps}, {samples} and {size}."
            )
        seed = secrets.randbits(31) if seed is None else seed
        pixels = pixels_of(image)
        lightness = small_lightness(pixels, size=size, cell=self.cell)
        results = []
        for number in range(seed, seed + samples):
            *_, chroma = self.denoise(lightness, steps=steps, scheduler=scheduler, seed=number)
            results.append(with_pixels(image, join_chroma(pixels, chroma), seed=number))
        return results

    def denoise(
        self, lightness: np.ndarray, *, steps: int, scheduler: str, seed: int
    ) -> Iterator[np.ndarray]:
        """The chroma (h,w,2) after every step for a small L* (H,W) in [0,100], h = H/cell.

        One image at a time: a CPU gains nothing from a batch, and convolutions round differently
        in batches of different sizes, so only this gives the same bytes whatever runs beside it.
        """
        task, model = self.loaded.task, self.loaded.model
        height, width = lightness.shape
        halvings = len(model.unet.config.block_out_channels) - 1
        padded = pad_to_stride(lightness, max(MIN_SIZE, self.cell * 2**halvings))
        condition = torch.from_numpy(padded / 50 - 1)[None, None].to(self.device)
        condition = condition.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            size = (padded.shape[0] // self.cell, padded.shape[1] // self.cell)
            cond = model.encoder(condition, size=size)
            generator = torch.Generator().manual_seed(seed)  # the CPU's: the same on every device
            shape = (task.out_channels, *cond.shape[-2:])

            def predict(x_t: Tensor, t: Tensor) -> Tensor:
                return model.predict(x_t, t, cond)

            for x_t in denoise(
                predict,
                build_scheduler(scheduler, self.loaded.diffusion),
                initial_noise([generator], shape).to(self.device),
                steps=steps,
                clip=task.clip,
                generators=[generator],
            ):
                chroma = x_t[0].clamp(-task.clip, task.clip).permute(1, 2, 0) * task.scale
                rows, columns = height // self.cell, width // self.cell
                yield np.ascontiguousarray(chroma[:rows, :columns].float().cpu().numpy())


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is the best at hand."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind = name.split(":")[0]
    if not available.get(kind, False):
        there = ", ".join(kind for kind, yes in available.items() if yes)
        raise ConfigError(f"There is no device {name!r} here: use auto or one of {there}.")
    return torch.device(name)


def small_lightness(pixels: np.ndarray, *, size: int = MODEL_SIZE, cell: int = 4) -> np.ndarray:
    """L* (h,w) of a photo (H,W,3) brought to the model's size, its aspect kept.

    The short side becomes `size`; the long side at most MAX_ASPECT times that, the short side then
    less. Both are the nearest multiples of `cell`, so that the cells of chroma cover them exactly.
    """
    height, width = pixels.shape[:2]
    scale = min(size / min(height, width), MAX_ASPECT * size / max(height, width))
    target = tuple(max(cell, round(side * scale / cell) * cell) for side in (width, height))
    shrinks = scale < 1
    small = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return lightness_of(small)


def pad_to_stride(lightness: np.ndarray, stride: int) -> np.ndarray:
    """L* mirrored at its right and lower edge up to multiples of the stride."""
    pad = [(0, -side % stride) for side in lightness.shape]
    return np.pad(lightness, pad, mode="symmetric")

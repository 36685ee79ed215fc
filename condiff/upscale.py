"""The second stage of `render`: a small picture becomes a large one along the lines of its drawing.

A conditional diffusion super-resolution (SR3, Saharia et al. 2021, arXiv:2104.07636) in a cascade
(Ho et al. 2021, arXiv:2106.15282), whose network sees the lines at the full size.
"""

from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condiff.conditions.drawing import Drawing, shrink_ink
from condiff.data.windows import FACTORS, bring_up
from condiff.diffusion import build_scheduler, denoise, initial_noise
from condiff.errors import ConfigError
from condiff.networks.checkpoint import EMBEDDED, INDEX, Loaded, load_model
from condiff.pipeline import fit_size, pad_to_stride
from condiff.tiles import plan_tiles, predict_in_tiles

DEFAULT = "upscale"  # the embedded model's name
STEPS = 10
SCHEDULER = "ddim"
TILE = 2  # side of a tile, in sides of the windows that were trained on
OVERLAP = 4  # tiles share one of so many parts
TONE = 2.0  # standard deviation, in pixels of the small picture, of what is taken for its tone


class Upscaler:
    """A model of the task upscale at work."""

    def __init__(self, loaded: Loaded, device: torch.device):
        if not loaded.task.enlarges:
            raise ConfigError(
                f"The model {loaded.folder.name} is of the task {loaded.task.name}, and does not "
                "enlarge: give a model of the task upscale, or none."
            )
        self.loaded, self.device = loaded, device

    @classmethod
    def from_pretrained(
        cls, name: str | Path = DEFAULT, *, device: str | torch.device = "cpu"
    ) -> Self:
        """The embedded model of that name, or the model folder at that path."""
        return cls(load_model(name, device=device), torch.device(device))

    def __call__(
        self,
        picture: Image.Image,
        drawing: Drawing,
        *,
        size: int,
        seed: int,
        steps: int = STEPS,
        scheduler: str = SCHEDULER,
        tile: int | None = None,
        keep_tone: bool = True,
    ) -> Image.Image:
        """The RGB picture with a short side of `size`, by as many stages as it takes.

        A stage enlarges at most by what was trained. A result is a function of the arguments alone.
        `tile` is the side of a tile in pixels. `keep_tone` gives the result the small picture's
        colours where it is smooth.
        """
        small = np.asarray(picture.convert("RGB"))
        width, height = enlarged_size(picture.size, size)
        while small.shape[:2] != (height, width):
            scale = min(1.0, max(FACTORS) * small.shape[0] / height)
            stage = (width, height)
            if scale < 1:
                stage = (round(scale * width), max(FACTORS) * small.shape[0])
            lines = shrink_ink(drawing.ink, *stage)
            large = self.enlarge(
                small, lines, seed=seed, steps=steps, scheduler=scheduler, tile=tile
            )
            small = _match_tone(large, small) if keep_tone else large
        return Image.fromarray(small)

    def enlarge(
        self,
        small: np.ndarray,
        ink: np.ndarray,
        *,
        seed: int,
        steps: int = STEPS,
        scheduler: str = SCHEDULER,
        tile: int | None = None,
    ) -> np.ndarray:
        """One stage: RGB (h,w,3) uint8 brought to the size of its lines, ink (H,W) uint8."""
        if steps < 1:
            raise ConfigError(f"steps are at least 1, not {steps}.")
        model, task = self.loaded.model, self.loaded.task
        height, width = ink.shape
        brought = bring_up(small, width=width, height=height).clip(0, 255)
        condition = np.concatenate([brought, ink[..., None].astype(np.float32)], axis=2)
        stride = 2 ** (len(model.unet.config.block_out_channels) - 1)
        padded = pad_to_stride(condition / np.float32(127.5) - 1, stride)
        given = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))[None]
        size = (padded.shape[0], padded.shape[1])
        side = TILE * int(model.unet.config.sample_size) if tile is None else tile
        side = max(stride, side // stride * stride)
        tiles = plan_tiles(*size, side=side, overlap=side // OVERLAP)
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            cond = model.encoder(given.to(self.device), size=size)
            weight = torch.from_numpy(tiles.weight).to(self.device)

            def predict(x_t: Tensor, t: Tensor) -> Tensor:
                def one(part: Tensor, cond: Tensor) -> Tensor:
                    return model.predict(part, t, cond)

                result: Tensor = predict_in_tiles(one, x_t, cond, tiles=tiles, weight=weight)
                return result

            *_, x_0 = denoise(
                predict,
                build_scheduler(scheduler, self.loaded.diffusion),
                initial_noise([generator], (task.out_channels, *size)).to(self.device),
                steps=steps,
                clip=task.clip,
                generators=[generator],
            )
        pixels = (x_0[0, :, :height, :width].clamp(-1, 1) + 1) * 127.5
        return np.ascontiguousarray(pixels.permute(1, 2, 0).round().byte().cpu().numpy())


def enlarged_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a picture brought to a short side; never less than it has."""
    wanted = fit_size(size, size=side, cell=1)
    return max(size, wanted, key=lambda sides: sides[0] * sides[1])


def has_embedded() -> bool:
    """Whether a model that enlarges is in the package."""
    return (EMBEDDED / DEFAULT / INDEX).is_file()


def resample(picture: Image.Image, size: int) -> Image.Image:
    """The picture with a short side of `size`, plainly."""
    wanted = enlarged_size(picture.size, size)
    return picture if wanted == picture.size else picture.resize(wanted, Image.Resampling.LANCZOS)


def _match_tone(large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """RGB (H,W,3) with the tone of a smaller picture (h,w,3): of what is wider than some pixels."""
    height, width = small.shape[:2]
    shrunk = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    off = cv2.GaussianBlur(small.astype(np.float32) - shrunk, (0, 0), TONE)
    off = bring_up(off, width=large.shape[1], height=large.shape[0])
    return (large + off).clip(0, 255).round().astype(np.uint8)

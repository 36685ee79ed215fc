"""Random views of a photo (cropped, turned, mirrored): x_0 and its condition."""

import math
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NotRequired, TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from condiff.color.degradation import add_dust, add_frame, expose, narrow_levels, sample_emulsion
from condiff.config import DataConfig
from condiff.data.captions import vary_caption
from condiff.data.photos import Photos, TrainingPhoto
from condiff.data.ram_cache import RamPhotos
from condiff.data.upscale_pairs import make_small, sample_window
from condiff.inputs import Lines, View
from condiff.resize import resize_square
from condiff.tasks import Task

Features = dict[int, Tensor]
PREFETCH = 2  # batches that each worker makes ahead


class Batch(TypedDict):
    """One step's photos, or one photo without the first axis.

    x_0 (B,C,s,s) float32: in the form of the task's space. condition (B,N,S,S) float32 in [-1,1]:
    L*/50 - 1, or ink 1 on paper -1, for `upscale` after the small picture's RGB; N is 0 for a task
    without a condition. features: the frozen backbone's maps by stride, where they are cached.

    For a task that takes words, texts are the captions, and tokens (B,n,2) the text encoder's
    input. For a base, x_0 and condition are pictures at first, x_0 in RGB. Once encoded, x_0 is
    mean and standard deviation of its latents (B,2C,h,w), condition the latents of the condition
    image (B,C,h,w), and words are embeddings (B,n,d).
    """

    x_0: Tensor
    condition: Tensor
    features: Features | None
    texts: NotRequired[list[str]]
    tokens: NotRequired[Tensor]
    words: NotRequired[Tensor]


@dataclass(frozen=True)
class CropSettings:
    """The settings that decide what views look like."""

    task: Task
    config: DataConfig
    size: int  # side of the condition; where a task enlarges, of the view that windows are cut from
    sample_size: int  # side of x_0

    @property
    def smallest(self) -> float:
        """The smallest side of a crop, as a share of the photo's short side."""
        return min(self.config.min_crop, 1 / _spread(self.config.rotate))

    @property
    def short_side(self) -> int:
        """Short side that a photo needs so that no crop of it has to be enlarged."""
        seen = self.size if self.task.condition_channels else self.sample_size
        return math.ceil(max(seen, self.sample_size) / self.smallest)


@dataclass(frozen=True)
class Crop:
    """The part of a photo that a view shows: a square about (x, y), perhaps turned or mirrored."""

    x: float
    y: float
    side: int
    angle: float  # degrees
    flip: bool


def sample_crop(height: int, width: int, rng: np.random.Generator, config: DataConfig) -> Crop:
    """A random square in the photo, small enough that turned corners stay inside."""
    short = min(height, width)
    side = max(1, round(short * rng.uniform(config.min_crop, 1)))
    angle = float(rng.uniform(-config.rotate, config.rotate)) if config.rotate else 0.0
    spread = _spread(angle)
    side = min(side, 1 + int((short - 1) / spread))
    reach = (side - 1) * spread / 2  # from the centre to the outermost pixels' centres
    x, y = (
        float(rng.uniform(reach, max(reach, length - 1 - reach)))
        if angle
        else float(rng.integers(length - side + 1)) + reach
        for length in (width, height)
    )
    return Crop(x, y, side, angle, bool(rng.random() < config.flip))


def cut(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut a crop out of (H,W,C) uint8: (side,side,C), at the photo's own resolution."""
    side, half = crop.side, (crop.side - 1) / 2
    reach = half * _spread(crop.angle)
    left, top = max(0, math.floor(crop.x - reach)), max(0, math.floor(crop.y - reach))
    if not crop.angle:
        shown = pixels[top : top + side, left : left + side]
    else:
        near = pixels[top : math.ceil(crop.y + reach) + 1, left : math.ceil(crop.x + reach) + 1]
        cos, sin = math.cos(math.radians(crop.angle)), math.sin(math.radians(crop.angle))
        x, y = crop.x - left, crop.y - top
        place = [[cos, -sin, x - half * (cos - sin)], [sin, cos, y - half * (sin + cos)]]
        shown = cv2.warpAffine(
            np.ascontiguousarray(near),
            np.array(place),
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ).reshape(side, side, -1)
    return np.ascontiguousarray(shown[:, ::-1] if crop.flip else shown)


def make_row(photo: TrainingPhoto, rng: np.random.Generator, settings: CropSettings) -> Batch:
    """A random view of a photo, with its caption where the task takes words."""
    view = _cut_view(photo, rng, settings)
    if not settings.task.takes_text:
        return to_row(*_encode_view(view, rng, settings))
    text, pixels = vary_caption(photo.text, view.pixels, rng, settings.config)
    return to_row(*_encode_view(replace(view, pixels=pixels), rng, settings), text=text)


def _cut_view(photo: TrainingPhoto, rng: np.random.Generator, settings: CropSettings) -> View:
    config = settings.config
    pixels = photo.read("image")
    height, width = pixels.shape[:2]
    crop = sample_crop(height, width, rng, config)

    def read(kind: str) -> np.ndarray:
        return cut(photo.read_fitted(kind, pixels), crop)

    shown = cut(pixels, crop)
    if config.frame and rng.random() < config.frame:
        shown = add_frame(shown, rng)
    return View(shown, photo.kinds, read)


def _encode_view(
    view: View, rng: np.random.Generator, settings: CropSettings
) -> tuple[np.ndarray, np.ndarray]:
    """x_0 (C,s,s) and condition (N,S,S) of a view."""
    task, config, size = settings.task, settings.config, settings.size
    if task.enlarges:
        return _make_window(view, rng, settings)
    x_0 = _planes(task.space.encode(view.pixels, settings.sample_size))
    if task.picture is None:
        return x_0, np.empty((0, size, size), np.float32)
    if config.emulsion and rng.random() < config.emulsion:
        view = replace(view, pixels=expose(view.pixels, sample_emulsion(rng)))
    condition = task.picture.from_photo(view, size, rng, degrade_prob=config.degrade)
    return x_0, _planes(_wear(condition, rng, config))


def _wear(condition: np.ndarray, rng: np.random.Generator, config: DataConfig) -> np.ndarray:
    """A condition (S,S,1) of L*/50 - 1 with other levels and dust, each at random."""
    lightness = None
    for probability, change in ((config.levels, narrow_levels), (config.dust, add_dust)):
        if probability and rng.random() < probability:
            lightness = (condition[..., 0] + 1) * 50 if lightness is None else lightness
            lightness = change(lightness, rng)
    return condition if lightness is None else lightness[..., None] / 50 - 1


def _make_window(
    view: View, rng: np.random.Generator, settings: CropSettings
) -> tuple[np.ndarray, np.ndarray]:
    """A view for the task upscale: x_0 (3,s,s) is a window of the crop, condition (4,s,s).

    The condition is the window shrunk and enlarged again, then its lines. A crop with fewer pixels
    than the view is not enlarged, so that x_0 is always sharp.
    """
    lines = settings.task.picture
    assert isinstance(lines, Lines)
    side = max(settings.sample_size, min(settings.size, len(view.pixels)))
    window = sample_window(side, settings.sample_size, rng)

    def place(picture: np.ndarray, size: int) -> np.ndarray:
        return window.cut(resize_square(picture, size))

    seen = place(view.pixels, side)
    drawing = lines.draw(view, place, side, rng)
    small = make_small(seen, rng, degrade=settings.config.degrade)
    condition = np.concatenate([small, drawing.astype(np.float32)], axis=2)
    x_0, condition = (window.inside(pixels) / np.float32(127.5) - 1 for pixels in (seen, condition))
    return _planes(x_0), _planes(condition)


class CropDataset(Dataset[Batch]):
    """Views of photos; views[epoch, index] is a function of (seed, epoch, index) alone."""

    def __init__(
        self,
        photos: Photos | RamPhotos,
        settings: CropSettings,
        *,
        seed: int,
        name: str,
        fingerprint: str = "",
    ):
        self.photos, self.settings, self.seed = photos, settings, seed
        self.name, self.photos_fingerprint = name, fingerprint
        self.num_photos, self.num_workers = len(photos), settings.config.num_workers

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        return make_row(self.photos[index], rng, self.settings)

    def fingerprint(self) -> str:
        """SHA-256 of everything that views depend on: photos, task, settings, sizes, seed."""
        settings = self.settings
        config = settings.config
        parts: tuple[object, ...] = (
            "views 2", settings.task.name, self.photos_fingerprint, config.min_crop, config.flip,
            config.rotate, config.degrade, config.levels, config.dust, config.frame,
            config.conditions, settings.size, settings.sample_size, self.seed,
        )  # fmt: skip
        if config.emulsion:
            parts += ("emulsion", config.emulsion)
        if settings.task.takes_text:
            parts += (config.color_words, config.recolor)
        return sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> str:
        """The number of photos, their source, and how they are kept, in words."""
        held = getattr(self.photos, "memory", 0)
        if not isinstance(self.photos, Photos):
            how = f"{held / 1e6:.1f} MB of pixels in memory"
        elif held:
            how = f"{held / 1e6:.1f} MB of files in memory, decoded at each access"
        else:
            how = "read and decoded at each access"
        return f"{self.num_photos} photos from {self.name}, {how}"


def to_row(x_0: np.ndarray, condition: np.ndarray, *, text: str | None = None) -> Batch:
    """A single photo of a batch, as tensors; its caption for a task that takes words."""
    row: Batch = {
        "x_0": torch.from_numpy(x_0),
        "condition": torch.from_numpy(condition),
        "features": None,
    }
    if text is not None:
        row["texts"] = [text]
    return row


def _planes(pixels: np.ndarray) -> np.ndarray:
    """(H,W,C) -> (C,H,W) float32."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def _spread(angle: float) -> float:
    """The side of the upright square around a square of side 1 turned by `angle` degrees."""
    turn = math.radians(angle)
    return abs(math.cos(turn)) + abs(math.sin(turn))

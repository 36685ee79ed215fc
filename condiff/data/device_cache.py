"""Photos kept on the device, and views of them made there, a batch at a time.

Views are as in crops.py with two differences: only the middle square of each photo is kept, and
degraded lightness has no JPEG blocks. Tasks with lines are not supported, because the CPU draws
them.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from condiff.color.lab import rgb_to_lab_batch
from condiff.data.crops import Batch, CropSettings
from condiff.data.photos import TrainingPhoto
from condiff.data.ram_cache import decode_all
from condiff.data.shared_memory import free_memory
from condiff.data.shuffling import Order, positions_of
from condiff.errors import DataError
from condiff.resize import middle_square, resize_square

BLUR_RADIUS = 7  # four sigmas, at most 1.8 pixels
GRAIN_SHIFTS = 512  # in each direction: places of the sheet of grain that views start from
CHANCES = (
    "scale", "angle", "x", "y", "flip", "degrade",
    "is_contrast", "gamma", "low", "high", "is_blur", "sigma", "is_grain", "grain", "grain_x",
    "grain_y",
)  # fmt: skip


class DeviceDataset:
    """Photos (N,3,S,S) uint8 on the device; batch b is a function of (seed, b) alone."""

    num_workers = 0

    def __init__(
        self,
        photos: Sequence[TrainingPhoto],
        settings: CropSettings,
        *,
        seed: int,
        name: str,
        device: torch.device,
    ):
        self.settings, self.seed, self.name = settings, seed, name
        self.num_photos, self.device, self.side = len(photos), device, settings.short_side
        shape = (len(photos), 3, self.side, self.side)
        need, free = math.prod(shape), _free_memory(device)
        if need > free:
            raise DataError(
                f"{len(photos)} photos of {name} take {need / 1e9:.1f} GB at {self.side}x"
                f"{self.side}, and {free / 1e9:.1f} GB are free on {device}: set data.cache to ram "
                "or none, or data.max_photos."
            )
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        for row, (image, _) in zip(self.pixels, decode_all(photos, self.side), strict=True):
            row.copy_(torch.from_numpy(_middle(image, self.side)))
        generator = torch.Generator().manual_seed(seed)
        sheet = torch.randn(2 * [GRAIN_SHIFTS + settings.size], generator=generator)
        self.grain = _blur(sheet[None], torch.tensor([0.6]))[0].to(device)

    def describe(self) -> str:
        """The number of photos, their source, and how they are kept, in words."""
        return (
            f"{self.num_photos} photos from {self.name}, {self.pixels.numel() / 1e6:.1f} MB of "
            f"pixels on {self.device}"
        )

    def batches(
        self, *, start: int, batch_size: int, process: int, num_processes: int
    ) -> Iterator[Batch]:
        """Yield batch `start`, start + 1, … without end, of this process's photos."""
        order = Order(self.num_photos, seed=self.seed)
        first = process * batch_size
        while True:
            positions = positions_of(
                start, batch_size=batch_size, process=process, num_processes=num_processes
            )
            indices = [order.at(position)[1] for position in positions]
            # Drawn for all processes: two with batches of B see what one with 2B sees.
            shape = (batch_size * num_processes, len(CHANCES))
            drawn = np.random.default_rng((self.seed, start)).random(shape, np.float32)
            numbers = torch.from_numpy(drawn[first : first + batch_size]).to(self.device)
            chances = dict(zip(CHANCES, numbers.unbind(1), strict=True))
            yield self.make_views(torch.tensor(indices, device=self.device), chances)
            start += 1

    @torch.no_grad()
    def make_views(self, indices: Tensor, chances: dict[str, Tensor]) -> Batch:
        """Views of the photos (B,); chances are uniform numbers (B,) in [0,1), by their names."""
        task, config, size = self.settings.task, self.settings.config, self.settings.size
        sample_size = self.settings.sample_size
        has_condition = bool(task.condition_channels)
        view = self._crop(indices, chances, size if has_condition else sample_size)
        small = F.interpolate(view, (sample_size, sample_size), mode="area")
        if not has_condition:
            condition = view.new_empty(len(view), 0, size, size)
            return {"x_0": task.space.encode_batch(small), "condition": condition, "features": None}
        lightness = rgb_to_lab_batch(view)[:, 0]
        if config.degrade:
            chosen = (chances["degrade"] < config.degrade)[:, None, None]
            lightness = torch.where(chosen, self._degrade(lightness, chances), lightness)
        return {
            "x_0": task.space.encode_batch(small),
            "condition": lightness[:, None] / 50 - 1,
            "features": None,
        }

    def _crop(self, indices: Tensor, chances: dict[str, Tensor], size: int) -> Tensor:
        """(B,3,size,size) RGB in [0,1]: random squares, perhaps turned or mirrored."""
        config = self.settings.config
        angle = torch.deg2rad(config.rotate * (2 * chances["angle"] - 1))
        cos, sin = angle.cos(), angle.sin()
        spread = cos.abs() + sin.abs()
        part = config.min_crop + (1 - config.min_crop) * chances["scale"]
        part = torch.minimum(part, 1 / spread)
        reach = (1 - part * spread).clamp(min=0)
        x, y = reach * (2 * chances["x"] - 1), reach * (2 * chances["y"] - 1)
        mirror = torch.where(chances["flip"] < config.flip, -1.0, 1.0)
        rows = [part * cos * mirror, -part * sin, x, part * sin * mirror, part * cos, y]
        place = torch.stack(rows, dim=1).view(-1, 2, 3)
        # A bilinear sample sees two pixels: where a crop shrinks by more, samples are averaged.
        fine = size * max(1, math.ceil(self.side / size / 2))
        grid = F.affine_grid(place, [len(indices), 3, fine, fine], align_corners=False)
        photos = self.pixels[indices].float() / 255
        view = F.grid_sample(photos, grid, padding_mode="border", align_corners=False)
        return F.avg_pool2d(view, fine // size).clamp(0, 1) if fine > size else view

    def _degrade(self, lightness: Tensor, chances: dict[str, Tensor]) -> Tensor:
        """L* (B,S,S) with other contrast, blur and grain, as color/degradation.py."""
        c = {name: chance[:, None, None] for name, chance in chances.items()}
        low, high, gamma = 12 * c["low"], 88 + 12 * c["high"], 0.7 + 0.7 * c["gamma"]
        flat = low + (high - low) * (lightness / 100).clamp(min=0) ** gamma
        lightness = torch.where(c["is_contrast"] < 0.5, flat, lightness)
        soft = _blur(lightness, 0.4 + 1.4 * chances["sigma"])
        lightness = torch.where(c["is_blur"] < 0.4, soft, lightness)
        side = torch.arange(lightness.shape[-1], device=self.device)
        rows, columns = (GRAIN_SHIFTS * c["grain_y"]).long(), (GRAIN_SHIFTS * c["grain_x"]).long()
        grain = self.grain[rows + side[:, None], columns + side[None]]
        grainy = lightness + (0.5 + 4.5 * c["grain"]) * grain
        return torch.where(c["is_grain"] < 0.4, grainy, lightness).clamp(0, 100)


def _blur(planes: Tensor, sigma: Tensor) -> Tensor:
    """(B,H,W) blurred by a Gaussian of its own sigma (B,) each; mirrored at the edge."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=planes.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.to(planes.device)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True))[:, None, None]  # (B,1,1,K)
    edge = min(BLUR_RADIUS, planes.shape[-1] - 1)
    padded = F.pad(planes[None], 4 * [edge], mode="reflect")
    padded = F.pad(padded, 4 * [BLUR_RADIUS - edge], mode="replicate")
    across = F.conv2d(padded, kernel, groups=len(planes))
    return F.conv2d(across, kernel.transpose(2, 3), groups=len(planes))[0]


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a photo (H,W,3), brought to (3,side,side)."""
    square = np.ascontiguousarray(middle_square(image))
    fitting = square if len(square) == side else resize_square(square, side)
    return fitting.transpose(2, 0, 1).copy()


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()

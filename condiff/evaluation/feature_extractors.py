"""Frozen networks that turn photos into features: EfficientNet-Lite0, Inception for FID, and LPIPS.

An extractor maps photos to features; two sets of photos are compared by their features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condiff.arrays import Pixels
from condiff.errors import DataError, ModelError
from condiff.evaluation.metrics import Floats
from condiff.models.backbone import load_pretrained

# RGB photos -> features (N,D) and class scores (N,1000).
Extractor = Callable[[list[Pixels]], tuple[Floats, Floats]]
Features = Callable[[list[Pixels]], Floats]  # RGB photos -> (N,D)
Distance = Callable[[Pixels, Pixels], float]  # of two RGB photos of one size

BATCH = 32
LITE0_SIDE = 256  # Lite2 recognises 74 % of grey photos at this side, and 55 % at 160


@dataclass(frozen=True)
class PhotoFeatures:
    """The networks' outputs for the photos of one method, a row for each photo."""

    features: Floats
    classes: Floats
    inception: Floats | None


@dataclass(frozen=True)
class FeatureExtractors:
    """The networks of an evaluation."""

    extractor: Extractor
    inception: Features | None
    lpips: Distance | None

    def extract(self, photos: list[Pixels]) -> PhotoFeatures:
        """Run the networks on all photos, in batches."""
        batches = in_batches(photos)
        features, logits = zip(*map(self.extractor, batches), strict=True)
        return PhotoFeatures(
            features=np.concatenate(features),
            classes=np.concatenate(logits).argmax(1),
            inception=np.concatenate([*map(self.inception, batches)]) if self.inception else None,
        )


def in_batches(photos: Sequence[Pixels]) -> list[list[Pixels]]:
    """The photos in lists as long as a network takes at once."""
    return [list(photos[i : i + BATCH]) for i in range(0, len(photos), BATCH)]


class Lite0Extractor:
    """EfficientNet-Lite0 as an `Extractor`: pooled features (N,1280), logits (N,1000).

    A photo is resized to a short side of 256, and its middle square is used.
    """

    def __init__(self) -> None:
        self.net = load_pretrained("lite0", with_head=True)

    def __call__(self, photos: list[Pixels]) -> tuple[Floats, Floats]:
        squares = np.stack([_middle_square(pixels) for pixels in photos])
        x = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            features, logits = self.net.classify(x)
        return features.numpy(), logits.numpy()


def _middle_square(pixels: Pixels) -> Pixels:
    """The middle square of a photo that is resized to a short side of `LITE0_SIDE`."""
    height, width = pixels.shape[:2]
    scale = LITE0_SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(pixels, size, interpolation=smooth), np.uint8)
    left, top = (size[0] - LITE0_SIDE) // 2, (size[1] - LITE0_SIDE) // 2
    return resized[top : top + LITE0_SIDE, left : left + LITE0_SIDE]


INCEPTION_SIDE, INCEPTION_BATCH = 299, 16
Kernel = int | tuple[int, int]
Row = tuple[str, int, Kernel]  # name, channels out, kernel
# Convolutions one after the other; two side by side at the end both get the one before as input.
Chain = Sequence[Row | tuple[Row, Row]]
Pool = Literal["average", "maximum", "halve"]


class Conv(nn.Module):
    """Convolution, batch norm, ReLU; the size stays, or only whole windows count (`valid`)."""

    def __init__(
        self, channels: int, out: int, kernel: Kernel, *, stride: int = 1, valid: bool = False
    ):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (height // 2, width // 2)
        self.conv = nn.Conv2d(channels, out, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Chains and a pool side by side, concatenated; to halve, the last of each has stride 2."""

    def __init__(self, channels: int, chains: Sequence[Chain], *, pool: Pool, pooled: int = 0):
        super().__init__()
        self.pool, self.chains = pool, chains
        for chain in chains:
            width = channels
            for link in chain:
                rows = [link] if isinstance(link[0], str) else link
                halves = pool == "halve" and link is chain[-1]
                for name, out, kernel in rows:
                    conv = Conv(width, out, kernel, stride=1 + halves, valid=halves)
                    self.add_module(name, conv)
                width = rows[0][1]
        if pooled:
            self.branch_pool = Conv(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        ends: list[Tensor] = []
        for chain in self.chains:
            y = x
            for link in chain:
                rows = [link] if isinstance(link[0], str) else link
                y = torch.cat([self.get_submodule(name)(y) for name, *_ in rows], 1)
            ends.append(y)
        return torch.cat([*ends, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "halve":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "maximum":
            return self.branch_pool(F.max_pool2d(x, 3, 1, 1))
        return self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


DOUBLE = (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))


def block_35(channels: int, pooled: int) -> Mixed:
    """For the 35x35 maps: 1x1, 5x5, two 3x3."""
    fives = (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return Mixed(channels, [(("branch1x1", 64, 1),), fives, DOUBLE], pool="average", pooled=pooled)


def block_17(width: int) -> Mixed:
    """For the 17x17 maps, 768 channels: 7x7 as 1x7 and 7x1, once and twice."""
    across, down = (1, 7), (7, 1)
    once = (("branch7x7_1", width, 1), ("branch7x7_2", width, across), ("branch7x7_3", 192, down))
    twice = (
        ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, down),
        ("branch7x7dbl_3", width, across), ("branch7x7dbl_4", width, down),
        ("branch7x7dbl_5", 192, across),
    )  # fmt: skip
    return Mixed(768, [(("branch1x1", 192, 1),), once, twice], pool="average", pooled=192)


def block_8(channels: int, pool: Pool) -> Mixed:
    """For the 8x8 maps: 3x3 split into 1x3 beside 3x1."""
    across, down = (1, 3), (3, 1)
    once: Chain = (
        ("branch3x3_1", 384, 1),
        (("branch3x3_2a", 384, across), ("branch3x3_2b", 384, down)),
    )
    twice: Chain = (
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        (("branch3x3dbl_3a", 384, across), ("branch3x3dbl_3b", 384, down)),
    )
    return Mixed(channels, [(("branch1x1", 320, 1),), once, twice], pool=pool, pooled=192)


def shrink_to_17() -> Mixed:
    """35x35 to 17x17."""
    return Mixed(288, [(("branch3x3", 384, 3),), DOUBLE], pool="halve")


def shrink_to_8() -> Mixed:
    """17x17 to 8x8."""
    threes = (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3))
    sevens = (
        ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3),
    )  # fmt: skip
    return Mixed(768, [threes, sevens], pool="halve")


class Inception(nn.Module):
    """The network up to its last pool: RGB photos in, features (N,2048) out."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, valid=True)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, valid=True)
        self.Mixed_5b, self.Mixed_5c = block_35(192, 32), block_35(256, 64)
        self.Mixed_5d, self.Mixed_6a = block_35(288, 64), shrink_to_17()
        self.Mixed_6b, self.Mixed_6c = block_17(128), block_17(160)
        self.Mixed_6d, self.Mixed_6e = block_17(160), block_17(192)
        self.Mixed_7a = shrink_to_8()
        self.Mixed_7b, self.Mixed_7c = block_8(1280, "average"), block_8(2048, "maximum")

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,299,299) in [-1,1] -> (B,2048)."""
        for name, part in self.named_children():
            x = part(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean((2, 3))

    @torch.inference_mode()
    def features(self, photos: Sequence[Pixels]) -> Floats:
        """Photos of any sizes -> (N,2048)."""
        squares = [
            resize_as_tensorflow_1(torch.from_numpy(np.ascontiguousarray(p)).movedim(2, 0)[None])
            for p in photos
        ]
        starts = range(0, len(squares), INCEPTION_BATCH)
        found = [self((torch.cat(squares[i : i + INCEPTION_BATCH]) - 128) / 128) for i in starts]
        return torch.cat(found).numpy()


def resize_as_tensorflow_1(pixels: Tensor, side: int = INCEPTION_SIDE) -> Tensor:
    """(B,C,H,W) -> (B,C,side,side) float: pixel i is read at i * H / side, a shift.

    It takes two neighbours and averages nothing, so large photos alias (Parmar et al. 2022): that
    is part of the figure as it was published.
    """
    x = pixels.float()
    for axis in (2, 3):
        length = x.shape[axis]
        at = torch.arange(side, dtype=torch.float32) * (length / side)
        first = at.floor().long().clamp(max=length - 1)
        weight = (at - first).view([-1 if axis == dim else 1 for dim in range(4)])
        left, right = (x.index_select(axis, i) for i in (first, (first + 1).clamp(max=length - 1)))
        x = left + (right - left) * weight
    return x


SMALLEST_SIDE = 31  # of a photo; of smaller ones nothing is left after the second pooling
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LAYERS = (  # index in `features`, channels in and out, kernel, stride, padding
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
POOLED = (3, 6)  # these layers see the maximum of 3x3, every second pixel


class Lpips(nn.Module):
    """The distance of two photos: 0 for equal ones, seldom above 1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        for index, channels, out, kernel, stride, padding in LAYERS:
            self.features[str(index)] = nn.Conv2d(channels, out, kernel, stride, padding)
        for index, (_, _, out, *_) in enumerate(LAYERS):
            # Named "1" because the authors' head has a dropout before it.
            head = nn.ModuleDict({"1": nn.Conv2d(out, 1, 1, bias=False)})
            self.add_module(f"lin{index}", nn.ModuleDict({"model": head}))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,3,H,W) and the same in [-1,1] -> (B,)."""
        shift, scale = (torch.tensor(c).view(1, 3, 1, 1) for c in (SHIFT, SCALE))
        x, y = (x - shift) / scale, (y - shift) / scale
        total = torch.zeros(len(x))
        for index, (name, layer) in enumerate(self.features.items()):
            if int(name) in POOLED:
                x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
            x, y = F.relu(layer(x)), F.relu(layer(y))
            difference = (_unit(x) - _unit(y)) ** 2
            head = self.get_submodule(f"lin{index}.model.1")
            total = total + head(difference).mean((1, 2, 3))
        return total

    @torch.inference_mode()
    def distance(self, pixels: Pixels, truth: Pixels) -> float:
        """The distance of two photos of the same size; DataError if they are too small."""
        if min(truth.shape[:2]) < SMALLEST_SIDE:
            raise DataError(
                f"a photo of {truth.shape[1]}x{truth.shape[0]} pixels is too small for LPIPS, "
                f"which needs {SMALLEST_SIDE}x{SMALLEST_SIDE}: leave it out of the set."
            )
        x, y = (
            torch.from_numpy(np.ascontiguousarray(p)).movedim(2, 0)[None].float() / 127.5 - 1
            for p in (pixels, truth)
        )
        return float(self(x, y))


def _unit(x: Tensor) -> Tensor:
    """Every position's channels brought to length 1."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-10)


INCEPTION_FILE, LPIPS_FILE = "inception.safetensors", "lpips-alex.safetensors"
Network = TypeVar("Network", Inception, Lpips)

PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")


@dataclass(frozen=True)
class MetricNetworks:
    """The networks in a folder; None where a file is missing."""

    inception: Inception | None
    lpips: Lpips | None


def load_metric_networks(folder: Path) -> MetricNetworks:
    """Load the networks whose files are in a folder; ModelError if there are none."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not a folder: give one with {INCEPTION_FILE} or {LPIPS_FILE}."
        )
    files = {name: folder / name for name in (INCEPTION_FILE, LPIPS_FILE)}
    if not any(file.is_file() for file in files.values()):
        pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
        way = (
            f"{pickles[0]} is a pickle, which can run any program and is not read: make a "
            "safetensors file of it with examples/convert_weights.py."
            if pickles
            else "docs/guide/evaluation.md says where they come from."
        )
        raise ModelError(f"{folder} contains neither {INCEPTION_FILE} nor {LPIPS_FILE}: {way}")
    inception, lpips = files.values()
    return MetricNetworks(
        inception=_fill(Inception(), inception) if inception.is_file() else None,
        lpips=_fill(Lpips(), lpips) if lpips.is_file() else None,
    )


def _fill(network: Network, path: Path) -> Network:
    """Load the weights of a file into a network; ModelError if some are missing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file ({error}): make it with "
            "examples/convert_weights.py."
        ) from error
    for name, parameter in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "missing"
            raise ModelError(
                f"{path} is not of this network: {name} is {found}, not {tuple(parameter.shape)}. "
                "docs/guide/evaluation.md says which weights are meant."
            )
    network.load_state_dict(weights, strict=False)
    return network.eval()

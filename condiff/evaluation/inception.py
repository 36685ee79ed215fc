"""Inception-v3 as FID uses it (Szegedy et al. 2016, arXiv:1512.00567, and Heusel et al. 2017).

The 2015 TensorFlow network, not torchvision's: average pooling leaves the padding out, the last
block pools by maximum, photos are resized as TensorFlow 1 did it. Parameter names are those of the
PyTorch ports, `pt_inception-2015-12-05-6726825d` of pytorch-fid and torch-fidelity's.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condiff.evaluation.metrics import Floats, Pixels

SIDE = 299
BATCH = 16
Kernel = int | tuple[int, int]
Row = tuple[str, int, Kernel]  # name, channels out, kernel
# Convolutions one after the other; two that end a chain side by side both see what was before.
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
    """Chains and a pool side by side, concatenated; halving, every chain's last one strides."""

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
    """Of the 35x35 maps: 1x1, 5x5, two 3x3."""
    fives = (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return Mixed(channels, [(("branch1x1", 64, 1),), fives, DOUBLE], pool="average", pooled=pooled)


def block_17(width: int) -> Mixed:
    """Of the 17x17 maps, 768 channels: 7x7 as 1x7 and 7x1, once and twice."""
    across, down = (1, 7), (7, 1)
    once = (("branch7x7_1", width, 1), ("branch7x7_2", width, across), ("branch7x7_3", 192, down))
    twice = (
        ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, down),
        ("branch7x7dbl_3", width, across), ("branch7x7dbl_4", width, down),
        ("branch7x7dbl_5", 192, across),
    )  # fmt: skip
    return Mixed(768, [(("branch1x1", 192, 1),), once, twice], pool="average", pooled=192)


def block_8(channels: int, pool: Pool) -> Mixed:
    """Of the 8x8 maps: 3x3 parted into 1x3 beside 3x1."""
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
        starts = range(0, len(squares), BATCH)
        found = [self((torch.cat(squares[i : i + BATCH]) - 128) / 128) for i in starts]
        return torch.cat(found).numpy()


def resize_as_tensorflow_1(pixels: Tensor, side: int = SIDE) -> Tensor:
    """(B,C,H,W) -> (B,C,side,side) float: pixel i is read at i * H / side, a quarter shift and all.

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

"""LPIPS, the perceptual distance of Zhang et al. (2018, arXiv:1801.03924), v0.1 on AlexNet.

Parameter names are those of torchvision's AlexNet and of the authors' `lpips/weights/v0.1/alex`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condiff.errors import DataError
from condiff.evaluation.metrics import Pixels

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

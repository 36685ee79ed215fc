"""The condition encoder: turns a condition image into channels that are concatenated with x_t."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from condiff.config import BackboneVariant, NullLacks
from condiff.models.backbone import EfficientNetLite
from condiff.models.compiled_backbone import CompiledBackbone
from condiff.models.feature_decoder import FeatureDecoder, lateral

Features = dict[int, Tensor]


class ConditionEncoder(ModelMixin, ConfigMixin):
    """Condition image (B,N,H,W) in [-1,1] -> cond (B,K,H/fold,W/fold), run once per image.

    The channels of cond are: the condition folded by pixel-unshuffle (N·fold² channels, without
    loss), the features of a pretrained backbone merged by a feature-pyramid neck (`neck_channels`;
    Lin et al. 2017, arXiv:1612.03144), and hints (`hint_channels`, zero if none are given). With
    `decoder_channels`, a `FeatureDecoder` of that width adds to the neck's output. With a backbone,
    H and W must be multiples of 32. If the condition has no channels, neither has cond: the model
    is unconditional.

    cond has one pixel per patch of x_t (`patch_size` by `patch_size` pixels). Hints have the size
    of x_t and are folded in the same way. If `is_ink`, the condition is 1 on lines: the backbone,
    trained on photos, gets them black on white.

    null_cond, which guidance leads away from, lacks what `null_lacks` names: "features" is a
    condition without the backbone, "decoder" a weaker model without the decoder (autoguidance:
    Karras et al. 2024, arXiv:2406.02507). Without a backbone it lacks the condition itself.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        fold: int = 4,
        backbone_variant: BackboneVariant | None = "lite2",
        feature_strides: tuple[int, ...] = (8, 16, 32),
        neck_channels: int = 48,
        hint_channels: int = 3,
        patch_size: int = 1,
        is_ink: bool = False,
        decoder_channels: int | None = None,
        null_lacks: NullLacks = "features",
    ):
        super().__init__()
        self.fold, self.patch_size, self.hint_channels = fold, patch_size, hint_channels
        self.is_ink, self.null_lacks = is_ink, null_lacks
        self.feature_channels: dict[int, int] = {}  # by stride
        self.backbone = EfficientNetLite(backbone_variant) if backbone_variant else None
        self.compiled_backbone: CompiledBackbone | None = None  # replaces the backbone if set
        if self.backbone:
            channels = self.backbone.feature_channels
            self.feature_channels = {stride: channels[stride] for stride in feature_strides}
            self.laterals = nn.ModuleDict(
                {str(s): lateral(c, neck_channels) for s, c in self.feature_channels.items()}
            )
            self.smooth = nn.Conv2d(neck_channels, neck_channels, 3, padding=1)
        self.decoder = (
            self.make_decoder(decoder_channels) if self.backbone and decoder_channels else None
        )
        self.out_channels = (
            in_channels * fold**2
            + (neck_channels if backbone_variant else 0)
            + hint_channels * patch_size**2
        )

    def make_decoder(self, channels: int) -> FeatureDecoder:
        """A new feature decoder for this encoder."""
        neck_channels = self.smooth.out_channels
        return FeatureDecoder(self.feature_channels, channels=channels, out_channels=neck_channels)

    @contextmanager
    def backbone_by(self, compiled: CompiledBackbone | None) -> Iterator[None]:
        """A block in which OpenVINO runs the backbone, or torch for None."""
        before, self.compiled_backbone = self.compiled_backbone, compiled
        try:
            yield
        finally:
            self.compiled_backbone = before

    def features(self, condition: Tensor) -> Features:
        """The maps {stride: (B,C,H/stride,W/stride)} of a condition in [-1,1].

        It is lightness (B,1,H,W), or the photo (B,3,H,W) of `restyle`, whose channels pass through
        the same curve.
        """
        if self.backbone is None:
            return {}
        shown = -condition if self.is_ink else condition
        gray = lightness_to_gray((shown + 1) * 50)
        run = self.compiled_backbone or self.backbone
        maps = run(gray.expand(-1, 3, -1, -1))
        return {stride: maps[stride] for stride in self.feature_channels}

    def forward(
        self,
        condition: Tensor,
        *,
        features: Features | None = None,
        hints: Tensor | None = None,
        size: tuple[int, int] | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """cond for x_t of `size` (default: that of training); `features` skips the backbone.

        Where `kept` (B,1,1,1) is 0 instead of 1, the result is null_cond: what it lacks is zero.

        Training at a smaller `size` does not change the backbone's input: only the folded condition
        is resized, to `fold` times the size.
        """
        height, width = condition.shape[-2:]
        cells = (height // self.fold, width // self.fold)
        if size is not None:
            cells = (size[0] // self.patch_size, size[1] // self.patch_size)
        full = (cells[0] * self.fold, cells[1] * self.fold)
        features = self.features(condition) if features is None else features
        if kept is not None and not self.backbone:
            condition = condition * kept
        elif kept is not None and self.null_lacks == "features":
            features = {stride: values * kept for stride, values in features.items()}
        if condition.shape[1] == 0:  # an unconditional model
            return condition.new_zeros((len(condition), 0, *cells))
        if full != (height, width):
            condition = _resize(condition, full)
        parts = [F.pixel_unshuffle(condition, self.fold)]
        if self.backbone:
            maps = {s: features[s].to(condition.dtype) for s in self.feature_channels}
            levels = [_resize(self.laterals[str(s)](maps[s]), cells) for s in maps]
            neck = self.smooth(F.silu(torch.stack(levels).sum(0)))
            if self.decoder is not None:
                decoded = _resize(self.decoder(maps), cells)
                if kept is not None and self.null_lacks == "decoder":
                    decoded = decoded * kept
                neck = neck + decoded
            parts.append(neck)
        if self.hint_channels:
            if hints is None:
                height, width = (side * self.patch_size for side in cells)
                hints = condition.new_zeros(len(condition), self.hint_channels, height, width)
            parts.append(to_patches(hints, self.patch_size))
        return torch.cat(parts, dim=1)


def to_patches(x: Tensor, patch_size: int) -> Tensor:
    """(B,C,h,w) -> (B,C·p²,h/p,w/p): each patch of p by p pixels becomes one pixel's channels."""
    return x if patch_size == 1 else F.pixel_unshuffle(x, patch_size)


def from_patches(x: Tensor, patch_size: int) -> Tensor:
    """The inverse of `to_patches`."""
    return x if patch_size == 1 else F.pixel_shuffle(x, patch_size)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = x.shape[-2:]
    if (height, width) == size:
        return x
    if height <= size[0]:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    if height % size[0] == 0 and width % size[1] == 0:  # equals "area", and ONNX supports any size
        return F.avg_pool2d(x, (int(height // size[0]), int(width // size[1])))
    return F.interpolate(x, size, mode="area")


def lightness_to_gray(lightness: Tensor) -> Tensor:
    """The sRGB grey in [0,1] whose CIE L* is `lightness`, any shape."""
    cube = ((lightness + 16) / 116) ** 3
    linear = torch.where(lightness > 8, cube, lightness * (27 / 24389))
    gray = torch.where(
        linear > 0.0031308, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear
    )
    return gray.clamp(0, 1)

"""The feature decoder: a small network that reads a backbone's maps, run once per image."""

import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

COARSE_BLOCKS, FINE_BLOCKS = 3, 2
GROUPS = 16  # of the group norms, at most
CHANNELS_IN_GROUP = 4  # at least


class FeatureDecoder(nn.Module):
    """Maps {stride: (B,C,H/stride,W/stride)} -> (B,out_channels,H/s,W/s), s the second coarsest.

    Residual blocks at the coarsest stride, then at the second coarsest, where the finer maps join.
    In each block, the mean of the coarsest map scales and shifts the channels (FiLM: Perez et al.
    2018, arXiv:1709.07871). `feature_channels` is C by stride, for at least two strides. A new
    decoder's output is zero.
    """

    def __init__(self, feature_channels: dict[int, int], *, channels: int, out_channels: int):
        super().__init__()
        *self.finer, fine, coarse = sorted(feature_channels)
        self.fine, self.coarse = fine, coarse
        self.factor = coarse // fine
        self.whole = nn.Sequential(
            nn.LayerNorm(feature_channels[coarse]),
            nn.Linear(feature_channels[coarse], channels),
            nn.SiLU(),
            nn.Linear(channels, channels),
        )
        self.laterals = nn.ModuleDict(
            {str(stride): lateral(count, channels) for stride, count in feature_channels.items()}
        )
        self.fine_to_coarse = lateral(feature_channels[fine], channels)
        self.coarse_blocks = nn.ModuleList(_block(channels) for _ in range(COARSE_BLOCKS))
        self.fine_blocks = nn.ModuleList(_block(channels) for _ in range(FINE_BLOCKS))
        self.last = nn.Conv2d(channels, out_channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        return self.last(self.hidden(features))

    def hidden(self, features: dict[int, Tensor]) -> Tensor:
        """Input of the last layer, (B,channels,H/s,W/s)."""
        coarse, fine = features[self.coarse], features[self.fine]
        whole = self.whole(coarse.mean(dim=(2, 3)))
        shrunk = F.avg_pool2d(fine, self.factor)
        x = self.laterals[str(self.coarse)](coarse) + self.fine_to_coarse(shrunk)
        for block in self.coarse_blocks:
            x = block(x, whole)
        x = F.interpolate(x, scale_factor=float(self.factor), mode="bilinear", align_corners=False)
        x = x + self.laterals[str(self.fine)](fine)
        for stride in self.finer:
            shrunk = F.avg_pool2d(features[stride], self.fine // stride)
            x = x + self.laterals[str(stride)](shrunk)
        for block in self.fine_blocks:
            x = block(x, whole)
        return x


def lateral(in_channels: int, out_channels: int) -> nn.Module:
    """Projects a backbone's map to `out_channels`."""
    # The maps' scales differ by an order of magnitude; the norm makes them equal.
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.GroupNorm(1, out_channels))


def _block(channels: int) -> ResnetBlock2D:
    # Several channels per group: where features are dropped, each channel is constant, and a norm
    # over one channel would divide rounding errors by their own size.
    most = min(GROUPS, max(1, channels // CHANNELS_IN_GROUP))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    block = ResnetBlock2D(
        in_channels=channels,
        temb_channels=channels,
        groups=groups,
        time_embedding_norm="scale_shift",
    )
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    return block

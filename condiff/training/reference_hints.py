"""Simulates in training, from a photo's own chroma, the hints of a reference photo.

A second view of a scene matches parts of the photo. Its chroma, under another light, is averaged
over nearby cells of similar L*, and some parts match the wrong place. The simulation therefore uses
large patches of the true chroma, smoothed along L*, with changed light, partly from other places.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from condiff.color.references import REACH, SAME_L

RADIUS = 6  # of the smoothing, in cells: two standard deviations
COVER = (0.1, 1.0)  # shares of a photo that match
WRONG = 0.12  # largest share of matches from a wrong place; the mean is half of it
PATCHES = 5  # cells per side of the noise whose level sets bound the patches
STRENGTH = 0.15  # standard deviation of the logarithm of the factor on chroma
CAST = 2.0  # standard deviation, in a and b, of the offset added to chroma


@dataclass(frozen=True)
class SimulatedMatches:
    """Matches of a batch with references: taken and wrong (B,1,h,w) bool, and displacements.

    `wrong` cells have the chroma of a cell `apart` (B,2) away, in shares of the sides. All chroma
    is multiplied by `strength` (B,), and `cast` (B,2) is added, in a and b.
    """

    taken: Tensor
    wrong: Tensor
    apart: Tensor
    strength: Tensor
    cast: Tensor

    def rows(self, share: slice) -> "SimulatedMatches":
        """The matches of some photos of the batch."""
        parts = (self.taken, self.wrong, self.apart, self.strength, self.cast)
        return SimulatedMatches(*(part[share] for part in parts))


def sample_matches(
    shape: tuple[int, int, int], *, prob: float, generator: torch.Generator
) -> SimulatedMatches:
    """Random matches for the shape (B,h,w): each photo has a reference with probability `prob`."""
    batch, height, width = shape
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def patches(shares: Tensor) -> Tensor:
        """Patches (B,1,h,w) that cover shares (B,) of the photos."""
        noise = normal(batch, 1, PATCHES, PATCHES)
        level = F.interpolate(noise, (height, width), mode="bilinear").flatten(1)
        rank = level.argsort(dim=1).argsort(dim=1).view(batch, 1, height, width)
        return rank < shares.view(-1, 1, 1, 1) * height * width

    given = uniform(batch) < prob
    least, most = COVER
    taken = patches((least + (most - least) * uniform(batch)) * given)
    wrong = patches(WRONG * uniform(batch)) & taken
    apart = 0.25 + 0.5 * uniform(batch, 2)
    return SimulatedMatches(
        taken, wrong, apart, (STRENGTH * normal(batch)).exp(), CAST * normal(batch, 2)
    )


def add_references(
    hints: Tensor, x_0: Tensor, lightness: Tensor, matches: SimulatedMatches, *, scale: float
) -> Tensor:
    """Add hints of references to hints (B,3,h,w); a cell's own hint has priority.

    x_0 (B,2,h,w) is chroma over `scale`, lightness (B,1,H,W) is L*/50 - 1.
    """
    if not matches.taken.any():
        return hints
    L = F.interpolate(lightness, x_0.shape[-2:], mode="area") * 50
    chroma = torch.where(matches.wrong, _displace(x_0, matches.apart), x_0)
    chroma = _smooth_along_lightness(chroma, L)
    cast = matches.cast[..., None, None] / scale
    chroma = chroma * matches.strength.view(-1, 1, 1, 1) + cast
    mask = (matches.taken & (hints[:, -1:] == 0)).to(x_0.dtype)
    return hints + torch.cat([chroma * mask, mask], dim=1)


def _displace(x_0: Tensor, apart: Tensor) -> Tensor:
    """x_0 (B,C,h,w) rolled by shares (B,2) of its height and width."""
    height, width = x_0.shape[-2:]
    moved = [
        row.roll((round(float(down) * height), round(float(across) * width)), dims=(1, 2))
        for row, (down, across) in zip(x_0, apart, strict=True)
    ]
    return torch.stack(moved)


def _smooth_along_lightness(chroma: Tensor, L: Tensor) -> Tensor:
    """Chroma (B,2,h,w) averaged over nearby cells, weighted by distance and similarity of L*."""
    height, width = chroma.shape[-2:]
    around = [RADIUS] * 4
    values, light = F.pad(chroma, around), F.pad(L, around, value=1e4)  # far from any L*
    total, weights = torch.zeros_like(chroma), torch.zeros_like(L)
    for y in range(-RADIUS, RADIUS + 1):
        for x in range(-RADIUS, RADIUS + 1):
            place = (
                ...,
                slice(RADIUS + y, RADIUS + y + height),
                slice(RADIUS + x, RADIUS + x + width),
            )
            unlike = ((light[place] - L) / SAME_L).square() + (y * y + x * x) / REACH**2
            weight = (-unlike / 2).exp()
            total += weight * values[place]
            weights += weight
    return total / weights

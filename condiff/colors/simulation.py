"""Simulates a user's hints in training: patches of the photo's true chroma."""

import torch
from torch import Tensor


def reveal(chroma: Tensor, mask: Tensor) -> Tensor:
    """Hints (B,3,h,w): chroma (B,2,h,w) where the mask (B,1,h,w) is one, and the mask itself."""
    mask = mask.to(chroma.dtype)
    return torch.cat([chroma * mask, mask], dim=1)


def draw_mask(
    shape: tuple[int, int, int],
    *,
    hint_prob: float,
    max_hints: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Where hints are: a mask (B,1,h,w) of zeros and ones for the shape (B,h,w).

    With probability `hint_prob` a photo shows 1 to `max_hints` square patches of 1 to 9 cells'
    side, most of them few and small; otherwise all is zero: no hint.
    """
    batch, height, width = shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    hinted = draw(batch, 1) < hint_prob
    # Squared uniforms: two hints are commoner than thirty, a dab commoner than a blot.
    count = (1 + draw(batch, 1).square() * max_hints).clamp(max=max_hints)
    shown = (torch.arange(max_hints, device=device) < count) & hinted  # (B,N)
    half = draw(batch, max_hints).square() * 4.5
    rows, columns = draw(batch, max_hints) * height, draw(batch, max_hints) * width
    y = torch.arange(height, device=device).view(1, 1, -1, 1) + 0.5
    x = torch.arange(width, device=device).view(1, 1, 1, -1) + 0.5
    half = half[..., None, None].clamp(min=0.5)
    inside = ((y - rows[..., None, None]).abs() <= half) & (
        (x - columns[..., None, None]).abs() <= half
    )
    return (inside & shown[..., None, None]).any(dim=1, keepdim=True).float()

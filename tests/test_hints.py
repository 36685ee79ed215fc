"""Simulated colour hints."""

import torch

from condiff.hints import simulate_hints

CHROMA = torch.rand(400, 2, 16, 16, generator=torch.Generator().manual_seed(1)) + 0.5


def draw(**changes):
    settings = {"hint_prob": 0.5, "max_hints": 32} | changes
    return simulate_hints(CHROMA, **settings, generator=torch.Generator().manual_seed(0))


def test_hints_are_the_true_chroma_under_the_mask_and_zero_elsewhere():
    hints = draw()
    mask = hints[:, 2:]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hints[:, :2], CHROMA * mask)


def test_half_the_photos_have_none():
    hinted = draw()[:, 2].amax(dim=(1, 2))
    assert 0.42 < hinted.mean() < 0.58
    assert draw(hint_prob=0.0).abs().max() == 0


def test_a_hint_is_at_least_a_cell_and_at_most_nine_wide():
    cells = draw(hint_prob=1.0, max_hints=1)[:, 2].sum(dim=(1, 2))
    assert cells.min() >= 1
    assert cells.max() <= 81
    assert cells.median() < cells.float().mean()  # a dab is commoner than a blot

"""Measures the colours of skin, sky and foliage, as groups of pixels of the true photo.

A group is a range of hue, chroma and lightness of the TRUTH, so that every method is measured on
the same pixels. Nothing is recognised: wood and sand have the colours of skin and count as skin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from condiff.evaluation.metrics import FLAT_LIGHTNESS, Floats, gradient

LEAST_SHARE = 0.01  # of a photo's pixels; smaller groups are ignored
LEAST_CHROMA = 1.0  # mean chroma below which a group has no hue; a grey photo's Lab has up to 0.13


@dataclass(frozen=True)
class Group:
    """A range of Lab: hue in degrees, chroma and L*; both ends are inside."""

    hue: tuple[float, float]
    chroma: tuple[float, float]
    lightness: tuple[float, float]
    above: bool = False  # only the upper half of the photo, and there only where L* is flat


GROUPS: dict[str, Group] = {
    "skin": Group(hue=(20, 80), chroma=(10, 45), lightness=(30, 90)),
    "sky": Group(hue=(210, 290), chroma=(5, 60), lightness=(40, 98), above=True),
    "foliage": Group(hue=(95, 160), chroma=(10, 90), lightness=(5, 95)),
}


@dataclass(frozen=True)
class GroupFigures:
    """One group in one photo, or in a set: then the means over the photos that have it."""

    photos: int
    chroma: float  # mean sqrt(a^2 + b^2) of the result
    true_chroma: float
    chroma_ratio: float  # of the two: 1 is as colourful as the truth, 0 grey
    hue_error: float | None  # degrees in [0,180]. None: the result's chroma is below LEAST_CHROMA
    hue_deviation: float | None  # degrees, of the hue inside the group. None: as above
    true_hue_deviation: float  # the same of the truth


def find_group(truth_lab: Floats, group: Group) -> npt.NDArray[np.bool_]:
    """(H,W,3) Lab -> which of its pixels (H,W) have the group's colours."""
    L, a, b = np.moveaxis(truth_lab, -1, 0)
    inside = np.ones(L.shape, bool)
    planes = np.degrees(np.arctan2(b, a)) % 360, np.hypot(a, b), L
    for plane, (least, most) in zip(
        planes, (group.hue, group.chroma, group.lightness), strict=True
    ):
        inside &= (plane >= least) & (plane <= most)
    if group.above:
        inside[len(inside) // 2 :] = False
        inside &= gradient(truth_lab[..., :1]) < FLAT_LIGHTNESS
    return inside


def measure_groups(lab: Floats, truth_lab: Floats) -> dict[str, GroupFigures]:
    """The groups that a photo has, each with its chroma and hue error."""
    found = {}
    for name, group in GROUPS.items():
        inside = find_group(truth_lab, group)
        if inside.mean() >= LEAST_SHARE:
            found[name] = _measure(lab[inside][:, 1:], truth_lab[inside][:, 1:])
    return found


def mean_groups(photos: Sequence[Mapping[str, GroupFigures]]) -> dict[str, GroupFigures]:
    """Means over the photos that have a group, each photo counting the same."""
    means = {}
    for name in GROUPS:
        having = [photo[name] for photo in photos if name in photo]
        if having:
            chroma = float(np.mean([figures.chroma for figures in having]))
            true_chroma = float(np.mean([figures.true_chroma for figures in having]))
            means[name] = GroupFigures(
                photos=len(having),
                chroma=chroma,
                true_chroma=true_chroma,
                chroma_ratio=chroma / true_chroma,
                hue_error=_mean_of([figures.hue_error for figures in having]),
                hue_deviation=_mean_of([figures.hue_deviation for figures in having]),
                true_hue_deviation=float(np.mean([f.true_hue_deviation for f in having])),
            )
    return means


def cast(lab: Floats, truth_lab: Floats) -> tuple[float, float]:
    """Mean (da, db) over all pixels, result less truth: red and yellow are positive."""
    da, db = (lab[..., 1:].astype(np.float64) - truth_lab[..., 1:]).mean((0, 1))
    return float(da), float(db)


def _measure(ab: Floats, true_ab: Floats) -> GroupFigures:
    """The figures of pixels (N,2); hues are weighted by both chromas, for grey has no hue."""
    z, true_z = (pixels[:, 0] + 1j * pixels[:, 1] for pixels in (ab, true_ab))
    chroma, true_chroma = np.abs(z), np.abs(true_z)
    turn = np.abs(np.angle(z * true_z.conj(), deg=True))
    hued = chroma.mean() >= LEAST_CHROMA
    return GroupFigures(
        photos=1,
        chroma=float(chroma.mean()),
        true_chroma=float(true_chroma.mean()),
        chroma_ratio=float(chroma.mean() / true_chroma.mean()),
        hue_error=float(np.average(turn, weights=chroma * true_chroma)) if hued else None,
        hue_deviation=_hue_deviation(z) if hued else None,
        true_hue_deviation=_hue_deviation(true_z),
    )


def _hue_deviation(z: npt.NDArray[np.complexfloating]) -> float:
    """Standard deviation of the hue of a + ib around that of its mean, in degrees.

    Each pixel is weighted by its chroma.
    """
    turn = np.angle(z * z.mean().conj(), deg=True)
    return float(np.sqrt(np.average(turn**2, weights=np.abs(z))))


def _mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are not None; None if there are none."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None

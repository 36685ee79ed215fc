"""One style for the photos of a set: their mean colours and mean chroma are brought together.

The chroma of a result is shifted and scaled half of the way to the means of the set. So a roll of
one scene gets one white balance, and a set of many scenes keeps its differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from condiff.arrays import Plane

PULL = 0.5  # of the way to the set's means; 1 makes all means equal, whatever the photos show
MAX_GAIN = 1.6  # of chroma; the least gain is its inverse
GREY = 1.0  # chroma that is added before ratios are taken: grey photos are not amplified


class ChromaMeans(NamedTuple):
    """Means of a picture's a and b, and of its chroma sqrt(a² + b²)."""

    a: float
    b: float
    chroma: float

    @classmethod
    def of(cls, chroma: Plane) -> "ChromaMeans":
        """The means of chroma (h,w,2)."""
        a, b = chroma.reshape(-1, 2).astype(np.float64).mean(axis=0)
        return cls(float(a), float(b), float(np.linalg.norm(chroma, axis=2).mean(dtype=float)))


@dataclass(frozen=True)
class AlbumStyle:
    """The style of a set of photos; `means` are those of its results, None: not yet measured.

    All photos start from the same noise in their large areas, which `seed` decides.
    """

    seed: int
    means: ChromaMeans | None = None

    @classmethod
    def of(cls, photos: Sequence[ChromaMeans], *, seed: int) -> "AlbumStyle":
        """The style of a set whose results have these means, whatever their order."""
        if not photos:
            return cls(seed)
        rows = np.array(sorted(photos))
        strength = np.exp(np.log(rows[:, 2] + GREY).mean()) - GREY
        a, b = rows[:, :2].mean(axis=0)
        return cls(seed, ChromaMeans(float(a), float(b), float(strength)))

    def apply(self, chroma: Plane) -> Plane:
        """The chroma (h,w,2) of one photo of the set in the set's style."""
        if self.means is None:
            return chroma
        own = ChromaMeans.of(chroma)
        shift = PULL * (np.array(self.means[:2]) - own[:2])
        gain = ((self.means.chroma + GREY) / (own.chroma + GREY)) ** PULL
        return ((chroma + shift) * np.clip(gain, 1 / MAX_GAIN, MAX_GAIN)).astype(np.float32)

    @property
    def note(self) -> dict[str, float]:
        """The style as a part of a result's note."""
        means = {} if self.means is None else self.means._asdict()
        return {"seed": self.seed, **{name: round(value, 4) for name, value in means.items()}}

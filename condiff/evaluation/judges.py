"""The networks of an evaluation, as plain functions of arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from condiff.evaluation.metrics import Floats, Pixels

# RGB photos -> features (N,D) and class scores (N,1000).
Extractor = Callable[[list[Pixels]], tuple[Floats, Floats]]
Features = Callable[[list[Pixels]], Floats]  # RGB photos -> (N,D)
Distance = Callable[[Pixels, Pixels], float]  # of two RGB photos of one size

BATCH = 32


@dataclass(frozen=True)
class Seen:
    """The networks' outputs for the photos of one method."""

    features: Floats
    classes: Floats
    inception: Floats | None


@dataclass(frozen=True)
class Judges:
    """The networks of an evaluation."""

    extractor: Extractor
    inception: Features | None
    lpips: Distance | None

    def look(self, photos: list[Pixels]) -> Seen:
        """Run the networks on all photos, in batches."""
        batches = in_batches(photos)
        features, logits = zip(*map(self.extractor, batches), strict=True)
        return Seen(
            features=np.concatenate(features),
            classes=np.concatenate(logits).argmax(1),
            inception=np.concatenate([*map(self.inception, batches)]) if self.inception else None,
        )


def in_batches(photos: Sequence[Pixels]) -> list[list[Pixels]]:
    """The photos in lists of so many as a network takes at once."""
    return [list(photos[i : i + BATCH]) for i in range(0, len(photos), BATCH)]

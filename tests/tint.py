"""A cheap callable for a batch, and a program that runs it, which the tests kill.

python tests/tint.py IN OUT
"""

import sys
from dataclasses import replace

import numpy as np

from condiff.batch.journal import open_journal
from condiff.batch.local import run
from condiff.batch.plan import plan
from condiff.batch.storage import open_storage
from condiff.photos.photo import Photo

SETTINGS = {"task": "tint", "seed": 5}


def tint(photo: Photo, seed: int, hints: object = None) -> Photo:
    """A function of (photo, seed)."""
    shift = np.random.default_rng(seed).integers(0, 256, 3)
    return replace(photo, pixels=((photo.pixels.astype(int) + shift) % 256).astype(np.uint8))


if __name__ == "__main__":
    source, out = map(open_storage, sys.argv[1:3])
    with open_journal(out, SETTINGS) as journal:
        for result in run(plan(source, out), journal, tint, seed=5, workers=3):
            print(result.outcome, result.job.name, flush=True)

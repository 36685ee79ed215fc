"""Colour photos that ship with scikit-image and scikit-learn, for sheets of the docs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

HERO = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower")  # of the README


def open_photo(name: str) -> np.ndarray:
    """The pixels (H,W,3) of a photo by its name; china and flower are scikit-learn's."""
    if name in ("china", "flower"):
        spec = find_spec("sklearn")
        assert spec is not None and spec.origin is not None, "pip install scikit-learn"
        path = Path(spec.origin).parent / "datasets" / "images" / f"{name}.jpg"
        return np.asarray(Image.open(path))
    return np.asarray(getattr(skimage.data, name)())

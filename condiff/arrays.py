"""Names for NumPy arrays, by what they contain; Any, because OpenCV's stubs have no dtypes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[Any]  # float32: (h,w), or (h,w,C) of several channels
Pixels = NDArray[Any]  # uint8 or uint16: (H,W), or (H,W,C)
Levels = NDArray[Any]  # uint8 or uint16 of a film's planes: (H,W)


def describe_array(value: Any) -> str:
    """Shape and type of an array, for an error; of anything else the name of its class."""
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    return f"{value.shape} of {value.dtype}"

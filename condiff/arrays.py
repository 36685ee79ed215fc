"""Names for NumPy arrays, by what they contain; Any, because OpenCV's stubs have no dtypes."""

from typing import Any

from numpy.typing import NDArray

Plane = NDArray[Any]  # float32: (h,w), or (h,w,C) of several channels
Pixels = NDArray[Any]  # uint8 or uint16: (H,W), or (H,W,C)
Levels = NDArray[Any]  # uint8 or uint16 of a film's planes: (H,W)

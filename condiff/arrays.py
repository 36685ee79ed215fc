"""Names for arrays of NumPy, by what they contain; OpenCV's stubs know no dtypes, hence Any."""

from typing import Any

from numpy.typing import NDArray

Plane = NDArray[Any]  # float32: (h,w), or (h,w,C) of several channels
Pixels = NDArray[Any]  # uint8 or uint16: (H,W), or (H,W,C)
Levels = NDArray[Any]  # uint8 or uint16 of a film's planes: (H,W)

"""Memory that is not enough, told by MemoryError, where OpenCV has an error of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def as_memory_error() -> Iterator[None]:
    """MemoryError in place of OpenCV's error where it could not allocate; other errors stay."""
    try:
        yield
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise

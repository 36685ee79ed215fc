"""Turns OpenCV's own error for a lack of memory into MemoryError."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def as_memory_error() -> Iterator[None]:
    """Raise MemoryError where OpenCV could not allocate; its other errors pass through."""
    try:
        yield
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise

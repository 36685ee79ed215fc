"""Reads size, depth and XMP packet of a JPEG XL file without decoding it.

ISO/IEC 18181-1 (SizeHeader) and 18181-2 (boxes).
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def is_jxl(head: bytes) -> bool:
    """Whether a file with these first bytes is JPEG XL."""
    return head.startswith((CODESTREAM, CONTAINER))


def read_boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The name and the content of each box of a container."""
    file.seek(0)
    while len(head := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        left = size - 8
        if size == 1:
            left = int.from_bytes(file.read(8), "big") - 16
        if size == 0:
            left = -1
        elif left < 0:
            return
        yield name, file.read(left)


def read_xmp(file: BinaryIO) -> bytes:
    """The XMP packet, empty where there is none or it is compressed."""
    file.seek(0)
    if file.read(len(CONTAINER)) != CONTAINER:
        return b""
    return next((content for name, content in read_boxes(file) if name == b"xml "), b"")


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height; ValueError if the file has no pixels."""
    return _read_header(file)[0]


def read_bits(file: BinaryIO) -> int:
    """Bits per sample, 16 for headers that are not parsed further; ValueError as above."""
    return _read_header(file)[1]


def _read_header(file: BinaryIO) -> tuple[tuple[int, int], int]:
    file.seek(0)
    head = file.read(64)
    if head.startswith(CONTAINER):
        for name, content in read_boxes(file):
            if name in (b"jxlc", b"jxlp"):
                head = content[4 if name == b"jxlp" else 0 :][:64]
                break
    if not head.startswith(CODESTREAM):
        raise ValueError("it has no pixels")
    bits = int.from_bytes(head[2:], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def length(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = length(small)
    ratio = take(3)
    if ratio == 0:
        width = length(small)
    else:
        across, down = RATIOS[ratio - 1]
        width = height * across // down
    if take(1):  # all metadata has default values
        depth = 8
    elif take(1) or take(1):  # an orientation and the like, or floating point
        depth = 16
    else:
        choice = take(2)
        depth = take(6) + 1 if choice == 3 else (8, 10, 12)[choice]
    return (width, height), depth

"""Reads, patches and writes TIFF and EXIF directories; values stay uninterpreted bytes.

TIFF 6.0, section 2; EXIF 2.3, 4.6. Thus unknown tags are preserved exactly.
"""

import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

PREFIX = b"Exif\0\0"  # precedes the TIFF structure in a JPEG
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8}  # BigTIFF
POINTERS = {0x8769, 0x8825, 0xA005}  # the EXIF, GPS and interoperability directories
MAX_VALUE = 1 << 24  # bytes; larger values are not metadata

ORIENTATION, COLOR_SPACE, WIDTH, HEIGHT = 0x0112, 0xA001, 0xA002, 0xA003


@dataclass(frozen=True)
class Entry:
    """One tag: its TIFF type, the number of values, and their bytes or sub-directory."""

    kind: int
    count: int
    data: "bytes | Directory"


Directory = dict[int, Entry]


def read_header(file: BinaryIO) -> tuple[str, bool, int]:
    """Byte order (of `struct`), whether it is a BigTIFF, and the offset of the first directory."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("no TIFF header")
    (magic,) = struct.unpack_from(f"{order}H", head, 2)
    if magic == 43:
        return order, True, int(struct.unpack_from(f"{order}Q", head, 8)[0])
    if magic != 42:
        raise ValueError("no TIFF header")
    return order, False, int(struct.unpack_from(f"{order}I", head, 4)[0])


def read_directory(
    file: BinaryIO, offset: int, *, order: str, big: bool = False, depth: int = 0
) -> Directory:
    """The directory at an offset; what is truncated or too large in it is skipped.

    A damaged sub-directory is empty. Raises struct.error if the directory itself is damaged.
    """
    file.seek(offset)
    count_format, entry_format, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    (count,) = struct.unpack(order + count_format, file.read(struct.calcsize(count_format)))
    size = struct.calcsize(order + entry_format)
    table = file.read(size * min(count, 4096))
    directory: Directory = {}
    for start in range(0, len(table) - size + 1, size):
        tag, kind, number, field = struct.unpack_from(order + entry_format, table, start)
        length = SIZES.get(kind, 0) * number
        if not 0 < length <= MAX_VALUE:
            continue
        at = struct.unpack(order + ("Q" if big else "I"), field)[0]
        if tag in POINTERS and depth < 2:
            if kind in (4, 13, 16, 18):
                sub: Directory = {}
                with suppress(struct.error, OverflowError, OSError):
                    sub = read_directory(file, at, order=order, big=big, depth=depth + 1)
                directory[tag] = Entry(4, 1, sub)
            continue
        data = field[:length]
        if length > inline:
            file.seek(at)
            data = file.read(length)
        if len(data) == length:
            directory[tag] = Entry(kind, number, data)
    return directory


def read_number(entry: Entry, order: str) -> int:
    """The number in an entry of a single integer."""
    if not isinstance(entry.data, bytes):
        raise ValueError("it is a directory")
    return int.from_bytes(entry.data, "little" if order == "<" else "big")


def short(*values: int, order: str) -> Entry:
    """An entry of 16-bit numbers."""
    return Entry(3, len(values), struct.pack(f"{order}{len(values)}H", *values))


def long(*values: int, order: str) -> Entry:
    """An entry of 32-bit numbers."""
    return Entry(4, len(values), struct.pack(f"{order}{len(values)}I", *values))


def rational(value: float, *, order: str) -> Entry:
    """An entry of one fraction."""
    return Entry(5, 1, struct.pack(f"{order}2I", round(value * 10_000), 10_000))


def part(entry: Entry, index: int, parts: int) -> Entry:
    """One of `parts` equal parts of an entry's values."""
    if not isinstance(entry.data, bytes):
        raise ValueError("it is a directory")
    count, size = entry.count // parts, len(entry.data) // parts
    return Entry(entry.kind, count, entry.data[index * size : (index + 1) * size])


def pack_directory(directory: Mapping[int, Entry], *, order: str, start: int) -> bytes:
    """The bytes of a directory with its values and sub-directories, for the offset `start`."""
    size = 2 + 12 * len(directory) + 4
    table = [struct.pack(f"{order}H", len(directory))]
    values = bytearray()
    for tag in sorted(directory):
        entry = directory[tag]
        at = start + size + len(values)
        if isinstance(entry.data, dict):
            data = pack_directory(entry.data, order=order, start=at)
        else:
            data = entry.data
        if isinstance(entry.data, dict) or len(data) > 4:
            field = struct.pack(f"{order}I", at)
            values += data + bytes(len(data) % 2)  # values begin at even offsets
        else:
            field = data.ljust(4, b"\0")
        table.append(struct.pack(f"{order}HHI", tag, entry.kind, entry.count) + field)
    return b"".join([*table, bytes(4), values])


def pack_exif(directory: Directory, order: str) -> bytes:
    """A directory as an EXIF block."""
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return PREFIX + header + pack_directory(directory, order=order, start=8)


def normalise_exif(exif: bytes, *, turned: bool, converted: bool) -> bytes:
    """An EXIF block for the upright photo in sRGB; all other bytes are unchanged.

    Orientation becomes 1, width and height are swapped if the photo was turned, the colour space is
    sRGB if it was converted. The thumbnail, which shows the old picture, is unlinked.
    """
    body = bytearray(exif.removeprefix(PREFIX))
    order = {b"II": "<", b"MM": ">"}[bytes(body[:2])]
    start, after = _walk(body, order, struct.unpack_from(f"{order}I", body, 4)[0])
    _set_number(body, order, start.get(ORIENTATION), 1)
    if after + 4 <= len(body):
        body[after : after + 4] = bytes(4)
    if 0x8769 in start:
        pointer = struct.unpack_from(f"{order}I", body, start[0x8769] + 8)[0]
        inner, _ = _walk(body, order, pointer)
        if converted:
            _set_number(body, order, inner.get(COLOR_SPACE), 1)
        if turned and WIDTH in inner and HEIGHT in inner:
            wide, high = (bytes(body[inner[t] + 2 : inner[t] + 12]) for t in (WIDTH, HEIGHT))
            body[inner[WIDTH] + 2 : inner[WIDTH] + 12] = high
            body[inner[HEIGHT] + 2 : inner[HEIGHT] + 12] = wide
    return PREFIX + bytes(body)


def drop_orientation(exif: bytes) -> bytes:
    """An EXIF block without that entry; values keep their places, so offsets stay valid."""
    body = bytearray(exif.removeprefix(PREFIX))
    order = {b"II": "<", b"MM": ">"}[bytes(body[:2])]
    first = struct.unpack_from(f"{order}I", body, 4)[0]
    tags, after = _walk(body, order, first)
    if ORIENTATION in tags:
        at = tags[ORIENTATION]
        body[at : after + 4] = body[at + 12 : after + 4] + bytes(12)
        (count,) = struct.unpack_from(f"{order}H", body, first)
        struct.pack_into(f"{order}H", body, first, count - 1)
    return PREFIX + bytes(body)


def _walk(body: bytearray, order: str, offset: int) -> tuple[dict[int, int], int]:
    """Positions of the directory's entries by tag, and of the offset of the next directory."""
    (count,) = struct.unpack_from(f"{order}H", body, offset)
    starts = [offset + 2 + 12 * n for n in range(count)]
    tags = {struct.unpack_from(f"{order}H", body, s)[0]: s for s in starts if s + 12 <= len(body)}
    return tags, offset + 2 + 12 * count


def _set_number(body: bytearray, order: str, start: int | None, value: int) -> None:
    """Set the value of the entry at `start`, a single SHORT or LONG."""
    if start is not None:
        kind = struct.unpack_from(f"{order}H", body, start + 2)[0]
        if kind in (3, 4):
            struct.pack_into(f"{order}{'H' if kind == 3 else 'I'}", body, start + 8, value)

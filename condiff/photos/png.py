"""Reads text chunks of PNG files, and adds chunks to a finished file."""

import struct
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT = {b"tEXt", b"zTXt", b"iTXt"}
XMP_KEYWORD = b"XML:com.adobe.xmp"
MAX_CHUNK = 1 << 24  # bytes; more is no metadata

Chunk = tuple[bytes, bytes]  # its four letters, and what it holds


def read_chunks(file: BinaryIO, kinds: set[bytes]) -> tuple[Chunk, ...]:
    """Every chunk of these kinds in a PNG, before the pixels and after, in order."""
    chunks: list[Chunk] = []
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        (length,) = struct.unpack(">I", head[:4])
        if head[4:] in kinds and length <= MAX_CHUNK:
            chunks.append((head[4:], file.read(length)))
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return tuple(chunks)


def keyword(chunk: Chunk) -> bytes:
    """The keyword of a text chunk."""
    return chunk[1].split(b"\0", 1)[0]


def text_chunk(name: str, text: str) -> Chunk:
    """A tEXt chunk, or iTXt where Latin-1 does not hold the text."""
    key = name.encode("latin-1")
    try:
        return b"tEXt", key + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8")


def read_text(chunk: Chunk) -> str:
    """The text of a tEXt or zTXt chunk, or of one uncompressed iTXt."""
    kind, data = chunk
    rest = data.split(b"\0", 1)[1]
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return zlib.decompressobj().decompress(rest[1:], MAX_CHUNK).decode("latin-1")
    return rest[2:].split(b"\0", 2)[2].decode("utf-8", "replace") if rest[:1] == b"\0" else ""


def xmp_chunk(packet: bytes) -> Chunk:
    """The chunk that holds an XMP packet."""
    return b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + packet


def profile_chunk(profile: bytes) -> Chunk:
    """The chunk that holds an ICC profile."""
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)


def resolution_chunk(dpi: tuple[float, float]) -> Chunk:
    """The chunk that states dots per inch, in pixels per metre."""
    across, down = (round(d / 0.0254) for d in dpi)
    return b"pHYs", struct.pack(">IIB", across, down, 1)


def write_with_chunks(encoded: memoryview, chunks: list[Chunk], file: BinaryIO) -> None:
    """Write a whole PNG with more chunks behind its header."""
    header = len(SIGNATURE) + 25  # IHDR is first, and 25 bytes long
    file.write(encoded[:header])
    for kind, data in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        file.write(struct.pack(">I", len(data)) + kind + data + checksum)
    file.write(encoded[header:])


def raw_profile_chunk(name: str, data: bytes) -> Chunk:
    """A block that PNG has no chunk for, as ImageMagick writes it and exiftool reads it."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{name}\n{len(data):8}\n{lines}\n"
    return b"zTXt", f"Raw profile type {name}".encode() + b"\0\0" + zlib.compress(text.encode())

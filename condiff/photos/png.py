"""Splits PNG files into pixel chunks and annotations; adds chunks to a finished file.

PNG (ISO/IEC 15948, third edition). Decoders get the pixels' chunks only, so that a long text or a
broken profile cannot make the photo unreadable.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk
TEXT = {b"tEXt", b"zTXt", b"iTXt"}
XMP_KEYWORD = b"XML:com.adobe.xmp"
RAW = b"Raw profile type "  # of ImageMagick's text chunks, for blocks without a chunk of their own
MAX_CHUNK = 1 << 24  # bytes; more is not metadata

# The chunks that decoders get.
PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"pHYs"}
ANNOTATIONS = TEXT | {b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"eXIf", b"iDOT"}

# Code points of a cICP chunk (ITU-T H.273).
HDR_TRANSFERS, SRGB_TRANSFER = (16, 18), 13  # PQ and HLG; the curve of sRGB
D65 = (0.3127, 0.329)
PRIMARIES = {
    1: None,  # those of sRGB
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),  # BT.2020
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}

Chunk = tuple[bytes, bytes]  # its four letters, and its content


@dataclass(frozen=True)
class Colours:
    """The colour space that a PNG declares."""

    profile: bytes = b""  # ICC
    gamma: float | None = None  # None: that of sRGB, or nothing is declared
    chromaticities: tuple[float, ...] | None = None  # x and y of white, red, green and blue
    hdr: bool = False  # PQ or HLG


def read_colours(file: BinaryIO) -> Colours:
    """A PNG's profile or gamma; broken or overridden chunks are ignored."""
    found = dict(read_chunks(file, {b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP"}))
    primaries, transfer = found.get(b"cICP", b"").ljust(2, b"\0")[:2]
    if transfer in HDR_TRANSFERS:
        return Colours(hdr=True)
    if transfer == SRGB_TRANSFER and primaries in PRIMARIES:
        return Colours(chromaticities=PRIMARIES[primaries])
    with suppress(zlib.error, ValueError):
        packed = found[b"iCCP"].split(b"\0", 1)[1][1:] if b"iCCP" in found else b""
        if profile := zlib.decompressobj().decompress(packed, MAX_CHUNK) if packed else b"":
            return Colours(profile=profile)
    gamma = int.from_bytes(found.get(b"gAMA", b"")[:4], "big") / 100_000
    if b"sRGB" in found or not 0.1 <= gamma <= 10:
        return Colours()
    points = struct.unpack(">8I", found[b"cHRM"]) if len(found.get(b"cHRM", b"")) == 32 else ()
    return Colours(gamma=gamma, chromaticities=tuple(p / 100_000 for p in points) or None)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Two PNG files: the chunks of the pixels, and the annotations.

    Raises ValueError if the checksum of a pixel chunk is wrong.
    """
    view = memoryview(data)
    picture: list[bytes | memoryview] = [SIGNATURE]
    annotations: list[bytes | memoryview] = [SIGNATURE]
    for kind, at, length in _chunks(data):
        whole = view[at - 8 : at + length + 4]
        if kind in PICTURE:
            cut = len(whole) < length + 12  # at the file's end: left to decoders
            if not cut and zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
                raise ValueError(f"its {kind.decode('latin-1')} chunk is damaged")
            picture.append(whole)
        elif kind in ANNOTATIONS:
            annotations.append(whole)
    return b"".join(picture), b"".join(annotations)


def mend(picture: bytes) -> bytes:
    """Pixel chunks completed with the end that the file lacks.

    Decoders report pixels that are missing, too.
    """
    whole = picture
    for kind, at, length in _chunks(picture):
        content = picture[at : at + length]
        if kind == b"IEND" or at + length + 4 > len(picture):
            whole = picture[: at - 8]
            if kind in (b"IDAT", b"fdAT"):
                whole += _chunk(kind, content)
    return whole + END


def _chunk(kind: bytes, content: bytes | bytearray) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The four letters, content position and length of each chunk; the last may be truncated."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += 12 + length


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
    """A tEXt chunk, or iTXt if Latin-1 cannot encode the text."""
    key = name.encode("latin-1")
    try:
        return b"tEXt", key + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8")


def read_text(chunk: Chunk) -> str:
    """The text of a tEXt, zTXt or iTXt chunk; compressed text up to MAX_CHUNK bytes."""
    kind, data = chunk
    rest = data.split(b"\0", 1)[1]
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return zlib.decompressobj().decompress(rest[1:], MAX_CHUNK).decode("latin-1")
    text = rest[2:].split(b"\0", 2)[2]
    if rest[:1] == b"\1":
        text = zlib.decompressobj().decompress(text, MAX_CHUNK)
    return text.decode("utf-8", "replace")


def xmp_chunk(packet: bytes) -> Chunk:
    """The chunk of an XMP packet."""
    return b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + packet


def profile_chunk(profile: bytes) -> Chunk:
    """The chunk of an ICC profile."""
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)


def resolution_chunk(dpi: tuple[float, float]) -> Chunk:
    """The chunk of a resolution, from dots per inch."""
    across, down = (round(d / 0.0254) for d in dpi)
    return b"pHYs", struct.pack(">IIB", across, down, 1)


def write_with_chunks(encoded: memoryview, chunks: list[Chunk], file: BinaryIO) -> None:
    """Write a complete PNG with `chunks` inserted after its header."""
    header = len(SIGNATURE) + 25  # IHDR is first, and 25 bytes long
    file.write(encoded[:header])
    for kind, data in chunks:
        file.write(_chunk(kind, data))
    file.write(encoded[header:])


def raw_profile_chunk(name: str, data: bytes) -> Chunk:
    """A block without a PNG chunk of its own, in ImageMagick's form, which exiftool reads."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{name}\n{len(data):8}\n{lines}\n"
    return b"zTXt", RAW + name.encode() + b"\0\0" + zlib.compress(text.encode())


def read_raw_profile(chunk: Chunk) -> bytes:
    """The content of such a block; ValueError if it is damaged."""
    _, size, digits = read_text(chunk).removeprefix("\n").split("\n", 2)
    data = bytes.fromhex(digits)
    if len(data) != int(size):
        raise ValueError("it is cut short")
    return data

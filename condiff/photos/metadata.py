"""Metadata of photo files: EXIF, XMP, IPTC, resolution, comments, coding."""

import hashlib
import math
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from PIL import Image, JpegImagePlugin

from condiff.photos import ifd, png, xmp

IPTC, IMAGE_DESCRIPTION = 0x83BB, 0x010E
XMP_TAG, PHOTOSHOP_TAG, PROFILE_TAG = 700, 34377, 34675
# Tags on how the pixels are stored in one TIFF, which are wrong in another file.
STRUCTURE = {
    254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291,
    292, 293, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 338,
    339, 340, 341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,
    37724,  # Photoshop's layers, which show the old picture
}  # fmt: skip
PHOTOSHOP = b"Photoshop 3.0\0"
IPTC_RESOURCE = 1028
RESOURCE_SIGNATURES = (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR")
STALE_RESOURCES = {1033, 1036}  # Photoshop's thumbnails show the old picture
MAX_SEGMENT = 65_533  # bytes in one segment of a JPEG
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"  # the MD5 in hexadecimal follows

# ImageMagick's names of blocks, and Pillow's.
RAW_PROFILES = {
    "exif": "exif", "app1": "exif", "xmp": "xmp", "icc": "icc_profile", "icm": "icc_profile",
    "iptc": "photoshop",
}  # fmt: skip

# Exceptions that a broken block raises; the photo is read without that block.
BROKEN = (ValueError, LookupError, OSError, struct.error, zlib.error, TypeError, SyntaxError)


class Damage(str):
    """A warning that part of a file is damaged; with `strict`, reading fails on it."""


@dataclass(frozen=True)
class Coding:
    """How a source was coded, to code the result in the same way."""

    tables: tuple[tuple[int, ...], ...] = ()  # a JPEG's quantisation tables
    subsampling: str | None = None
    progressive: bool = False
    lossless: bool = False  # a WebP


@dataclass(frozen=True)
class Metadata:
    """All metadata of a photo's file; blocks are stored as bytes."""

    format: str | None = None  # Pillow's name
    exif: bytes = b""  # with its prefix; orientation 1
    xmp: bytes = b""
    extended_xmp: bytes = b""  # a JPEG's further packet, whose MD5 `xmp` names
    photoshop: bytes = b""  # image resources, the IPTC record among them
    comment: str = ""
    text: tuple[png.Chunk, ...] = ()  # a PNG's text chunks, in order
    dpi: tuple[float, float] | None = None
    profiled: bool = False  # the source had an ICC profile; the pixels are sRGB
    coding: Coding = field(default_factory=Coding)


def read_metadata(
    image: Image.Image, file: BinaryIO, *, turned: bool, notes: list[str]
) -> Metadata:
    """The metadata of an opened image, corrected for pixels that are upright and in sRGB.

    If `turned`, the photo was stored on its side, so width and height are swapped. `notes` gets a
    sentence for each part of the file that the result cannot contain.
    """
    info = image.info
    metadata = Metadata(
        format="JPEG" if image.format == "MPO" else image.format,
        dpi=resolution(info.get("dpi", ())),
        profiled=bool(info.get("icc_profile")),
        coding=_coding(image, file),
    )
    for add in (_add_exif, _add_chunks, _add_segments, _add_xmp):
        with suppress(*BROKEN):
            metadata = add(metadata, image, file)
    return normalise(metadata, turned=turned, notes=notes)


def normalise(metadata: Metadata, *, turned: bool, notes: list[str]) -> Metadata:
    """The metadata for pixels that are upright, in sRGB, and alone in their file."""
    if metadata.exif:
        try:
            exif = ifd.normalise_exif(metadata.exif, turned=turned, converted=metadata.profiled)
        except BROKEN:
            exif = b""  # it could contain a wrong orientation
            notes.append(Damage("its EXIF is damaged and is not kept"))
        metadata = replace(metadata, exif=exif)
    packet, dropped = (
        xmp.drop_promises(xmp.set_upright(metadata.xmp)) if metadata.xmp else (b"", [])
    )
    named = xmp.extension_id(packet) if packet else ""
    extended = metadata.extended_xmp
    whole = hashlib.md5(extended, usedforsecurity=False).hexdigest() == named.lower()
    if named and whole:
        extended, more = xmp.drop_promises(extended)
        dropped += more
        if more:
            name = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper()
            packet = xmp.rename_extension(packet, name)
    notes += [say_lost(name) for name in dropped]
    if named and not whole:
        packet, extended = xmp.drop_extension(packet), b""
        notes.append(Damage("its extended XMP is incomplete and is not kept"))
    elif not named:
        extended = b""
    return replace(metadata, xmp=packet, extended_xmp=extended)


def say_lost(name: str) -> str:
    """The warning that data beside the picture is not in the result."""
    return f"its {name} {'are' if name.endswith('s') else 'is'} not kept"


def resolution(dpi: Any) -> tuple[float, float] | None:
    """Dots per inch if plausible; None otherwise, as for the 1 of a TIFF without a unit."""
    if len(dpi) == 2 and all(math.isfinite(d) and 1 < d < 65_536 for d in dpi):
        return float(dpi[0]), float(dpi[1])
    return None


def _add_exif(metadata: Metadata, image: Image.Image, file: BinaryIO) -> Metadata:
    """Add the EXIF block unchanged."""
    return replace(metadata, exif=_prefixed(image.info.get("exif", b"")))


def add_tags(
    metadata: Metadata, directory: ifd.Directory, order: str, notes: list[str]
) -> Metadata:
    """Add all of a TIFF's tags that do not describe how its pixels are stored."""
    kept = {tag: entry for tag, entry in directory.items() if tag not in STRUCTURE}
    packet, resources, iptc, profile = (
        entry.data if (entry := kept.pop(tag, None)) and isinstance(entry.data, bytes) else b""
        for tag in (XMP_TAG, PHOTOSHOP_TAG, IPTC, PROFILE_TAG)
    )
    if iptc and not any(number == IPTC_RESOURCE for number, _ in _resources(resources)):
        resources += _resource(IPTC_RESOURCE, iptc)
    if any(entry.data == {} for entry in kept.values()):
        notes.append(Damage("its EXIF is damaged and not all of it is kept"))
    kept = {tag: e for tag, e in kept.items() if e.kind in ifd.SIZES and e.kind < 16 and e.data}
    return replace(
        metadata,
        exif=ifd.pack_exif(kept, order) if kept else b"",
        xmp=packet,
        photoshop=without(resources, STALE_RESOURCES),
        profiled=metadata.profiled or bool(profile),
    )


def read_blocks(file: BinaryIO, notes: list[str]) -> dict[str, Any]:
    """The EXIF, XMP, ICC and Photoshop blocks of a PNG under Pillow's names of a JPEG's.

    They are in chunks of their own, or in ImageMagick's raw profiles, which count where the chunk
    is missing. `notes` gets a warning for each profile that is damaged.
    """
    found: dict[str, Any] = {}
    raw: dict[str, bytes] = {}
    for chunk in png.read_chunks(file, {b"eXIf", *png.TEXT}):
        keyword = png.keyword(chunk)
        if chunk[0] == b"eXIf":
            found["exif"] = _prefixed(chunk[1])
        elif keyword == png.XMP_KEYWORD:
            with suppress(*BROKEN):
                found["xmp"] = png.read_text(chunk)
        elif keyword.startswith(png.RAW):
            name = keyword.removeprefix(png.RAW).decode("latin-1").lower()
            try:
                block = png.read_raw_profile(chunk)
            except BROKEN:
                notes.append(Damage(f"its {keyword.decode('latin-1')} is damaged and is not kept"))
                continue
            if block.startswith(XMP_SEGMENT):
                name, block = "xmp", block.removeprefix(XMP_SEGMENT)
            if key := RAW_PROFILES.get(name):
                raw[key] = _prefixed(block) if key == "exif" else block
    return raw | found


def _add_chunks(metadata: Metadata, image: Image.Image, file: BinaryIO) -> Metadata:
    """Add a PNG's texts, and its Photoshop resources."""
    if image.format != "PNG":
        return metadata
    kept = tuple(chunk for chunk in png.read_chunks(file, png.TEXT) if not _is_block(chunk))
    resources = image.info.get("photoshop", b"")
    metadata = replace(metadata, text=kept, photoshop=without(resources, STALE_RESOURCES))
    for chunk in kept:
        if png.keyword(chunk) == b"Comment":
            metadata = replace(metadata, comment=png.read_text(chunk))
    return metadata


def _is_block(chunk: png.Chunk) -> bool:
    """Whether a text chunk is one that `read_blocks` reads."""
    name = png.keyword(chunk)
    return name == png.XMP_KEYWORD or (
        name.startswith(png.RAW)
        and name.removeprefix(png.RAW).decode("latin-1").lower() in RAW_PROFILES
    )


def _add_segments(metadata: Metadata, image: Image.Image, file: BinaryIO) -> Metadata:
    """Add a JPEG's comment and its Photoshop resources, which contain the IPTC record."""
    comments = [data for name, data in getattr(image, "applist", []) if name == "COM"]
    if not comments and (comment := image.info.get("comment")):
        comments = [comment]
    if comments:
        texts = (data if isinstance(data, str) else _text(data) for data in comments)
        metadata = replace(metadata, comment="\n".join(texts))
    named = _add_xmp(metadata, image, file).xmp
    start = EXTENDED_XMP + xmp.extension_id(named).upper().encode()
    pieces = [data[len(EXTENDED_XMP) + 32 :] for name, data in getattr(image, "applist", [])
              if name == "APP1" and data[:len(start)].upper() == start.upper()]  # fmt: skip
    pieces.sort(key=lambda piece: piece[4:8])  # the full length, the offset, the text
    metadata = replace(metadata, extended_xmp=b"".join(piece[8:] for piece in pieces))
    segments = [
        data.removeprefix(PHOTOSHOP)
        for name, data in getattr(image, "applist", [])
        if name == "APP13" and data.startswith(PHOTOSHOP)
    ]
    if segments:
        metadata = replace(metadata, photoshop=without(b"".join(segments), STALE_RESOURCES))
    return metadata


def _add_xmp(metadata: Metadata, image: Image.Image, file: BinaryIO) -> Metadata:
    packet = image.info.get("xmp") or metadata.xmp
    return replace(metadata, xmp=packet.encode() if isinstance(packet, str) else bytes(packet))


def _prefixed(block: bytes) -> bytes:
    return ifd.PREFIX + block.removeprefix(ifd.PREFIX) if block else b""


def _text(data: bytes) -> str:
    """Bytes of an unknown encoding as text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _coding(image: Image.Image, file: BinaryIO) -> Coding:
    """How a JPEG or a WebP was coded."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        names = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
        return Coding(
            tables=tuple(tuple(table) for _, table in sorted(image.quantization.items())),
            subsampling=names.get(JpegImagePlugin.get_sampling(image)),
            progressive=bool(image.info.get("progressive")),
        )
    if image.format == "WEBP":
        file.seek(0)
        return Coding(lossless=b"VP8L" in file.read(64) or _has_chunk(file, b"VP8L"))
    return Coding()


def _has_chunk(file: BinaryIO, name: bytes) -> bool:
    """Whether a RIFF file contains a chunk of that name."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        if head[:4] == name:
            return True
        file.seek(struct.unpack("<I", head[4:])[0] + 1 & ~1, 1)
    return False


def _resources(block: bytes) -> list[tuple[int, bytes]]:
    """Photoshop's image resources: number and bytes of each, header included."""
    found, at = [], 0
    while block[at : at + 4] in RESOURCE_SIGNATURES and at + 12 <= len(block):
        name = (block[at + 6] + 2) & ~1  # a Pascal string, padded to even
        size_at = at + 6 + name
        size = int.from_bytes(block[size_at : size_at + 4], "big")
        end = size_at + 4 + ((size + 1) & ~1)
        if end > len(block) + 1:  # cut short; the last padding is often missing
            break
        found.append((int.from_bytes(block[at + 4 : at + 6], "big"), block[at:end]))
        at = end
    return found


def _resource(number: int, data: bytes) -> bytes:
    """One image resource without a name."""
    head = b"8BIM" + struct.pack(">HHI", number, 0, len(data))  # two zeros: an empty name
    return head + data + bytes(len(data) % 2)


def without(block: bytes, numbers: set[int]) -> bytes:
    """Photoshop's image resources without those of these numbers."""
    return b"".join(whole for number, whole in _resources(block) if number not in numbers)


def only(block: bytes, numbers: set[int]) -> bytes:
    """Photoshop's image resources of these numbers only."""
    return b"".join(whole for number, whole in _resources(block) if number in numbers)


def read_resources(block: bytes) -> list[tuple[int, bytes]]:
    """The number and the content of each of Photoshop's image resources."""
    found = []
    for number, whole in _resources(block):
        size_at = 6 + ((whole[6] + 2) & ~1)
        (size,) = struct.unpack_from(">I", whole, size_at)
        found.append((number, whole[size_at + 4 : size_at + 4 + size]))
    return found


def iptc_record(block: bytes) -> bytes:
    """The IPTC record among Photoshop's image resources, on its own as in TIFF."""
    return next((data for number, data in read_resources(block) if number == IPTC_RESOURCE), b"")

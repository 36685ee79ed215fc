"""Options to code a JPEG like its source: quantisation, subsampling, scan order, segments."""

import re
import struct
from typing import Any

from condiff.images.metadata import MAX_SEGMENT, PHOTOSHOP, Metadata

MAX_XMP = MAX_SEGMENT - 29  # a segment begins with the name of its content
PADDING = re.compile(rb"\s{64,}")  # room that an XMP packet leaves for editing in place

# ITU T.81, table K.2 (chroma), and the sum of K.1 (luma); libjpeg scales them by its quality.
LUMA_SUM = 3688
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
) + (99,) * 32  # fmt: skip


def estimate_scale(table: tuple[int, ...]) -> float:
    """A luma table's step sizes relative to those of quality 50."""
    return sum(table) / LUMA_SUM


def chroma_table(luma: tuple[int, ...]) -> tuple[int, ...]:
    """The chroma table of the same quality, for a source that had no chroma."""
    scale = estimate_scale(luma)
    return tuple(max(1, min(255, round(step * scale))) for step in CHROMA)


def add_options(options: dict[str, Any], metadata: Metadata, *, quality: int | None) -> None:
    """Add Pillow's options for a JPEG like the source; a `quality` replaces its tables."""
    coding = metadata.coding
    options["subsampling"] = (coding.subsampling if len(coding.tables) > 1 else None) or "4:4:4"
    if coding.progressive:
        options["progressive"] = True
    luma = coding.tables[0] if coding.tables else ()
    if quality is None and len(luma) == 64 and max(map(max, coding.tables)) < 256:
        # The source's own luma steps, so that the lightness that is kept is quantised once.
        del options["quality"]
        chroma = coding.tables[1] if len(coding.tables) > 1 else chroma_table(luma)
        options["qtables"] = [list(luma), list(chroma)]
    if len(options.get("exif", b"")) > MAX_SEGMENT:
        del options["exif"]
    if len(options.get("xmp", b"")) > MAX_XMP:
        options["xmp"] = PADDING.sub(b"\n", options["xmp"])
        if len(options["xmp"]) > MAX_XMP:
            del options["xmp"]
    if metadata.comment:
        options["comment"] = metadata.comment.encode()[:MAX_SEGMENT]
    if 0 < len(metadata.photoshop) <= MAX_SEGMENT - len(PHOTOSHOP):
        segment = PHOTOSHOP + metadata.photoshop
        options["extra"] = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment

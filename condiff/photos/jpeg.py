"""JPEG properties that Pillow does not report: coding, missing pixels, data after the picture.

ITU T.81 (ISO/IEC 10918-1), annex B: markers.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from condiff.photos.metadata import Damage
from condiff.photos.opening import JPEG_REMARKS, caught_stderr, open_image
from condiff.photos.photo import Unreadable, to_array

START, END = b"\xff\xd8", b"\xff\xd9"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
# Codings that libjpeg does not read, by frame marker.
KINDS = {
    0xC3: "lossless JPEG", 0xC5: "hierarchical JPEG", 0xC6: "hierarchical JPEG",
    0xC7: "hierarchical JPEG", 0xCB: "lossless JPEG", 0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG", 0xCF: "hierarchical JPEG", 0xF7: "JPEG-LS",
}  # fmt: skip
FURTHER = "further pictures"  # of unknown purpose
MAX_MISSING = 0.05  # of the pixels: more is not "the last bytes"
# Data that may follow the picture, and bytes that identify it.
FOLLOWERS = {
    "motion video": (b"MotionPhoto_Data", b"ftypmp42", b"ftypisom", b"ftypmp41"),
    "HDR gain map": (
        b"http://ns.adobe.com/hdr-gain-map/",
        b"ns.apple.com/HDRGainMap",
        b"urn:iso:std:iso:ts:21496:-1",
    ),
}


def read_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The marker, position and content of each segment; entropy-coded data is skipped."""
    at = 2
    while at >= 0 and at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF, *range(0xD0, 0xD8)):
            at = data.find(b"\xff", at + 1)
            continue
        if data[at + 1] == 0xD9:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield data[at + 1], at + 4, data[at + 4 : at + 2 + length]
        at += 2 + length


def find_frame(data: bytes) -> tuple[str, int, tuple[int, int]] | None:
    """Coding, bits, width and height of a JPEG that 8-bit libjpeg does not read, else None."""
    for marker, _, content in read_segments(data):
        if marker in FRAMES and len(content) >= 6:
            bits, height, width = struct.unpack_from(">BHH", content)
            kind = KINDS.get(marker, f"JPEG {bits}-bit" if bits != 8 else "")
            return (kind, bits, (width, height)) if kind else None
    return None


def find_damage(file: BinaryIO) -> list[Damage]:
    """libjpeg's warnings on damaged data, found by decoding at a small size."""
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    with caught_stderr(JPEG_REMARKS) as caught, suppress(cv2.error):
        cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    remarks = (line.decode("latin-1").strip().rstrip(".") for line in caught)
    return [Damage(f"its pixels are damaged (libjpeg: {remark})") for remark in remarks]


def with_8_bits(data: bytes) -> bytes:
    """The file relabelled as baseline, so that Pillow opens it to read metadata."""
    for marker, at, _ in read_segments(data):
        if marker in FRAMES:
            return data[: at - 3] + b"\xc0" + data[at - 2 : at] + b"\x08" + data[at + 1 :]
    return data


def mend(data: bytes) -> tuple[bytes, str]:
    """Complete a truncated JPEG; returns it with a warning, Unreadable if too much is missing.

    The missing part is where two endings, nothing and noise, give different pixels.
    """
    whole = data.rstrip(b"\xff")
    noise = np.random.default_rng(0).integers(0, 255, 1 << 14, np.uint8).tobytes()
    first = _decode(whole + END)
    second = _decode(whole + noise + END)
    share = 1.0
    if first is not None and second is not None and _scans_are_complete(whole):
        pixels, unit = first
        share = _missing(pixels != second[0], unit) / (pixels.shape[0] * pixels.shape[1])
    if share > MAX_MISSING:
        much = f"{share:.0%} of its pixels are missing" if share < 1 else "much of it is missing"
        raise Unreadable(f"it is cut short, and {much}; get a whole copy")
    if share == 0:
        return whole + END, "its file lacks the last bytes; no pixel is missing"
    return whole + END, f"its file is cut short: the last {share:.1%} of its pixels are missing"


def _decode(data: bytes) -> tuple[NDArray, int] | None:
    """The pixels, and the height of the units in which they are coded."""
    try:
        with open_image(io.BytesIO(data), ("JPEG", "MPO")) as image:
            unit = 8 * max((layer[2] for layer in getattr(image, "layer", ())), default=1)
            return to_array(image if image.mode == "RGB" else image.convert("RGB")), unit
    except (OSError, SyntaxError, ValueError):
        return None


def _missing(different: NDArray, unit: int) -> int:
    """How many pixels follow the first one that differs, in coding order."""
    pixels: NDArray = np.asarray(different.any(axis=2))
    height, width = pixels.shape
    rows = np.flatnonzero(pixels.any(axis=1))
    if not len(rows):
        return 0
    top = (int(rows[0]) + 1) // unit * unit  # chroma blends one row into the units above
    left = int(np.flatnonzero(pixels[top : top + unit].any(axis=0))[0])
    below = max(0, height - top - unit)
    return (width - left) * (height - top - below) + width * below


def _scans_are_complete(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG contain every coefficient in full precision."""
    components: set[int] = set()
    done: set[tuple[int, int]] = set()
    for marker, _, content in read_segments(data):
        if marker in FRAMES and marker not in (0xC2, 0xCA):
            return True
        if marker in FRAMES:
            components = {content[6 + 3 * n] for n in range(content[5]) if 6 + 3 * n < len(content)}
        elif marker == 0xDA and content and len(content) >= 4 + 2 * content[0]:
            count = content[0]
            start, end, approximation = content[1 + 2 * count : 4 + 2 * count]
            if approximation & 15 == 0:
                own = {content[1 + 2 * n] for n in range(count)}
                done |= {(c, k) for c in own for k in range(start, min(end, 63) + 1)}
    return bool(components) and all((c, k) in done for c in components for k in range(64))


def find_followers(file: BinaryIO) -> list[str]:
    """Names of the data after the picture, as phones and cameras add: video, gain map."""
    file.seek(0)
    data = file.read()
    scan = next((at for marker, at, _ in read_segments(data) if marker == 0xDA), len(data))
    end = data.find(END, scan)
    if end < 0 or end + 64 > len(data):
        return []
    found = [
        name for name, starts in FOLLOWERS.items() if any(data.find(s, end) > 0 for s in starts)
    ]
    further = data.find(b"\xff\xd8\xff", end) > 0 and not _are_previews(file)
    return found or ([FURTHER] if further else [])


def _are_previews(file: BinaryIO) -> bool:
    """Whether the further pictures of a JPEG (CIPA DC-007) are only smaller copies of the first."""
    file.seek(0)
    try:
        with open_image(file, ("JPEG", "MPO")) as image:
            entries = getattr(image, "mpinfo", {}).get(0xB002, [])[1:]
            return bool(entries) and all("Thumb" in e["Attribute"]["MPType"] for e in entries)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError):
        return False

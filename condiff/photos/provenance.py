"""Provenance in a result's metadata: the model's name, seed and settings."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from condiff._version import __version__
from condiff.photos import png, xmp
from condiff.photos.metadata import Metadata
from condiff.photos.opening import open_image, without_pillow_limit
from condiff.photos.reading import BROKEN

# IPTC's term for a photo with additions by a trained model: here, the colours.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
# For a picture that a model generated completely.
DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
KEYWORD = "condiff"  # of the PNG text chunk
OWN_RESULT = "its colours were made by condiff"  # why a photo is skipped


def add_provenance(
    metadata: Metadata,
    *,
    model: str,
    seed: int,
    settings: Mapping[str, object],
    source_type: str = SOURCE_TYPE,
) -> Metadata:
    """The metadata with DigitalSourceType, model, seed and settings in XMP and in a PNG's text.

    It contains neither time nor path, so the same seed gives the same bytes.
    """
    note = {"version": __version__, "model": model, "seed": seed, **settings}
    properties = {
        "Iptc4xmpExt:DigitalSourceType": source_type,
        "condiff:Version": __version__,
        "condiff:Model": model,
        "condiff:Seed": str(seed),
        "condiff:Settings": json.dumps(settings),
    }
    others = tuple(chunk for chunk in metadata.text if png.keyword(chunk) != KEYWORD.encode())
    return replace(
        metadata,
        xmp=xmp.merge_properties(metadata.xmp, properties),
        text=(*others, png.text_chunk(KEYWORD, json.dumps(note))),
    )


def is_own_result(metadata: Metadata) -> bool:
    """Whether condiff made the picture, by the note in its XMP."""
    return _is_own(metadata.xmp)


def is_own_file(path: Path) -> bool:
    """Whether condiff made a file; reads only headers, False if they cannot be read."""
    try:
        with open(path, "rb") as file:
            if file.read(len(png.SIGNATURE)) == png.SIGNATURE:
                texts = png.read_chunks(file, {b"iTXt"})
                return any(png.keyword(c) == png.XMP_KEYWORD and _is_own(c[1]) for c in texts)
            file.seek(0)
            formats = ("JPEG", "WEBP", "TIFF", "AVIF")
            with without_pillow_limit(), open_image(file, formats) as image:
                packet = image.info.get("xmp", b"")
    except BROKEN:
        return False
    return _is_own(packet.encode() if isinstance(packet, str) else bytes(packet))


def _is_own(packet: bytes) -> bool:
    space = xmp.NAMESPACES["condiff"]
    return any(space.encode(codec).lstrip(b"\xff\xfe") in packet for codec in xmp.CODECS)

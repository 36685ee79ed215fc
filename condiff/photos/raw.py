"""Develops cameras' raw files with LibRaw, if rawpy is installed."""

from typing import BinaryIO

from condiff.arrays import Pixels
from condiff.errors import install_command
from condiff.files import reason_of
from condiff.photos.opening import caught_stderr
from condiff.photos.photo import Unreadable

# Raw formats that are not TIFFs, by their first bytes: offset, bytes, name.
STARTS = (
    (0, b"FUJIFILMCCD-RAW", "RAF"), (0, b"FOVb", "X3F"), (0, b"\0MRM", "MRW"),
    (6, b"HEAPCCDR", "CRW"), (4, b"ftypcrx ", "CR3"), (0, b"IIRO", "ORF"), (0, b"IIRS", "ORF"),
    (0, b"MMOR", "ORF"), (0, b"IIU\0", "RW2"), (8, b"IIII", "IIQ"), (8, b"MMMM", "IIQ"),
    (8, b"CR\2", "CR2"),
)  # fmt: skip
GAMMA = (2.4, 12.92)  # of sRGB: the exponent, and the slope of the dark end
DEVELOP = "develop it, in darktable or RawTherapee for example, and save a TIFF"


def find_raw(head: bytes) -> str | None:
    """The raw format of a file with these first 16 bytes; None for others and for TIFFs."""
    return next((name for at, start, name in STARTS if head[at:].startswith(start)), None)


def develop(file: BinaryIO, name: str, max_pixels: int) -> Pixels:
    """(H,W,3) uint16 in sRGB, upright, with the camera's white balance.

    Raises Unreadable if rawpy is not installed or LibRaw does not support the camera.
    """
    try:
        import rawpy
    except ImportError:
        raise Unreadable(
            f"it is a camera's raw file ({name}); {DEVELOP}, or let condiff do so:"
            f" {install_command('raw')}"
        ) from None
    file.seek(0)
    with caught_stderr():
        try:
            with rawpy.imread(file) as raw:
                size = raw.sizes.iwidth * raw.sizes.iheight
                if not 0 < size <= max_pixels or raw.sizes.raw_width * raw.sizes.raw_height > (
                    4 * max_pixels
                ):
                    raise Unreadable(
                        f"it is a raw file of {size / 1e6:.4g} megapixels, above the limit of"
                        f" {max_pixels / 1e6:.4g}; raise it with --max-pixels {size}"
                    )
                return raw.postprocess(
                    use_camera_wb=True,
                    output_bps=16,
                    output_color=rawpy.ColorSpace.sRGB,
                    gamma=GAMMA,
                )
        except (rawpy.LibRawError, ValueError, TypeError, RuntimeError) as error:
            why = reason_of(error).removeprefix("b'").removesuffix("'")
            raise Unreadable(
                f"it is a camera's raw file ({name}) that LibRaw does not read ({why}); {DEVELOP}"
            ) from None

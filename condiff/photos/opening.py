"""Opens files by Pillow: without pixel limit and warnings, with optional decoders."""

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from PIL import Image

from condiff.errors import install_command
from condiff.photos.photo import Unreadable

# Formats for which Pillow would start a program (EPS, WMF), which condiff reads itself (PSD), or
# of which Pillow would read a single plane as a grey picture (FITS).
NOT_BY_PILLOW = {"EPS", "WMF", "PSD", "FITS"}

# Messages on damage that LibRaw and jxrlib always write to stderr.
REMARKS: tuple[bytes, ...] = (b"data corrupted at", b"Unexpected end of file", b"WMPTag")
JPEG_REMARKS = (b"Corrupt JPEG", b"Premature end of JPEG", b"Invalid SOS parameters")

_pillow_limit, _limit, _users = threading.Lock(), Image.MAX_IMAGE_PIXELS, 0
_stderr = threading.Lock()

# Pillow's warnings on metadata; those that matter are in a photo's info and in errors.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Switch off Pillow's pixel limit in all threads: it may be lower than the caller's."""
    global _users, _limit
    with _pillow_limit:
        if _users == 0:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _users += 1
    try:
        yield
    finally:
        with _pillow_limit:
            _users -= 1
            if _users == 0:
                Image.MAX_IMAGE_PIXELS = _limit


def open_image(file: BinaryIO, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open by Pillow, without formats for which it would start another program."""
    if formats is None:
        Image.init()
        formats = tuple(name for name in Image.ID if name not in NOT_BY_PILLOW)
    return Image.open(file, formats=formats)


def register_heif() -> None:
    """Let Pillow open HEIC by pillow-heif; Unreadable if that is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise Unreadable(f"it is HEIC, which needs a decoder; {install_command('heif')}") from None
    pillow_heif.register_heif_opener(thumbnails=False)


def register_jxl() -> None:
    """Let Pillow open JPEG XL by its plugin; Unreadable if that is not installed."""
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        raise Unreadable(
            f"it is JPEG XL, which needs a decoder; {install_command('jxl')}"
        ) from None


@contextmanager
def caught_stderr(remarks: tuple[bytes, ...] = REMARKS) -> Iterator[list[bytes]]:
    """Collect lines with these words from stderr in a list, filled at the end of the block.

    Other lines are written to stderr at the end of the block.
    """
    found: list[bytes] = []
    with _stderr, ExitStack() as opened:
        try:
            caught = opened.enter_context(tempfile.TemporaryFile())
            own = os.dup(2)
        except OSError:  # a closed stderr, or no room for a file
            yield found
            return
        os.dup2(caught.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(own, 2)
            caught.seek(0)
            lines = list(caught)
            found += [line for line in lines if any(words in line for words in remarks)]
            if kept := [line for line in lines if line not in found]:
                os.write(own, b"".join(kept))
            os.close(own)

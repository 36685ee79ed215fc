"""Where files are written: checked before the work, and there completely or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from condiff.errors import ImageError
from condiff.photos.formats import FORMATS

EXISTS = "it already exists; use --force to replace it"


def check_target(target: Path, force: bool = False, *, format: str | None = None) -> None:
    """Raise ImageError if a file cannot be written there; to be called before the work.

    Without `format` the suffix is to be that of an image format.
    """
    why = None
    try:
        if format is None and target.suffix.lower() not in FORMATS:
            ending = f"the suffix {target.suffix}" if target.suffix else "a name without a suffix"
            why = f"{ending} means no known format; use .jpg, .png, .webp, .avif or .tif"
        elif target.is_dir():
            why = "it is a folder; give a file name"
        elif os.path.lexists(target) and not force:
            why = EXISTS
        elif target.exists() and not target.is_file():  # /dev/null must not become a photo
            why = "it is no regular file; give another name"
        elif not target.parent.is_dir():
            why = "its folder is missing; create it first"
        elif not os.access(target.parent, os.W_OK | os.X_OK):
            why = "no permission in its folder; give another one"
    except (OSError, ValueError) as error:  # a name too long, a NUL in it
        raise unwritten(str(target), error) from None
    if why:
        raise ImageError(f"cannot write {target}: {why}")


def unwritten(name: str, error: BaseException) -> ImageError:
    """The error that a file of that name could not be written, and why."""
    if isinstance(error, FileExistsError):
        return ImageError(f"cannot write {name}: {EXISTS}")
    return ImageError(f"cannot write {name}: {reason_of(error)}; try another place or format")


@contextmanager
def publish(target: Path, force: bool) -> Iterator[BinaryIO]:
    """A temporary file beside the target; renamed to it at the end, removed if anything fails.

    Raises FileExistsError if the target is there and not `force`, OSError where the disk refuses.
    """
    target = target.resolve() if target.is_symlink() else target
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # left by a killed process that had the same number
    try:
        with open(part, "xb") as file:
            yield file
        if force:
            part.replace(target)
        else:
            _link(part, target)
    finally:
        part.unlink(missing_ok=True)


def _link(part: Path, target: Path) -> None:
    """Rename `part` to `target`; FileExistsError if that exists, even since this instant."""
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # no hard links here (FAT): claim it
        part.replace(target)


def reason_of(error: BaseException) -> str:
    """The system's or Pillow's description of a failure, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())

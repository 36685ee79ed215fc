"""One photo from file to file: its result complete in place, or the reason why not."""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from condiff.batch.journal import Entry
from condiff.batch.plan import Job
from condiff.errors import CondiffError
from condiff.photos.photo import Photo
from condiff.photos.provenance import is_own_result
from condiff.photos.reading import read_image, read_photo
from condiff.photos.writing import write_photo

if TYPE_CHECKING:
    from condiff.batch.storage import Blob

OWN_RESULT = "its colours were made by condiff"
NO_MEMORY = "not enough memory even alone; scale it down, or give a smaller --size or --device cpu"


@dataclass(frozen=True)
class HintPicture:
    """A transparent picture of strokes, and the SHA-256 of its file."""

    image: Image.Image
    digest: str


Transform = Callable[[Photo, int, HintPicture | None], Photo]  # (photo, seed, hints) -> result
Read = Callable[[Path], Photo]
Room = Callable[[Photo], AbstractContextManager[None]]
Publish = Callable[[Path, Job], None]


def publish(part: Path, job: Job) -> None:
    """Rename the finished file to the job's target, after its bytes are on the disk."""
    assert isinstance(job.target, Path)
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    job.target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, job.target)


def process_photo(
    job: Job,
    part: Path,
    transform: Transform,
    *,
    seed: int,
    read: Read = read_photo,
    quality: int | None = None,
    touch: bool = False,
    room: Room = lambda photo: nullcontext(),
    publish: Publish = publish,
) -> Entry:
    """Read a photo, transform it, write it to `part`, publish that; the entry says how it went.

    `room(photo)` is a context that the work is done in, to wait for free memory. Failures are
    entries with a reason, NO_MEMORY for MemoryError; what `room` raises passes through. A result
    keeps its photo's date unless `touch`. A photo that condiff coloured is skipped.
    """
    assert isinstance(job.source, Path)
    size, mtime_ns, digest, hints, reason = -1, 0, "", "", ""
    try:
        with suppress(OSError):  # read_photo says in a sentence what is wrong
            status = job.source.stat()
            size, mtime_ns = status.st_size, status.st_mtime_ns
            digest = digest_of(job.source)
        photo = read(job.source)
        if is_own_result(photo.metadata):
            return Entry(job.name, "skipped", OWN_RESULT, seed, size, mtime_ns, digest)
        strokes = None
        if job.hints is not None:
            hints = digest_of(job.hints)
            strokes = HintPicture(read_image(job.hints), hints)
        with room(photo):
            result = transform(photo, seed, strokes)
            write_photo(result, part, quality=quality, force=True)
            if not touch and mtime_ns:
                os.utime(part, ns=(mtime_ns, mtime_ns))
        publish(part, job)
    except MemoryError:
        reason = NO_MEMORY
    except CondiffError as error:
        text = str(error).removeprefix(f"cannot read {job.source}: ")
        reason = text.replace(str(part), str(job.target))
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename2 or error.filename or job.source}"
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    outcome: Literal["done", "failed"] = "failed" if reason else "done"
    return Entry(job.name, outcome, reason, seed, size, mtime_ns, digest, hints)


def digest_of(path: "Path | Blob") -> str:
    """SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()

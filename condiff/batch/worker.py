"""One photo from file to file: a complete result, or the reason of a failure.

A grey result is a failure.
"""

import errno
import hashlib
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from condiff.batch.journal import Entry, Outcome, part_name
from condiff.batch.plan import Job, hash_name
from condiff.batch.storage import Storage
from condiff.errors import CondiffError, ImageError, StorageError
from condiff.files import digest_of
from condiff.photos.formats import MAX_PIXELS
from condiff.photos.photo import Photo
from condiff.photos.provenance import OWN_RESULT, is_own_file
from condiff.photos.reading import read_image, read_photo
from condiff.photos.writing import check_photo, losses, write_photo
from condiff.pipelines.colorizing import ColorizeSettings, is_blank, is_grey, note_making
from condiff.pipelines.pipeline import Pipeline

NO_MEMORY = "not enough memory even alone; scale it down, or give a smaller --size or --device cpu"


@dataclass(frozen=True)
class Pictures:
    """The pictures that belong to one photo: strokes of colour on transparency, a mask, or None.

    `digest` is the SHA-256 of the file of strokes.
    """

    hints: Image.Image | None
    mask: Image.Image | None
    digest: str = ""


Transform = Callable[[Photo, int, Pictures | None], Photo]  # (photo, seed, pictures) -> result
Read = Callable[[Path], Photo]
Room = Callable[[Photo], AbstractContextManager[None]]


def build_transform(pipeline: Pipeline, settings: ColorizeSettings) -> Transform:
    """The function (photo, seed, pictures) -> result; it raises ImageError for a grey result."""

    def transform(photo: Photo, seed: int, pictures: Pictures | None) -> Photo:
        edits, own = settings.edits, settings
        if pictures and pictures.mask is not None:
            edits = replace(edits, mask=pictures.mask)
            own = replace(settings, edits=edits)
        if pictures and pictures.hints is not None:
            edits = replace(edits, hints=pictures.hints)
        (result,) = pipeline.run(photo, config=settings.sampling, seed=seed, edits=edits)
        wanted = edits.saturation != 0 and edits.mask is None
        if wanted and is_grey(result.pixels) and not is_blank(photo.pixels):
            raise ImageError("the model gave it no colour; try another --size")
        strokes = {"strokes": pictures.digest[:16]} if pictures and pictures.digest else None
        return note_making(result, pipeline, own, hints=strokes)

    return transform


def process_photo(
    job: Job,
    source: Storage,
    out: Storage,
    transform: Transform,
    *,
    seed: int,
    read: Read = read_photo,
    quality: int | None = None,
    touch: bool = False,
    room: Room = lambda photo: nullcontext(),
) -> Entry:
    """Read a photo, transform it, publish the result; returns an entry with the outcome.

    `room(photo)` is a context that the work is done in, to wait for free memory. Failures are
    entries with a reason, NO_MEMORY for MemoryError; errors of `room` pass through. A result
    keeps its photo's date unless `touch`. A photo that condiff coloured is skipped. Raises
    StorageError where the disk is full, which is not the photo's failure.
    """
    size, version, digest, hints, reason = -1, 0, "", "", ""
    outcome: Outcome = "failed"
    warnings: tuple[str, ...] = ()
    part = part_name(hash_name(job.name), PurePosixPath(job.target).suffix)
    path, made = Path(), None
    try:
        with source.as_file(job.name) as path:
            with suppress(OSError):  # read_photo reports it in a sentence
                status = source.stat(job.name)
                size, version = status.size, status.version
                digest = digest_of(path)
            if is_own_file(path):
                return Entry(job.name, "skipped", OWN_RESULT, seed, size, version, digest)
            photo = read(path)
            warnings = tuple(map(str, photo.info.get("warnings", ())))
            check_photo(photo, PurePosixPath(job.target).suffix, out.locate(job.target))
            hints = digest_pictures(job)
            pictures = _read_pictures(job, photo) if hints else None
            with out.publish(job.target, part=part) as made:
                with room(photo):
                    result = transform(photo, seed, pictures)
                    if lost := losses(result, made.suffix):
                        warnings += (f"this format has no place for {lost}",)
                    write_photo(result, made, quality=quality, force=True)
                if not touch and source.path_of(job.name):
                    date = path.stat().st_mtime_ns
                    with suppress(OSError):  # the result counts, even if the disk refuses its date
                        os.utime(made, ns=(date, date))
        outcome = "done"
    except MemoryError:
        reason = NO_MEMORY
    except CondiffError as error:
        if _is_full(error.__context__):
            raise _full(out) from error
        text = str(error).removeprefix(f"cannot read {path}: ")
        reason = text.replace(str(made), out.locate(job.target)) if made else text
    except OSError as error:
        if _is_full(error):
            raise _full(out) from error
        where = error.filename2 or error.filename or source.locate(job.name)
        reason = f"{error.strerror or error}: {where}"
    return Entry(job.name, outcome, reason, seed, size, version, digest, hints, warnings)


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _full(out: Storage) -> StorageError:
    return StorageError(
        f"There is no room left in {out}: make some, and the same command resumes the batch."
    )


def _read_pictures(job: Job, photo: Photo) -> Pictures:
    most = max(MAX_PIXELS, math.prod(photo.size))  # they may be as large as the photo
    strokes, mask = (
        None if path is None else read_image(path, max_pixels=most)
        for path in (job.hints, job.mask)
    )
    return Pictures(strokes, mask, digest_of(job.hints) if job.hints else "")


def digest_pictures(job: Job) -> str:
    """SHA-256 of the pictures that belong to a photo; empty if there are none."""
    digests = [digest_of(path) if path else "" for path in (job.hints, job.mask)]
    if not digests[1]:
        return digests[0]
    return hashlib.sha256(":".join(digests).encode()).hexdigest()

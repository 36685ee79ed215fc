"""Frames as photos in a folder: steady colours at their own depth and format."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from condiff.arrays import Pixels, Plane
from condiff.color.lab import join_chroma, lightness
from condiff.errors import FilmError, PagesError
from condiff.files import EXISTS, find_shared, reason_of
from condiff.photos.formats import FORMATS, is_photo
from condiff.photos.metadata import Damage
from condiff.photos.opening import open_image
from condiff.photos.photo import Photo, to_8_bits, with_pixels
from condiff.photos.reading import orientation, read_photo
from condiff.photos.writing import losses, write_photo
from condiff.resize import shrink_short_side
from condiff.video.coloring import Coloring
from condiff.video.film import Progress
from condiff.video.motion import Guide, guide_size
from condiff.video.parts import SEGMENT, Parts
from condiff.video.reading import SEEN
from condiff.video.steady import Colored, Steady, Strokes

PLAIN = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")  # formats with the photo's size in the header


@dataclass(frozen=True)
class PhotoFrame:
    """A frame stored as a photo."""

    path: Path
    photo: Photo

    @cached_property
    def guide(self) -> Guide:
        """L* (h,w) uint8 at the size for motion estimation."""
        size = guide_size(*self.photo.size)
        small = cv2.resize(to_8_bits(self.photo.pixels), size, interpolation=cv2.INTER_AREA)
        return np.rint(lightness(small) * np.float32(2.55)).astype(np.uint8)

    def picture(self) -> Pixels:
        """The photo with its short side at most 512."""
        return shrink_short_side(to_8_bits(self.photo.pixels), SEEN)


def is_frames(source: str) -> bool:
    """Whether IN is a folder of frames or a glob, not a film."""
    return Path(source).is_dir() or (not Path(source).exists() and glob.has_magic(source))


def list_frames(source: str) -> list[Path]:
    """The photos of a folder or glob, in natural order: 9.png before 10.png."""
    folder = Path(source)
    if folder.is_dir():
        paths = [*folder.iterdir()]
    else:  # "roll [1]/*.tif": an existing folder is taken literally
        parent = glob.escape(str(folder.parent)) if folder.parent.is_dir() else folder.parent
        paths = [Path(p) for p in glob.glob(os.path.join(parent, folder.name))]
    found = [p for p in paths if is_photo(p.name) and not p.name.startswith(".") and not p.is_dir()]
    if not found:
        raise FilmError(f"{source} has no frames: give a folder or glob of photos")
    return sorted(found, key=lambda path: (_natural(path.name), str(path)))


def _natural(name: str) -> list[Any]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def read_frame(path: Path) -> Photo:
    """The photo of a frame. Raises ImageError if it cannot be read, FilmError for several pages."""
    try:
        return read_photo(path)
    except PagesError:
        raise FilmError(
            f"{path} has several pages or frames: save each as a file of its own"
        ) from None


def check_sizes(paths: Sequence[Path], size: tuple[int, int]) -> None:
    """Raise FilmError for the first frame with another size than (width, height) in its header.

    Headers that Pillow does not read are checked later.
    """
    for path in paths:
        try:
            with open(path, "rb") as file, open_image(file, PLAIN) as image:
                found = image.size[::-1] if orientation(image) > 4 else image.size
        except (OSError, ValueError, SyntaxError):
            continue
        if found != size:
            raise FilmError(
                f"{path} is {found[0]}x{found[1]}, but {paths[0].name} is {size[0]}x{size[1]}: "
                "give frames of one size"
            )


def plan_targets(paths: Sequence[Path], out: Path) -> list[Path]:
    """A file in the folder `out` for each frame, .png if its format is not written.

    Raises FilmError if two frames would share a file, or a result would replace its frame.
    """
    targets = [
        out / (path.name if path.suffix.lower() in FORMATS else f"{path.stem}.png")
        for path in paths
    ]
    if len(set(targets)) < len(targets):
        raise FilmError(f"two frames would have the same file in {out}: rename one of them")
    for path, _ in find_shared(paths, targets):
        raise FilmError(f"a result in {out} would replace the frame {path}: give another folder")
    return targets


def find_notes(first: Photo, target: Path) -> Iterator[str]:
    """Sentences on what results lack of the first frame; damage is reported for each frame."""
    for warning in first.info.get("warnings", ()):
        if not isinstance(warning, Damage):
            yield f"its first frame: {warning}"
    if lost := losses(first, target.suffix):
        yield f"{target.suffix} has no place for {lost}"


def begin_frames(
    paths: Sequence[Path],
    targets: Sequence[Path],
    parts: Parts,
    coloring: Coloring,
    *,
    force: bool,
) -> bool:
    """Create the folder of the results; returns whether an earlier run is resumed.

    Raises FilmError for an existing frame that is not of that run, ConfigError for a run that was
    begun with other settings.
    """
    there = next((target for target in targets if target.exists()), None)
    if there is not None and not force and parts.seed() is None:
        raise FilmError(f"cannot write {there}: {EXISTS}")
    files = [[path.name, path.stat().st_size] for path in (paths[0], paths[-1])]
    settings = {"frames": [len(paths), *files], **coloring.describe()}
    resumed = parts.begin(settings, force=force)
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FilmError(f"cannot make {targets[0].parent}: {reason_of(error)}") from error
    return resumed


def color_frames(
    paths: Sequence[Path],
    targets: Sequence[Path],
    parts: Parts,
    coloring: Coloring,
    *,
    provenance: bool = True,
) -> Iterator[Progress]:
    """Colour and write all frames missing from an earlier run; each keeps its L*.

    Raises ImageError for a frame that cannot be read or written, FilmError for another size.
    """
    number, first, key, before = parts.resume()
    faults = [*before]
    done = start = first
    shots = key.shot if key else 0
    for item in _engine(coloring).run(_read(paths[first:]), key):
        if item.key and done - start >= SEGMENT:
            number += 1
            parts.save(number, done, item.key, targets[start:done], faults)
            start = done
        _write(item, targets[done], coloring, provenance=provenance)
        faults += find_faults(item.frame)
        done += 1
        shots = item.key.shot if item.key else shots
        yield Progress(done, len(paths))
    parts.finish(done, shots, faults, number=number, made=targets[start:])


def _read(paths: Sequence[Path]) -> Iterator[PhotoFrame]:
    size = None
    for path in paths:
        photo = read_frame(path)
        if size is not None and photo.size != size:
            raise FilmError(
                f"{path} is {photo.size[0]}x{photo.size[1]}, but the frame before is "
                f"{size[0]}x{size[1]}: give frames of one size"
            )
        size = photo.size
        yield PhotoFrame(path, photo)


def find_faults(frame: PhotoFrame) -> Iterator[str]:
    """A sentence for each damage of a frame's file."""
    for warning in frame.photo.info.get("warnings", ()):
        if isinstance(warning, Damage):
            yield f"{frame.path.name}: {warning}"


def _engine(coloring: Coloring) -> Steady[PhotoFrame]:
    def sample(frame: PhotoFrame, strokes: Strokes | None) -> Plane:
        picture = None if strokes is None else Image.fromarray(strokes)
        return coloring.sample(frame.picture(), frame.guide.shape[::-1], picture)

    def strokes_of(frame: PhotoFrame, shot: int) -> Strokes | None:
        return coloring.strokes_of(shot, frame.guide.shape[::-1])

    return Steady(sample, strokes_of, every=coloring.every)


def _write(
    item: Colored[PhotoFrame], target: Path, coloring: Coloring, *, provenance: bool
) -> None:
    photo = item.frame.photo
    result = with_pixels(photo, join_chroma(photo.pixels, item.chroma), seed=coloring.seed)
    if provenance:
        result = coloring.note_making(result)
    write_photo(result, target, force=True)

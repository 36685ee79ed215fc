"""The plan of a batch: which photo of a folder goes where. Making it writes nothing."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import chain
from pathlib import Path, PurePosixPath

from condiff.batch.storage import EXCLUDED, Storage
from condiff.checks import as_int_within, as_tuple
from condiff.errors import ConfigError, StorageError, install_command
from condiff.files import MAX_NAME, find_shared, shorten_stem
from condiff.photos.formats import FORMATS, RAW, is_photo
from condiff.platforms import with_slashes

UNWRITTEN_SUFFIX = ".png"  # of a result where the photo's own format cannot be written
NOT_A_PHOTO = "not a photo by its suffix"
# Formats that need a package: what a file is, the package's module, its extra, the suffixes.
DECODERS = (
    ("raw files", "rawpy", "raw", RAW),
    ("JPEG XL", "pillow_jxl", "jxl", {".jxl"}),
    ("HEIC", "pillow_heif", "heif", {".heic", ".heif", ".hif", ".heics", ".heifs"}),
)
PLAIN_STARTS = (b"\xff\xd8", b"\x89PNG")  # of files that need no package, whatever their suffix


@dataclass(frozen=True)
class Job:
    """One photo: its name (its path below IN), the name of its result (below OUT), its pictures."""

    name: str
    target: str
    hints: Path | None = None  # a picture of strokes
    mask: Path | None = None  # a picture of the places that are coloured


@dataclass(frozen=True)
class Fault:
    """Something in IN that looks like a photo and cannot be used: reported as a failure.

    `kind` ("raw files") is set where all files of a kind have the same reason.
    """

    name: str
    reason: str
    kind: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A file of IN that is not done, or a folder, with a slash at its end, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All jobs of a batch, sorted by name, and what was found besides them."""

    source: Storage
    out: Storage
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]
    left_out: tuple[LeftOut, ...] = ()
    unused_hints: tuple[str, ...] = ()  # pictures of strokes that belong to no photo there
    unused_masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Which photos of IN are done. Raises ConfigError for globs that are not a list or a tuple."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    shard: tuple[int, int] = (1, 1)  # (i, n): the i-th of n parts, counted from 1

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):  # a text would be taken for globs of one letter each
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        if len(as_tuple("shard", self.shard)) != 2:
            raise ConfigError(f"shard is a part and the number of parts, not {self.shard!r}.")
        count = as_int_within("the number of shards", self.shard[1], 1)
        index = as_int_within("shard", self.shard[0], 1, count)
        object.__setattr__(self, "shard", (index, count))

    def includes(self, name: str) -> bool:
        """Whether the globs include this file, and do not exclude it."""
        return (not self.include or _matches(name, self.include)) and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Whether a glob excludes this file or folder."""
        return _matches(name, self.exclude)

    def is_in_shard(self, name: str) -> bool:
        """Whether the file is in this shard: decided by a hash of its name alone."""
        index, count = self.shard
        return hash_name(_normalize(name)) % count == index - 1


def plan(
    source: Storage,
    out: Storage,
    *,
    choice: Choice | None = None,
    suffix: str | None = None,
    hints: Path | None = None,
    masks: Path | None = None,
) -> Plan:
    """One job per photo below `source`, with the same path below `out`.

    Results have the format of `suffix`, by default the photo's own. Hidden files and folders are
    left out; links to folders are followed unless they loop. In the folder `hints` the picture of
    strokes for a/b.jpg is a/b.png, and so is its mask in the folder `masks`. Raises ConfigError for
    folders that do not go together, and for pictures that a result would replace.
    """
    choice = choice or Choice()
    _check_folders(source, out)
    found: list[str] = []
    faults: list[Fault] = []
    left_out: list[LeftOut] = []
    missing = [row for row in DECODERS if find_spec(row[1]) is None]
    for item in source.walk(skip=choice.excludes, avoid=out):
        name, ending = item.name, PurePosixPath(item.name).suffix.lower()
        if item.left_out:
            left_out.append(LeftOut(name, item.left_out))
        elif not choice.includes(name):
            left_out.append(LeftOut(name, EXCLUDED))
        elif item.fault:
            faults.append(Fault(name, item.fault))
        elif not is_photo(name):
            left_out.append(LeftOut(name, NOT_A_PHOTO))
        elif fault := _needs_decoder(source, name, ending, missing):
            faults.append(fault)
        else:
            found.append(name)
    strokes_of, mask_of = _Pictures(hints), _Pictures(masks)
    jobs = [
        Job(name, _rename(name, suffix), strokes_of.find(name), mask_of.find(name))
        for name in sorted(found)
    ]
    check_targets(jobs, out)
    pictures = ((source.path_of(job.name), job.hints, job.mask) for job in jobs)
    check_kept(chain.from_iterable(pictures), jobs, out)
    return Plan(
        source,
        out,
        tuple(job for job in jobs if choice.is_in_shard(job.name)),
        tuple(sorted((f for f in faults if choice.is_in_shard(f.name)), key=lambda f: f.name)),
        tuple(sorted(left_out, key=lambda left: left.name)),
        strokes_of.list_unused(),
        mask_of.list_unused(),
    )


def file_seed(seed: int, name: str) -> int:
    """The seed of one photo, in [0, 2^31): the first 31 bits of SHA-256 of "seed:name" in UTF-8."""
    return hash_name(f"{seed}:{_normalize(name)}") >> 33


def hash_name(name: str) -> int:
    """The first 64 bits of SHA-256 of a name in UTF-8; bytes that are not UTF-8 are kept."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def check_targets(jobs: Sequence[Job], out: Storage, *, ignore_case: bool = False) -> None:
    """Raise ConfigError for two photos with one target, and for links that lead out of `out`."""
    taken: dict[str, str] = {}
    inside: set[str] = set()
    for job in jobs:
        key = _normalize(job.target).casefold() if ignore_case else job.target
        other = taken.setdefault(key, job.name)
        if other != job.name:
            raise ConfigError(
                f"{other} and {job.name} would both become {out.locate(job.target)}: rename one, or"
                " leave one out with --exclude."
            )
        folder = job.target.rpartition("/")[0]
        if folder not in inside:
            if elsewhere := out.find_exit(folder):
                raise ConfigError(
                    f"{out.locate(job.target)} would be written outside {out}, by a link to"
                    f" {elsewhere}: remove the link or give another folder."
                )
            inside.add(folder)


def check_kept(pictures: Iterable[Path | None], jobs: Sequence[Job], out: Storage) -> None:
    """Raise ConfigError for a picture that a result would replace.

    A link in OUT to a picture elsewhere is replaced itself, and the picture kept.
    """
    given = (path for path in pictures if path is not None)
    targets = (path for job in jobs if (path := out.path_of(job.target)) is not None)
    for picture, target in find_shared(given, targets):
        if os.path.realpath(picture) == os.path.join(os.path.realpath(target.parent), target.name):
            raise ConfigError(
                f"{picture} would be replaced by a result: give another folder than {out}."
            )


def _normalize(name: str) -> str:
    """The name in NFC, because macOS spells accented letters in another way."""
    return unicodedata.normalize("NFC", name)


def _check_folders(source: Storage, out: Storage) -> None:
    if not source.is_folder():
        if source.exists(""):
            raise StorageError(f"{source} is a file: colour it by `condiff colorize`.")
        raise StorageError(f"There is no folder {source}: check its name.")
    if out.exists(""):
        raise StorageError(f"{out} is a file: give a folder to write to.")
    (system, here), (other, there) = source.place, out.place
    if system != other:
        return
    if here == there:
        raise ConfigError(f"{out} is the folder of the photos itself: give another to write to.")
    if there.is_relative_to(here):
        raise ConfigError(f"{out} is inside {source}, the photos' folder: give one outside it.")
    if here.is_relative_to(there):
        raise ConfigError(f"{source} is inside {out}: results could replace photos; give another.")


def _needs_decoder(
    source: Storage, name: str, suffix: str, missing: Sequence[tuple[str, str, str, set[str]]]
) -> Fault | None:
    """The fault of a file whose format needs a package that is not installed.

    The journal does not list it as a failure: once the package is installed, the file is done.
    """
    for kind, module, extra, suffixes in missing:
        path = source.path_of(name) if suffix in suffixes else None
        if path is None:
            continue
        try:
            with open(path, "rb") as file:
                if file.read(4).startswith(PLAIN_STARTS):
                    return None  # misnamed
        except OSError:
            return None  # reported when it is read
        reads = f"{module.replace('_', '-')}, which reads {kind}"
        return Fault(name, f"{reads}, is not installed: {install_command(extra)}", kind)
    return None


class _Pictures:
    """A folder of pictures for photos, or none: a/b.png, also spelled a/b.PNG, is for a/b.jpg."""

    def __init__(self, folder: Path | None):
        paths = [] if folder is None else sorted(folder.rglob("*"))
        self.folder = folder
        self.names = {path: path.relative_to(folder).as_posix() for path in paths if folder}
        self.by_key = {
            _normalize(_as_png(name)): path for path, name in self.names.items() if _is_png(name)
        }
        self.used: set[Path] = set()

    def find(self, name: str) -> Path | None:
        """The picture for a photo, None if there is none."""
        if self.folder is None:
            return None
        plain = self.folder / _as_png(name)  # links to folders are not searched, but followed
        found = self.by_key.get(_normalize(_as_png(name)), plain)
        if not found.is_file():
            return None
        self.used.add(found)
        return found

    def list_unused(self) -> tuple[str, ...]:
        """The names of pictures that were found for no photo."""
        return tuple(
            name for path, name in self.names.items() if is_photo(name) and path not in self.used
        )


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _as_png(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".png"))


def _rename(name: str, suffix: str | None) -> str:
    """The name of a photo's result; where a longer suffix makes it too long, its stem is hashed."""
    path = PurePosixPath(name)
    if suffix is None:
        if path.suffix.lower() in FORMATS:
            return name
        suffix = UNWRITTEN_SUFFIX
    renamed = path.with_suffix(suffix)
    if len(os.fsencode(renamed.name)) > MAX_NAME:
        ending = f"-{hash_name(path.name):016x}{suffix}"
        renamed = path.with_name(shorten_stem(path.stem, ending))
    return str(renamed)


def _matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a glob matches the whole path below IN, where * crosses slashes, or the last name."""
    last = name.rpartition("/")[2]
    globs = [with_slashes(glob) for glob in globs]
    return any(fnmatchcase(name, glob) or fnmatchcase(last, glob) for glob in globs)

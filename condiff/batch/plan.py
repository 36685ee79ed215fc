"""The plan of a batch: which photo of a folder goes where. Making it writes nothing."""

import errno
import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from condiff.batch.storage import Blob, Folder
from condiff.errors import ConfigError
from condiff.photos.formats import FORMATS
from condiff.sources.schema import is_photo

UNWRITTEN_SUFFIX = ".png"  # of the result of a photo whose own format is only read

Identity = tuple[int, int]  # device and inode, which tell a folder under any of its names


@dataclass(frozen=True)
class Job:
    """One photo: its path below IN with slashes, its file, and the file of its result."""

    name: str
    source: Path | Blob
    target: Path | Blob
    hints: Path | None = None  # a picture of strokes


@dataclass(frozen=True)
class Fault:
    """Something in IN that looks like a photo and cannot be used: reported as a failure."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All jobs of a batch, sorted by name, and the faults found while listing."""

    source: Path | Folder
    out: Path | Folder
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]
    others: tuple[str, ...]  # files that are left out because their suffix is not that of a photo
    idle_hints: tuple[str, ...] = ()  # pictures of strokes that belong to no photo there


@dataclass(frozen=True)
class Choice:
    """Which photos of IN are to be done."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    shard: tuple[int, int] = (1, 1)  # (i, n): the i-th of n parts, counted from 1

    def takes(self, name: str) -> bool:
        """Whether the globs include this file, and do not exclude it."""
        wanted = not self.include or _matches(name, self.include)
        return wanted and not _matches(name, self.exclude)

    def is_ours(self, name: str) -> bool:
        """Whether the file is in this shard: decided by a hash of its name alone."""
        index, count = self.shard
        return hash_name(_normalize(name)) % count == index - 1


def plan(
    source: Path | Folder,
    out: Path | Folder,
    *,
    choice: Choice | None = None,
    suffix: str | None = None,
    hints: Path | None = None,
) -> Plan:
    """One job per photo below `source`, with the same path below `out`.

    Results have the format of `suffix`, by default the photo's own. Hidden files and folders are
    left out; links to folders are followed unless they loop. In the folder `hints` the picture of
    strokes for a/b.jpg is a/b.png. Raises ConfigError for folders that do not go together.
    """
    choice = choice or Choice()
    _check_folders(source, out)
    found: list[str] = []
    faults: list[Fault] = []
    others: list[str] = []
    walked = (
        _walk(source, out, choice) if isinstance(source, Path) else _walk_remote(source, choice)
    )
    for name, fault in walked:
        if fault is None and not is_photo(name):
            others.append(name)
        elif fault is None:
            found.append(name)
        else:
            faults.append(Fault(name, fault))
    jobs = [
        Job(name, source / name, out / _rename(name, suffix), _find_hints(hints, name))
        for name in sorted(found)
    ]
    check_targets(jobs, out)
    ours = tuple(job for job in jobs if choice.is_ours(job.name))
    faults = sorted((f for f in faults if choice.is_ours(f.name)), key=lambda f: f.name)
    return Plan(source, out, ours, tuple(faults), tuple(sorted(others)), _idle_hints(hints, jobs))


def file_seed(seed: int, name: str) -> int:
    """The seed of one photo, in [0, 2^31): the first 31 bits of SHA-256 of "seed:name" in UTF-8."""
    return hash_name(f"{seed}:{_normalize(name)}") >> 33


def hash_name(name: str) -> int:
    """The first 64 bits of SHA-256 of a name in UTF-8; bytes that are no UTF-8 are kept."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def check_targets(jobs: Sequence[Job], out: Path | Folder, *, ignore_case: bool = False) -> None:
    """Raise ConfigError for two photos with one target, and for links that lead out of `out`."""
    root = Path(os.path.realpath(out)) if isinstance(out, Path) else None
    taken: dict[str, str] = {}
    inside: set[Path] = set()
    for job in jobs:
        target = str(job.target)
        key = _normalize(target).casefold() if ignore_case else target
        other = taken.setdefault(key, job.name)
        if other != job.name:
            raise ConfigError(
                f"{other} and {job.name} would both become {job.target}: rename one, or leave one"
                " out with --exclude."
            )
        if root is None or not isinstance(job.target, Path):
            continue
        folder = job.target.parent
        if folder not in inside:
            if not Path(os.path.realpath(folder)).is_relative_to(root):
                raise ConfigError(
                    f"{job.target} would be written outside {out}, by a link to"
                    f" {os.path.realpath(folder)}: remove the link or give another folder."
                )
            inside.add(folder)


def _normalize(name: str) -> str:
    """The name in NFC, because macOS spells accented letters in another way."""
    return unicodedata.normalize("NFC", name)


def _check_folders(source: Path | Folder, out: Path | Folder) -> None:
    if isinstance(source, Folder) and not source.listing:
        raise ConfigError(f"There is nothing in {source}: check the URL.")
    if isinstance(source, Path) and not source.is_dir():
        raise ConfigError(f"There is no folder {source}: check the path.")
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder to write to.")
    here, there = _locate(source), _locate(out)
    if type(here) is not type(there):
        return
    if here == there:
        raise ConfigError(f"{out} is the folder of the photos itself: give another to write to.")
    if there.is_relative_to(here):
        raise ConfigError(f"{out} lies in {source}, the photos' folder: give one outside it.")
    if here.is_relative_to(there):
        raise ConfigError(f"{source} lies in {out}: results could fall on photos; give another.")


def _locate(folder: Path | Folder) -> PurePosixPath | Path:
    """Where it lies, with all links followed."""
    if isinstance(folder, Path):
        return Path(os.path.realpath(folder))
    return PurePosixPath(folder.url.partition("://")[0], folder.root.lstrip("/"))


def _find_hints(folder: Path | None, name: str) -> Path | None:
    path = folder and (folder / name).with_suffix(".png")
    return path if path and path.is_file() else None


def _idle_hints(folder: Path | None, jobs: Sequence[Job]) -> tuple[str, ...]:
    if folder is None:
        return ()
    used = {job.hints for job in jobs}
    idle = (path for path in folder.rglob("*.png") if path not in used)
    return tuple(sorted(path.relative_to(folder).as_posix() for path in idle))


def _rename(name: str, suffix: str | None) -> Path:
    path = Path(name)
    if suffix is not None:
        return path.with_suffix(suffix)
    return path if path.suffix.lower() in FORMATS else path.with_suffix(UNWRITTEN_SUFFIX)


def _matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a glob matches the whole path below IN, where * crosses slashes, or the last name."""
    last = name.rpartition("/")[2]
    return any(fnmatchcase(name, glob) or fnmatchcase(last, glob) for glob in globs)


def _walk_remote(source: Folder, choice: Choice) -> Iterator[tuple[str, str | None]]:
    """Like `_walk`, for a URL: a listing has no links and no unreadable folders."""
    for name in source.listing:
        parts = name.split("/")
        if {"", ".", ".."} & set(parts):
            if choice.takes(name):
                yield name, "a part of its name is empty, . or .., which could lead out; rename it"
            continue
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        hidden = any(part.startswith(".") for part in parts)
        left_out = hidden or any(_matches(folder, choice.exclude) for folder in above)
        if not left_out and choice.takes(name):
            yield name, None


def _walk(source: Path, out: Path | Folder, choice: Choice) -> Iterator[tuple[str, str | None]]:
    """Yield (name, None) for every chosen file, (name, reason) for what cannot be used."""
    forbidden = _identify(out) if isinstance(out, Path) and out.exists() else None
    # A stack, not recursion: a path may have more levels than Python has frames.
    stack: list[tuple[str, frozenset[Identity]]] = [("", frozenset())]
    while stack:
        prefix, above = stack.pop()
        try:
            identity = _identify(source / prefix)
            if identity in above:
                yield prefix, "it is a link to a folder that holds it: a loop; remove the link"
                continue
            with os.scandir(source / prefix) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield prefix or ".", f"the folder cannot be listed ({error.strerror})"
            continue
        if identity == forbidden:
            raise ConfigError(f"{out} lies in {source} by the link {prefix}: give another folder.")
        for entry in listed:
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.name.startswith("."):
                continue
            fault = None
            try:
                if entry.is_dir():
                    if not _matches(name, choice.exclude):
                        stack.append((name, above | {identity}))
                    continue
                if not entry.is_file():
                    fault = _explain(entry)
            except OSError as error:
                loop = error.errno == errno.ELOOP
                fault = "it is a link to itself: a loop; remove the link" if loop else str(error)
            if (fault is None or _is_suspect(entry)) and choice.takes(name):
                yield name, fault


def _is_suspect(entry: os.DirEntry[str]) -> bool:
    """Whether it should be reported if unusable: a photo by its name, or any link."""
    return entry.is_symlink() or is_photo(entry.name)


def _explain(entry: os.DirEntry[str]) -> str:
    if not entry.is_symlink():
        return "it is no regular file; give a photo"
    try:
        os.stat(entry.path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "it is a link to itself: a loop; remove the link"
        return f"it is a link that leads nowhere ({error.strerror}); remove it or mend it"
    return "it is a link to no regular file; give a photo"


def _identify(folder: Path) -> Identity:
    status = os.stat(folder)
    return status.st_dev, status.st_ino

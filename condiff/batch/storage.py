"""Folders of files, on a disk or behind a URL of fsspec (s3://, gs://, …), with one set of methods.

A file is given by its name: its path below the folder, with slashes.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.request import url2pathname

from condiff.errors import ConfigError, StorageError
from condiff.files import identify_file, rename, sync
from condiff.platforms import WINDOWS

# Keys of a listing that change with a file; each file system has some of them.
VERSION_KEYS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")
LOOP = "it is a link to itself: a loop; remove the link"
HIDDEN, EXCLUDED = "hidden", "excluded"


@dataclass(frozen=True)
class Status:
    """Size and version of a file: two versions of one file have different numbers."""

    size: int  # bytes
    version: int  # on a disk, the time of modification in nanoseconds


@dataclass(frozen=True)
class Item:
    """An item that `Storage.walk` found: a file, or one that is left out or unusable, and why.

    The name of a folder that was left out ends with a slash.
    """

    name: str
    left_out: str = ""
    fault: str = ""


def open_storage(text: str | Path) -> "Storage":
    """The folder of a path or a URL; file:// is a path like any other. Nothing is read yet.

    Raises ConfigError for a URL whose protocol is unknown, or whose package is not installed.
    """
    protocol, _, rest = str(text).partition("://")
    if not rest or os.sep in protocol:
        return Storage(Path(text))
    if protocol == "file":
        return Storage(Path(url2pathname(rest) if WINDOWS else rest))  # /C:/photos is C:\photos
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(text)
    except ImportError as error:  # the file system's own package
        raise ConfigError(f"{text} cannot be opened: {error}.") from error
    except ValueError as error:
        raise ConfigError(f"{text} cannot be opened: {error}; check what is before ://.") from error
    return Remote(str(text).rstrip("/"), files, root.rstrip("/"))


class Storage:
    """A folder on a disk; `Remote` does the same behind a URL.

    An instance can be pickled and used on another machine that shares the disk.
    """

    def __init__(self, root: Path):
        self._path = root

    def __str__(self) -> str:
        return str(self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (Path(os.path.abspath(self._path)),)  # workers have other working folders

    def locate(self, name: str) -> str:
        """The path or URL of a file."""
        return str(self._path / name)

    def path_of(self, name: str) -> Path | None:
        """The path of a file on a disk, where it can be locked and appended to; None at a URL."""
        return self._path / name

    @property
    def place(self) -> tuple[str, PurePath]:
        """The file system, and the path there with all links followed, to be compared."""
        return "file", Path(os.path.realpath(self._path))

    def is_folder(self) -> bool:
        """Whether it exists. A folder behind a URL exists if it contains a file."""
        return self._path.is_dir()

    def exists(self, name: str) -> bool:
        """Whether there is such a file; the name "" stands for a file in the folder's place."""
        return os.path.isfile(self._path / name)

    def stat(self, name: str) -> Status:
        """Size and version; OSError where there is no such file."""
        status = os.stat(self._path / name)
        return Status(status.st_size, status.st_mtime_ns)

    def read(self, name: str) -> bytes:
        """The content of a file; OSError, often FileNotFoundError, where it cannot be read."""
        return (self._path / name).read_bytes()

    def list_names(self, folder: str) -> list[str]:
        """The names of the files directly in a folder below, in order; none if it is missing."""
        try:
            return [f"{folder}/{name}" for name in sorted(os.listdir(self._path / folder))]
        except FileNotFoundError:
            return []

    def walk(self, *, skip: Callable[[str], bool], avoid: "Storage") -> Iterator[Item]:
        """All files below. Folders that are hidden, or that `skip` accepts, are not searched.

        Links to folders are followed unless they loop. Raises ConfigError if one leads to `avoid`.
        """
        avoided = avoid.path_of("")
        forbidden = identify_file(avoided) if avoided and avoided.exists() else None
        # A stack, not recursion: a path may have more levels than Python has frames.
        stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while stack:
            prefix, above = stack.pop()
            try:
                identity = identify_file(self._path / prefix)
                if identity in above:
                    yield Item(prefix, fault="it is a link to a folder above: a loop; remove it")
                    continue
                with os.scandir(self._path / prefix) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                yield Item(prefix or ".", fault=f"the folder cannot be listed ({error.strerror})")
                continue
            if identity == forbidden:
                raise ConfigError(
                    f"{avoid} is inside {self} by the link {prefix}: give another folder."
                )
            for entry in listed:
                name = f"{prefix}/{entry.name}" if prefix else entry.name
                folder, fault = False, ""
                try:
                    folder = entry.is_dir()
                    fault = "" if folder or entry.is_file() else _explain(entry)
                except OSError as error:
                    fault = LOOP if error.errno == errno.ELOOP else str(error)
                if entry.name.startswith("."):
                    yield Item(f"{name}/" if folder else name, HIDDEN)
                elif not folder:
                    yield Item(name, fault=fault)
                elif skip(name):
                    yield Item(f"{name}/", EXCLUDED)
                else:
                    stack.append((name, above | {identity}))

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        """A path to read a file at, for the time of a block: a copy if it is behind a URL."""
        yield self._path / name

    @contextmanager
    def publish(self, name: str, *, part: str) -> Iterator[Path]:
        """A path to write to. If the block ends without an error, the complete file gets its name.

        `part` is the name of the unfinished file. It is removed where the block raises an error.
        """
        path, target = self._path / part, self._path / name
        try:
            yield path
            sync(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            rename(path, target)
        finally:
            with suppress(FileNotFoundError):
                path.unlink()

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; it does not matter if one is missing."""
        for name in names:
            (self._path / name).unlink(missing_ok=True)

    def find_exit(self, folder: str) -> str | None:
        """The real place of a folder below, if a link leads out; otherwise None."""
        real = os.path.realpath(self._path / folder)
        return None if Path(real).is_relative_to(os.path.realpath(self._path)) else real


class Remote(Storage):
    """A folder of an fsspec file system, listed once, on first use."""

    def __init__(self, url: str, files: Any, root: str, listing: dict[str, Status] | None = None):
        self.url, self.files, self.root = url, files, root
        if listing is not None:
            self.listing = listing

    @cached_property
    def listing(self) -> dict[str, Status]:
        """Every file below the folder by its name."""
        try:
            with _as_os_error():
                found = self.files.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(f"{self.url} cannot be listed: {error}.") from error
        return {
            path.removeprefix(self.root).lstrip("/"): Status(info["size"] or 0, _version(info))
            for path, info in found.items()
        }

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url, self.files, self.root, self.listing)

    def locate(self, name: str) -> str:
        return f"{self.url}/{name}"

    def path_of(self, name: str) -> Path | None:
        return None

    @property
    def place(self) -> tuple[str, PurePath]:
        return self.url.partition("://")[0], PurePosixPath(self.root.lstrip("/"))

    def is_folder(self) -> bool:
        return bool(self.listing)

    def exists(self, name: str) -> bool:
        return name in self.listing

    def stat(self, name: str) -> Status:
        if name not in self.listing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.locate(name))
        return self.listing[name]

    def read(self, name: str) -> bytes:
        with _as_os_error():
            return bytes(self.files.cat_file(f"{self.root}/{name}"))

    def list_names(self, folder: str) -> list[str]:
        inside = (name for name in self.listing if name.startswith(f"{folder}/"))
        return sorted(name for name in inside if "/" not in name[len(folder) + 1 :])

    def walk(self, *, skip: Callable[[str], bool], avoid: Storage) -> Iterator[Item]:
        """Like `Storage.walk`: a listing has no links and no unreadable folders."""
        for name in sorted(self.listing):
            parts = name.split("/")
            if {"", ".", ".."} & set(parts):
                fault = "a part of its name is empty, . or .., which could lead out; rename it"
                yield Item(name, fault=fault)
            elif any(part.startswith(".") for part in parts):
                yield Item(name, HIDDEN)
            elif any(skip("/".join(parts[:n])) for n in range(1, len(parts))):
                yield Item(name, EXCLUDED)
            else:
                yield Item(name)

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="condiff-") as scratch:
            path = Path(scratch, f"photo{PurePosixPath(name).suffix}")
            with _as_os_error():
                self.files.get_file(f"{self.root}/{name}", str(path))
            yield path

    @contextmanager
    def publish(self, name: str, *, part: str) -> Iterator[Path]:
        """Uploaded as `part` and then moved, because some file systems show incomplete files."""
        with tempfile.TemporaryDirectory(prefix="condiff-") as scratch:
            path = Path(scratch, f"result{PurePosixPath(name).suffix}")
            yield path
            with _as_os_error():
                for path_there in (f"{self.root}/{part}", f"{self.root}/{name}"):
                    self.files.makedirs(path_there.rpartition("/")[0], exist_ok=True)
                self.files.put_file(str(path), f"{self.root}/{part}")
                self.files.mv(f"{self.root}/{part}", f"{self.root}/{name}")
            self.listing[name] = Status(path.stat().st_size, 0)

    def remove(self, names: Iterable[str]) -> None:
        there = [name for name in names if self.listing.pop(name, None)]
        if there:
            with _as_os_error():
                self.files.rm([f"{self.root}/{name}" for name in there])

    def find_exit(self, folder: str) -> str | None:
        return None


def _explain(entry: os.DirEntry[str]) -> str:
    """Why an entry that is neither a regular file nor a folder cannot be used."""
    if not entry.is_symlink():
        return "it is not a regular file; give a photo"
    try:
        os.stat(entry.path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return LOOP
        return f"it is a link that leads nowhere ({error.strerror}); remove it or repair it"
    return "it is a link to something that is not a regular file; give a photo"


def _version(info: dict[str, Any]) -> int:
    values = json.dumps([str(info.get(key)) for key in VERSION_KEYS])
    return int.from_bytes(hashlib.sha256(values.encode()).digest()[:7], "big")


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Every failure of a file system as OSError: each store's client has exceptions of its own."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error

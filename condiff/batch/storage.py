"""Folders behind the URLs of fsspec (s3://, gs://, …): listed once, with a little of pathlib."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any

from condiff.errors import ConfigError

# Keys of a listing that change with a file; each file system has some of them.
VERSION_KEYS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")


def open_folder(text: str) -> "Path | Folder":
    """A path, or a folder behind a URL; file:// is a path like any other."""
    protocol, _, rest = text.partition("://")
    if not rest or os.sep in protocol:
        return Path(text)
    if protocol == "file":
        return Path(rest)
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(text)
    except ImportError as error:  # the file system's own package
        raise ConfigError(f"{text} cannot be opened: {error}.") from error
    except ValueError as error:
        raise ConfigError(f"{text} cannot be opened: {error}; check what is before ://.") from error
    return Folder(text.rstrip("/"), files, root.rstrip("/"))


@dataclass(frozen=True)
class Status:
    """Like the result of os.stat; st_mtime_ns is some number that changes with the file."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of an fsspec file system."""

    url: str
    files: Any = field(repr=False)
    root: str

    @cached_property
    def listing(self) -> dict[str, Status]:
        """Every file below the folder, by its path from here; listed once, on first use."""
        try:
            found = self.files.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"{self.url} cannot be listed: {error}.") from error
        return {
            path.removeprefix(self.root).lstrip("/"): Status(info["size"] or 0, _version(info))
            for path, info in found.items()
        }

    def __truediv__(self, name: str | PurePath) -> "Blob":
        return Blob(self, PurePath(name).as_posix())

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Blob:
    """A file below such a folder."""

    folder: Folder = field(repr=False)
    name: str

    @property
    def path(self) -> str:
        """Its full path, as the file system takes it."""
        return f"{self.folder.root}/{self.name}"

    @property
    def suffix(self) -> str:
        """The suffix with its dot."""
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return f"{self.folder.url}/{self.name}"

    def is_file(self) -> bool:
        """Whether the folder's listing has it."""
        return self.name in self.folder.listing

    def stat(self) -> Status:
        """What the listing says of it."""
        if not self.is_file():
            raise FileNotFoundError(str(self))
        return self.folder.listing[self.name]

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The file, opened for reading."""
        return self.folder.files.open(self.path, mode)  # type: ignore[no-any-return]


def write_blob(blob: Blob, source: Path | bytes, *, part: Blob) -> None:
    """Upload a file or bytes, whole or not at all.

    They are written to `part` and then moved, because some file systems show incomplete files.
    """
    files = blob.folder.files
    for path in (part.path, blob.path):
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
    if isinstance(source, bytes):
        files.pipe_file(part.path, source)
    else:
        files.put_file(str(source), part.path)
    files.mv(part.path, blob.path)


def _version(info: dict[str, Any]) -> int:
    told = json.dumps([str(info.get(key)) for key in VERSION_KEYS])
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big")

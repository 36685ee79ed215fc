"""OUT/.condiff: a batch's settings, a journal line per finished photo, and claims on photos.

A run claims a photo before it works on it, so that several runs can share a folder. A claim is a
POSIX lock on one byte of the file `lock`, chosen by the photo's name. The system releases it
however the process ends, other machines see it where the network file system has locks, and no
file is left behind. Such locks hold between processes; one process has one run at a time in OUT.

Behind a URL there are no locks and nothing can be appended to. Every claim is granted, and each run
has a journal file of its own, which is uploaded every few seconds. The user has to make sure that
no two runs use one URL at once.
"""

import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from condiff.batch.storage import Storage
from condiff.errors import ConfigError, StorageError
from condiff.files import identify_file

SCRATCH = ".condiff"
ALBUM, ALBUM_LINES = f"{SCRATCH}/album.json", f"{SCRATCH}/album.jsonl"  # see album.py
PARTS, SETTINGS = f"{SCRATCH}/parts", f"{SCRATCH}/settings.json"
JOURNALS = re.compile(r"\.condiff/journal(\.\d+)?\.jsonl")
# Bytes of the lock file: held to write, held while a run is at work, the first of the names' bytes.
WRITING, PRESENT, FIRST_NAME = 0, 1, 2
UPLOAD_EVERY = 10.0  # seconds; the whole file is uploaded each time

Outcome = Literal["done", "failed", "skipped"]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A journal line: the outcome of one photo, and the state of its file at that time."""

    name: str
    outcome: Outcome
    reason: str
    seed: int
    size: int
    mtime_ns: int  # the version of its file, see `storage.Status`
    digest: str  # of the photo's bytes; empty where they could not be read
    hints: str = ""  # digest of the picture of hints; empty where there was none
    warnings: tuple[str, ...] = ()  # parts of the photo that were not read or not written
    stale: bool = False  # failed, but an older result made with other hints is still in place


class Locks:
    """Locks on bytes of a file, held until released or until the process ends.

    Without a path there is no file, and every lock is granted. The same is true on Windows, where
    the user has to make sure that there is one run at a time. A process does not exclude itself,
    and loses all locks of a file that it closes once; so it opens each file only once at a time.
    Raises StorageError if it is open.
    """

    _used: ClassVar[set[tuple[int, ...]]] = set()  # files that are open, by process
    _mutex = threading.Lock()

    def __init__(self, path: Path | None):
        self._file: int | None = None
        if path is None:
            return
        with self._mutex:
            if not path.exists():
                path.touch()
            self._identity = (os.getpid(), *identify_file(path))
            if self._identity in self._used:
                raise StorageError(
                    f"This process is already at work in {path.parent.parent}: let that batch end, "
                    "or close its generator."
                )
            self._file = os.open(path, os.O_RDWR)
            self._used.add(self._identity)

    def close(self) -> None:
        """Release all."""
        if self._file is not None:
            with self._mutex:
                os.close(self._file)
                self._used.remove(self._identity)

    def take(self, byte: int, *, wait: bool, shared: bool = False) -> bool:
        """Lock a byte; False if another process holds it and `wait` is not set."""
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        if self._file is None:
            return True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._file, kind | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise StorageError(
                f"The file system of OUT has no locks ({error.strerror}): write to a disk of this"
                " machine and copy the results."
            ) from error
        return True

    def release(self, byte: int) -> None:
        """Unlock a byte."""
        try:
            import fcntl
        except ImportError:
            return
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    @contextmanager
    def hold(self, byte: int) -> Iterator[None]:
        """Lock a byte for the time of a block."""
        self.take(byte, wait=True)
        try:
            yield
        finally:
            self.release(byte)


class Journal:
    """Open for a run; see `open_journal`."""

    def __init__(self, out: Storage, settings: Settings, *, replace: bool, locks: Locks):
        self.out, self.settings, self.replace = out, settings, replace
        self.entries: dict[str, Entry] = {}
        self._locks, self._mutex = locks, threading.Lock()
        self._path, self._read_to = out.path_of(f"{SCRATCH}/journal.jsonl"), 0
        self._own_file = f"{SCRATCH}/journal.{time.time_ns()}.jsonl"  # behind a URL
        self._lines: list[bytes] = []
        self._uploaded, self._uploaded_at = 0, time.monotonic()
        if self._path is None:
            self.entries = read_entries(out)

    def claim(self, key: int) -> bool:
        """Claim a photo by the 64-bit hash of its name; False if another process holds it."""
        return self._locks.take(FIRST_NAME + (key >> 2), wait=False)

    def release(self, key: int) -> None:
        """Give a claim back."""
        self._locks.release(FIRST_NAME + (key >> 2))

    def write(self, entry: Entry) -> None:
        """Append a line; locked, so that lines of several machines do not mix.

        Raises StorageError if that fails.
        """
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._mutex, self._locks.hold(WRITING):
            if self._path is not None:
                _append(self._path, line)
                return
            self._lines.append(line)
            if time.monotonic() - self._uploaded_at > UPLOAD_EVERY:
                self._upload()

    def keep(self, name: str, content: str) -> None:
        """Write a file of the batch completely; StorageError if that fails."""
        _publish(self.out, name, content.encode() + b"\n")

    def add_line(self, name: str, line: str) -> None:
        """Append a line to a file of the batch; behind a URL nothing can be appended to."""
        path = self.out.path_of(name)
        if path is not None:
            _append(path, line.encode() + b"\n")

    def refresh(self) -> None:
        """Read the lines that this and other processes have added since the last call."""
        with self._mutex:
            if self._path and self._path.exists() and self._path.stat().st_size > self._read_to:
                with open(self._path, "rb") as file:
                    file.seek(self._read_to)
                    entries, length = _parse(file.read())
                self.entries.update(entries)
                self._read_to += length

    def finish(self) -> None:
        """Upload the lines that are not yet behind the URL."""
        with self._mutex:
            self._upload()

    def ignores_case(self) -> bool:
        """Whether OUT's file system treats A.png and a.png as one file."""
        return self.out.exists(f"{SCRATCH}/SETTINGS.JSON")

    def _upload(self) -> None:
        if self._uploaded < len(self._lines):
            _publish(self.out, self._own_file, b"".join(self._lines))
        self._uploaded, self._uploaded_at = len(self._lines), time.monotonic()


@contextmanager
def open_journal(
    out: Storage,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[Journal]:
    """Begin a batch in `out`, or resume the one there; `force` starts over and replaces results.

    A setting that is None takes the value of the resumed batch, or that of `defaults`. Raises
    StorageError where `out` cannot be written to or locked, ConfigError where it contains a batch
    with other settings.
    """
    parts = out.path_of(PARTS)
    try:
        if parts is not None:
            parts.mkdir(parents=True, exist_ok=True)
        locks = Locks(out.path_of(f"{SCRATCH}/lock"))
    except OSError as error:
        raise StorageError(f"cannot write to {out}: {error.strerror}; choose another.") from error
    try:
        with locks.hold(WRITING):
            if force and not locks.take(PRESENT, wait=False):
                raise StorageError(f"Another run is at work in {out}: stop it before --force.")
            kept, replace, begins = _settle(out, settings, defaults=defaults, force=force)
            if begins:
                out.remove([*_list_journals(out), ALBUM, ALBUM_LINES])
                content = json.dumps({"settings": kept, "replace": replace}, indent=2)
                _publish(out, SETTINGS, content.encode() + b"\n")
            locks.take(PRESENT, wait=True, shared=True)
        journal = Journal(out, kept, replace=replace, locks=locks)
        _clear_parts(journal)
        journal.refresh()
        try:
            yield journal
        finally:
            journal.finish()
    finally:
        locks.close()


def compare_settings(out: Storage, settings: Mapping[str, Any]) -> Settings:
    """The settings that `out` was begun with, if any.

    Raises ConfigError where one of `settings` that is not None differs. A setting that is missing
    in a batch of an older version counts as off.
    """
    begun, _ = _read_settings(out)
    differ = [
        f"{key}: {_name(begun.get(key))} there, {_name(asked)} asked"
        for key, asked in settings.items()
        if begun and asked is not None and (asked or key in begun) and begun.get(key) != asked
    ]
    if differ:
        raise ConfigError(
            f"{out} was begun with other settings ({'; '.join(differ)}): give another folder, or"
            " --force to start over."
        )
    return begun


def _name(setting: Any) -> Any:
    return "none" if setting in (None, "") else setting


def read_entries(out: Storage) -> dict[str, Entry]:
    """The latest entry of every photo, without opening the journal for a run."""
    entries: dict[str, Entry] = {}
    for name in _list_journals(out):
        entries |= _parse(out.read(name))[0]
    return entries


@contextmanager
def parsing(out: Storage, name: str) -> Iterator[None]:
    """Report a file of the batch that cannot be read, or has another content, by StorageError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot read {out.locate(name)}: {error.strerror}; give another folder."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{out.locate(name)} is damaged: give another folder, or --force to start over."
        ) from error


def part_name(key: int, suffix: str) -> str:
    """The name below OUT of the unfinished result of a claimed photo."""
    return f"{PARTS}/{key:016x}{suffix}"


def _settle(
    out: Storage,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None,
    force: bool,
) -> tuple[Settings, bool, bool]:
    """The settings of a run, whether it replaces results, and whether it begins a new batch."""
    begun, replace = ({}, False) if force else _read_settings(out)
    if begun:
        compare_settings(out, settings)
        return begun, replace, False
    kept = {k: (defaults or {}).get(k) if v is None else v for k, v in settings.items()}
    return kept, force, True


def _list_journals(out: Storage) -> list[str]:
    """The files that contain entries, the oldest first."""
    return [name for name in out.list_names(SCRATCH) if JOURNALS.fullmatch(name)]


def _parse(content: bytes) -> tuple[dict[str, Entry], int]:
    """Entries of a journal, and the number of bytes up to the end of its last complete line."""
    whole, newline, _ = content.rpartition(b"\n")
    entries = {}
    for line in whole.split(b"\n"):
        # A line may be empty, cut short by a machine that lost its power, or of another version.
        with suppress(ValueError, TypeError, AttributeError):
            row = json.loads(line)
            entry = Entry(**row | {"warnings": tuple(row.get("warnings", ()))})
            entries[entry.name] = entry
    return entries, len(whole) + len(newline)


def _read_settings(out: Storage) -> tuple[Settings, bool]:
    try:
        with parsing(out, SETTINGS):
            content = json.loads(out.read(SETTINGS))
            return {**content["settings"]}, content["replace"]
    except FileNotFoundError:
        return {}, False


def _append(path: Path, line: bytes) -> None:
    try:
        with open(path, "ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # the line before was cut short
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}.") from error


def _publish(out: Storage, name: str, content: bytes) -> None:
    try:
        with out.publish(name, part=f"{PARTS}/{name.rpartition('/')[2]}") as path:
            path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"cannot write {out.locate(name)}: {error}.") from error


def _clear_parts(journal: Journal) -> None:
    """Remove temporary files of killed runs, but not those that a running one has claimed."""
    for name in journal.out.list_names(PARTS):
        found = re.search("[0-9a-f]{16}", name)
        key = int(found[0], 16) if found else None
        if key is not None and journal.claim(key):
            journal.out.remove([name])
            journal.release(key)

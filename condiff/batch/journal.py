"""OUT/.condiff: a batch's settings, a journal line per finished photo, and claims on photos.

A run claims a photo before it works on it, so that several runs can share a folder. A claim is a
POSIX lock on one byte of the file `lock`, chosen by the photo's name. The system releases it
however the process ends, other machines see it where the network file system has locks, and no
file is left behind. Such locks hold between processes, not between threads of one process.
"""

import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from condiff.batch.storage import Blob, Folder, write_blob
from condiff.errors import ConfigError

SCRATCH = ".condiff"
JOURNALS = re.compile(r"\.condiff/journal(\.\d+)?\.jsonl")
# Bytes of the lock file: held to write, held while a run is at work, the first of the names' bytes.
WRITING, PRESENT, FIRST_NAME = 0, 1, 2

Outcome = Literal["done", "failed", "skipped"]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A journal line: what became of one photo, and the state of its file at that time."""

    name: str
    outcome: Outcome
    reason: str
    seed: int
    size: int
    mtime_ns: int
    digest: str  # of the photo's bytes; empty where they could not be read
    hints: str = ""  # digest of the picture of hints; empty where there was none
    stale: bool = False  # failed, but an older result made with other hints is still in place


class Journal:
    """Open for a run; see `open_journal`."""

    def __init__(self, out: Path, settings: Settings, *, replace: bool, lock: int):
        self.out, self.settings, self.replace = out, settings, replace
        self.entries: dict[str, Entry] = {}
        self._lock, self._read_to, self._mutex = lock, 0, threading.Lock()

    def claim(self, key: int) -> bool:
        """Claim a photo by the 64-bit hash of its name; False if another process holds it."""
        return _lock_byte(self._lock, FIRST_NAME + (key >> 2), wait=False)

    def release(self, key: int) -> None:
        """Give a claim back."""
        _unlock_byte(self._lock, FIRST_NAME + (key >> 2))

    def part_path(self, key: int, suffix: str) -> Path:
        """The temporary file for the result of a claimed photo, to be renamed when complete."""
        return self.out / SCRATCH / "parts" / f"{key:016x}{suffix}"

    def write(self, entry: Entry) -> None:
        """Append a line; locked, so that lines of several machines do not mix.

        Raises ConfigError where the disk refuses.
        """
        path = self.out / SCRATCH / "journal.jsonl"
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._mutex, _locked(self._lock, WRITING):
            try:
                with open(path, "ab+", buffering=0) as file:
                    if file.tell():
                        file.seek(-1, os.SEEK_END)
                        if file.read(1) != b"\n":
                            line = b"\n" + line  # the line before was cut short
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise ConfigError(f"cannot write {path}: {error.strerror}.") from error

    def refresh(self) -> None:
        """Read the lines that this and other processes have added since the last call."""
        path = self.out / SCRATCH / "journal.jsonl"
        with self._mutex:
            if path.exists() and path.stat().st_size > self._read_to:
                entries, self._read_to = _read_entries(path, self._read_to)
                self.entries.update(entries)

    def ignores_case(self) -> bool:
        """Whether OUT's file system treats A.png and a.png as one file."""
        return (self.out / SCRATCH / "SETTINGS.JSON").exists()


@contextmanager
def open_journal(
    out: Path,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[Journal]:
    """Begin a batch in `out`, or resume the one there; `force` starts over and replaces results.

    A setting that is None takes the value of the batch that is resumed, or that of `defaults`.
    Raises ConfigError where `out` cannot be written to, or holds a batch with other settings.
    """
    folder = out / SCRATCH
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}; choose another.") from error
    try:
        with _locked(lock, WRITING):
            if force and not _lock_byte(lock, PRESENT, wait=False):
                raise ConfigError(f"Another run is at work in {out}: stop it before --force.")
            kept, replace, begins = settle(out, settings, defaults=defaults, force=force)
            if begins:
                (folder / "journal.jsonl").unlink(missing_ok=True)
                _write_settings(folder, {"settings": kept, "replace": replace})
            _lock_byte(lock, PRESENT, wait=True, shared=True)
        journal = Journal(out, kept, replace=replace, lock=lock)
        _clear_parts(journal)
        journal.refresh()
        yield journal
    finally:
        os.close(lock)


def settle(
    out: Path | Folder,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None,
    force: bool,
) -> tuple[Settings, bool, bool]:
    """The settings of a run, whether it replaces results, and whether it begins a new batch."""
    kept, replace = _read_settings(out)
    if kept and not force:
        compare_settings(out, settings)
        return kept, replace, False
    kept = {k: (defaults or {}).get(k) if v is None else v for k, v in settings.items()}
    return kept, force, True


def compare_settings(out: Path | Folder, settings: Mapping[str, Any]) -> Settings:
    """The settings that `out` was begun with, if any.

    Raises ConfigError where one that is asked, and not None, differs.
    """
    there, _ = _read_settings(out)
    differ = [
        f"{key}: {'none' if there.get(key) is None else there[key]} there, {asked} asked"
        for key, asked in settings.items()
        if there and asked is not None and there.get(key) != asked
    ]
    if differ:
        raise ConfigError(
            f"{out} was begun with other settings ({'; '.join(differ)}): give another folder, or"
            " --force to begin anew."
        )
    return there


def read_entries(out: Path | Folder) -> dict[str, Entry]:
    """The latest entry of every photo, without opening the journal for a run."""
    entries: dict[str, Entry] = {}
    for path in journal_files(out):
        entries |= _read_entries(path, 0)[0]
    return entries


def journal_files(out: Path | Folder) -> list[Blob] | list[Path]:
    """The files that hold entries, the oldest first: behind a URL, each run has its own."""
    if isinstance(out, Path):
        path = out / SCRATCH / "journal.jsonl"
        return [path] if path.exists() else []
    return [out / name for name in sorted(out.listing) if JOURNALS.fullmatch(name)]


def _read_entries(path: Path | Blob, start: int) -> tuple[dict[str, Entry], int]:
    """Entries from an offset of the file on, and the offset where the last complete line ends."""
    with path.open("rb") as file:
        file.seek(start)
        whole, newline, _ = file.read().rpartition(b"\n")
    entries = {}
    for line in whole.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:  # empty, or cut short by a machine that lost its power
            continue
        entries[row["name"]] = Entry(**row)
    return entries, start + len(whole) + len(newline)


def _read_settings(out: Path | Folder) -> tuple[Settings, bool]:
    try:
        with (out / f"{SCRATCH}/settings.json").open("rb") as file:
            content = json.loads(file.read())
    except FileNotFoundError:
        return {}, False
    return content["settings"], content["replace"]


def _write_settings(folder: Path, content: Mapping[str, Any]) -> None:
    part = folder / "parts" / "settings.json"
    part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    part.replace(folder / "settings.json")


def _clear_parts(journal: Journal) -> None:
    """Remove temporary files of killed runs, but not those that a running one has claimed."""
    for path in (journal.out / SCRATCH / "parts").iterdir():
        found = re.search("[0-9a-f]{16}", path.name)
        key = int(found[0], 16) if found else None
        if key is not None and journal.claim(key):
            path.unlink(missing_ok=True)
            journal.release(key)


@contextmanager
def _locked(file: int, byte: int) -> Iterator[None]:
    _lock_byte(file, byte, wait=True)
    try:
        yield
    finally:
        _unlock_byte(file, byte)


def _lock_byte(file: int, byte: int, *, wait: bool, shared: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: one run at a time is the user's care
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.lockf(file, kind | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise ConfigError(
            f"The file system of OUT has no locks ({error.strerror}): write to a disk of this"
            " machine and copy the results."
        ) from error
    return True


def _unlock_byte(file: int, byte: int) -> None:
    try:
        import fcntl
    except ImportError:
        return
    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


UPLOAD_EVERY = 10.0  # seconds; the whole file is uploaded each time


class RemoteJournal:
    """Open for a run; see `open_remote_journal`."""

    def __init__(self, out: Folder, settings: Settings, *, replace: bool):
        self.out, self.settings, self.replace = out, settings, replace
        self.entries: dict[str, Entry] = read_entries(out)
        self._file = out / f"{SCRATCH}/journal.{time.time_ns()}.jsonl"
        self._lines: list[bytes] = []
        self._uploaded = (0, time.monotonic())

    def claim(self, key: int) -> bool:
        """Always granted: there is no other run."""
        return True

    def release(self, key: int) -> None:
        """Nothing to do: there are no locks."""

    def refresh(self) -> None:
        """Nothing to do: nobody else writes."""

    def part_path(self, key: int, suffix: str) -> Blob:
        """The temporary file for the result of a photo, to be moved when complete."""
        return self.out / f"{SCRATCH}/parts/{key:016x}{suffix}"

    def write(self, entry: Entry) -> None:
        """Add a line; lines are uploaded every UPLOAD_EVERY seconds and at the end."""
        self._lines.append(json.dumps(asdict(entry)).encode() + b"\n")
        if time.monotonic() - self._uploaded[1] > UPLOAD_EVERY:
            self.upload()

    def upload(self) -> None:
        """Upload all lines, if there are new ones."""
        if self._uploaded[0] < len(self._lines):
            _upload(self._file, b"".join(self._lines))
        self._uploaded = (len(self._lines), time.monotonic())

    def ignores_case(self) -> bool:
        """Object stores never do."""
        return False


@contextmanager
def open_remote_journal(
    out: Folder,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[RemoteJournal]:
    """Like `open_journal`; the user sees to it that no two runs use one URL at once."""
    kept, replace, begins = settle(out, settings, defaults=defaults, force=force)
    left = [out / name for name in out.listing if name.startswith(f"{SCRATCH}/parts/")]
    stale = [*left, *(journal_files(out) if begins else [])]
    if stale:
        out.files.rm([str(blob.path) for blob in stale if isinstance(blob, Blob)])
        for blob in stale:
            if isinstance(blob, Blob):
                del out.listing[blob.name]
    if begins:
        content = json.dumps({"settings": kept, "replace": replace}, indent=2)
        _upload(out / f"{SCRATCH}/settings.json", content.encode() + b"\n")
    journal = RemoteJournal(out, kept, replace=replace)
    try:
        yield journal
    finally:
        journal.upload()


def open_any_journal(
    out: Path | Folder,
    settings: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    force: bool = False,
) -> AbstractContextManager[Journal | RemoteJournal]:
    """`open_journal` for a folder on the disk, `open_remote_journal` for one behind a URL."""
    if isinstance(out, Path):
        return open_journal(out, settings, defaults=defaults, force=force)
    return open_remote_journal(out, settings, defaults=defaults, force=force)


def _upload(blob: Blob, content: bytes) -> None:
    part = blob.folder / f"{SCRATCH}/parts/{blob.name.rpartition('/')[2]}"
    try:
        write_blob(blob, content, part=part)
    except OSError as error:
        raise ConfigError(f"cannot write {blob}: {error}.") from error

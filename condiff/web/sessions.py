"""Sessions of browser tabs: each has a private folder, deleted when it ends."""

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from condiff.color.references import Reference
from condiff.errors import CondiffError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX, LOCK = "condiff-web-", "held"  # of the temporary folder, and its lock file
IDLE_SECONDS = 6 * 3600  # after which an inactive session is removed
MAX_SESSIONS = 100
MAX_FILES = 1000  # photos and drawings of a session
KEPT_RESULTS = 40  # of one photo; the oldest are removed first


class Gone(CondiffError):
    """A session, photo or result does not exist or was removed."""


@dataclass
class Upload:
    """An uploaded file: the server chooses its path, its name is only text."""

    id: str
    name: str
    path: Path
    size: tuple[int, int] = (0, 0)
    page: int | None = None  # of a file with several pages
    reference: Reference | None = None  # if the upload is a reference photo
    results: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)  # names in its folder that may be served

    @property
    def folder(self) -> Path:
        """Its own folder, which contains nothing else."""
        return self.path.parent

    def keep(self, result: str, made: Any) -> None:
        """Store a result under its id; removes the oldest beyond KEPT_RESULTS with its files."""
        self.results.pop(result, None)
        self.results[result] = made  # becomes the newest
        while len(self.results) > KEPT_RESULTS:
            oldest = next(iter(self.results))
            del self.results[oldest]
            for path in self.folder.glob(f"{oldest}.*"):
                self.files.discard(path.name)
                _unlink(path)

    def find(self, result: str) -> Any:
        """The result of that id; Gone if there is none."""
        if result not in self.results:
            raise Gone("This result no longer exists: make it again.")
        return self.results[result]

    def clear(self) -> None:
        """Forget all results, and delete all files except the upload and its preview."""
        self.results.clear()
        for name in [name for name in self.files if not name.startswith("before")]:
            _unlink(self.folder / name)
            self.files.discard(name)

    def publish(self, path: Path) -> Path:
        """Allow a file of the folder to be served."""
        self.files.add(path.name)
        return path


@dataclass
class Session:
    """The files of one tab."""

    id: str
    folder: Path
    uploads: dict[str, Upload] = field(default_factory=dict)
    packed: str | None = None  # the id of its newest ZIP
    seen: float = field(default_factory=time.monotonic)

    def add(self, name: str) -> Upload:
        """Create an entry for a file of that name; the file is not written yet."""
        if len(self.uploads) >= MAX_FILES:
            raise Gone(f"The limit is {MAX_FILES:,} photos: reload, or use `condiff batch`.")
        number = new_id()
        folder = self.folder / number
        folder.mkdir(mode=0o700)
        upload = Upload(number, clean_name(name), folder / "in")
        self.uploads[number] = upload
        return upload

    def find(self, number: str) -> Upload:
        """The upload of that id; Gone if there is none."""
        if number not in self.uploads:
            raise Gone("This photo no longer exists: add it again.")
        return self.uploads[number]

    def remove(self, number: str) -> None:
        """Forget an upload, and delete its files."""
        upload = self.uploads.pop(number, None)
        if upload is not None:
            shutil.rmtree(upload.folder, ignore_errors=True)


class Sessions:
    """All sessions below one private temporary folder, which `close` deletes."""

    def __init__(self) -> None:
        remove_left()
        self._make_root()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def _make_root(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
        self._held = hold(self.root)

    def open(self) -> Session:
        """Open a session with a random id; beyond the limit, the one idle longest ends."""
        self.sweep()
        with self._lock:
            if not self.root.is_dir():
                self._held.close()
                self._make_root()
            if len(self._sessions) >= MAX_SESSIONS:
                self._drop(min(self._sessions.values(), key=lambda session: session.seen).id)
            session = Session(number := new_id(), self.root / number)
            session.folder.mkdir(mode=0o700)
            self._sessions[number] = session
        return session

    def find(self, number: str) -> Session:
        """The session of that id, marked as active; Gone if there is none."""
        with self._lock:
            session = self._sessions.get(number)
            if session is not None and not session.folder.is_dir():  # as /tmp is cleaned after days
                self._drop(number)
                session = None
            if session is None:
                raise Gone("This page has been idle for too long: reload it.")
            session.seen = time.monotonic()
        return session

    def end(self, number: str) -> None:
        """Delete a session and its files."""
        with self._lock:
            self._drop(number)

    def sweep(self) -> None:
        """Delete the sessions of tabs that were inactive for IDLE_SECONDS."""
        before = time.monotonic() - IDLE_SECONDS
        with self._lock:
            for session in list(self._sessions.values()):
                if session.seen < before:
                    self._drop(session.id)

    def close(self) -> None:
        """Delete everything."""
        self._held.close()  # first, as Windows deletes no open file
        shutil.rmtree(self.root, ignore_errors=True)

    def _drop(self, number: str) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            shutil.rmtree(session.folder, ignore_errors=True)


def _unlink(path: Path) -> None:
    # Windows refuses while a file is being sent: it is then deleted with the session's folder.
    with suppress(OSError):
        path.unlink()


def hold(folder: Path) -> IO[bytes]:
    """An open file in a folder, which marks its server as running: locked, except on Windows."""
    if fcntl is None:
        return open(folder / LOCK, "xb")
    file = open(folder / "new", "xb")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / "new").rename(folder / LOCK)  # never visible unlocked
    return file


def remove_left() -> None:
    """Delete the folders of killed servers, whose files are no longer locked, or open."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):
            if fcntl is None:
                lock.unlink()  # OSError: its server is running, as Windows deletes no open file
                shutil.rmtree(lock.parent, ignore_errors=True)
                continue
            if lock.stat().st_uid != os.getuid() or lock.parent.is_symlink():
                continue
            with open(lock, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its server is running
                shutil.rmtree(lock.parent, ignore_errors=True)


def new_id() -> str:
    """An unguessable id of letters and digits."""
    return secrets.token_hex(16)


def clean_name(name: str) -> str:
    """A file's name from a browser, without folders and control characters."""
    name = re.split(r"[/\\]", name)[-1]
    if len(name) > 400:  # keep the suffix, and the beginning
        name = name[:200] + name[-20:]
    name = "".join(c for c in name if c.isprintable()).strip(" .") or "photo.jpg"
    while len(os.fsencode(name)) > 200:
        stem, dot, ending = name.rpartition(".")
        name = stem[:-1] + dot + ending if dot and len(ending) < 10 and stem else name[:-1]
    return name

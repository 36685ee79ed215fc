"""Files that are written completely or not at all, and digests of files."""

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO

from condiff.errors import ImageError
from condiff.platforms import WINDOWS

RENAME_SECONDS = 2.0  # how long to wait on Windows for programs that have a file open
PERMISSIONS = 0o777
MAX_NAME = 255  # bytes, on the file systems of Linux, macOS and Windows
JUNK = {".DS_Store", "Thumbs.db", "desktop.ini"}  # files that desktops leave in folders
STREAMS = {"<stdin>": "standard input", "<stdout>": "standard output"}  # by Python's names
EXISTS = "it already exists; use --force to replace it"


def name_of(file: Any) -> str:
    """A path, or the name of an open file, for an error."""
    name = file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
    if not isinstance(name, (str, os.PathLike)):
        return "the file that was given"
    return STREAMS.get(str(name), str(name))


def unwritten(name: str, error: BaseException) -> ImageError:
    """The error that a file of that name could not be written, and why."""
    if isinstance(error, FileExistsError):
        return ImageError(f"cannot write {name}: {EXISTS}")
    return ImageError(f"cannot write {name}: {reason_of(error)}; try another place or format")


@contextmanager
def publish(target: Path, force: bool) -> Iterator[BinaryIO]:
    """A temporary file beside the target; renamed to it at the end, removed if anything fails.

    A target that is replaced keeps its permissions. Raises FileExistsError if the target exists and
    not `force`, OSError if writing fails.
    """
    target = target.resolve() if target.is_symlink() else target
    part = target.with_name(part_name(target.name))
    part.unlink(missing_ok=True)  # left by a killed process that had the same number
    try:
        with open(part, "xb") as file:
            yield file
        if force:
            if not WINDOWS:  # there, a file that may only be read cannot be renamed
                with suppress(OSError):
                    part.chmod(target.stat().st_mode & PERMISSIONS)
            rename(part, target)
        else:
            _link(part, target)
    finally:
        part.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """Rename a file, replacing a file of that name, or a folder.

    Windows refuses this while another program, such as a virus scanner, has one of them open, so it
    is tried for RENAME_SECONDS there. Raises OSError.
    """
    end = time.monotonic() + (RENAME_SECONDS if WINDOWS else 0)
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def replace_folder(part: Path, folder: Path) -> None:
    """Rename the folder `part` to `folder`; one of that name is set aside, then removed."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        rename(folder, old)
    rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def lock_file(path: Path) -> IO[bytes]:
    """Lock a file, a new one if there is none, for this process until the returned file is closed.

    The system releases the lock when the process ends in any way, and forked processes do not
    inherit it. A process does not exclude itself. Without locks, as on Windows and some network
    disks, the user must ensure that there is one run at a time. Raises BlockingIOError if another
    process has locked the file, OSError if it cannot be written.
    """
    file = open(path, "wb")  # noqa: SIM115  # open while locked
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # depending on the system
        file.close()
        raise BlockingIOError(*error.args) from None
    except (ImportError, OSError):
        pass
    return file


def sync(path: Path) -> None:
    """Wait until the content of a file is on the disk; OSError if that fails."""
    with open(path, "r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def write_buffer(buffer: BytesIO, file: BinaryIO) -> None:
    """Write what was encoded in memory to an open file, and flush it, so that errors come now.

    A buffer cannot be freed while it is viewed, so the view ends before an error leaves.
    """
    with buffer.getbuffer() as data:
        file.write(data)
    if hasattr(file, "flush"):
        file.flush()


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file; it never exists incomplete."""
    with publish(path, force=True) as file:
        file.write(text.encode())


def part_name(name: str) -> str:
    """The name of a file's unfinished part: hidden, unique to this process, never too long."""
    return hidden_name(name, f".{os.getpid()}.part")


def hidden_name(name: str, ending: str) -> str:
    """A hidden name beside a file's, with this ending; hashed where it would be too long."""
    if len(os.fsencode(name)) + len(ending) >= MAX_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}{ending}"


def shorten_stem(stem: str, ending: str) -> str:
    """The stem and the ending as a name of at most MAX_NAME bytes; the stem's end is cut off."""
    while stem and len(os.fsencode(stem + ending)) > MAX_NAME:
        stem = stem[:-1]
    return stem + ending


def find_shared(sources: Iterable[Path], targets: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Each target that is the same file as a source, under any of its names, with that source."""
    found = {}
    for source in sources:
        with suppress(OSError, ValueError):  # it does not exist, or is not a file
            found[identify_file(source)] = source
    for target in targets if found else ():
        with suppress(OSError, ValueError):
            if shared := found.get(identify_file(target)):
                yield shared, target


def identify_file(path: Path) -> tuple[int, int]:
    """Device and inode, which identify a file or folder under any of its names."""
    status = path.stat()
    return status.st_dev, status.st_ino


def find_mode(path: Path) -> int:
    """The type and permissions of a file or folder (`os.stat`), 0 if there is none.

    Raises OSError where that cannot be found out, as for a name that is too long, ValueError for a
    name with a NUL. (`Path.exists` does so too, but only before Python 3.14.)
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def find_obstacle(folder: Path, *, new: bool = False) -> str | None:
    """Why no file can be written into a folder; None if one can. A `new` folder will be made.

    Raises OSError and ValueError as `find_mode`.
    """
    found = folder
    while new and not find_mode(found) and found != found.parent:
        found = found.parent
    if not stat.S_ISDIR(find_mode(found)):
        return f"{found} is not a folder" if new else "its folder is missing; create it first"
    if not os.access(found, os.W_OK | os.X_OK):
        return f"no permission in {found}; give another folder"
    return None


def make_folder(folder: Path) -> None:
    """Make a folder and those around it; ImageError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(str(folder), error) from error


def _link(part: Path, target: Path) -> None:
    """Rename `part` to `target`; FileExistsError if that exists, even if it is new."""
    if WINDOWS:  # where renaming replaces nothing, and some disks have no hard links
        os.rename(part, target)
        return
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # no hard links here (FAT): claim it
        part.replace(target)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of the names below `root` and the contents of files, in the given order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.relative_to(root).as_posix().encode())
        total.update(bytes.fromhex(digest_of(path)))
    return total.hexdigest()


def short_digest(content: bytes) -> str:
    """The first 16 hex digits of SHA-256, which stand for a picture in a result's note."""
    return hashlib.sha256(content).hexdigest()[:16]


def reason_of(error: BaseException) -> str:
    """The system's or Pillow's description of a failure, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())

"""The process of a command: streams that may be closed, names of any bytes, and SIGTERM."""

import codecs
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from condiff.platforms import WINDOWS

ESCAPED = "condiff"  # the name of the error handler below


def escape_unprintable(error: UnicodeError) -> tuple[bytes, int]:
    """An error handler: keeps bytes of names that are not text, escapes other characters."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    escaped = (
        bytes([ord(c) - 0xDC00])
        if "\udc80" <= c <= "\udcff"
        else c.encode("ascii", "backslashreplace")
        for c in found
    )
    return b"".join(escaped), error.end


codecs.register_error(ESCAPED, escape_unprintable)


def open_streams() -> None:
    """Open closed ones of stdin, stdout and stderr on the null device; let stdout take any name.

    Otherwise the next file that is opened gets the number of a closed stream, and what libraries
    write to stderr goes into a photo; and print uses stdout in place of a stderr that is None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the whole process
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors != ESCAPED:
        sys.stdout.reconfigure(errors=ESCAPED)  # print names that its encoding lacks


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command by SystemExit, so that no part of a file is left behind."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of what is written has ended, as by `| head`; Windows calls it EINVAL."""
    return isinstance(error, BrokenPipeError) or (WINDOWS and error.errno == errno.EINVAL)


def flush() -> int:
    """Write the rest of stdout; 1 if that fails, otherwise 0."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment]  # nothing more is flushed at the end
        if not is_broken_pipe(error):
            print(f"condiff: cannot write to standard output: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def on_one_line(text: str) -> str:
    """A sentence or a name with control characters and stray bytes escaped, safe to print."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

"""The systems whose shells, names and files differ from those of Linux."""

import glob
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator

WINDOWS, APPLE = sys.platform == "win32", sys.platform == "darwin"
SLASHES = ("/", os.sep)


def with_slashes(place: str) -> str:
    """A path below a folder as it is written on every system."""
    return place.replace(os.sep, "/")


def comparable(path: str) -> str:
    """A path that is equal for all names of one file: some systems ignore case and Unicode form."""
    return unicodedata.normalize("NFC", path).casefold() if WINDOWS or APPLE else path


def expand_globs(names: Iterable[str]) -> Iterator[str]:
    """Names, with `*.jpg` replaced by the files that match: shells on Windows do not do it."""
    for name in names:
        found = WINDOWS and glob.has_magic(name) and not os.path.lexists(name) and glob.glob(name)
        yield from sorted(found) if found else [name]

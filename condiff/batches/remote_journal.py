"""The journal of a batch whose OUT is a URL, where files cannot be appended to or locked.

So only one run may work on it at a time, and each run uploads a file with its own lines. If a
killed run has not uploaded some lines, the next one skips their results, which are there, and
tries their failures again.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from condiff.batches.journal import (
    SCRATCH,
    Entry,
    Journal,
    Settings,
    journal_files,
    open_journal,
    read_entries,
    settle,
)
from condiff.batches.remote import Blob, Folder, write_blob
from condiff.errors import ConfigError

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

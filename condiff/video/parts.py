"""Intermediate files of a run, for resuming: finished segments and states between them.

A power cut may leave files that are cut short, or empty. So a state contains the sizes of the files
that were finished before it, and work is resumed where all of them are whole.
"""

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from condiff.errors import ConfigError, FilmError
from condiff.files import hidden_name, reason_of, rename
from condiff.video.steady import Key

SEGMENT = 96  # frames; a segment ends at the first key frame after these
# Exceptions of numpy for damaged states.
BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Start(NamedTuple):
    """Where a run begins, or goes on."""

    number: int = 0  # of the segment to make next
    first: int = 0  # its first frame
    key: Key | None = None  # its state; None for the film's first segment
    faults: tuple[str, ...] = ()  # of the frames before


class Parts:
    """The folder of a film's finished segments, beside the target film.

    00012.nut is a segment, and 00012.npz the state at the key frame where the next one begins.
    """

    def __init__(self, target: Path):
        self.target = target
        self._lock: Any = None
        whole = Path(os.path.abspath(target))
        self.folder = whole.with_name(hidden_name(whole.name, ".condiff"))

    def begin(self, settings: dict[str, Any], *, force: bool) -> bool:
        """Create the folder, or check its settings; returns whether a run is resumed.

        Raises ConfigError if the folder has segments of other settings; `force` removes it.
        """
        before = self._read_settings()
        if before:
            done = self.segments() or any(self.folder.glob("*.npz"))
            if before != settings and done and not force:
                names = [n for n in settings if settings[n] != before.get(n)]
                raise ConfigError(
                    f"The film was begun with another {', '.join(names) or 'version'}: give the "
                    "same settings to resume, or --force to start over."
                )
        if self.folder.is_dir():
            self._claim()  # another run may be using it
        if before == settings:
            return True
        self.remove()
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim()
            part = self.folder / "settings.part"
            part.write_text(json.dumps(settings), "utf-8")
            part.replace(self.folder / "settings.json")
        return False

    def _read_settings(self) -> dict[str, Any]:
        """The settings of the folder; empty if missing or damaged."""
        try:
            settings = json.loads((self.folder / "settings.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return settings if isinstance(settings, dict) else {}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FilmError(f"cannot write beside {self.target}: {reason_of(error)}") from error

    def _claim(self) -> None:
        """Lock the folder until `close` or the end of the process; FilmError if it is locked.

        Windows and some network disks have no such lock: there, the user must ensure that there is
        one run at a time.
        """
        try:
            import fcntl
        except ImportError:
            return
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115  # open while locked
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise FilmError(f"{self.target} is being made by another run: wait for it") from None
        except OSError:
            pass

    def close(self) -> None:
        """Release the folder to other runs."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def seed(self) -> int | None:
        """The seed of an unfinished film; None if there is none."""
        try:
            return int(self._read_settings()["seed"])
        except (ValueError, KeyError, TypeError):
            return None

    def segments(self) -> list[Path]:
        """The finished segments in order."""
        found: list[Path] = []
        while (path := self.path(len(found))).is_file():
            found.append(path)
        return found

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{number:05}.nut"

    def save(
        self, number: int, first: int, key: Key, made: Sequence[Path], faults: Sequence[str] = ()
    ) -> None:
        """Store the state of a segment that begins at the key frame `first`.

        `made` are the files of the segment before it, `faults` those of all frames before it.
        """
        strokes = np.zeros(0, np.uint8) if key.strokes is None else key.strokes
        path = self._state(number)
        with self._writing(), open(path.with_suffix(".part"), "wb") as file:
            np.savez(
                file,
                first=first,
                chroma=key.chroma,
                strokes=strokes,
                shot=key.shot,
                made=json.dumps(self._sizes(made)),
                faults=json.dumps(list(faults)),
            )
        rename(path.with_suffix(".part"), path)

    def resume(self) -> Start:
        """Where to go on after the segments that are whole; later states are removed."""
        number = self._count_whole()
        while number and (start := self._load(number)) is None:
            number -= 1
        for path in self.folder.glob("*.npz"):
            if int(path.stem) > number:
                path.unlink()
        return start if number and start else Start()

    def finish(
        self, frames: int, shots: int, faults: Sequence[str], *, number: int, made: Sequence[Path]
    ) -> None:
        """Record that all frames are done; `number` and `made` are those of the last segment."""
        record = {"frames": frames, "shots": shots, "faults": list(faults)}
        part = self.folder / "end.part"
        with self._writing():
            part.write_text(json.dumps([record, number, self._sizes(made)]), "utf-8")
        part.replace(self.folder / "end.json")

    def end(self) -> dict[str, Any] | None:
        """The frames, shots and faults given to `finish`; None if not done, or damaged."""
        try:
            record, number, sizes = json.loads((self.folder / "end.json").read_text("utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return record if number == self._count_whole() and self._are_whole(sizes) else None

    def _state(self, number: int) -> Path:
        return self.folder / f"{number:05}.npz"

    def _load(self, number: int) -> Start | None:
        """The state at a segment; None if it is missing or damaged."""
        try:
            with open(self._state(number), "rb") as file, np.load(file) as saved:
                strokes = saved["strokes"] if saved["strokes"].size else None
                key = Key(saved["chroma"], strokes, int(saved["shot"]))
                faults = json.loads(str(saved["faults"]))
                return Start(number, int(saved["first"]), key, tuple(faults))
        except BROKEN:
            return None

    def _count_whole(self) -> int:
        """The number of segments from the first on that are finished and whole."""
        number = 0
        while True:
            try:
                with open(self._state(number + 1), "rb") as file, np.load(file) as saved:
                    sizes = json.loads(str(saved["made"]))
            except BROKEN:
                return number
            if not self._are_whole(sizes):
                return number
            number += 1

    def _sizes(self, made: Sequence[Path]) -> dict[str, int]:
        """The size of each file, by its path from the folder."""
        return {os.path.relpath(path, self.folder): path.stat().st_size for path in made}

    def _are_whole(self, sizes: dict[str, int]) -> bool:
        """Whether files have the sizes that `_sizes` returned."""
        try:
            return all((self.folder / path).stat().st_size == n for path, n in sizes.items())
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

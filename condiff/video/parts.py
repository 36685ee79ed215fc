"""Intermediate files of a run, for resuming: finished segments and states between them."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from condiff.errors import ConfigError, FilmError
from condiff.files import hidden_name, reason_of
from condiff.video.steady import Key

SEGMENT = 96  # frames; a segment ends at the first key frame after these


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
            done = self.segments() or self.latest()
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
            self.folder.mkdir(exist_ok=True)
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

        Windows has no such lock: the user must ensure that there is one run at a time.
        """
        try:
            import fcntl
        except ImportError:
            return
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115  # open while locked
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise FilmError(f"{self.target} is being made by another run: wait for it") from error

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

    def save(self, number: int, first: int, key: Key) -> None:
        """Store the state of a segment that begins at the key frame `first`."""
        strokes = np.zeros(0, np.uint8) if key.strokes is None else key.strokes
        path = self.folder / f"{number:05}.npz"
        with self._writing(), open(path.with_suffix(".part"), "wb") as file:
            np.savez(file, first=first, chroma=key.chroma, strokes=strokes, shot=key.shot)
        path.with_suffix(".part").replace(path)

    def load(self, number: int) -> tuple[int, Key | None]:
        """The first frame of a segment and its state; (0, None) for the film's first segment."""
        path = self.folder / f"{number:05}.npz"
        if number == 0 or not path.is_file():
            return 0, None
        with np.load(path) as saved:
            strokes = saved["strokes"] if saved["strokes"].size else None
            return int(saved["first"]), Key(saved["chroma"], strokes, int(saved["shot"]))

    def latest(self) -> int:
        """The number of the last segment with a stored state; 0 if there is none."""
        return max((int(path.stem) for path in self.folder.glob("*.npz")), default=0)

    def finish(self, frames: int, shots: int, faults: list[str]) -> None:
        """Record that all frames are in segments."""
        record = {"frames": frames, "shots": shots, "faults": faults}
        part = self.folder / "end.part"
        with self._writing():
            part.write_text(json.dumps(record), "utf-8")
        part.replace(self.folder / "end.json")

    def end(self) -> dict[str, Any] | None:
        """The record of `finish`, or None."""
        path = self.folder / "end.json"
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    def remove(self) -> None:
        """Remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

"""The style of a batch whose photos are an album: measured once, before the first photo is made.

Every photo is coloured at the model's size, and the means of its chroma are noted; the style is
computed from all of them. It is kept in OUT/.condiff, so that a resumed batch, with more photos or
fewer, keeps the style of its first run.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from condiff.batch.journal import ALBUM, ALBUM_LINES, Journal, parsing
from condiff.batch.plan import Job, Plan, file_seed, hash_name
from condiff.batch.worker import Read
from condiff.color.album import AlbumStyle, ChromaMeans
from condiff.errors import CondiffError
from condiff.photos.photo import Photo
from condiff.photos.provenance import is_own_file

WAIT = 0.2  # seconds between checks of another process that measures

Measure = Callable[[Photo, int], ChromaMeans]  # (photo, its seed)


def settle_style(
    plan: Plan,
    journal: Journal,
    measure: Measure,
    *,
    seed: int,
    read: Read,
    workers: int,
) -> AlbumStyle:
    """The style of a batch: the stored one, or one that is measured now and stored.

    Photos that cannot be read or coloured do not count; the batch reports them. Means measured by
    a stopped run are used. Raises StorageError where OUT cannot be written to.
    """
    key = hash_name(ALBUM)
    while (style := read_style(plan, seed)) is None:
        if not journal.claim(key):
            time.sleep(WAIT)  # another process measures
            continue
        try:
            if read_style(plan, seed) is None:
                album = _Album(plan, journal, measure, seed=seed, read=read)
                means = album.measure_all(workers)
                style = AlbumStyle.of(list(means.values()), seed=seed)
                if means:
                    journal.keep(ALBUM, json.dumps({"photos": len(means), "means": style.means}))
                    plan.out.remove([ALBUM_LINES])
        finally:
            journal.release(key)
    return style


def read_style(plan: Plan, seed: int) -> AlbumStyle | None:
    """The stored style of a batch, None where it is not yet measured; StorageError if damaged."""
    try:
        with parsing(plan.out, ALBUM):
            means = json.loads(plan.out.read(ALBUM))["means"]
            return AlbumStyle(seed, None if means is None else _to_means(means))
    except FileNotFoundError:
        return None


class _Album:
    """Measures the photos of a plan, in threads; the result does not depend on their order."""

    def __init__(self, plan: Plan, journal: Journal, measure: Measure, *, seed: int, read: Read):
        self.plan, self.journal, self.measure, self.read = plan, journal, measure, read
        self.seed, self.mutex = seed, threading.Lock()
        self.means: dict[str, ChromaMeans] = {}

    def measure_all(self, workers: int) -> dict[str, ChromaMeans]:
        """The means of all photos by name."""
        known = dict(_read_lines(self.plan.out.path_of(ALBUM_LINES)))
        jobs = []
        for job in self.plan.jobs:
            if known.get(job.name, (None,))[0] == self._version(job):
                self.means[job.name] = known[job.name][1]
            else:
                jobs.append(job)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="album")
        try:
            alone = [
                job
                for job, done in zip(jobs, pool.map(self.try_one, jobs), strict=True)
                if not done
            ]
        finally:
            pool.shutdown(cancel_futures=True)
        for job in alone:  # memory was short
            self.try_one(job)
        return self.means

    def try_one(self, job: Job) -> bool:
        """Measure a photo; False where memory was too short for it."""
        try:
            with self.plan.source.as_file(job.name) as path:
                if is_own_file(path):
                    return True
                means = self.measure(self.read(path), file_seed(self.seed, job.name))
        except MemoryError:
            return False
        except (CondiffError, OSError):  # the batch reports why
            return True
        line = json.dumps({"name": job.name, "version": self._version(job), "means": means})
        with self.mutex:
            self.means[job.name] = means
            self.journal.add_line(ALBUM_LINES, line)
        return True

    def _version(self, job: Job) -> list[int] | None:
        """Numbers that change when a photo's file changes."""
        try:
            status = self.plan.source.stat(job.name)
        except OSError:
            return None
        return [status.size, status.version]


def _read_lines(path: Path | None) -> Iterator[tuple[str, tuple[list[int], ChromaMeans]]]:
    """Name, and version and means, of each photo that a stopped run has measured."""
    if path is None or not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
            measured = row["name"], (row["version"], _to_means(row["means"]))
        except (ValueError, KeyError, TypeError):  # empty, cut short, or of another version
            continue
        yield measured


def _to_means(values: Sequence[float]) -> ChromaMeans:
    """The means that a JSON list contains; ValueError or TypeError for another content."""
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a mean is not a number")
    return ChromaMeans(*values)

"""A folder of photos through a callable: every photo done once and whole, or a reason why not.

A result is written beside the mirror, in OUT/.condiff/parts, and takes its name in one step. So
what has a name is whole, whenever the run is killed; the next run goes on with what has none.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from condiff.batches.attempt import NO_MEMORY, Read, Transform, attempt, digest_of
from condiff.batches.journal import Entry, Journal
from condiff.batches.mirror import Job, Plan, check_targets, file_seed, hash_name
from condiff.batches.remote_journal import RemoteJournal
from condiff.images.files import read_photo
from condiff.images.photo import Photo

PIXELS_IN_WORK = 128_000_000  # the finish takes some 13 bytes a pixel
BUSY_WAIT = 0.2  # seconds until a photo that another process is at is looked at again
CHANGED = "the photo has changed since its result was made; delete the result or use --force"


@dataclass(frozen=True)
class Result:
    """What became of one photo."""

    job: Job
    seed: int
    outcome: Literal["done", "skipped", "failed"]
    reason: str = ""


def run(
    plan: Plan,
    journal: Journal,
    transform: Transform,
    *,
    seed: int,
    workers: int = 1,
    retry_failed: bool = False,
    read: Read = read_photo,
    quality: int | None = None,
) -> Generator[Result, None, None]:
    """Carry out a plan; yields results as they come: first what was known, then what is made.

    `workers` threads each take a whole photo through reading, `transform` and writing. Closed
    early, it lets the photos in work end and begins no other. A `transform` that raises
    MemoryError is called again for the same photo when no other is in work. `quality` is that of
    `write_photo`.
    """
    check_targets(plan.jobs, plan.out, ignore_case=journal.ignores_case())
    knowledge = Knowledge(plan, journal, seed=seed, retry_failed=retry_failed)
    batch = _Batch(journal, knowledge, transform, read=read, quality=quality)
    to_do: list[Job] = []
    for job in plan.jobs:
        known = knowledge.look_up(job)
        if known is None:
            to_do.append(job)
        else:
            yield known
    while to_do:
        alone: list[Job] = []
        busy: list[Job] = []
        with closing(batch.make_in_parallel(to_do, workers=workers)) as results:
            for job, result in results:
                if result == "busy":
                    busy.append(job)
                elif result == "no memory":
                    alone.append(job)
                elif isinstance(result, Result):
                    yield result
        for job in alone:
            result = batch.make(job, alone=True)
            if isinstance(result, Result):
                yield result
            else:
                busy.append(job)
        to_do = busy
        if busy:
            time.sleep(BUSY_WAIT)


def look_up(
    plan: Plan, entries: dict[str, Entry], *, replace: bool = False
) -> Iterator[tuple[str, str]]:
    """What is known of each job without a run: "to do", "skipped" or "failed", and the reason."""
    for job in plan.jobs:
        yield _judge(job, entries.get(job.name), replace=replace) or ("to do", "")


class _Budget:
    """So many pixels in work at once; a photo of more waits until it is alone."""

    def __init__(self, pixels: int):
        self.pixels, self.taken = pixels, 0
        self.changed = threading.Condition()

    @contextmanager
    def spend(self, pixels: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + pixels <= self.pixels)
            self.taken += pixels
        try:
            yield
        finally:
            with self.changed:
                self.taken -= pixels
                self.changed.notify_all()


class Knowledge:
    """What is known of the photos without work, and which failures are to be tried again."""

    def __init__(
        self, plan: Plan, journal: Journal | RemoteJournal, *, seed: int, retry_failed: bool
    ):
        self.journal, self.seed = journal, seed
        entries = [journal.entries.get(job.name) for job in plan.jobs]
        failed = (e for e in entries if e is not None and e.outcome == "failed")
        self.to_retry: set[Entry] = set(failed) if retry_failed else set()

    def look_up(self, job: Job) -> Result | None:
        """The result if nothing is to be done."""
        entry = self.journal.entries.get(job.name)
        if entry is not None and entry in self.to_retry:
            if entry.stale:
                return None
            entry = None
        known = _judge(job, entry, replace=self.journal.replace)
        return Result(job, file_seed(self.seed, job.name), *known) if known else None

    def note(self, job: Job, entry: Entry) -> None:
        """Write what became of a photo, and whether an older result of it is left."""
        before = self.journal.entries.get(job.name)
        left = before is not None and (before.outcome == "done" or before.stale)
        if entry.outcome == "failed" and left and job.target.is_file():
            entry = replace(entry, stale=True)
        self.journal.write(entry)


class _Stopped(Exception):
    """The run is to end, and this photo is not begun."""


class _Batch:
    """What the threads of one run share."""

    def __init__(
        self,
        journal: Journal,
        knowledge: Knowledge,
        transform: Transform,
        *,
        read: Read,
        quality: int | None,
    ):
        self.journal, self.knowledge, self.transform = journal, knowledge, transform
        self.read, self.quality = read, quality
        self.stop = threading.Event()
        self.budget = _Budget(PIXELS_IN_WORK)

    @contextmanager
    def room(self, photo: Photo) -> Iterator[None]:
        """Wait until the photo fits beside those in work."""
        if self.stop.is_set():
            raise _Stopped
        with self.budget.spend(photo.size[0] * photo.size[1]):
            yield

    def make_in_parallel(
        self, jobs: Sequence[Job], *, workers: int
    ) -> Generator[tuple[Job, "Result | str"], None, None]:
        """`make` all jobs; few are held at a time."""
        ahead = deque(jobs)
        running: dict[Future[Result | str], Job] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="batch") as pool:
            try:
                while ahead or running:
                    while ahead and len(running) < 2 * workers:
                        job = ahead.popleft()
                        running[pool.submit(self.make, job)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                self.stop.clear()

    def make(self, job: Job, *, alone: bool = False) -> "Result | str":
        """One photo from file to file; "busy" if another process has it, "stopped" if told so."""
        key = hash_name(job.name)
        if self.stop.is_set():
            return "stopped"
        if not self.journal.claim(key):
            return "busy"
        try:
            self.journal.refresh()  # another process may have made it since
            known = self.knowledge.look_up(job)
            if known is not None:
                return known
            entry = attempt(
                job,
                self.journal.part_path(key, job.target.suffix),
                self.transform,
                seed=file_seed(self.knowledge.seed, job.name),
                read=self.read,
                quality=self.quality,
                room=self.room,
            )
            if entry.reason == NO_MEMORY and not alone:
                return "no memory"
            self.knowledge.note(job, entry)
            return Result(job, entry.seed, entry.outcome, entry.reason)
        except _Stopped:
            return "stopped"
        finally:
            self.journal.release(key)


def _judge(
    job: Job, entry: Entry | None, *, replace: bool
) -> tuple[Literal["skipped", "failed"], str] | None:
    """What is known without work: None if the photo is to be made."""
    there = job.target.is_file() and not (entry is not None and entry.stale)
    if there and not replace and (entry is None or entry.outcome == "failed"):
        return "skipped", "its target is there"
    if entry is None or (entry.outcome == "done" and not there):
        return None
    if _hints_of(job) != entry.hints:
        return None
    same = _is_unchanged(job, entry)
    if entry.outcome == "failed":
        return ("failed", entry.reason) if same else None
    return ("skipped", "done before") if same else ("failed", CHANGED)


def _is_unchanged(job: Job, entry: Entry) -> bool:
    """Whether the photo is what it was, by size and time, or else by its bytes."""
    try:
        status = job.source.stat()
        if status.st_size != entry.size:
            return False
        return status.st_mtime_ns == entry.mtime_ns or digest_of(job.source) == entry.digest
    except OSError:
        return entry.size == -1


def _hints_of(job: Job) -> str:
    """The digest of a photo's hints, empty where there are none."""
    try:
        return digest_of(job.hints) if job.hints else ""
    except OSError:  # gone or closed since: told when the photo is tried
        return "unreadable"

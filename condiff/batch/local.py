"""Runs a batch in threads of this process: each photo is done once, or fails with a reason.

A result is written to OUT/.condiff/parts and then renamed to its target. So a target is always
complete, even if the run is killed, and the next run makes those that are missing.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Literal

from condiff.batch.journal import Entry, Journal
from condiff.batch.plan import Job, Plan, file_seed, hash_name
from condiff.batch.status import BatchStatus, Result
from condiff.batch.worker import NO_MEMORY, Read, Transform, process_photo
from condiff.photos.photo import Photo
from condiff.photos.reading import read_photo

PIXELS_IN_WORK = 128_000_000  # joining chroma and lightness takes some 13 bytes per pixel
Left = Literal["busy", "no memory", "stopped"]  # why a photo is left for later
BUSY_WAIT = 0.2  # seconds between checks of photos that other processes work on


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
    touch: bool = False,
) -> Generator[Result, None, None]:
    """Carry out a plan; yields results as they come, first those that need no work.

    Each of `workers` threads takes a photo through reading, `transform` and writing. If the
    generator is closed early, photos in progress are finished and no other is begun. Where
    `transform` raises MemoryError, the photo is tried again when no other is in progress.
    `quality` is for `write_photo`, `touch` for `process_photo`.
    """
    status = BatchStatus(plan, journal, seed=seed, retry_failed=retry_failed)
    process = partial(process_photo, read=read, quality=quality, touch=touch)
    batch = _Batch(journal, status, partial(process, transform=transform))
    to_do = yield from status.settled()
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


class _Budget:
    """A limit of pixels in progress at once; a larger photo waits until it is alone."""

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


class _Stopped(Exception):
    """The run is being closed, and this photo was not begun."""


class _Batch:
    """What the threads of one run share; `process` is `process_photo` with the run's settings."""

    def __init__(self, journal: Journal, status: BatchStatus, process: Callable[..., Entry]):
        self.journal, self.status = journal, status
        self.process = partial(process, room=self.room)
        self.stop = threading.Event()
        self.budget = _Budget(PIXELS_IN_WORK)

    @contextmanager
    def room(self, photo: Photo) -> Iterator[None]:
        """Wait until the photo fits beside those in progress."""
        if self.stop.is_set():
            raise _Stopped
        with self.budget.spend(photo.size[0] * photo.size[1]):
            yield

    def make_in_parallel(
        self, jobs: Sequence[Job], *, workers: int
    ) -> Generator[tuple[Job, Result | Left], None, None]:
        """Yield each job with what `make` returned; at most 2 * workers are submitted at once."""
        ahead = deque(jobs)
        running: dict[Future[Result | Left], Job] = {}
        # Not `wait`: Ctrl-C within it leaves futures locked, and their threads wait for ever.
        done: SimpleQueue[Future[Result | Left]] = SimpleQueue()
        with ThreadPoolExecutor(workers, thread_name_prefix="batch") as pool:
            try:
                while ahead or running:
                    while ahead and len(running) < 2 * workers:
                        job = ahead.popleft()
                        future = pool.submit(self.make, job)
                        running[future] = job
                        future.add_done_callback(done.put)
                    future = done.get()
                    yield running.pop(future), future.result()
            finally:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                self.stop.clear()

    def make(self, job: Job, *, alone: bool = False) -> Result | Left:
        """Make one photo. Returns its result, or a word for a photo that is left for later.

        "busy": another process has claimed it. "no memory": to be tried alone. "stopped": the run
        is being closed.
        """
        key = hash_name(job.name)
        if self.stop.is_set():
            return "stopped"
        if not self.journal.claim(key):
            return "busy"
        try:
            self.journal.refresh()  # another process may have made it since
            settled = self.status.look_up(job)
            if settled is not None:
                return settled
            plan, seed = self.status.plan, file_seed(self.status.seed, job.name)
            entry = self.process(job, plan.source, plan.out, seed=seed)
            if entry.reason == NO_MEMORY and not alone:
                return "no memory"
            return self.status.record(job, entry)
        except _Stopped:
            return "stopped"
        finally:
            self.journal.release(key)

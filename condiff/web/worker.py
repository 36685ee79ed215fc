"""One thread that runs jobs one after the other, so that one model serves every tab of the page."""

import asyncio
import itertools
import sys
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from condiff.errors import NO_MEMORY, CondiffError

Event = dict[str, Any]
MAX_WAITING = 200
FAILED = "Something failed inside condiff; the terminal that runs it shows what."


class Busy(CondiffError):
    """The queue is full."""


class Job:
    """A function that yields events; `events` gives them to the event loop that submitted it.

    The last event is one of {"done": True}, {"canceled": True} and {"error": a sentence}.
    """

    def __init__(self, number: int, make: Callable[[], Iterator[Event]]):
        self.id = str(number)
        self._make = make
        self._canceled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def cancel(self) -> None:
        """Let the job end at its next event, which comes with each step of the sampler."""
        self._canceled.set()

    async def events(self) -> AsyncIterator[Event]:
        """Every event until the last one; a consumer that goes away cancels the job."""
        try:
            while True:
                event = await self._events.get()
                yield event
                if not event.keys().isdisjoint(("done", "canceled", "error")):
                    return
        finally:
            self.cancel()

    def emit(self, event: Event) -> None:
        """Hand an event over from the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def run(self) -> None:
        """Run in the worker's thread, to the end or until it is canceled."""
        try:
            if not self._canceled.is_set():
                events = self._make()
                for event in events:
                    if self._canceled.is_set():
                        break
                    self.emit(event)
            self.emit({"canceled": True} if self._canceled.is_set() else {"done": True})
        except CondiffError as error:
            self.emit({"error": str(error)})
        except MemoryError:
            self.emit({"error": NO_MEMORY})
        except Exception:  # a bug ends this job, and must not end the server
            traceback.print_exc(file=sys.stderr)
            self.emit({"error": FAILED})


class Worker:
    """A queue of jobs and its thread; jobs that wait hear how many are before them."""

    def __init__(self, begin: Callable[[], None] = lambda: None) -> None:
        """`begin` is called in the thread, before the first job."""
        self._begin = begin
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._running: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="condiff-web", daemon=True)
        self._thread.start()

    @property
    def length(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._jobs) + (self._running is not None)

    def submit(self, make: Callable[[], Iterator[Event]]) -> Job:
        """Queue a job, from within an event loop. Raises Busy where too many wait."""
        with self._changed:
            if len(self._jobs) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} jobs are waiting already: try again in a minute.")
            job = Job(next(self._numbers), make)
            job.emit({"job": job.id, "waiting": len(self._jobs) + (self._running is not None)})
            self._jobs.append(job)
            self._changed.notify()
        return job

    def cancel(self, number: str) -> bool:
        """Cancel the job of that id; False where there is none that waits or runs."""
        with self._changed:
            known = [job for job in (*self._jobs, self._running) if job and job.id == number]
        for job in known:
            job.cancel()
        return bool(known)

    def close(self) -> None:
        """Cancel everything and wait for the step in work."""
        with self._changed:
            self._closed = True
            for job in (*self._jobs, self._running):
                if job is not None:
                    job.cancel()
            self._changed.notify()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        self._begin()
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                self._running = self._jobs.popleft()
                for ahead, job in enumerate(self._jobs, 1):
                    job.emit({"waiting": ahead})
            self._running.run()
            with self._changed:
                self._running = None

"""A thread that runs jobs one after the other, so that one model serves all tabs."""

import asyncio
import errno
import secrets
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from condiff.errors import NO_MEMORY, CondiffError

Event = dict[str, Any]
MAX_WAITING = 200
STEP_SECONDS = 10.0  # wait for the current step when closing
NO_ROOM = "The disk of temporary files has no room for this file: free some, or set TMPDIR."
STOPPED = "condiff was stopped: start `condiff web` again, and reload this page."
FAILED = "An internal error occurred in condiff; the terminal that runs it shows details."


class Busy(CondiffError):
    """The queue is full."""


class Job:
    """A function that yields events; `events` passes them to the event loop that submitted it.

    The last event is one of {"done": True}, {"canceled": True} and {"error": a sentence}.
    """

    def __init__(self, make: Callable[[], Iterator[Event]], dropped: Callable[[], None]):
        self.id = secrets.token_hex(16)  # unguessable: it is enough to cancel the job
        self._make, self._dropped = make, dropped
        self._canceled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def cancel(self) -> None:
        """End the job at its next event; each step of the sampler has one."""
        self._canceled.set()

    async def events(self) -> AsyncIterator[Event]:
        """Yield all events; the job is canceled if the consumer stops."""
        try:
            while True:
                event = await self._events.get()
                yield event
                if not event.keys().isdisjoint(("done", "canceled", "error")):
                    return
        finally:
            self.cancel()

    def emit(self, event: Event) -> None:
        """Pass an event on from the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def run(self) -> None:
        """Run in the worker's thread, to the end or until it is canceled."""
        try:
            if self._canceled.is_set():
                self._dropped()
            else:
                for event in self._make():
                    if self._canceled.is_set():
                        break
                    self.emit(event)
            self.emit({"canceled": True} if self._canceled.is_set() else {"done": True})
        except CondiffError as error:
            self.emit({"error": str(error)})
        except MemoryError:
            self.emit({"error": NO_MEMORY})
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.emit({"error": NO_ROOM})
            else:
                self._fail()
        except Exception:  # a bug must end only this job, not the server
            self._fail()

    def _fail(self) -> None:
        """Print a bug's traceback in the terminal, and send a sentence to the page."""
        traceback.print_exc(file=sys.stderr)
        self.emit({"error": FAILED})


class Worker:
    """A queue of jobs and its thread; waiting jobs get the number of jobs before them."""

    def __init__(self, begin: Callable[[], None] = lambda: None) -> None:
        """`begin` is called in the thread, before the first job."""
        self._begin = begin
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._closed, self._closed_at = False, 0.0
        self._ended = time.monotonic()  # end of the last job
        self._thread = threading.Thread(target=self._work, name="condiff-web", daemon=True)
        self._thread.start()

    @property
    def length(self) -> int:
        """The number of waiting and running jobs."""
        with self._changed:
            return len(self._jobs) + (self._running is not None)

    @property
    def rests_for(self) -> float:
        """Seconds since the last job ended; 0 while one waits or runs."""
        with self._changed:
            busy = bool(self._jobs) or self._running is not None
            return 0.0 if busy else time.monotonic() - self._ended

    def submit(
        self, make: Callable[[], Iterator[Event]], dropped: Callable[[], None] = lambda: None
    ) -> Job:
        """Queue a job, from within an event loop. Raises Busy if too many wait.

        `dropped` is called, in the thread, for a job that was canceled before it began.
        """
        with self._changed:
            if self._closed:
                raise Busy(STOPPED)
            if len(self._jobs) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} jobs are waiting already: try again in a minute.")
            job = Job(make, dropped)
            job.emit({"job": job.id, "waiting": len(self._jobs) + (self._running is not None)})
            self._jobs.append(job)
            self._changed.notify()
        return job

    def cancel(self, number: str) -> bool:
        """Cancel the job of that id; False if none with it waits or runs."""
        with self._changed:
            known = [job for job in (*self._jobs, self._running) if job and job.id == number]
        for job in known:
            job.cancel()
        return bool(known)

    def stop(self) -> None:
        """Cancel all jobs and accept no more; every job's listener is notified at once."""
        with self._changed:
            if not self._closed:
                self._closed, self._closed_at = True, time.monotonic()
            for job in (*self._jobs, self._running):
                if job is not None:
                    job.cancel()
                    job.emit({"error": STOPPED})
            self._changed.notify()

    def close(self) -> None:
        """Stop, and wait for the current step, up to STEP_SECONDS."""
        if not self._closed:
            self.stop()
        self._thread.join(timeout=max(0.0, self._closed_at + STEP_SECONDS - time.monotonic()))

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
                self._running, self._ended = None, time.monotonic()

"""Runs a batch on Ray: actors that hold the model, and one driver that keeps the journal.

Actors read photos and publish results. Only the driver writes the journal, because object stores
cannot append; where files can be locked it claims the photos for its actors, too.
"""

import logging
import os
import signal
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from condiff._version import __version__
from condiff.batch.journal import Entry, Journal
from condiff.batch.local import BUSY_WAIT
from condiff.batch.plan import Job, Plan, file_seed, hash_name
from condiff.batch.status import BatchStatus, Result
from condiff.batch.storage import Storage
from condiff.batch.worker import NO_MEMORY, build_transform, process_photo
from condiff.errors import ClusterError, DependencyError
from condiff.files import reason_of
from condiff.pipelines.colorizing import ColorizeSettings

OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray; small, because photos never pass through it
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
ATTEMPTS = 2  # for a photo that ends its worker: this many beside others, as many alone
LOST = "its worker ended, and again when it was alone; Ray's logs say why (often a lack of memory)"


@dataclass(frozen=True)
class Order:
    """A job as it is sent to a worker."""

    job: Job
    seed: int
    hints: bytes | None  # the files, which may be on the driver's own disk
    mask: bytes | None


def run_on_ray(
    plan: Plan,
    journal: Journal,
    settings: ColorizeSettings,
    model: Path,
    *,
    seed: int,
    workers: int | None,
    address: str | None,
    retry_failed: bool = False,
) -> Generator[Result, None, None]:
    """Like `local.run`, on `workers` Ray actors (None: one per core or GPU of the cluster).

    Without an address, Ray is started on this machine and stopped at the end. Raises ClusterError
    where Ray cannot be reached or gives up.
    """
    status = BatchStatus(plan, journal, seed=seed, retry_failed=retry_failed)
    to_do = yield from status.settled()
    if not to_do:
        return
    with _connect(address, workers):
        pool = _Pool(plan, settings, model, workers)
        while to_do:
            claimed = {job.name: job for job in to_do if journal.claim(hash_name(job.name))}
            to_do = [job for job in to_do if job.name not in claimed]
            try:
                journal.refresh()  # another run may have made some since
                orders = []
                for job in list(claimed.values()):
                    settled = status.look_up(job)
                    if settled is None:
                        drawn = (p.read_bytes() if p else None for p in (job.hints, job.mask))
                        orders.append(Order(job, file_seed(seed, job.name), *drawn))
                    else:
                        journal.release(hash_name(claimed.pop(job.name).name))
                        yield settled
                for entry in _make(orders, pool):
                    result = status.record(claimed[entry.name], entry)
                    journal.release(hash_name(claimed.pop(entry.name).name))
                    yield result
            finally:
                for name in claimed:
                    journal.release(hash_name(name))
            if to_do:
                time.sleep(BUSY_WAIT)


def _make(orders: Sequence[Order], pool: "_Pool") -> Iterator[Entry]:
    """Entries of all orders; those that lacked memory or lost their worker are retried alone."""
    left = {order.job.name: order for order in orders}
    for alone in (False, True):
        for entry in pool.make(list(left.values()), alone=alone):
            if entry.reason != NO_MEMORY or alone:
                del left[entry.name]
                yield entry
    for order in left.values():
        yield Entry(order.job.name, "failed", LOST, order.seed, -1, 0, "")


class _Pool:
    """The arguments of the actors, and their largest number."""

    def __init__(self, plan: Plan, settings: ColorizeSettings, model: Path, workers: int | None):
        import ray

        kind = "GPU" if settings.device.startswith("cuda") else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if not there:
            raise ClusterError(f"The Ray cluster has no {kind}: give another --device.")
        self.settings, self.gpus = settings, int(kind == "GPU")
        self.workers = min(workers or there, there)
        # In a list, so that it stays a reference and is copied once to each machine.
        self.shared = [ray.put((plan.source, plan.out, _read_model(model)))]

    def make(self, orders: Sequence[Order], *, alone: bool) -> Iterator[Entry]:
        """Yield an entry for every order whose worker survived, in no fixed order."""
        import ray
        from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayError

        actor = ray.remote(Worker).options(
            num_cpus=1, num_gpus=self.gpus, max_restarts=-1, max_task_retries=ATTEMPTS - 1
        )
        count = min(1 if alone else self.workers, len(orders))
        idle = [actor.remote(self.settings, self.shared) for _ in range(count)]
        ahead = list(reversed(orders))
        running: dict[Any, Any] = {}  # the worker of each pending result
        while ahead or running:
            while ahead and idle:
                worker = idle.pop()
                running[worker.make.remote(ahead.pop())] = worker
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            idle.append(running.pop(done))
            try:
                yield ray.get(done)
            except (RayActorError, OutOfMemoryError) as error:
                if isinstance(error, ActorDiedError):  # it cannot start: Ray restarts the others
                    raise _gave_up(error) from error
            except RayError as error:
                raise _gave_up(error) from error


def _gave_up(error: Exception) -> ClusterError:
    reason = str(error).strip().splitlines()[-1]
    return ClusterError(f"Ray gave up: {reason}; the same command resumes the batch.")


class Worker:
    """A Ray actor: it loads the model and applies the same transform as a local run."""

    def __init__(self, settings: ColorizeSettings, shared: list[Any]):
        import cv2
        import ray

        from condiff.pipelines.pipeline import Pipeline

        cv2.setNumThreads(1)  # an actor has one core; `count_threads` goes by this, too
        self.source: Storage
        self.out: Storage
        self.source, self.out, content = ray.get(shared[0])
        if content["version"] != __version__:
            raise ClusterError(
                f"A worker has condiff {__version__}, the driver {content['version']}: install"
                " the same on all machines."
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = _write_model(Path(scratch) / settings.model, content["files"])
            pipeline = Pipeline.from_pretrained(
                folder, device=settings.device, engine=settings.engine
            )
        self.process = partial(
            process_photo,
            source=self.source,
            out=self.out,
            transform=build_transform(pipeline, settings),
            read=settings.read,
            quality=settings.quality,
            touch=settings.touch,
        )

    def make(self, order: Order) -> Entry:
        """Make one photo."""
        job = order.job
        if order.hints is None and order.mask is None:
            return self.process(job, seed=order.seed)
        with tempfile.TemporaryDirectory(prefix="condiff-") as scratch:
            hints, mask = Path(scratch, "hints.png"), Path(scratch, "mask.png")
            for path, content in ((hints, order.hints), (mask, order.mask)):
                path.write_bytes(content or b"")
            local = replace(job, hints=job.hints and hints, mask=job.mask and mask)
            entry = self.process(local, seed=order.seed)
        reason = entry.reason.replace(str(hints), str(job.hints)).replace(str(mask), str(job.mask))
        return replace(entry, reason=reason)


def _read_model(folder: Path) -> dict[str, Any]:
    """The files of a model folder, to be sent to workers, and the version of condiff."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {"version": __version__, "files": files}


def _write_model(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@contextmanager
def _connect(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to the Ray cluster at an address, or start Ray on this machine."""
    try:
        for name, value in QUIET.items():  # read when it is imported
            os.environ.setdefault(name, value)
        import ray
    except ImportError as error:
        raise DependencyError.of("--engine ray needs Ray", extra="ray") from error
    started: dict[str, Any] = {"address": address}
    if address is None:
        started = {
            "address": "local",
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**started, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many classes, Exception itself among them
        ray.shutdown()  # stop whatever was started
        where = f"at {address}" if address else "on this machine"
        reason = reason_of(error).rstrip(".")
        raise ClusterError(f"Ray cannot be started or reached {where}: {reason}.") from error
    try:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has replaced the handler
        yield
    finally:
        ray.shutdown()

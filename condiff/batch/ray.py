"""Runs a batch on Ray Data: actors that hold the model, and one driver that keeps the journal.

Actors read photos and publish results. Only the driver writes the journal, because object stores
cannot append; where files can be locked it claims the photos for its actors, too.
"""

import logging
import os
import pickle
import signal
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from condiff import __version__
from condiff.batch.journal import Entry, Journal, RemoteJournal
from condiff.batch.local import BUSY_WAIT
from condiff.batch.plan import Job, Plan, file_seed, hash_name
from condiff.batch.status import BatchStatus, Result
from condiff.batch.storage import Blob, open_folder, write_blob
from condiff.batch.transform import ColorizeSettings, build_transform
from condiff.batch.worker import NO_MEMORY, process_photo, publish
from condiff.errors import ConfigError, DependencyError
from condiff.photos.reading import read_photo

OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray; small, as photos never pass through it
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
MAX_BLOCKS = 1000  # groups of photos that are handed out together; Ray reports per group
DEATHS = 2  # attempts at a photo that ends its worker: so many among others, as many alone
LOST = "its worker ended, and again when it was alone; Ray's logs tell why (often a lack of memory)"

Place = Path | tuple[str, str]  # a path on a shared disk, or (URL of a folder, name below it)


@dataclass(frozen=True)
class Order:
    """A job as it is sent to a worker."""

    name: str
    source: Place
    target: Place
    part: Place
    seed: int
    hints: bytes | None


def run_on_ray(
    plan: Plan,
    journal: Journal | RemoteJournal,
    recipe: ColorizeSettings,
    model: Path,
    *,
    seed: int,
    workers: int | None,
    address: str | None,
    retry_failed: bool = False,
) -> Generator[Result, None, None]:
    """Like `runner.run`, on `workers` Ray actors (None: one per core or GPU of the cluster).

    Without an address, Ray is started on this machine and stopped at the end. Raises ConfigError
    where Ray cannot be reached or gives up.
    """
    status = BatchStatus(plan, journal, seed=seed, retry_failed=retry_failed)
    to_do = yield from status.settled()
    if not to_do:
        return
    with _connect(address, workers):
        pool = _Pool(recipe, model, workers)
        while to_do:
            mine = {job.name: job for job in to_do if journal.claim(hash_name(job.name))}
            to_do = [job for job in to_do if job.name not in mine]
            try:
                journal.refresh()  # another run may have made some since
                orders = []
                for job in list(mine.values()):
                    known = status.look_up(job)
                    if known is None:
                        orders.append(_order(job, journal, seed=seed))
                    else:
                        journal.release(hash_name(mine.pop(job.name).name))
                        yield known
                for entry in _make(orders, pool):
                    job = mine[entry.name]
                    if isinstance(job.source, Blob):  # the worker saw a copy of its own
                        entry = replace(entry, mtime_ns=job.source.stat().st_mtime_ns)
                    status.note(job, entry)
                    journal.release(hash_name(mine.pop(job.name).name))
                    yield Result(job, entry.seed, entry.outcome, entry.reason)
            finally:
                for name in mine:
                    journal.release(hash_name(name))
            if to_do:
                time.sleep(BUSY_WAIT)


def _order(job: Job, journal: Journal | RemoteJournal, *, seed: int) -> Order:
    def place(path: Path | Blob) -> Place:
        if isinstance(path, Path):  # workers have another working directory
            return Path(os.path.abspath(path))
        return path.folder.url, path.name

    part = journal.part_path(hash_name(job.name), job.target.suffix)
    hints = job.hints.read_bytes() if job.hints else None
    places = place(job.source), place(job.target), place(part)
    return Order(job.name, *places, file_seed(seed, job.name), hints)


def _make(orders: Sequence[Order], pool: "_Pool") -> Iterator[Entry]:
    """Entries of all orders; those without memory or answer are tried again, one by one."""
    left = {order.name: order for order in orders}
    for alone in (False, True):
        for entry in pool.make(list(left.values()), alone=alone):
            if entry.reason != NO_MEMORY or alone:
                del left[entry.name]
                yield entry
    for order in left.values():
        yield Entry(order.name, "failed", LOST, order.seed, -1, 0, "")


class _Pool:
    """What actors are made of: the recipe, the model's files, and how many there are."""

    def __init__(self, recipe: ColorizeSettings, model: Path, workers: int | None):
        import ray

        kind = "GPU" if recipe.device.startswith("cuda") else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if not there:
            raise ConfigError(f"The Ray cluster has no {kind}: give another --device.")
        self.recipe, self.gpus = recipe, int(kind == "GPU")
        self.workers = min(workers or there, there)
        self.files = ray.put(_read_model(model))

    def make(self, orders: Sequence[Order], *, alone: bool) -> Iterator[Entry]:
        """Yield an entry for every order whose worker survived, in no fixed order."""
        import ray
        from ray.data import ActorPoolStrategy
        from ray.util.annotations import RayDeprecationWarning

        if not orders:
            return
        rows = [{"pickled": pickle.dumps(order)} for order in orders]
        blocks = len(rows) if alone else min(len(rows), MAX_BLOCKS)
        workers = 1 if alone else min(self.workers, len(rows))
        with warnings.catch_warnings():
            # Ray 2.64 is to rename the last two: pyproject.toml keeps to the versions before.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            answers = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                Worker,
                batch_size=1,
                fn_constructor_args=(self.recipe, [self.files]),  # in a list it stays a reference
                compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=1,
                num_gpus=self.gpus,
                max_restarts=-1,
                max_task_retries=DEATHS - 1,
            )
        try:
            for row in answers.iter_rows():
                yield pickle.loads(row["pickled"])
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"Ray gave up: {reason}; the same command goes on from here."
            ) from error


class Worker:
    """A Ray actor: it holds the model and applies the same transform as a local run."""

    def __init__(self, recipe: ColorizeSettings, files: list[Any]):
        import ray

        from condiff.pipelines.pipeline import Pipeline

        content = ray.get(files[0])
        if content["version"] != __version__:
            raise ConfigError(
                f"A worker has condiff {__version__}, the driver {content['version']}: install"
                " the same on all machines."
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = _write_model(Path(scratch) / recipe.model, content["files"])
            pipeline = Pipeline.from_pretrained(folder, device=recipe.device, engine=recipe.engine)
        self.recipe = recipe
        self.transform = build_transform(pipeline, recipe)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of pickled orders -> the pickled entries."""
        entries = [self.make(pickle.loads(row)) for row in batch["pickled"]]
        return {"pickled": [pickle.dumps(entry) for entry in entries]}

    def make(self, order: Order) -> Entry:
        """Make one photo; files at URLs are copied to and from a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="condiff-") as scratch:
            try:
                job = _fetch(order, Path(scratch))
            except OSError as error:
                reason = f"it cannot be fetched: {error}"
                return Entry(order.name, "failed", reason, order.seed, -1, 0, "")
            local = isinstance(order.target, Path)
            part = order.part if isinstance(order.part, Path) else Path(scratch, "part")
            entry = process_photo(
                job,
                part.with_suffix(job.target.suffix),
                self.transform,
                seed=order.seed,
                read=partial(read_photo, max_pixels=self.recipe.max_pixels, page=self.recipe.page),
                quality=self.recipe.quality,
                touch=self.recipe.touch,
                publish=publish if local else partial(_upload, order),
            )
        return replace(entry, reason=entry.reason.replace(f"{scratch}/", ""))


def _fetch(order: Order, scratch: Path) -> Job:
    """The job with a source and a target on this machine's disk."""
    hints = None
    if order.hints is not None:
        hints = scratch / "hints.png"
        hints.write_bytes(order.hints)
    source, target = order.source, order.target
    if not isinstance(source, Path):
        blob = _open(source)
        source = scratch / f"photo{blob.suffix}"
        blob.folder.files.get_file(blob.path, str(source))
    if not isinstance(target, Path):
        target = scratch / f"result{_open(target).suffix}"
    return Job(order.name, source, target, hints)


def _upload(order: Order, part: Path, job: Job) -> None:
    assert not isinstance(order.target, Path) and not isinstance(order.part, Path)
    write_blob(_open(order.target), part, part=_open(order.part))


def _open(place: tuple[str, str]) -> Blob:
    folder = open_folder(place[0])
    assert not isinstance(folder, Path)
    return folder / place[1]


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
        import ray.data
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
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ConfigError(f"Ray cannot be started or reached {where}: {error}.") from error
    try:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has taken it
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told here
        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = -1  # told by `_make`: a photo that kills costs only itself
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield
    finally:
        ray.shutdown()

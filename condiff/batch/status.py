"""Decides which photos of a batch need work, and which were done or failed before."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from condiff.batch.journal import Entry, Journal, Outcome
from condiff.batch.plan import Job, Plan, check_targets, file_seed
from condiff.batch.worker import digest_pictures
from condiff.files import digest_of
from condiff.photos.provenance import OWN_RESULT, is_own_file

CHANGED = "the photo has changed since its result was made; delete the result or use --force"


@dataclass(frozen=True)
class Result:
    """The outcome of one photo, and the reason if it failed or was skipped."""

    job: Job
    seed: int
    outcome: Outcome
    reason: str = ""
    warnings: tuple[str, ...] = ()  # parts of the photo that were not read or not written


class BatchStatus:
    """The state of a plan's photos, by the journal and the target files.

    With `retry_failed`, failures of earlier runs count once as "to do".
    """

    def __init__(self, plan: Plan, journal: Journal, *, seed: int, retry_failed: bool):
        check_targets(plan.jobs, plan.out, ignore_case=journal.ignores_case())
        self.plan, self.journal, self.seed = plan, journal, seed
        entries = [journal.entries.get(job.name) for job in plan.jobs]
        failed = (e for e in entries if e is not None and e.outcome == "failed")
        self.to_retry: set[Entry] = set(failed) if retry_failed else set()

    def settled(self) -> Generator[Result, None, list[Job]]:
        """Yield the results of photos that need no work; return the jobs of the others."""
        to_do = []
        for job in self.plan.jobs:
            result = self.look_up(job)
            if result is None:
                to_do.append(job)
            else:
                yield result
        return to_do

    def look_up(self, job: Job) -> Result | None:
        """The result of a photo that needs no work, None for one that needs work."""
        entry = self.journal.entries.get(job.name)
        if entry is not None and entry in self.to_retry:
            if entry.stale:
                return None
            entry = None
        settled = _judge(self.plan, job, entry, replace=self.journal.replace)
        return Result(job, file_seed(self.seed, job.name), *settled) if settled else None

    def record(self, job: Job, entry: Entry) -> Result:
        """Write an entry to the journal, marked stale where an older result stays in place."""
        before = self.journal.entries.get(job.name)
        made = before is not None and (before.outcome == "done" or before.stale)
        if entry.outcome == "failed" and made and self.plan.out.exists(job.target):
            entry = replace(entry, stale=True)
        self.journal.write(entry)
        return Result(job, entry.seed, entry.outcome, entry.reason, entry.warnings)


def list_states(
    plan: Plan, entries: dict[str, Entry], *, replace: bool = False
) -> Iterator[tuple[str, str]]:
    """For each job "to do", "skipped" or "failed", and the reason; writes nothing."""
    for job in plan.jobs:
        state: tuple[str, str] | None
        state = _judge(plan, job, entries.get(job.name), replace=replace)
        path = plan.source.path_of(job.name)
        if state is None and path is not None and is_own_file(path):
            state = "skipped", OWN_RESULT
        yield state or ("to do", "")


def _judge(
    plan: Plan, job: Job, entry: Entry | None, *, replace: bool
) -> tuple[Outcome, str] | None:
    """Outcome and reason of a photo that needs no work, None for one that needs work."""
    there = plan.out.exists(job.target) and not (entry is not None and entry.stale)
    if there and not replace and (entry is None or entry.outcome != "done"):
        return "skipped", "its target exists"
    if entry is None or (entry.outcome == "done" and not there):
        return None
    if _pictures_of(job) != entry.hints:
        return None
    same = _is_unchanged(plan, job, entry)
    if entry.outcome != "done":
        return (entry.outcome, entry.reason) if same else None
    return ("skipped", "done before") if same else ("failed", CHANGED)


def _is_unchanged(plan: Plan, job: Job, entry: Entry) -> bool:
    """Whether the photo is the entry's: by size and version, otherwise by its bytes."""
    try:
        status = plan.source.stat(job.name)
        if status.size != entry.size:
            return False
        if status.version == entry.mtime_ns:
            return True
        with plan.source.as_file(job.name) as path:
            return digest_of(path) == entry.digest
    except OSError:
        return entry.size == -1


def _pictures_of(job: Job) -> str:
    """SHA-256 of a photo's pictures of hints and mask, empty where it has none."""
    try:
        return digest_pictures(job)
    except OSError:  # removed or locked since: reported when the photo is tried
        return "unreadable"

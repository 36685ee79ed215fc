"""Photos -> a prepared data set: parquet shards with conditions, resumable after interruptions.

Photos are decoded and encoded in parallel. One process decides which are used, in the order of the
source, and writes each decision to a journal. Shards are renamed into place when complete. A run
that was killed can be resumed and gives the same bytes as an uninterrupted one.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from condiff.errors import ConfigError, DataError
from condiff.files import JUNK, lock_file, write_text
from condiff.prep.parquet_writer import (
    SPLITS,
    ShardWriter,
    Summary,
    check_pyarrow,
    features_of,
    shard_path,
    write_card,
    write_info,
)
from condiff.prep.prepare import Decision, Prepared, PrepConfig, prepare_in_order
from condiff.sources.source import Item, Source


@dataclass(frozen=True)
class Plan:
    """What is done and what is left to do; making a plan writes nothing."""

    source: Source
    out: Path
    recipe: PrepConfig
    decided: list[Decision]
    ended: bool  # whether the source was read to its end
    pending: dict[int, int]  # photo -> row of its split: used, but its shard is not written yet
    finished: bool

    @property
    def total(self) -> int | None:
        """The number of photos of the source, up to the limit; None if unknown."""
        limits = [n for n in (self.source.total, self.recipe.limit) if n is not None]
        return min(limits) if limits else None


def plan(source: Source, out: Path, recipe: PrepConfig, *, force: bool = False) -> Plan:
    """Compare the requested data set with the content of `out`.

    Raises DataError if `out` contains other files or, without `force`, a data set that was begun
    with other settings; ConfigError for an unknown condition.
    """
    _check_kinds(recipe.kinds)
    started = (_scratch(out) / "settings.json").exists()
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give a folder to write to.")
    if not started and out.exists() and any(file.name not in JUNK for file in out.iterdir()):
        raise DataError(f"{out} contains other files: give an empty or a new folder.")
    if force or not started:
        return Plan(source, out, recipe, [], False, {}, False)
    there = _read_settings(out)
    asked = _settings(source, recipe)
    if there != asked:
        names = [key for key in asked if there.get(key) != asked[key]]
        what = "the photos of its source" if names == ["photos"] else " and ".join(names)
        raise DataError(
            f"{out} was begun with other settings ({what} changed): give another folder, or "
            "--force to start over."
        )
    decided, ended = _read_journal(out)
    pending = {}
    totals = Counter(verdict.split for verdict in decided if verdict.outcome == "done")
    rows: Counter[str] = Counter()
    for number, verdict in enumerate(decided):
        if verdict.outcome == "done":
            row = rows[verdict.split]
            rows[verdict.split] += 1
            shard = row // recipe.shard_size
            # A shard is written again if the journal has lost some of its rows.
            whole = ended or (shard + 1) * recipe.shard_size <= totals[verdict.split]
            if not (whole and shard_path(out, verdict.split, shard).exists()):
                pending[number] = row
    finished = ended and not pending and (out / "dataset_info.json").exists()
    return Plan(source, out, recipe, decided, ended, pending, finished)


def run(plan: Plan, *, workers: int = 1) -> Iterator[Decision]:
    """Carry out a plan; yields the decision on each photo that was not decided before."""
    if plan.finished:
        return
    check_pyarrow()
    scratch, recipe, known = _scratch(plan.out), plan.recipe, len(plan.decided)
    features = features_of(recipe.kinds, has_text=plan.source.has_text)
    with _lock(scratch):
        if not plan.decided:
            _clear(plan.out)
            settings = _settings(plan.source, recipe)
            write_text(scratch / "settings.json", json.dumps(settings, indent=2) + "\n")
        _trim_journal(plan.out)
        decider = _Decider(plan)
        with open(scratch / "journal.jsonl", "a", encoding="utf-8") as journal:
            writers = {
                split: ShardWriter(
                    plan.out,
                    split,
                    features,
                    shard_size=recipe.shard_size,
                    scratch=scratch,
                    before_commit=lambda: _sync(journal),
                )
                for split in SPLITS
            }
            with closing(prepare_in_order(_items(plan), recipe, workers=workers)) as results:
                for number, result in results:
                    verdict, row = decider.decide(number, result)
                    if number >= known:
                        # Buffered: lines lost by a kill are decided again, in the same way.
                        line = json.dumps(vars(verdict), ensure_ascii=False)
                        journal.write(line + "\n")
                    if isinstance(result, Prepared) and verdict.outcome == "done":
                        writers[verdict.split].add(row, result.row)
                    if number >= known:
                        yield verdict
            if not plan.ended:
                journal.write("{}\n")  # the end of the source
                _sync(journal)
            for writer in writers.values():
                writer.close()
        _finish(plan.source, plan.out, recipe, features)


class _Decider:
    """Decides which photos are used, in the order of the source; keeps the first of duplicates."""

    def __init__(self, plan: Plan):
        self.plan = plan
        done = [verdict for verdict in plan.decided if verdict.outcome == "done"]
        self.rows = Counter(verdict.split for verdict in done)
        self.num_hashes = len(done)
        self.hashes = np.zeros(max(1024, 2 * len(done)), np.uint64)
        self.hashes[: len(done)] = [verdict.dhash for verdict in done]
        self.sources = [verdict.source for verdict in done]

    def decide(self, number: int, result: Prepared | Decision) -> tuple[Decision, int]:
        """The decision, and the photo's row in its split, -1 if it is not used."""
        if number in self.plan.pending:
            verdict = self.plan.decided[number]
            if not isinstance(result, Prepared) or result.dhash != verdict.dhash:
                raise DataError(
                    f"{verdict.source} has changed since {self.plan.out} was begun: use --force "
                    "to start over."
                )
            return verdict, self.plan.pending[number]
        if isinstance(result, Decision):
            return result, -1
        if (twin := self._twin(result.dhash)) is not None:
            return Decision(result.source, "duplicate", f"looks like {twin}"), -1
        self._remember(result)
        row = self.rows[result.split]
        self.rows[result.split] += 1
        return Decision(result.source, "done", split=result.split, dhash=result.dhash), row

    def _twin(self, dhash: int) -> str | None:
        most = self.plan.recipe.max_distance
        if most is None or not self.num_hashes:
            return None
        distances = np.bitwise_count(self.hashes[: self.num_hashes] ^ np.uint64(dhash))
        nearest = int(distances.argmin())
        return self.sources[nearest] if distances[nearest] <= most else None

    def _remember(self, photo: Prepared) -> None:
        if self.num_hashes == len(self.hashes):
            self.hashes = np.concatenate([self.hashes, np.zeros_like(self.hashes)])
        self.hashes[self.num_hashes] = photo.dhash
        self.num_hashes += 1
        self.sources.append(photo.source)


def _items(plan: Plan) -> Iterator[tuple[int, Item]]:
    """The photos to be decided or written again, with their numbers."""
    known = len(plan.decided)
    start = min(plan.pending, default=known)
    stop = known if plan.ended else plan.recipe.limit
    items = enumerate(plan.source.items(start), start)
    for number, item in islice(items, None if stop is None else max(0, stop - start)):
        if number >= known or number in plan.pending:
            yield number, item


def _finish(
    source: Source, out: Path, recipe: PrepConfig, features: dict[str, dict[str, str]]
) -> None:
    """Write rejected.jsonl, the card, and last dataset_info.json, which marks the set complete."""
    decided, _ = _read_journal(out)
    rejected = [
        {"source": verdict.source, "outcome": verdict.outcome, "reason": verdict.reason}
        for verdict in decided
        if verdict.outcome != "done"
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rejected]
    write_text(out / "rejected.jsonl", "".join(lines))
    summary = Summary(
        name=source.name,
        license=recipe.license,
        settings=asdict(recipe),
        features=features,
        outcomes=Counter(verdict.outcome for verdict in decided),
        splits=Counter(verdict.split for verdict in decided if verdict.outcome == "done"),
    )
    write_card(out, summary)
    write_info(out, summary)


def _settings(source: Source, recipe: PrepConfig) -> dict[str, Any]:
    return {**json.loads(json.dumps(asdict(recipe))), "photos": source.fingerprint}


def _read_settings(out: Path) -> dict[str, Any]:
    """The settings of the data set that was begun there; DataError if they are damaged."""
    path = _scratch(out) / "settings.json"
    try:
        return {**json.loads(path.read_text("utf-8"))}
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged: give another folder, or --force to start over."
        ) from error


def _scratch(out: Path) -> Path:
    return out / ".prep"


def _check_kinds(kinds: Sequence[str]) -> None:
    if not kinds:
        return
    from condiff.conditions.table import CONDITIONS

    for kind in kinds:
        if kind not in CONDITIONS:
            raise ConfigError(f"There is no condition {kind!r}: one of {', '.join(CONDITIONS)}.")


def _clear(out: Path) -> None:
    """Remove the files of an earlier run, but no others."""
    info = [out / "dataset_info.json", out / "README.md", out / "rejected.jsonl"]
    shards = [path for split in SPLITS for path in out.glob(f"{split}-*.parquet")]
    for path in [*info, *shards, _scratch(out) / "journal.jsonl"]:
        path.unlink(missing_ok=True)


def _lock(scratch: Path) -> IO[bytes]:
    """Lock the folder for one run until the returned file is closed: see `lock_file`.

    Raises DataError if another process prepares it, or if it is not writable.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        return lock_file(scratch / "lock")
    except BlockingIOError:
        raise DataError(f"{scratch.parent} is being prepared by another run.") from None
    except OSError as error:
        raise DataError(
            f"Cannot write into {scratch.parent}: {error.strerror}. Choose another folder."
        ) from error


def _read_journal(out: Path) -> tuple[list[Decision], bool]:
    """Every photo's decision in the order of the source, and whether the source ended."""
    decided, ended, _ = _parse_journal(out)
    return decided, ended


def _parse_journal(out: Path) -> tuple[list[Decision], bool, int]:
    """The same, and the number of bytes up to the first truncated or damaged line."""
    decided: list[Decision] = []
    length = 0
    with suppress(FileNotFoundError), open(_scratch(out) / "journal.jsonl", "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
                verdict = Decision(**row) if row else None
            except (ValueError, TypeError):  # later lines are decided again, in the same way
                break
            if not line.endswith(b"\n"):
                break
            length += len(line)
            if verdict is None:
                return decided, True, length
            decided.append(verdict)
    return decided, False, length


def _trim_journal(out: Path) -> None:
    """Cut off lines that a kill left unfinished or a power failure damaged."""
    path = _scratch(out) / "journal.jsonl"
    if path.exists():
        os.truncate(path, _parse_journal(out)[2])


def _sync(file: IO[str]) -> None:
    file.flush()
    os.fsync(file.fileno())

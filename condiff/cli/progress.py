"""What batch prints while it runs, and at the end."""

import json
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from condiff.cli import options

if TYPE_CHECKING:
    from condiff.batch.plan import Plan
    from condiff.batch.status import Result


OUTCOMES = ("done", "skipped", "failed")


def describe(plan: "Plan", *, force: bool) -> None:
    """`--dry-run`: print a line for every photo, then the counts."""
    from condiff.batch.journal import read_entries
    from condiff.batch.status import look_up

    entries = {} if force else read_entries(plan.out)
    states = list(look_up(plan, entries, replace=force))
    for job, (state, reason) in zip(plan.jobs, states, strict=True):
        why = f" ({shown(reason)})" if reason else ""
        print(f"{state}: {shown(job.name)} -> {shown(str(job.target))}{why}")
    for fault in plan.faults:
        print(f"failed: {shown(fault.name)}: {shown(fault.reason)}")
    counts = Counter(state for state, _ in states)
    failed = counts["failed"] + len(plan.faults)
    print(f"{counts['to do']} to do, {counts['skipped']} skipped, {failed} failed")


def report(
    plan: "Plan",
    results: Generator["Result", None, None],
    *,
    seed: int,
    fail_fast: bool,
    quiet: bool,
    as_json: bool,
    verbose: bool = False,
) -> None:
    """Take all results of a run: reasons and progress go to stderr, the summary to stdout.

    Exits with 1 if a photo failed.
    """
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    hidden = quiet or not sys.stderr.isatty()
    total = len(plan.jobs) + len(plan.faults)
    if not total:
        options.report(f"There are no photos to do in {plan.source}.", quiet=quiet)
    report_left_out(plan, each=verbose, quiet=quiet)
    for name in plan.idle_hints:
        options.report(f"{shown(name)} of the hints belongs to no photo.", quiet=quiet)
    with tqdm(total=total, unit="photo", disable=hidden) as bar:

        def tell(name: str, told: dict[str, Any]) -> None:
            bar.update()
            counts[told["outcome"]] += 1
            if told["outcome"] == "failed":
                bar.write(f"{shown(name)}: {shown(told['reason'])}", file=sys.stderr)
            if as_json:
                print(json.dumps({"source": name, **told}))

        with stopped_by_sigterm():
            try:
                for fault in plan.faults:
                    tell(fault.name, {"outcome": "failed", "reason": fault.reason})
                with closing(results):
                    while not (fail_fast and counts["failed"]):
                        result = next(results, None)
                        if result is None:
                            break
                        tell(result.job.name, report_json(result))
            except KeyboardInterrupt:
                options.report(
                    f"{summarize_batch(counts)}; the same command goes on from here", quiet=quiet
                )
                raise
    if as_json:
        print(json.dumps({name: counts[name] for name in OUTCOMES} | {"seed": seed}))
    else:
        options.report(f"seed {seed}", quiet=quiet)
        print(summarize_batch(counts))
    if counts["failed"]:
        raise typer.Exit(1)


def report_left_out(plan: "Plan", *, each: bool, quiet: bool) -> None:
    """Name the files that are not photos by their suffix: each, or counted by suffix."""
    if each:
        for name in plan.others:
            options.report(f"{shown(name)}: left out, not a photo by its suffix", quiet=quiet)
    elif plan.others:
        counts = Counter(Path(name).suffix.lower() or "no suffix" for name in plan.others)
        kinds = ", ".join(f"{n} {shown(suffix)}" for suffix, n in counts.most_common())
        options.report(f"left out, not photos by their suffix: {kinds} (-v: each)", quiet=quiet)


def summarize_batch(counts: Counter[str]) -> str:
    """ "12 done, 3 skipped, 1 failed"."""
    return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)


def report_json(result: "Result") -> dict[str, Any]:
    """One photo's line of `--json`."""
    told = {"target": str(result.job.target), "seed": result.seed, "outcome": result.outcome}
    return told | ({"reason": result.reason} if result.reason else {})


def shown(name: str) -> str:
    """A name that is safe to print: control characters and stray bytes are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a batch like Ctrl-C: photos in work are finished first."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

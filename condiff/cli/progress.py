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
from condiff.cli.process import on_one_line

if TYPE_CHECKING:
    from condiff.batch.plan import Plan
    from condiff.batch.status import Result


OUTCOMES = ("done", "skipped", "failed")
UNUSED = 3  # pictures of a folder that belong to no photo: how many are named


def describe(plan: "Plan", *, force: bool, as_json: bool = False) -> None:
    """`--dry-run`: print a line for every photo, then the counts; each as JSON, if wanted."""
    from condiff.batch.journal import read_entries
    from condiff.batch.status import list_states

    entries = {} if force else read_entries(plan.out)
    states = list(list_states(plan, entries, replace=force))
    counts = Counter(state for state, _ in states)
    failed = counts["failed"] + len(plan.faults)
    if as_json:
        for job, (state, reason) in zip(plan.jobs, states, strict=True):
            record = {"source": job.name, "target": plan.out.locate(job.target), "outcome": state}
            print(json.dumps(record | ({"reason": reason} if reason else {})))
        for fault in plan.faults:
            record = {"source": fault.name, "outcome": "failed", "reason": fault.reason}
            print(json.dumps(record))
        print(
            json.dumps({name: counts[name] for name in ("to do", "skipped")} | {"failed": failed})
        )
        return
    for job, (state, reason) in zip(plan.jobs, states, strict=True):
        why = f" ({reason})" if reason else ""
        print(on_one_line(f"{state}: {job.name} -> {plan.out.locate(job.target)}{why}"))
    for fault in plan.faults:
        print(on_one_line(f"failed: {fault.name}: {fault.reason}"))
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

    from condiff.photos.provenance import OWN_RESULT

    counts: Counter[str] = Counter()
    own: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    hidden = quiet or not sys.stderr.isatty()
    total = len(plan.jobs) + len(plan.faults)
    if not total:
        options.report(f"There are no photos to colour in {plan.source}.", quiet=quiet)
    report_left_out(plan, each=verbose, quiet=quiet)
    for what, names in (("hints", plan.unused_hints), ("masks", plan.unused_masks)):
        listed = names if verbose else names[:UNUSED]
        for name in listed:
            options.report(
                f"{name} of the {what} belongs to no photo; the one for a/b.jpg is a/b.png.",
                quiet=quiet,
            )
        if more := len(names) - len(listed):
            options.report(f"and {more} more of the {what} (-v: each)", quiet=quiet)
    with tqdm(total=total, unit="photo", disable=hidden) as bar:

        def write(line: str) -> None:
            bar.write(on_one_line(line), file=sys.stderr)

        def add(name: str, record: dict[str, Any], *, named: bool = True) -> None:
            bar.update()
            counts[record["outcome"]] += 1
            own["results"] += record.get("reason") == OWN_RESULT
            if record["outcome"] == "failed" and named:
                write(f"{name}: {record['reason']}")
            elif record.get("reason") == OWN_RESULT and verbose:
                write(f"{name}: skipped, {OWN_RESULT}")
            for warning in record.get("warnings", ()):
                warnings[warning] += 1
                if verbose and not quiet:
                    write(f"{name}: {warning}")
            if as_json:
                print(json.dumps({"source": name, **record}))

        with stopped_by_sigterm():
            try:
                for fault in plan.faults:
                    record = {"outcome": "failed", "reason": fault.reason}
                    add(fault.name, record, named=verbose or not fault.kind)
                if not verbose:
                    report_kinds(plan)
                with closing(results):
                    while not (fail_fast and counts["failed"]):
                        result = next(results, None)
                        if result is None:
                            break
                        add(result.job.name, report_json(plan, result))
            except KeyboardInterrupt:
                options.report(
                    f"{summarize_batch(counts)}; the same command resumes the batch", quiet=quiet
                )
                raise
    if own["results"] and not verbose:
        options.report(f"{own['results']} skipped: {OWN_RESULT} (-v: each)", quiet=quiet)
    if warnings and not verbose:
        kinds = "; ".join(f"{warning} ({n})" for warning, n in warnings.most_common())
        options.report(f"warnings, with the number of photos (-v: each): {kinds}", quiet=quiet)
    if as_json:
        print(json.dumps({name: counts[name] for name in OUTCOMES} | {"seed": seed}))
    else:
        options.report(f"seed {seed}", quiet=quiet)
        print(summarize_batch(counts))
    if counts["failed"]:
        raise typer.Exit(1)


def report_left_out(plan: "Plan", *, each: bool, quiet: bool) -> None:
    """Report what is left out of IN and why: each file, or counts of every suffix and reason."""
    from condiff.batch.plan import NOT_A_PHOTO

    if each:
        for left in plan.left_out:
            options.report(f"{left.name}: left out, {left.reason}", quiet=quiet)
    elif plan.left_out:
        suffixes = Counter(
            Path(left.name).suffix.lower() or "without suffix"
            for left in plan.left_out
            if left.reason == NOT_A_PHOTO
        )
        others = Counter(left.reason for left in plan.left_out if left.reason != NOT_A_PHOTO)
        counted = [f"{n} {kind}" for c in (suffixes, others) for kind, n in c.most_common()]
        options.report(f"left out: {', '.join(counted)} (-v: each)", quiet=quiet)


def report_kinds(plan: "Plan") -> None:
    """One line for each kind of file that needs a package which is not installed."""
    reasons = {fault.kind: fault.reason for fault in plan.faults if fault.kind}
    counts = Counter(fault.kind for fault in plan.faults if fault.kind)
    for kind, count in counts.items():
        told = on_one_line(f"{count} {kind} failed: {reasons[kind]} (-v: each)")
        print(told, file=sys.stderr)


def summarize_batch(counts: Counter[str]) -> str:
    """ "12 done, 3 skipped, 1 failed"."""
    return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)


def report_json(plan: "Plan", result: "Result") -> dict[str, Any]:
    """One photo's line of `--json`."""
    target = plan.out.locate(result.job.target)
    record = {"target": target, "seed": result.seed, "outcome": result.outcome}
    record |= {"reason": result.reason} if result.reason else {}
    return record | ({"warnings": list(result.warnings)} if result.warnings else {})


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a batch or a film like Ctrl-C, after what is in progress, but with 143."""
    ended = False

    def stop(*_: object) -> None:
        nonlocal ended
        ended = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if ended:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)

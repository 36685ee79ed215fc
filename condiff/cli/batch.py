"""`condiff batch`: a folder of photos, every one done once and whole or told why not."""

import json
import os
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options
from condiff.cli.colorize import DEFAULT_SCHEDULER, DEFAULT_STEPS

if TYPE_CHECKING:
    from condiff.batches.journal import Journal
    from condiff.batches.mirror import Plan
    from condiff.batches.runner import Read, Result, Transform

OUTCOMES = ("done", "skipped", "failed")


def batch(
    source: Annotated[
        Path, typer.Argument(metavar="IN_DIR", help="The folder of the photos, with all below it.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT_DIR", help="Where the results go, in the same tree.")
    ],
    task: Annotated[str, typer.Option(help="What to do with each: colorize.")] = "colorize",
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help="An embedded model's name, or a model folder (default: the task's own).",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only photos whose name, or path below IN_DIR, matches this glob; repeatable."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out photos and folders that match this glob; repeatable."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Write all results as png, jpg, webp, tif …  (default: as the photo is, png "
            "where that is not written).",
        ),
    ] = None,
    steps: options.Steps = DEFAULT_STEPS,
    scheduler: options.Scheduler = DEFAULT_SCHEDULER,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of the batch; each photo's own follows from it and from its path below IN_DIR "
            "(default: a new one, or that of the batch gone on with).",
        ),
    ] = None,
    size: options.Size = None,
    quality: options.Quality = None,
    provenance: options.Provenance = True,
    max_pixels: options.MaxPixels = options.DEFAULT_MAX_PIXELS,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Photos in work at once (default: one a core).")
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Only the I-th of N parts of the photos, for several machines."
        ),
    ] = "1/1",
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first photo that fails.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try those again that failed in an earlier run.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("-f", "--force", help="Begin anew, and replace the results that are there."),
    ] = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a photo on stdout, and a last of all.")
    ] = False,
) -> None:
    """Do the same to every photo of a folder, into a folder of the same tree.

    Stopped or killed, the same command goes on where it was. Results that are there are skipped.
    """
    from condiff.batches.journal import compare_settings, open_journal
    from condiff.batches.mirror import Choice, plan
    from condiff.batches.runner import look_up
    from condiff.tasks import find_task

    find_task(task)
    choice = Choice(include or (), exclude or (), parse_shard(shard))
    suffix = parse_format(format)
    to_do = plan(source, out, choice=choice, suffix=suffix)
    asked: dict[str, Any] = {
        "task": task,
        "steps": steps,
        "scheduler": scheduler,
        "size": size,
        "seed": seed,
        "format": suffix or "as the photo",
        "quality": quality,
        "provenance": provenance,
    }
    if not force:
        compare_settings(out, asked)
    if dry_run:
        describe(to_do, force=force)
        return
    from condiff.batches.transform import build_transform, fingerprint
    from condiff.images.files import read_photo
    from condiff.networks.engines import choose_engine, find_device
    from condiff.networks.folder import read_folder
    from condiff.pipeline import Pipeline

    described = read_folder(model or task)
    folder = described.folder
    fingerprinted = fingerprint(folder, task)
    found = find_device(device, engine=engine)
    chosen = choose_engine(described, engine, found)
    asked |= {"model": fingerprinted, "device": found.split(":")[0], "engine": chosen}

    @cache
    def load() -> "Transform":
        options.quiet_libraries()
        pipeline = Pipeline.from_pretrained(folder, device=found, engine=chosen)
        name = folder.name if provenance else None
        return build_transform(
            pipeline, steps=steps, scheduler=scheduler, size=size, provenance=name
        )

    drawn = {"seed": secrets.randbits(31)}
    with open_journal(out, asked, defaults=drawn, force=force) as journal:
        entries = {} if retry_failed else journal.entries
        if any(s == "to do" for s, _ in look_up(to_do, entries, replace=journal.replace)):
            load()  # now, where a failure is the model's, not a photo's
        report(
            to_do,
            journal,
            lambda photo, seed: load()(photo, seed),
            read=partial(read_photo, max_pixels=max_pixels),
            quality=quality,
            workers=workers or count_cores(),
            retry_failed=retry_failed,
            fail_fast=fail_fast,
            quiet=quiet,
            as_json=as_json,
        )


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/3" -> (2, 3)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not I/N with 1 <= I <= N.", param_hint="--shard")
    return int(index), int(count)


def parse_format(name: str | None) -> str | None:
    """The suffix of a format that is written."""
    from condiff.images.formats import FORMATS

    if name is None:
        return None
    suffix = f".{name.lower().removeprefix('.')}"
    if suffix not in FORMATS:
        known = ", ".join(known.removeprefix(".") for known in FORMATS)
        raise typer.BadParameter(f"{name!r} is none of {known}.", param_hint="--format")
    return suffix


def count_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(plan: "Plan", *, force: bool) -> None:
    """`--dry-run`: a line for every photo."""
    from condiff.batches.journal import read_entries
    from condiff.batches.runner import look_up

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
    journal: "Journal",
    transform: "Transform",
    *,
    read: "Read",
    quality: int | None,
    workers: int,
    retry_failed: bool,
    fail_fast: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Carry the plan out; reasons and progress on stderr, the summary on stdout."""
    from tqdm import tqdm

    from condiff.batches.runner import run

    seed = journal.settings["seed"]
    counts: Counter[str] = Counter()
    hidden = quiet or not sys.stderr.isatty()
    total = len(plan.jobs) + len(plan.faults)
    if not total:
        options.say(f"There are no photos to do in {plan.source}.", quiet=quiet)
    if plan.num_others:
        options.say(f"{plan.num_others} files are no photos by their suffix.", quiet=quiet)
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
                results = run(
                    plan,
                    journal,
                    transform,
                    seed=seed,
                    workers=workers,
                    retry_failed=retry_failed,
                    read=read,
                    quality=quality,
                )
                with closing(results):
                    while not (fail_fast and counts["failed"]):
                        result = next(results, None)
                        if result is None:
                            break
                        tell(result.job.name, tell_json(result))
            except KeyboardInterrupt:
                options.say(f"{summarize(counts)}; the same command goes on from here", quiet=quiet)
                raise
    if as_json:
        print(json.dumps({name: counts[name] for name in OUTCOMES} | {"seed": seed}))
    else:
        options.say(f"seed {seed}", quiet=quiet)
        print(summarize(counts))
    if counts["failed"]:
        raise typer.Exit(1)


def summarize(counts: Counter[str]) -> str:
    """ "12 done, 3 skipped, 1 failed"."""
    return ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)


def tell_json(result: "Result") -> dict[str, Any]:
    """One photo's line of `--json`."""
    told = {"target": str(result.job.target), "seed": result.seed, "outcome": result.outcome}
    return told | ({"reason": result.reason} if result.reason else {})


def shown(name: str) -> str:
    """A name that a terminal can take: on one line, no control characters, no stray bytes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a batch as Ctrl-C does: photos in work end first, nothing is left half."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

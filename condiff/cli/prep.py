"""`condiff prep`: turn photos from anywhere into a training set."""

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condiff.cli import options
from condiff.cli.process import on_one_line
from condiff.cli.sampling import Group, expand_groups

if TYPE_CHECKING:
    from condiff.prep.dataset import Plan
    from condiff.prep.prepare import PrepConfig

NO_KIND = "none"
LEFT_OUT = {"small": "too small", "grey": "without colour", "duplicate": "duplicates"}


@dataclass(frozen=True)
class PrepFlags(Group):
    """Which photos are taken, and how they are stored."""

    task: Annotated[
        str | None,
        typer.Option(
            help="Task of the photos, which chooses the condition: colorize (gray, and grey photos "
            "are left out), sketch (sketch) or edge (canny)."
        ),
    ] = None
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw this condition instead of the task's; may be repeated. One is stored as "
            "the column conditioning_image, several as conditioning_KIND; none stores photos alone."
        ),
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=8192,
            help="Shrink photos to this short side, as WebP (default: keep the files as they are).",
        ),
    ] = None
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Quality of the WebP files that --size writes.")
    ] = 90
    min_side: Annotated[
        int, typer.Option(min=1, help="Leave out photos whose short side has fewer pixels.")
    ] = 64
    min_chroma: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Leave out photos of a lower mean Lab chroma (default: 4 for colorize, else 0).",
        ),
    ] = None
    distance: Annotated[
        int,
        typer.Option(
            min=-1,
            max=64,
            help="Leave out photos that look like an earlier one: the two dHashes differ in at "
            "most this many of 64 bits; -1 keeps all.",
        ),
    ] = 3
    val: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the photos to put into the validation split."),
    ] = 0.05
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Licence of the photos, named in the data set's card."),
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only this many photos, the first ones.")
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Number of processes (default: one per core)."),
    ] = None
    shard_size: Annotated[int, typer.Option(min=1, help="Photos per parquet file.")] = 1000
    force: options.Force = False
    dry_run: options.DryRun = False
    quiet: options.Quiet = False
    verbose: options.Verbose = False


@expand_groups
def prep(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of photos (searched with its subfolders) or one saved by `datasets`, a "
            "parquet or tar file, or the name of a data set on the Hugging Face hub.",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write the data set to.")
    ],
    flags: PrepFlags,
) -> None:
    """Turn photos into a training set.

    It consists of parquet shards with photos and conditions, a card, and rejected.jsonl, which
    lists the photos that were left out. The same command resumes a run that was stopped or killed.
    """
    from condiff.prep import dataset as library
    from condiff.prep.prepare import PrepConfig
    from condiff.sources.folders import open_source
    from condiff.tasks import PREPARED_TASKS

    kinds = choose_kinds(flags.task, flags.kind or [])
    min_chroma = flags.min_chroma
    if min_chroma is None:
        min_chroma = 0.0 if flags.task is None else PREPARED_TASKS[flags.task].min_chroma
    recipe = PrepConfig(
        kinds=kinds,
        size=flags.size,
        quality=flags.quality,
        min_side=flags.min_side,
        min_chroma=min_chroma,
        max_distance=None if flags.distance < 0 else flags.distance,
        val=flags.val,
        shard_size=flags.shard_size,
        limit=flags.limit,
        license=flags.licence,
    )
    check_apart(Path(source), out)
    plan = library.plan(open_source(source), out, recipe, force=flags.force)
    if flags.dry_run:
        describe(plan, recipe)
        return
    run(plan, flags.workers or os.cpu_count() or 1, quiet=flags.quiet)


def check_apart(source: Path, out: Path) -> None:
    """Raise BadParameter if the photos are in the data set's folder, or the other way round."""
    if not source.exists():  # the name of a data set on the hub
        return
    here, there = source.resolve(), out.resolve()
    if there.is_relative_to(here):
        raise typer.BadParameter(f"OUT {out} is inside SOURCE {source}: give a folder outside it.")
    if here.is_relative_to(there):
        raise typer.BadParameter(
            f"SOURCE {source} is inside OUT {out}, which could replace it: give another folder."
        )


def choose_kinds(task: str | None, kinds: list[str]) -> tuple[str, ...]:
    """The conditions to draw: those asked for, else the task's."""
    from condiff.tasks import PREPARED_TASKS

    if task is not None and task not in PREPARED_TASKS:
        choices = ", ".join(PREPARED_TASKS)
        raise typer.BadParameter(f"{task!r} is not one of {choices}.", param_hint="task")
    if not kinds:
        if task is None:
            raise typer.BadParameter("Choose what the photos are for: --task, or --kind.")
        return PREPARED_TASKS[task].prepares
    if NO_KIND in kinds and len(kinds) > 1:
        raise typer.BadParameter(f"--kind {NO_KIND} does not go with another --kind.")
    return () if NO_KIND in kinds else tuple(dict.fromkeys(kinds))


def describe(plan: "Plan", recipe: "PrepConfig") -> None:
    """`--dry-run`: print what would be done."""
    from condiff.prep.parquet_writer import features_of

    total = "an unknown number of" if plan.total is None else plan.total
    print(f"source   {plan.source.name}: {total} photos")
    print(f"columns  {', '.join(features_of(recipe.kinds, has_text=plan.source.has_text))}")
    print(f"decided  {len(plan.decided)}, of which {len(plan.pending)} are not in a shard yet")
    print(f"target   {plan.out}: {'finished' if plan.finished else 'to do'}")


def run(plan: "Plan", workers: int, *, quiet: bool) -> None:
    """Carry the plan out: reasons and progress go to stderr, the summary to stdout.

    Exits with 1 if a photo could not be read. Raises DataError if none was kept.
    """
    from tqdm import tqdm

    from condiff.errors import DataError
    from condiff.prep import dataset as library

    counts: Counter[str] = Counter()
    outcomes = Counter(str(verdict.outcome) for verdict in plan.decided)
    for verdict in plan.decided:
        counts["failed" if verdict.outcome == "broken" else "skipped"] += 1
        if verdict.outcome == "broken":
            print(on_one_line(f"{verdict.source}: {verdict.reason}"), file=sys.stderr)
    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=plan.total, initial=len(plan.decided), unit="photo", disable=hidden) as bar:
        for verdict in library.run(plan, workers=workers):
            bar.update()
            outcomes[verdict.outcome] += 1
            if verdict.outcome == "broken":
                bar.write(on_one_line(f"{verdict.source}: {verdict.reason}"), file=sys.stderr)
                counts["failed"] += 1
            else:
                counts["done" if verdict.outcome == "done" else "skipped"] += 1
    left_out = [f"{outcomes[kind]} {words}" for kind, words in LEFT_OUT.items() if outcomes[kind]]
    if left_out:
        told = f"left out: {', '.join(left_out)} (each in {plan.out / 'rejected.jsonl'})"
        options.report(told, quiet=quiet)
    print(f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed")
    if not outcomes["done"]:
        raise DataError(f"{plan.out} contains no photo: none of {plan.source.name} was kept.")
    if counts["failed"]:
        raise typer.Exit(1)

"""`condiff batch`: colour every photo of a folder, or report why one could not be coloured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from condiff.cli import options
from condiff.cli.progress import describe, report
from condiff.cli.sampling import Group, SamplingFlags, expand_groups


@dataclass(frozen=True)
class BatchFlags(Group):
    """Which photos are coloured, where results go, and what does the work."""

    model: options.Model = "colorize"
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Take only photos whose name, or path below IN_DIR, matches this glob; may be "
            "repeated."
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out photos and folders that match this glob; may be repeated."),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="Write all results as png, jpg, webp, tif … (default: each in its photo's format, "
            "or as png if that cannot be written).",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Random seed of the batch. Each photo's own seed is computed from it and the path "
            "below IN_DIR (default: a new one, or that of the resumed batch).",
        ),
    ] = None
    hints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of hints like those of `colorize --hints`: a/b.png is for a/b.jpg.",
        ),
    ] = None
    album: Annotated[
        bool,
        typer.Option(
            "--album",
            help="Give all photos one style, like photos of one roll: every photo is first "
            "coloured small, and results are moved towards the mean colours of all.",
        ),
    ] = False
    quality: options.Quality = None
    provenance: options.Provenance = True
    device: options.Device = "auto"
    engine: Annotated[
        str,
        typer.Option(
            help="Library that runs the network: torch, onnx, openvino or auto, as in colorize. "
            "ray runs the batch on a Ray cluster."
        ),
    ] = "auto"
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default: start "
            "Ray on this machine for this command)."
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="How many photos are coloured at once (default: one per core)."
        ),
    ] = None
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Colour only the I-th of N parts of the photos, to share them among machines.",
        ),
    ] = "1/1"
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first photo that fails.")
    ] = False
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try photos again that failed in an earlier run.")
    ] = False
    force: Annotated[
        bool,
        typer.Option("-f", "--force", help="Start over, and replace existing results."),
    ] = False
    touch: options.Touch = False
    dry_run: options.DryRun = False
    quiet: options.Quiet = False
    verbose: options.Verbose = False
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per photo, then one of the counts."),
    ] = False


@expand_groups
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN_DIR",
            help="The folder of photos, or its URL (s3:// …); all its subfolders are searched.",
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(metavar="OUT_DIR", help="The folder of results, with the same subfolders."),
    ],
    sampling: SamplingFlags,
    adjustment: options.Adjustment,
    references: options.ReferenceFlags,
    content: options.Content,
    reading: options.Reading,
    flags: BatchFlags,
) -> None:
    """Colour every photo of a folder.

    Existing results are skipped, so that the same command resumes a batch that was stopped or
    killed. Photos that fail are named on stderr with the reason, and the others are coloured.
    """
    from condiff.batch.colorize import BatchOptions, plan_batch, run_batch
    from condiff.batch.journal import ALBUM
    from condiff.batch.plan import Choice, check_kept

    asked = BatchOptions(
        model=flags.model,
        look=adjustment.look,
        overrides=sampling.given(),
        edits=content.edit(adjustment, references, max_pixels=reading.max_pixels),
        seed=flags.seed,
        choice=Choice(flags.include or (), flags.exclude or (), parse_shard(flags.shard)),
        suffix=parse_format(flags.format),
        album=flags.album,
        hints=flags.hints,
        masks=content.masks,
        quality=flags.quality,
        provenance=flags.provenance,
        touch=flags.touch,
        page=reading.page,
        max_pixels=reading.max_pixels,
        strict=reading.strict,
        device=flags.device,
        engine=flags.engine,
        address=flags.address,
        workers=flags.workers,
        retry_failed=flags.retry_failed,
        force=flags.force,
    )
    found, asked = plan_batch(source, out, asked)
    check_kept([*references.paths(), *content.paths()], found.jobs, found.out)
    if flags.dry_run:
        describe(found, force=flags.force, as_json=flags.as_json)
        return
    options.quiet_libraries()
    if flags.album and (flags.force or not found.out.exists(ALBUM)):
        options.report("the colours of all photos are measured first", quiet=flags.quiet)
    results = run_batch(found, asked)
    assert asked.seed is not None
    report(
        found,
        results,
        seed=asked.seed,
        fail_fast=flags.fail_fast,
        quiet=flags.quiet,
        as_json=flags.as_json,
        verbose=flags.verbose,
    )


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/3" -> (2, 3)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not I/N with 1 <= I <= N.", param_hint="--shard")
    return int(index), int(count)


def parse_format(name: str | None) -> str | None:
    """The suffix of a format that is written."""
    from condiff.photos.formats import FORMATS

    if name is None:
        return None
    suffix = f".{name.lower().removeprefix('.')}"
    if suffix not in FORMATS:
        known = ", ".join(known.removeprefix(".") for known in FORMATS)
        raise typer.BadParameter(f"{name!r} is not one of {known}.", param_hint="--format")
    return suffix

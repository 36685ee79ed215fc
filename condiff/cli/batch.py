"""`condiff batch`: colour every photo of a folder, or say why one could not be coloured."""

import os
import secrets
from collections.abc import Generator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options
from condiff.cli.progress import describe, report
from condiff.cli.sampling import SamplingFlags, expand_groups
from condiff.errors import ConfigError

if TYPE_CHECKING:
    from condiff.batch.journal import Journal, RemoteJournal
    from condiff.batch.plan import Plan
    from condiff.batch.status import Result
    from condiff.batch.transform import ColorizeSettings
    from condiff.batch.worker import Transform
    from condiff.models.info import ModelInfo

RAY = "ray"  # the one --engine that is no engine of the network


@expand_groups
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN_DIR", help="The folder of photos, searched with all its subfolders."
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(metavar="OUT_DIR", help="The folder of results, with the same subfolders."),
    ],
    sampling: SamplingFlags,
    adjustment: options.Adjustment,
    reading: options.Reading,
    task: Annotated[str, typer.Option(help="What to do with every photo: colorize.")] = "colorize",
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
            help="Take only photos whose name, or path below IN_DIR, matches this glob; may be "
            "repeated."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out photos and folders that match this glob; may be repeated."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Write all results as png, jpg, webp, tif … (default: each as its photo, or png "
            "for formats that are only read).",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Random seed of the batch, from which each photo's own seed follows by its path "
            "below IN_DIR (default: a new one, or that of the batch that is resumed).",
        ),
    ] = None,
    hints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of hints like those of `colorize --hints`: a/b.png is for a/b.jpg.",
        ),
    ] = None,
    quality: options.Quality = None,
    provenance: options.Provenance = True,
    device: options.Device = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="Library that runs the network: torch, onnx, openvino or auto, as in colorize. "
            "ray runs the batch on a Ray cluster, where folders may be URLs (s3://, gs:// …)."
        ),
    ] = "auto",
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default: start "
            "Ray on this machine for this command)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="How many photos are in work at once (default: one per core)."
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Do only the I-th of N parts of the photos, to share them among machines.",
        ),
    ] = "1/1",
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first photo that fails.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try photos again that failed in an earlier run.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("-f", "--force", help="Start over, and replace the results that are there."),
    ] = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per photo, then one of the counts."),
    ] = False,
) -> None:
    """Colour every photo of a folder.

    Results that are there already are skipped, so that the same command resumes a batch that was
    stopped or killed. Photos that fail are named on stderr with the reason, and the rest is done.
    """
    from condiff.batch.journal import compare_settings
    from condiff.batch.plan import Choice, plan
    from condiff.batch.storage import open_folder
    from condiff.color.edits import ColorEdits
    from condiff.config import SamplingConfig
    from condiff.tasks import find_task

    find_task(task)
    check_engine(engine, address)
    choice = Choice(include or (), exclude or (), parse_shard(shard))
    suffix = parse_format(format)
    places = open_folder(source), open_folder(out)
    to_do = plan(*places, choice=choice, suffix=suffix, hints=check_hints(hints))
    check_places(to_do, engine)
    asked: dict[str, Any] = {
        "task": task,
        **dict.fromkeys(SamplingConfig.model_fields),
        **sampling.given(),
        "saturation": adjustment.saturation,
        "temperature": adjustment.temperature,
        "seed": seed,
        "format": suffix or "as the photo",
        "quality": quality,
        "provenance": provenance,
    }
    edits = ColorEdits(saturation=adjustment.saturation, temperature=adjustment.temperature)
    if not force:
        compare_settings(to_do.out, asked)
    if dry_run:
        describe(to_do, force=force)
        return
    from condiff.batch.journal import open_any_journal
    from condiff.batch.transform import ColorizeSettings, fingerprint
    from condiff.models.info import read_model_info

    described = read_model_info(model or task)
    asked["model"] = fingerprint(described.path, task)
    network, found = choose_network(described, engine, device)
    asked |= {"device": found.split(":")[0], "engine": network}
    default = described.sampling
    if default.size is None:
        default = default.override({"size": described.condition_size})
    defaults = {"seed": secrets.randbits(31), **default.model_dump()}
    with open_any_journal(to_do.out, asked, defaults=defaults, force=force) as journal:
        settled = journal.settings  # what was not asked is as the batch was begun
        seed = settled["seed"]
        settings = ColorizeSettings(
            model=described.path.name,
            device=found,
            engine=network,
            sampling=default.override(
                {name: settled.get(name) for name in SamplingConfig.model_fields}
            ),
            edits=edits,
            provenance=provenance,
            quality=settled["quality"],
            page=reading.page,
            max_pixels=reading.max_pixels,
        )
        if engine == RAY:
            from condiff.batch.ray import run_on_ray

            cores = None if address else count_cores()  # a cluster knows its own
            run = partial(run_on_ray, workers=workers or cores, address=address)
        else:
            run = partial(run_here, workers=workers or count_cores())
        results = run(
            to_do, journal, settings, described.path, seed=seed, retry_failed=retry_failed
        )
        report(to_do, results, seed=seed, fail_fast=fail_fast, quiet=quiet, as_json=as_json)


def choose_network(described: "ModelInfo", engine: str, device: str) -> tuple[str, str]:
    """The engine that runs the network, and the device: on a Ray cluster only its kind."""
    from condiff.backends.table import choose_engine, find_device

    if engine != RAY:
        found = find_device(device, engine=engine)
        return choose_engine(described, engine, found.split(":")[0]), found
    # A device that was named is the workers': this machine need not have it.
    found = find_device(device) if device == "auto" else device
    kind = found.split(":")[0]
    return choose_engine(described, "auto", kind), kind


def run_here(
    plan: "Plan",
    journal: "Journal | RemoteJournal",
    settings: "ColorizeSettings",
    model: Path,
    *,
    seed: int,
    workers: int,
    retry_failed: bool,
) -> Generator["Result", None, None]:
    """Carry the plan out in threads of this process; load the model only if there is work."""
    from condiff.batch.journal import Journal
    from condiff.batch.local import run
    from condiff.batch.status import look_up
    from condiff.batch.transform import build_transform
    from condiff.photos.reading import read_photo
    from condiff.pipelines.pipeline import Pipeline

    assert isinstance(journal, Journal)  # `check_places` has refused URLs

    @cache
    def load() -> "Transform":
        options.quiet_libraries()
        pipeline = Pipeline.from_pretrained(model, device=settings.device, engine=settings.engine)
        return build_transform(pipeline, settings)

    entries = {} if retry_failed else journal.entries
    if any(state == "to do" for state, _ in look_up(plan, entries, replace=journal.replace)):
        load()  # now, so that a broken model is not told as the failure of a photo
    return run(
        plan,
        journal,
        lambda photo, seed, hints: load()(photo, seed, hints),
        seed=seed,
        workers=workers,
        retry_failed=retry_failed,
        read=partial(read_photo, max_pixels=settings.max_pixels, page=settings.page),
        quality=settings.quality,
    )


def check_engine(engine: str, address: str | None) -> None:
    """Raise BadParameter for an unknown engine, and for an address without Ray."""
    from condiff.backends.table import ENGINES

    known = ("auto", *ENGINES, RAY)
    if engine not in known:
        raise typer.BadParameter(f"{engine!r} is none of {', '.join(known)}.")
    if address and engine != RAY:
        raise typer.BadParameter("--address is of a Ray cluster: give --engine ray, too.")


def check_places(plan: "Plan", engine: str) -> None:
    """Raise ConfigError for URLs without Ray."""
    for place in (plan.source, plan.out):
        if engine != RAY and not isinstance(place, Path):
            raise ConfigError(
                f"{place} is no folder of this machine: give --engine ray, or copy it here."
            )


def check_hints(folder: Path | None) -> Path | None:
    """The folder of hints; ConfigError if it is not there."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}: check --hints.")
    return folder


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
        raise typer.BadParameter(f"{name!r} is none of {known}.", param_hint="--format")
    return suffix


def count_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

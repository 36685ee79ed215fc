"""`condiff colorize`: colour photos."""

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options, outputs
from condiff.cli.sampling import Group, SamplingFlags, expand_groups
from condiff.errors import ImageError
from condiff.files import EXISTS
from condiff.platforms import expand_globs

if TYPE_CHECKING:
    from condiff.color.edits import ColorEdits
    from condiff.photos.photo import Photo
    from condiff.pipelines.colorizing import ColorizeSettings
    from condiff.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class ResultFlags(Group):
    """The files that the command writes."""

    panel = "Where it goes"

    output: options.Output = None
    suffix: Annotated[
        str, typer.Option(help="Put this between a photo's name and its format: photo.color.jpg.")
    ] = "color"
    samples: options.Samples = 1
    pick: Annotated[
        str | None,
        typer.Option(
            help="Write only one of the samples: median (the nearest to the mean of all), colorful "
            "(the most chroma), or best (the rule that measured best, which is median)."
        ),
    ] = None
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet/--no-sheet",
            help="Also write several samples side by side: photo.color.sheet.jpg.",
        ),
    ] = True
    uncertainty: Annotated[
        Path | None, typer.Option(help="Write a map of how far the samples differ to this file.")
    ] = None
    gif: Annotated[
        Path | None,
        typer.Option(help="Film the denoising from noise to the result, as .gif, .webp or .mp4."),
    ] = None
    quality: options.Quality = None
    provenance: options.Provenance = True
    touch: options.Touch = False
    force: options.Force = False
    dry_run: options.DryRun = False


@expand_groups
def colorize(
    sources: options.Inputs,
    results: ResultFlags,
    adjustment: options.Adjustment,
    hints: options.HintFlags,
    references: options.ReferenceFlags,
    content: options.Content,
    sampling: SamplingFlags,
    reading: options.Reading,
    machine: options.Machine,
    messages: options.Messages,
    model: options.Model = "colorize",
    seed: options.Seed = None,
) -> None:
    """Colour black-and-white photos.

    A result has the photo's size and, pixel for pixel, its lightness. Colours of a colour photo are
    ignored and replaced. The result of photo.jpg is written beside it as photo.color.jpg, unless
    -o names another file, or a folder, which is made if there is none. The result's path is
    printed on stdout. For folders of photos, use `condiff batch`.
    """
    outputs.check_pick(results.pick, results.samples)
    if not results.suffix or set(results.suffix) & set("/\\\0"):
        raise typer.BadParameter(f"--suffix is a part of a file's name, not {results.suffix!r}.")
    jobs = _plan_jobs(sources, results, quiet=messages.quiet)
    for job in jobs:
        job.check(results, hints, content, references)
    if content.masks:
        raise typer.BadParameter(f"--mask {content.masks} is a folder, which is for a batch.")
    limit = reading.max_pixels
    given, hinted = hints.read(max_pixels=limit), hints.describe()
    edits = content.edit(adjustment, references, given, max_pixels=limit)
    from condiff.models.info import read_model_info
    from condiff.pipelines.colorizing import build_settings

    seed = secrets.randbits(31) if seed is None else seed
    info = read_model_info(model)
    info.check_colorizes()
    machine.check(info)
    settings = build_settings(
        info,
        look=adjustment.look,
        overrides=sampling.given(),
        edits=edits,
        model=info.name,
        device=machine.device,
        engine=machine.engine,
        provenance=results.provenance,
        quality=results.quality,
        page=reading.page,
        max_pixels=limit,
    )
    if results.dry_run:
        for job in jobs:
            job.read(reading, edits, quiet=messages.quiet)
        for job in jobs:
            outputs.report_plan(job.source, job.paths(), as_json=messages.as_json)
        return
    load = cache(partial(_load, model, machine))

    def work(job: _Job) -> None:
        photo = job.read(reading, edits, quiet=messages.quiet)
        pipeline = load()
        outputs.make_folders(job.paths())
        _colorize(job, photo, pipeline, settings, seed, results, hinted, messages)

    outputs.do_each(jobs, work, lambda job: job.source, quiet=messages.quiet)


def _plan_jobs(sources: Sequence[str], results: ResultFlags, *, quiet: bool) -> list["_Job"]:
    """A job for each photo; raises BadParameter for results that would be one file, or a photo.

    Results of earlier runs that the results of other photos would replace are left out.
    """
    from condiff.photos.provenance import OWN_RESULT, is_own_file

    sources = list(dict.fromkeys(expand_globs(sources)))
    jobs = [_Job.plan(source, results, many=len(sources) > 1) for source in sources]
    makers = {os.path.realpath(path): job for job in jobs for path in job.paths() if path}
    kept = []
    for job in jobs:
        maker = makers.get(os.path.realpath(job.source), job)
        if maker is not job and is_own_file(Path(job.source)):
            options.report(f"{job.source}: left out, {OWN_RESULT}", quiet=quiet)
        else:
            kept.append(job)
    written = [path for job in kept for path in job.paths()]
    outputs.check_distinct(written, [job.source for job in kept for _ in job.paths()])
    # A photo may have the name of another one's result.
    outputs.keep_sources([job.source for job in kept], written)
    return kept


@dataclass(frozen=True)
class _Job:
    """A photo and the files that are made from it; None among the targets is standard output."""

    source: str
    targets: list[Path | None]
    extras: outputs.Extras
    label: str = ""  # what messages begin with: the source, where there are several

    @classmethod
    def plan(cls, source: str, results: ResultFlags, *, many: bool) -> "_Job":
        """photo.jpg -> photo.color.jpg, or photo.color.1.jpg and so on, and the extra files."""
        from condiff.photos.writing import default_target

        if Path(source).is_dir():
            raise typer.BadParameter(
                f"{source} is a folder: use `condiff batch {source} OUT_DIR`, or name its photos."
            )
        if many and (results.uncertainty or results.gif):
            raise typer.BadParameter("--uncertainty and --gif are for a single photo.")
        beside = default_target(Path(source), results.suffix)
        target = outputs.choose_target(results.output, beside, source=source, many=many)
        targets = outputs.number_targets(target, 1 if results.pick else results.samples)
        sheet = None
        if len(targets) > 1 and results.sheet:
            sheet = outputs.name_sheet(targets[0])
        extras = outputs.Extras(sheet, results.uncertainty, results.gif)
        return cls(source, targets, extras, f"{source}: " if many else "")

    def paths(self) -> list[Path | None]:
        """All files that are written."""
        return [*self.targets, *self.extras.paths()]

    def check(
        self,
        results: ResultFlags,
        hints: options.HintFlags,
        content: options.Content,
        references: options.ReferenceFlags,
    ) -> None:
        """Raise an error for files that cannot be written, before any work."""
        from condiff.photos.writing import check_target

        outputs.keep_sources(hints.paths(), self.paths(), what="picture of hints")
        outputs.keep_sources(content.paths(), self.paths(), what="mask")
        outputs.keep_sources(references.paths(), self.paths(), what="reference")
        outputs.check_extras(
            self.extras, self.targets, samples=results.samples, force=results.force
        )
        for path in self.targets:
            if path is None:
                continue
            try:
                check_target(path, results.force, new_folder=True)
            except ImageError as error:
                if self.label and EXISTS in str(error):
                    way = "or `condiff batch`, which skips photos that are done"
                    raise ImageError(f"{error}, {way}") from None
                raise

    def read(self, reading: options.Reading, edits: "ColorEdits", *, quiet: bool) -> "Photo":
        """The photo; reports what is odd about it, and which hints sRGB cannot show, on stderr.

        Raises ImageError for a photo that cannot be read, or that the targets cannot hold.
        """
        from condiff.photos.reading import read_photo
        from condiff.photos.writing import check_photo, check_size
        from condiff.pipelines.colorizing import describe_shortfall, list_remarks

        source = options.open_input(self.source)
        photo = read_photo(
            source, max_pixels=reading.max_pixels, page=reading.page, strict=reading.strict
        )
        for remark in list_remarks(photo, edits):
            options.report(f"{self.source}: {remark}", quiet=quiet)
        if shortfall := describe_shortfall(photo, edits):
            options.report(f"{self.label}{shortfall}", quiet=quiet)
        held = edits.finish(photo)
        for path in self.targets:
            check_photo(held, path.suffix if path else "png", str(path or "standard output"))
        if self.extras.map:
            check_size(photo.size, self.extras.map.suffix, str(self.extras.map))
        return photo


def _load(model: str, machine: options.Machine) -> "Pipeline":
    from condiff.pipelines.pipeline import Pipeline

    options.quiet_libraries()
    return Pipeline.from_pretrained(
        model, device=machine.device, engine=machine.engine, threads=machine.threads
    )


def _colorize(
    job: _Job,
    photo: "Photo",
    pipeline: "Pipeline",
    settings: "ColorizeSettings",
    seed: int,
    results: ResultFlags,
    hinted: dict[str, Any],
    messages: options.Messages,
) -> None:
    """Colour one photo and write all of its files, each result as soon as it is made."""
    from condiff.pipelines.colorizing import note_making

    started = time.perf_counter()
    quiet, (width, height) = messages.quiet, photo.size
    run = {"config": settings.sampling, "edits": settings.edits}
    made: Iterable[Photo]
    made = pipeline.run(photo, seed=seed, samples=results.samples, **run)  # type: ignore[arg-type]
    compared: list[Photo] = []  # in the sheet and in the map
    if results.pick:
        compared = list(made)
        made = outputs.choose(compared, results.pick)
    seeds: list[int] = []
    for result, path in zip(made, job.targets, strict=True):
        if not seeds:
            _report_colors(job, photo, result, settings.edits, quiet=quiet)
        seeds.append(int(result.info["seed"]))
        noted = note_making(result, pipeline, settings, hints=hinted)
        outputs.write_result(
            noted, path, quality=settings.quality, force=results.force, quiet=quiet
        )
        if path is not None and job.source != "-" and not results.touch:
            outputs.keep_date(Path(job.source), path)
        record = {"source": job.source, "target": str(path or "-"), "seed": seeds[-1]}
        outputs.report_result(record, path, as_json=messages.as_json)
        if not results.pick and job.extras.paths():
            compared.append(result if job.extras.map else outputs.shrink(result))
    outputs.write_extras(compared, job.extras, force=results.force, quiet=quiet)
    if job.extras.film:
        frames = pipeline.frames(photo, seed=seeds[0], **run)  # type: ignore[arg-type]
        outputs.write_film(frames, job.extras.film, force=results.force, quiet=quiet)
    picked = f" (picked: {seeds[0]})" if results.pick else ""
    options.report(
        f"{job.label}{width}x{height}, seed {seed}{picked}, {settings.sampling.describe()}, "
        f"{pipeline.backend.name} on {pipeline.device}, {time.perf_counter() - started:.1f} s",
        quiet=quiet,
    )


def _report_colors(
    job: _Job, photo: "Photo", result: "Photo", edits: "ColorEdits", *, quiet: bool
) -> None:
    """Report a result without colour, and how much of the photo matches a reference."""
    from condiff.pipelines.colorizing import describe_grey, describe_match

    grey, match = describe_grey(photo, result, edits), describe_match(result.info.get("matched"))
    for remark in filter(None, (grey, match)):
        options.report(f"{job.label}{remark}", quiet=quiet)

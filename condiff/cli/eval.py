"""`condiff eval`: measure results against true photos, beside baselines."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli import options
from condiff.cli.sampling import Group, SamplingFlags, expand_groups

if TYPE_CHECKING:
    from condiff.arrays import Pixels
    from condiff.config import SamplingConfig
    from condiff.evaluation.feature_extractors import Distance, Extractor, Features
    from condiff.pipelines.cascade import Cascade
    from condiff.pipelines.pipeline import Pipeline

DEFAULT_KIND = "sketch"  # of lines


@dataclass(frozen=True)
class EvalFlags(Group):
    """What is measured, and what is printed."""

    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Measure this model instead of folders.")
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="D",
            help="True photos for --model: a folder, or a parquet or tar file.",
        ),
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only this many photos, the first ones.")
    ] = None
    condition: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Kind of lines to give to a model of drawings (default: sketch); no model is "
            "trained on softedge.",
        ),
    ] = None
    upscale: Annotated[
        str | None,
        typer.Option(
            metavar="auto|lines|none|FOLDER",
            help="What enlarges pictures, as in render (default: auto).",
        ),
    ] = None
    samples: options.Samples = 1
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; photo i gets seed + i * samples.")
    ] = 0
    device: options.Device = "auto"
    groups: Annotated[
        bool, typer.Option("--groups", help="Print a second table, of skin, sky and foliage.")
    ] = False
    metric_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CONDIFF_METRIC_WEIGHTS",
            help="Measure FID and KID with the weights DIR/inception.safetensors, LPIPS with "
            "DIR/lpips-alex.safetensors.",
        ),
    ] = None
    engine: options.Engine = "auto"
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with pictures side by side to this file."),
    ] = None
    force: options.Force = False
    quiet: options.Quiet = False
    verbose: options.Verbose = False
    as_json: options.Json = False


@expand_groups
def evaluate(
    sampling: SamplingFlags,
    flags: EvalFlags,
    result_dir: Annotated[
        Path | None, typer.Argument(metavar="RESULT_DIR", help="A folder of results to measure.")
    ] = None,
    truth_dir: Annotated[
        Path | None,
        typer.Argument(metavar="TRUTH_DIR", help="A folder of true photos with the same names."),
    ] = None,
) -> None:
    """Measure results, or a model, against true photos.

    The table compares them with three baselines: grey passthrough (no colour at all), the set's
    mean colour, and the truth. PSNR alone rewards doing nothing. The Fréchet distance is taken on
    EfficientNet-Lite0's features, so it is not FID.

    A model of drawings gets the lines of each photo, and makes pictures as render does. The table
    shows whether they have the same lines, whether they look real, and how far samples differ
    (--samples 2). Its baselines are the set's blurred mean, noise, another photo, and the truth.
    """
    from_folders = result_dir and truth_dir and not (flags.model or flags.data)
    from_model = flags.model and flags.data and not (result_dir or truth_dir)
    if not (from_folders or from_model):
        raise typer.BadParameter("Give either RESULT_DIR and TRUTH_DIR, or --model and --data.")
    from condiff.evaluation.colorization import evaluate as measure
    from condiff.evaluation.colorization import format_groups, format_table
    from condiff.evaluation.feature_extractors import Lite0Extractor
    from condiff.evaluation.metrics import load_scikit_image
    from condiff.evaluation.report import to_json_lines
    from condiff.photos.writing import check_target

    if flags.html is not None:
        check_target(flags.html, flags.force, format="HTML", new_folder=True)
    load_scikit_image()  # these two before the work: they may not be installed
    extractor = Lite0Extractor()
    if result_dir and truth_dir:
        inception, lpips = _load_networks(flags.metric_weights)
        name, (truths, results) = str(result_dir), _read_pairs(result_dir, truth_dir, flags.limit)
    elif flags.model and flags.data:
        options.quiet_libraries()
        from condiff.evaluation.pairs import read_truths
        from condiff.pipelines.pipeline import Pipeline

        name, truths = flags.model, read_truths(flags.data, flags.limit)
        pipeline = Pipeline.from_pretrained(flags.model, device=flags.device, engine=flags.engine)
        config = sampling.override(pipeline.sampling)
        repeats = _Repeats(config, flags.seed, flags.samples)
        if not pipeline.loaded.task.space.keeps_photo:
            _evaluate_drawings(pipeline, truths, repeats, flags, extractor)
            return
        _refuse(
            {"--condition": flags.condition, "--upscale": flags.upscale},
            "is for models of drawings: this one colours photos.",
        )
        inception, lpips = _load_networks(flags.metric_weights)
        results = _colorize(pipeline, truths, repeats, quiet=flags.quiet)
    rows = measure({name: results}, truths, extractor=extractor, inception=inception, lpips=lpips)
    print(to_json_lines(rows) if flags.as_json else format_table(rows) + "\n", end="")
    if flags.groups and not flags.as_json:
        print(format_groups(rows))
    if flags.html is not None:
        _write_page(flags.html, rows, [r[0] for r in results], truths, force=flags.force)
        options.report(f"The page is {flags.html}.", quiet=flags.quiet)


def _write_page(
    path: Path, rows: list[Any], results: list[Any], truths: list[Any], *, force: bool
) -> None:
    from condiff.evaluation.colorization import html_report
    from condiff.files import make_folder, publish, unwritten

    page = html_report(rows, results, truths)
    make_folder(path.parent)
    try:
        with publish(path, force) as file:
            file.write(page.encode())
    except OSError as error:
        raise unwritten(str(path), error) from error


def _evaluate_drawings(
    pipeline: "Pipeline", truths: Any, repeats: "_Repeats", flags: EvalFlags, extractor: Any
) -> None:
    """Measure a model of drawings."""
    from condiff.errors import UsageError
    from condiff.pipelines.cascade import AUTO, Cascade

    picture = pipeline.loaded.task.picture
    if picture is not None and not picture.is_ink:
        raise UsageError(
            f"The model {pipeline.loaded.name} takes {picture.what}, and condiff eval would give "
            "it lines: write its pictures into a folder, and compare that with one of the truths."
        )
    given = {"--html": flags.html, "--groups": flags.groups}
    _refuse(given, "is for colours: this model draws.")
    if flags.metric_weights is not None:
        options.report("FID, KID and LPIPS are for colours: not measured.", quiet=flags.quiet)
    _measure_drawings(
        str(flags.model),
        Cascade.behind(
            pipeline,
            size=repeats.config.size,
            upscale=flags.upscale or AUTO,
            engine=flags.engine,
        ),
        truths,
        repeats,
        extractor=extractor,
        condition=flags.condition or DEFAULT_KIND,
        quiet=flags.quiet,
        as_json=flags.as_json,
    )


def _refuse(flags: Mapping[str, object], why: str) -> None:
    """Raise BadParameter for the first flag that was given."""
    for flag, value in flags.items():
        if value:
            raise typer.BadParameter(f"{flag} {why}")


@dataclass(frozen=True)
class _Repeats:
    """How every photo is sampled; no two photos share a seed."""

    config: "SamplingConfig"
    seed: int
    samples: int

    def of(self, number: int) -> dict[str, Any]:
        """The keyword arguments of photo `number`."""
        seed = self.seed + number * self.samples
        return {"config": self.config, "seed": seed, "samples": self.samples}


def _colorize(
    pipeline: "Pipeline", truths: "list[Pixels]", repeats: _Repeats, *, quiet: bool
) -> "list[list[Pixels]]":
    """The samples of every photo."""
    import numpy as np
    from PIL import Image

    return [
        [np.asarray(p) for p in pipeline.run(Image.fromarray(truths[n]), **repeats.of(n))]
        for n in _progress(len(truths), quiet=quiet)
    ]


def _measure_drawings(
    name: str,
    cascade: "Cascade",
    truths: "list[Pixels]",
    repeats: _Repeats,
    *,
    extractor: "Extractor",
    condition: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Print the figures of a model's pictures from each photo's lines, beside the baselines'."""
    import numpy as np

    from condiff.evaluation.report import to_json_lines
    from condiff.evaluation.sketches import evaluate_drawings, format_table, prepare_truth

    if cascade.remark:
        options.report(cascade.remark, quiet=quiet)
    kind = condition if cascade.pipeline.loaded.task.condition_channels else None
    given = [prepare_truth(cascade, truth, kind=kind) for truth in truths]
    painted = [
        [np.asarray(picture) for picture in cascade(given[number][1], **repeats.of(number))]
        for number in _progress(len(truths), quiet=quiet)
    ]
    fitted = [truth for truth, _ in given]
    rows = evaluate_drawings({name: painted}, fitted, kind=kind, extractor=extractor)
    print(to_json_lines(rows) if as_json else format_table(rows), end="")


def _read_pairs(
    result_dir: Path, truth_dir: Path, limit: int | None
) -> "tuple[list[Pixels], list[list[Pixels]]]":
    from condiff.evaluation.pairs import pair_folders, read_pair

    pairs = [read_pair(*paths) for paths in pair_folders(result_dir, truth_dir)[:limit]]
    return [truth for _, truth in pairs], [[result] for result, _ in pairs]


def _load_networks(folder: Path | None) -> "tuple[Features | None, Distance | None]":
    """The networks of FID and KID, and of LPIPS; None where the folder lacks the weights."""
    if folder is None:
        return None, None
    from condiff.evaluation.feature_extractors import load_metric_networks

    found = load_metric_networks(folder)
    return found.inception and found.inception.features, found.lpips and found.lpips.distance


def _progress(count: int, *, quiet: bool) -> Iterator[int]:
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    yield from tqdm(range(count), desc="sampling", unit=" photos", disable=hidden, leave=False)

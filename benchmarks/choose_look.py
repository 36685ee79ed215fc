"""Choose a colorizer's guidance, variety, vividness, steps and saturation by visible errors.

    python benchmarks/choose_look.py --data val.parquet --photos 150 --steps 4 --guidance 1 1.5 2

Measures every combination, prints one line for each, and applies the rule: of the settings with
at most 1.5 % gaudy pixels and at most 10 % of photos worse than grey, the one with the least
Fréchet distance. Mean colourfulness is not used: it rewards any strong colour. Photo i is sampled
from seed i with every setting, and encoded once. The baselines are printed last.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from condiff.arrays import Pixels
from condiff.color.degradation import EMULSIONS, expose
from condiff.color.edits import PreparedEdits, build_adjustment
from condiff.color.lab import lab_to_rgb, lightness, reduce_chroma, rgb_to_lab
from condiff.config import SamplingConfig
from condiff.evaluation.colorization import Row, evaluate
from condiff.evaluation.feature_extractors import Extractor, Lite0Extractor
from condiff.evaluation.pairs import read_truths
from condiff.evaluation.report import figure_cells, markdown_table, to_json_lines
from condiff.pipelines.pipeline import Encoded, Pipeline

GUIDANCE = (1.0, 1.25, 1.5, 2.0)
ETA = (1.0,)
VARIETY = (0.0, 0.5, 1.0)
STEPS = (2, 4, 8)
Setting = tuple[SamplingConfig, float]  # and the saturation
MOST_GAUDY, MOST_WORSE = 0.015, 0.10
FIGURES = (  # field of a row, label, format
    ("frechet_ratio", "Fréchet / grey's", ".3f"),
    ("gaudy", "gaudy", ".2%"),
    ("worse_than_grey", "worse than grey", ".1%"),
    ("top1", "top-1", ".1%"),
    ("colorfulness", "colourfulness", ".1f"),
    ("delta_cf_mean", "mean absolute ΔCF", ".1f"),
    ("patches_ratio", "patches / truth's", ".2f"),
    ("psnr", "PSNR, dB", ".2f"),
    ("ciede2000", "CIEDE2000", ".2f"),
)


def main() -> None:
    """Parse the arguments, print the table and the choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="colorize", help="a folder, or an embedded model's name")
    parser.add_argument("--data", type=Path, required=True, help="true photos, as condiff eval")
    parser.add_argument("--photos", type=int, help="this many, evenly spaced over the set")
    parser.add_argument("--emulsion", choices=EMULSIONS, help="lightness as it records colours")
    parser.add_argument("--guidance", type=float, nargs="+", default=GUIDANCE)
    parser.add_argument("--eta", type=float, nargs="+", default=ETA, help="guidance_eta")
    parser.add_argument("--variety", type=float, nargs="+", default=VARIETY)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--saturation", type=float, nargs="+", default=(1.0,))
    parser.add_argument("--vividness", type=float, nargs="+", default=(1.0,))
    parser.add_argument("--coherence", type=float, nargs="+", default=(None,))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline.from_pretrained(arguments.model, engine=arguments.engine)
    choices = {
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "guidance_eta": arguments.eta,
        "variety": arguments.variety,
        "vividness": arguments.vividness,
        "coherence": arguments.coherence,
    }
    settings = [
        (pipeline.sampling.override(dict(zip(choices, values, strict=True))), saturation)
        for *values, saturation in product(*choices.values(), arguments.saturation)
    ]
    truths = spread(read_truths(arguments.data), arguments.photos)
    if arguments.emulsion:
        truths = [with_lightness_of(arguments.emulsion, truth) for truth in truths]
    rows = measure(pipeline, settings, truths, Lite0Extractor())
    if arguments.json:
        arguments.json.write_text(to_json_lines(rows), "utf-8")
    print(table(rows))
    chosen = choose(rows[: len(settings)])
    bars = f"gaudy ≤ {MOST_GAUDY:.1%} and worse than grey ≤ {MOST_WORSE:.0%}"
    print(f"Least Fréchet at {bars}: {chosen.method if chosen else 'no setting meets both'}.")


def spread(photos: Sequence[Pixels], count: int | None) -> list[Pixels]:
    """This many of the photos, evenly spaced, or all if there are fewer."""
    if count is None or count >= len(photos):
        return list(photos)
    return [photos[i * len(photos) // count] for i in range(count)]


def with_lightness_of(emulsion: str, truth: Pixels) -> Pixels:
    """A photo (H,W,3) uint8 with its own chroma and the lightness that an emulsion gives it."""
    chroma = rgb_to_lab(truth)[..., 1:]
    L = lightness(expose(truth, EMULSIONS[emulsion]))
    return lab_to_rgb(reduce_chroma(np.dstack([L, chroma])))


def measure(
    pipeline: Pipeline,
    settings: Sequence[Setting],
    truths: Sequence[Pixels],
    extractor: Extractor,
) -> list[Row]:
    """The figures of every setting, then of the baselines."""
    configs = [config for config, _ in settings]
    guided = max(configs, key=lambda config: abs(config.guidance_scale - 1))
    guided = guided.override({"coherence": max(config.coherence for config in configs)})
    started = time.perf_counter()
    encoded = [pipeline.encode(Image.fromarray(truth), config=guided) for truth in truths]
    print(f"{time.perf_counter() - started:.0f} s for encoding", file=sys.stderr)
    methods = {name_of(setting): colours(pipeline, encoded, setting) for setting in settings}
    return evaluate(methods, truths, extractor=extractor)


def name_of(setting: Setting) -> str:
    """The compared settings as named in the table."""
    config, saturation = setting
    guidance = f"guidance {config.guidance_scale:g}"
    if config.guidance_eta != 1:
        guidance = f"{guidance}, eta {config.guidance_eta:g}"
    name = f"{guidance}, variety {config.variety:g}, {config.steps} steps"
    if config.vividness != 1:
        name = f"{name}, vividness {config.vividness:g}"
    if config.coherence:
        name = f"{name}, coherence {config.coherence:g}"
    return name if saturation == 1 else f"{name}, saturation {saturation:g}"


def colours(pipeline: Pipeline, encoded: Sequence[Encoded], setting: Setting) -> Iterator[Pixels]:
    """Each photo's result, sampled lazily."""
    started = time.perf_counter()
    config, saturation = setting
    edits = PreparedEdits(adjust=build_adjustment(saturation))
    for seed, photo in enumerate(encoded):
        *_, x_0 = pipeline.sample(photo, config=config, seed=seed)
        yield np.asarray(pipeline.decode(x_0, replace(photo, edits=edits)), np.uint8)
    print(f"{time.perf_counter() - started:.0f} s for {name_of(setting)}", file=sys.stderr)


def choose(rows: Sequence[Row]) -> Row | None:
    """The row of least Fréchet distance within both limits; None if there is none."""
    within = [
        row
        for row in rows
        if row.gaudy <= MOST_GAUDY and row.worse_than_grey <= MOST_WORSE and row.frechet is not None
    ]
    return min(within, key=lambda row: row.frechet or 0.0, default=None)


def table(rows: Sequence[Row]) -> str:
    """One line for each setting and baseline."""
    return markdown_table([*zip(*figure_cells(rows, FIGURES), strict=True)])


if __name__ == "__main__":
    main()

"""Time and memory of `condiff colorize`, and the effect of the number of steps.

    python benchmarks/colorize.py              seconds cold, warm and per stage; peak RSS
    python benchmarks/colorize.py --data VAL   steps x scheduler: seconds and the metrics

Ratios within one run are more reliable than seconds between runs.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MEGAPIXELS = (1, 12, 48)
EXAMPLE = Path(__file__).parents[1] / "examples" / "grey.jpg"
COLD_RUNS = WARM_RUNS = 3


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="true photos for the steps x scheduler table")
    parser.add_argument("--limit", type=int, default=100, help="of so many photos")
    parser.add_argument("--model", default="colorize")
    parser.add_argument("--measure-one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_one:
        print(json.dumps(measure_stages(arguments.measure_one, arguments.model)))
    elif arguments.data:
        print_quality(arguments.data, arguments.limit, arguments.model)
    else:
        print_speed(arguments.model)


def print_speed(model: str) -> None:
    """Cold: the whole command in a new process. Warm: a loaded pipeline. Both best of three."""
    print("|  | cold, s | peak RSS, MB | warm, s | read | network | a step | finish | write |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in MEGAPIXELS:
            photo = make_photo(Path(folder), megapixels)
            cold, rss = measure_command(photo, model)
            stages = measure_in_child(photo, model)
            figures = [cold, rss, stages["warm"], *(stages[k] for k in ("read", "network"))]
            row = [f"{figures[0]:.1f}", f"{rss:.0f}", *(f"{x:.2f}" for x in figures[2:])]
            row += [f"{1000 * stages['step']:.0f} ms", f"{stages['finish']:.2f}"]
            print(f"| {megapixels} MP | {' | '.join([*row, format(stages['write'], '.2f')])} |")


def make_photo(folder: Path, megapixels: int) -> Path:
    """The example photo enlarged to 3:2 with this many megapixels, as a JPEG with grain."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    size = (round(1.5 * height), height)
    with Image.open(EXAMPLE) as image:
        pixels = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), np.int16)
    grain = np.random.default_rng(0).integers(-3, 4, pixels.shape, dtype=np.int16)
    path = folder / f"{megapixels}.jpg"
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def measure_command(photo: Path, model: str) -> tuple[float, float]:
    """Seconds, best of three, and peak resident megabytes of one `condiff colorize` process."""
    command = [sys.executable, "-m", "condiff", "colorize", photo, "-m", model, "-f", "-q"]
    program = (  # a process of its own, since a child's peak includes its parent's memory
        "import resource, subprocess, sys, time;"
        "started = time.perf_counter();"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(time.perf_counter() - started);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    # The modules' bytecode is kept, like an installed package's; the first run compiles it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(photo.parent / "bytecode")
    runs = []
    for _ in range(1 + COLD_RUNS):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, command)],
            check=True, capture_output=True, text=True, env=environment,
        )  # fmt: skip
        runs.append([float(line) for line in done.stdout.split()])
    seconds, peaks = zip(*runs[1:], strict=True)
    return min(seconds), max(peaks) / 1024


def measure_in_child(photo: Path, model: str) -> dict[str, float]:
    """The stages, measured in a process of their own."""
    command = [sys.executable, __file__, "--measure-one", str(photo), "--model", model]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_stages(photo: Path, model: str) -> dict[str, float]:
    """Best seconds of each stage of a loaded pipeline, and of the whole."""
    from condiff.cli.options import quiet_libraries
    from condiff.photos.photo import with_pixels
    from condiff.photos.reading import read_photo
    from condiff.photos.writing import write_photo
    from condiff.pipelines.pipeline import Pipeline

    quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device="cpu")
    best: dict[str, float] = {}
    for _ in range(1 + WARM_RUNS):
        marks = [time.perf_counter()]
        source = read_photo(photo)
        marks.append(time.perf_counter())
        encoded = pipeline.encode(source)
        timed = [(x_t, time.perf_counter()) for x_t in pipeline.sample(encoded, seed=0)]
        x_0, times = timed[-1][0], [moment for _, moment in timed]
        marks.append(times[-1])
        result = with_pixels(source, pipeline.decode(x_0, encoded), seed=0)
        marks.append(time.perf_counter())
        write_photo(result, io.BytesIO(), format="JPEG")
        marks.append(time.perf_counter())
        spent = dict(zip(("read", "network", "finish", "write"), np.diff(marks), strict=True))
        spent["step"] = (times[-1] - times[0]) / max(1, len(times) - 1)
        spent["warm"] = marks[-1] - marks[0]
        best = {k: min(float(v), best.get(k, float("inf"))) for k, v in spent.items()}
    best["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return best


def print_quality(data: Path, limit: int, model: str) -> None:
    """Metrics of more steps and other solvers, on true photos."""
    from condiff.cli.options import quiet_libraries
    from condiff.evaluation.colorization import evaluate, format_table
    from condiff.evaluation.feature_extractors import Lite0Extractor
    from condiff.evaluation.pairs import read_truths
    from condiff.pipelines.pipeline import Pipeline

    quiet_libraries()
    pipeline = Pipeline.from_pretrained(model, device="cpu")
    truths = read_truths(data, limit)
    methods, seconds = {}, {}
    for scheduler in ("ddim", "dpmsolver++", "unipc", "euler", "heun", "ddpm"):
        for steps in (1, 4, 10, 25) if scheduler == "ddim" else (4, 10):
            started = time.perf_counter()
            pictures = [
                np.asarray(
                    pipeline(Image.fromarray(t), steps=steps, scheduler=scheduler, seed=i)[0]
                )
                for i, t in enumerate(truths)
            ]
            name = f"{scheduler} {steps}"
            methods[name] = pictures
            seconds[name] = (time.perf_counter() - started) / len(truths)
    rows = evaluate(methods, truths, extractor=Lite0Extractor())
    print(format_table(rows))
    print("\nseconds a photo: " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()))


if __name__ == "__main__":
    main()

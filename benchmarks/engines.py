"""Time and memory of each engine to colour a photo: cold and warm, each in a process of its own.

    python benchmarks/engines.py                 torch, onnx, openvino x 1, 12, 48 megapixels
    python benchmarks/engines.py --threads 2

Cold is the whole command in a new process; warm is a photo read, coloured and encoded by a
pipeline that has coloured one before. Best of --repeats. Other programs disturb the measurement, so
the load is printed.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from colorize import make_photo

from condiff.backends.table import list_engines

MEGAPIXELS = (1, 12, 48)
MEASURED = """
import json, resource, subprocess, sys, time

started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - started, memory]))
"""


def main() -> None:
    """Parse the arguments and print the table and its ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=list_engines())
    parser.add_argument("--megapixels", nargs="+", type=int, default=list(MEGAPIXELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="colorize")
    parser.add_argument("--measure-one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_one:
        print(json.dumps(measure_warm(*arguments.measure_one, arguments)))
        return
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"{os.cpu_count()} cores, --threads {arguments.threads}, load {load}\n")
    print("| photo | engine | cold, s | peak memory, MB | warm, s | of that network, s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in arguments.megapixels:
            photo = make_photo(Path(folder), megapixels)
            rows = measure(photo, arguments)
            for engine, row in rows.items():
                cold, memory, warm, network = row
                print(
                    f"| {megapixels} MP | {engine} | {cold:.1f} | {memory:.0f} | {warm:.2f} |"
                    f" {network:.2f} |",
                    flush=True,
                )
            if "torch" in rows:
                for engine in [name for name in rows if name != "torch"]:
                    both = zip(rows[engine], rows["torch"], strict=True)
                    ratios = [f"{mine / torchs:.2f}" for mine, torchs in both]
                    print(f"| | {engine} / torch | {' | '.join(ratios)} |")


def measure(photo: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Cold seconds, peak megabytes, warm seconds, seconds of the network, by engine.

    The engines take turns, so that other load affects them all.
    """
    best: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for engine in arguments.engines:
            threads = str(arguments.threads)
            common = ["-m", arguments.model, "--threads", threads, "--device", "cpu"]
            command = [sys.executable, "-m", "condiff", "colorize", photo, "-f", "-q", *common]
            cold, memory = call([sys.executable, "-c", MEASURED, *command, "--engine", engine])
            child = [sys.executable, __file__, "--measure-one", engine, photo]
            warm, network = call([*child, "--threads", threads, "--model", arguments.model])
            row = [cold, memory, warm, network]
            best[engine] = [min(pair) for pair in zip(row, best.get(engine, row), strict=True)]
    return best


def call(command: list[object]) -> list[float]:
    """The numbers that a command prints as JSON."""
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout))


def measure_warm(engine: str, photo: str, arguments: argparse.Namespace) -> list[float]:
    """Best seconds of a whole photo, and of its network part, after a first photo."""
    from condiff.cli.options import quiet_libraries
    from condiff.photos.photo import with_pixels
    from condiff.photos.reading import read_photo
    from condiff.photos.writing import write_photo
    from condiff.pipelines.pipeline import Pipeline

    quiet_libraries()
    pipeline = Pipeline.from_pretrained(
        arguments.model, device="cpu", engine=engine, threads=arguments.threads
    )
    whole, network = [], []
    for _ in range(3):
        started = time.perf_counter()
        source = read_photo(Path(photo))
        before = time.perf_counter()
        encoded = pipeline.encode(source)
        *_, x_0 = pipeline.sample(encoded, seed=0)
        network.append(time.perf_counter() - before)
        result = with_pixels(source, pipeline.decode(x_0, encoded), seed=0)
        write_photo(result, io.BytesIO(), format="JPEG")
        whole.append(time.perf_counter() - started)
    return [min(whole[1:]), min(network[1:])]


if __name__ == "__main__":
    main()

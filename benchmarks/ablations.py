"""The effect of each choice in the colorizer's recipe: small runs of equal budget, two seeds each.

    python benchmarks/ablations.py train PHOTOS --val VAL -o WORK  a line of WORK/runs.jsonl a run
    python benchmarks/ablations.py sample --val VAL -o WORK        steps x scheduler, embedded model
    python benchmarks/ablations.py table -o WORK                tables of docs/notes/ablations.md

A row of ROWS is the reference with some settings changed. All rows train on the same views of the
same photos, with the same number of samples, and colour the same held-out photos from the same
noise. The seed changes the first weights, the order of the photos and the noise of training. The
frozen backbone encodes a photo once for all rows. Finished runs are not repeated.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_judge import Judge
from ablation_rows import AVERAGES, QUESTIONS, REFERENCE, ROWS, SEEDS, config_of
from ablation_runs import Photos, build_trainer, equal_steps
from PIL import Image

from condiff.cli.options import quiet_libraries
from condiff.pipelines.pipeline import Pipeline
from condiff.training.ema import build_average

FIGURES = (  # key, label, format
    ("colourfulness_ratio", "colourfulness / truth's", ".2f"),
    ("frechet_ratio", "Fréchet / grey's ↓", ".3f"),
    ("psnr", "PSNR, dB ↑", ".2f"),
    ("ciede2000", "CIEDE2000 ↓", ".2f"),
    ("top1", "top-1 ↑", ".1%"),
)
COST = (("steps", "steps", "d"), ("parameters", "parameters", ","))
SECONDS = (("seconds", "s a photo", ".2f"),)
GRID_STEPS = (4, 10, 25, 50)
GRID_SCHEDULERS = ("ddim", "dpmsolver++", "heun", "ddpm")


def run_row(
    name: str, photos: Photos, judge: Judge, *, seed: int, steps: int | None = None
) -> list[dict[str, Any]]:
    """Train a row and return its figures; the reference's other averages are separate rows."""
    row = ROWS[name]
    config = config_of(row, photos.overrides, seed=seed)
    if steps:
        config = config.model_copy(update={"max_train_steps": steps})
    views, scale = photos.views(row, seed=seed)
    trainer = build_trainer(config, views, photos.source, tuned=row.tuned)
    parameters = trainer.model.trainable()
    averages = {
        label: build_average(trainer.model, decay) if decay else None
        for label, decay in (AVERAGES.items() if name == REFERENCE else ())
    }
    began, losses = time.process_time(), []
    for step in trainer.steps():
        losses.append(step.loss)
        for average in averages.values():
            if average:
                average.step(parameters)
    record: dict[str, Any] = {
        "seed": seed,
        "steps": trainer.step,
        "samples": trainer.step * trainer.batch_size,
        "seconds": round(time.process_time() - began, 1),
        "parameters": sum(p.numel() for p in parameters),
        "loss": round(float(np.mean(losses[-60:])), 4),
    }
    trained = [p.detach().clone() for p in parameters]
    lines = []
    for label, average in {name: trainer.ema, **averages}.items():
        for parameter, value in zip(parameters, trained, strict=True):
            parameter.data.copy_(value)
        if average:
            average.copy_to(parameters)
        pictures = judge.colour(trainer.model, config, space=row.space, scale=scale)
        lines.append({"row": label, **record, **judge.figures(pictures)})
    return lines


def train(args: argparse.Namespace) -> None:
    """Train every row with every seed that WORK/runs.jsonl does not contain yet."""
    quiet_libraries()
    path = args.output / "runs.jsonl"
    photos = Photos(args.photos, args.output, tuple(args.set))
    judge = Judge(args.val, args.limit)
    for seed in SEEDS:  # all questions have results of one seed early
        for name in args.rows or ROWS:
            done = [line for line in read_lines(path) if line["row"] == name]
            if any(line["seed"] == seed for line in done):
                continue
            steps = None
            if ROWS[name].equal_time:
                steps = done[0]["steps"] if done else equal_steps(ROWS[name], photos)
            append(path, run_row(name, photos, judge, seed=seed, steps=steps))


def sample(args: argparse.Namespace) -> None:
    """Steps x scheduler of the embedded model; two seeds up to ten steps, to see the spread."""
    quiet_libraries()
    path = args.output / "sampling.jsonl"
    pipeline = Pipeline.from_pretrained(args.model, device="cpu")
    judge = Judge(args.val, args.limit)
    for steps in GRID_STEPS:
        for scheduler in GRID_SCHEDULERS:
            for seed in SEEDS if steps <= 10 else SEEDS[:1]:
                key = {"row": f"{scheduler} {steps}", "seed": seed}
                if any(key.items() <= line.items() for line in read_lines(path)):
                    continue
                pictures, seconds = [], []
                how = {"steps": steps, "scheduler": scheduler}
                for i, truth in enumerate(judge.truths):
                    began = time.process_time()
                    (picture,) = pipeline(Image.fromarray(truth), **how, seed=1000 * seed + i)
                    seconds.append(time.process_time() - began)
                    pictures.append(np.asarray(picture))
                spent = {"seconds": round(float(np.median(seconds)), 3)}
                append(path, [{**key, "steps": steps, **spent, **judge.figures(pictures)}])


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append lines to a file and print them."""
    with open(path, "a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(json.dumps(line, ensure_ascii=False), flush=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def table(args: argparse.Namespace) -> None:
    """Print the tables of all finished runs, or insert them into a Markdown file."""
    tables = make_tables(args.output)
    if args.into is None:
        for question, text in tables.items():
            print(f"\n## {question}\n\n{text}")
        return
    page = args.into.read_text("utf-8")
    for question, text in tables.items():
        place = re.compile(rf"(<!-- {question} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        page = place.sub(lambda found, text=text: found[1] + text + found[2], page)
    args.into.write_text(page, "utf-8")


def make_tables(work: Path) -> dict[str, str]:
    """A Markdown table for each question with results; the grid of solvers is `sampling`."""
    runs, grid = read_lines(work / "runs.jsonl"), read_lines(work / "sampling.jsonl")
    tables = {}
    for question in QUESTIONS:
        names = [name for name in _names(runs) if _question(name) == question]
        if names:
            tables[question] = markdown(runs, [REFERENCE, *names])
    if grid:
        tables["sampling"] = markdown(grid, _names(grid), cost=SECONDS)
    return tables


def _names(lines: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(line["row"] for line in lines))


def _question(name: str) -> str:
    return "average" if name in AVERAGES else ROWS[name].question


def markdown(
    lines: list[dict[str, Any]],
    names: Sequence[str],
    *,
    cost: Sequence[tuple[str, str, str]] = COST,
) -> str:
    """One line per row: the mean of its seeds ± half of their difference, then its cost."""
    columns = [*FIGURES, *cost]
    text = ["|  | " + " | ".join(label for _, label, _ in columns) + " |"]
    text.append("|---" * (len(columns) + 1) + "|")
    for name in names:
        seeds = [line for line in lines if line["row"] == name]
        cells = [_mean([line[key] for line in seeds], form) for key, _, form in FIGURES]
        cells += [format(seeds[0][key], form) for key, _, form in cost]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def _mean(values: list[float], form: str) -> str:
    mean, apart = sum(values) / len(values), (max(values) - min(values)) / 2
    return format(mean, form) + (f" ± {format(apart, form)}" if len(values) > 1 else "")


def main() -> None:
    """Parse the arguments and run one of the three commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "train": train,
        "sample": sample,
        "table": table,
    }
    for name, action in actions.items():
        command = commands.add_parser(name, help=(action.__doc__ or "").splitlines()[0])
        command.set_defaults(action=action)
        if name == "train":
            command.add_argument("photos", type=Path, help="photos to train on")
            command.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
            command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
        if name != "table":
            command.add_argument("--val", type=Path, required=True, help="held-out square photos")
            command.add_argument("--limit", type=int, default=150, help="of so many of them")
        if name == "sample":
            command.add_argument("--model", default="colorize")
        if name == "table":
            command.add_argument("--into", type=Path, help="a file with <!-- QUESTION --> marks")
        command.add_argument("-o", "--output", type=Path, default=Path("ablations"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    args.action(args)


if __name__ == "__main__":
    main()

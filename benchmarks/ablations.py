"""What does each choice of the colorizer's recipe buy? Small runs of equal budget, two seeds each.

    python benchmarks/ablations.py train PHOTOS VAL -o WORK     a line of WORK/runs.jsonl a run
    python benchmarks/ablations.py sample VAL -o WORK           steps x scheduler, embedded model
    python benchmarks/ablations.py table -o WORK                the tables of docs/ablations.md

A row of ROWS is the reference with some settings changed. All train on the same views of the same
photos, as many samples each, and colour the same held-out photos from the same noise; the seed
changes the first weights, the order of the photos and the noise of training. The frozen backbone
sees a photo once, and its features serve all rows. What is done already is not done again.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from spaces import SPACES
from torch import Tensor, nn
from torch.utils.data import Dataset

from condiff.cli.options import quiet_libraries
from condiff.colors.lab import join_chroma, rgb_to_lab
from condiff.config import TrainConfig, read_config
from condiff.data.features import FeatureCache
from condiff.data.views import Batch, cut, draw_frame, scale_to
from condiff.diffusion import build_scheduler, denoise, initial_noise
from condiff.evaluation.metrics import ciede2000, colorfulness, frechet_distance, psnr
from condiff.evaluation.pairs import read_truths
from condiff.evaluation.photos import BATCH, HIGHEST_PSNR, Lite0Extractor, grey_passthrough
from condiff.networks.denoiser import Model
from condiff.pipeline import Pipeline, small_lightness
from condiff.training.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "configs" / "colorize-cpu.yaml"
# The recipe made small. Views are not degraded: a photo's own L* belongs to its chroma.
SMALL = (
    "max_minutes=null", "max_train_steps=240", "train_batch_size=32", "model.sample_size=16",
    "model.block_out_channels=[24,48,96]", "model.norm_num_groups=8", "data.size=128",
    "data.degrade=0", "data.files={large-*: 1700, mini-*: 1500}",
)  # fmt: skip
SEEDS = (0, 1)
STEPS = 10
LAB_SCALE = 50.0
TUNED_RATE = 0.1  # of the learning rate, for what was pretrained
REFERENCE = "reference"


@dataclass(frozen=True)
class Row:
    """The reference with other settings, or with what is no setting of condiff."""

    question: str
    overrides: tuple[str, ...] = ()
    space: str = "Lab"
    scale: float = LAB_SCALE  # of Lab; other spaces get the same spread of x_0
    tuned: bool = False  # the backbone's last stage learns too
    equal_time: bool = False  # as long as the reference by processor time, not by samples


BLIND = ("diffusion.rescale_betas_zero_snr=false",)
ROWS = {
    REFERENCE: Row("reference"),
    "no backbone": Row("backbone", ("model.backbone_variant=null",)),
    "epsilon": Row("objective", (*BLIND, "diffusion.prediction_type=epsilon")),
    "epsilon, min-SNR": Row(
        "objective",
        (*BLIND, "diffusion.prediction_type=epsilon", "diffusion.loss_weighting=min_snr"),
    ),
    "v, SNR > 0 at the end": Row("objective", BLIND),
    "v, min-SNR": Row("objective", ("diffusion.loss_weighting=min_snr",)),
    "OKLab": Row("space", space="OKLab"),
    "YCbCr": Row("space", space="YCbCr"),
    "chroma / 25": Row("scale", scale=25.0),
    "chroma / 110": Row("scale", scale=110.0),
    "schedule_shift 0.5": Row("scale", ("diffusion.schedule_shift=0.5",)),
    "schedule_shift 2": Row("scale", ("diffusion.schedule_shift=2",)),
    "timestep_shift 1": Row("scale", ("diffusion.timestep_shift=1",)),
    "timestep_shift 4": Row("scale", ("diffusion.timestep_shift=4",)),
    "last stage fine-tuned": Row("tuned", tuned=True),
    "L* of 256²": Row("lightness", ("data.size=256",)),
    "narrow": Row("shape", ("model.block_out_channels=[16,32,64]",), equal_time=True),
    "wide": Row("shape", ("model.block_out_channels=[40,80,160]",), equal_time=True),
    "two layers": Row("shape", ("model.layers_per_block=2",), equal_time=True),
    "four levels": Row("shape", ("model.block_out_channels=[24,48,96,144]",), equal_time=True),
    "EfficientNet-Lite0": Row("backbone", ("model.backbone_variant=lite0",)),
}
# Averages kept beside the reference's own: by how they are begun.
AVERAGES = {"no average": None, "EMA 0.9": 0.9, "EMA 0.97": 0.97}
QUESTIONS = {
    "backbone": "Pretrained features",
    "tuned": "Frozen or fine-tuned",
    "objective": "What is predicted",
    "scale": "Chroma scale, schedule, timesteps",
    "space": "Colour space",
    "shape": "Shape of the U-Net, equal processor time",
    "lightness": "What the backbone sees",
    "average": "Average of the weights",
}
FIGURES = (  # key, label, format
    ("colourfulness_ratio", "colourfulness / truth's", ".2f"),
    ("frechet_ratio", "Fréchet / grey's ↓", ".3f"),
    ("psnr", "PSNR, dB ↑", ".2f"),
    ("ciede2000", "CIEDE2000 ↓", ".2f"),
    ("top1", "top-1 ↑", ".1%"),
)
GRID_STEPS = (4, 10, 25, 50)
GRID_SCHEDULERS = ("ddim", "dpmsolver++", "heun", "ddpm")


def config_of(row: Row, overrides: Sequence[str] = (), *, seed: int = 0) -> TrainConfig:
    """The checked configuration of a row; `overrides` are of all rows."""
    return read_config(RECIPE, [*SMALL, *overrides, *row.overrides, f"seed={seed}"])


class Views(Dataset[Batch]):
    """Cached views whose x_0 is `chroma` (N,2,s,s); only their order depends on the seed."""

    def __init__(self, cache: FeatureCache, chroma: Tensor, *, seed: int):
        self.cache, self.chroma, self.seed = cache, chroma, seed
        self.num_photos, self.num_workers = len(cache), 0

    def __len__(self) -> int:
        return self.num_photos

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        row = copy(self.cache[key])
        row["x_0"] = self.chroma[key[1]]
        return row


@dataclass
class Photos:
    """The training photos of every row, looked at once a backbone and size of L*."""

    source: Path
    work: Path
    overrides: Sequence[str] = ()
    caches: dict[tuple[str, int], tuple[FeatureCache, np.ndarray]] = field(default_factory=dict)

    def views(self, row: Row, *, seed: int) -> tuple[Views, float]:
        """What a row trains on, and how much chroma a one of its x_0 is."""
        cache, cells = self.look(row)
        chroma = SPACES[row.space].chroma_of(cells)
        lab = SPACES["Lab"].chroma_of(cells) if row.space != "Lab" else chroma
        scale = row.scale * float(chroma.std() / lab.std())
        x_0 = torch.from_numpy((chroma / scale).transpose(0, 3, 1, 2).astype(np.float32))
        return Views(cache, x_0.contiguous(), seed=seed), scale

    def look(self, row: Row) -> tuple[FeatureCache, np.ndarray]:
        """The cache that serves a row, and the cells (N,s,s,3) uint8 sRGB of the same views."""
        config = config_of(row, self.overrides)
        key = (config.model.backbone_variant or "lite2", config.data.size)
        if key not in self.caches:
            seeing = (*self.overrides, f"model.backbone_variant={key[0]}")
            config = config_of(Row("", (f"data.size={key[1]}",)), seeing)
            folder = self.work / f"{key[0]}-{key[1]}"
            trainer = Trainer(config, self.source, folder)
            for filled in trainer.fill_cache():
                if filled.done % 800 == 0:
                    print(f"{folder.name}: {filled.done} of {filled.total} photos", flush=True)
            assert isinstance(trainer.dataset, FeatureCache)
            self.caches[key] = (trainer.dataset, _cells(trainer.dataset))
        return self.caches[key]


def _cells(cache: FeatureCache) -> np.ndarray:
    """The photos' colours (N,s,s,3) in the frames that the cached views have."""
    views = cache.views
    cells = []
    for index in range(len(views)):
        pixels = views.photos[index].read("image")
        rng = np.random.default_rng((views.seed, 0, index))  # as ViewDataset draws it
        frame = draw_frame(*pixels.shape[:2], rng, views.settings.config)
        cells.append(scale_to(cut(pixels, frame), views.settings.sample_size))
    return np.stack(cells)


class Judge:
    """Held-out photos, what Lite0 sees in them, and the figures of pictures of them."""

    def __init__(self, val: Path, limit: int):
        truths = read_truths(val)
        chosen = np.linspace(0, len(truths) - 1, min(limit, len(truths))).astype(int)
        self.truths = [truths[i] for i in chosen]
        self.extractor = Lite0Extractor()
        self.seen = self._extract(self.truths)
        grey = self._extract([grey_passthrough(truth) for truth in self.truths])
        self.grey_frechet = frechet_distance(grey[0], self.seen[0])
        self.colorfulness = float(np.mean([colorfulness(truth) for truth in self.truths]))

    def _extract(self, photos: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        starts = range(0, len(photos), BATCH)
        features, logits = zip(*(self.extractor(photos[i : i + BATCH]) for i in starts), strict=True)
        return np.concatenate(features), np.concatenate(logits)

    def figures(self, pictures: list[np.ndarray]) -> dict[str, float]:
        """Means over the photos; colourfulness and Fréchet against the truth's and grey's."""
        features, logits = self._extract(pictures)
        pairs = list(zip(pictures, self.truths, strict=True))
        values = {
            "colourfulness_ratio": np.mean([colorfulness(p) for p in pictures]) / self.colorfulness,
            "frechet_ratio": frechet_distance(features, self.seen[0]) / self.grey_frechet,
            "psnr": np.mean([min(psnr(p, t), HIGHEST_PSNR) for p, t in pairs]),
            "ciede2000": np.mean([ciede2000(rgb_to_lab(p), rgb_to_lab(t)).mean() for p, t in pairs]),
            "top1": np.mean(logits.argmax(1) == self.seen[1].argmax(1)),
        }
        return {name: round(float(value), 4) for name, value in values.items()}

    @torch.inference_mode()
    def colour(
        self, model: Model, config: TrainConfig, *, space: str, scale: float, steps: int = STEPS
    ) -> list[np.ndarray]:
        """The photos, which are square, coloured by DDIM; photo i from the noise of seed i."""
        side, limit = config.model.sample_size, SPACES[space].limit
        pictures: list[np.ndarray] = []
        model.eval()
        for start in range(0, len(self.truths), BATCH):
            photos = self.truths[start : start + BATCH]
            L = np.stack([small_lightness(photo, size=config.data.size) for photo in photos])
            cond = model.encoder(torch.from_numpy(L / 50 - 1)[:, None], size=(side, side))
            noise = initial_noise(
                [torch.Generator().manual_seed(start + i) for i in range(len(photos))],
                (2, side, side),
            )
            *_, x_0 = denoise(
                lambda x_t, t, cond=cond: model.predict(x_t, t, cond),
                build_scheduler("ddim", config.diffusion),
                noise,
                steps=min(steps, config.diffusion.num_train_timesteps),
                clip=limit / scale,
            )
            chroma = (x_0.clamp(-limit / scale, limit / scale) * scale).permute(0, 2, 3, 1).numpy()
            if space != "Lab":
                cell = L.shape[1] // side
                mean = L.reshape(len(L), side, cell, side, cell).mean((2, 4))
                chroma = SPACES[space].to_ab(chroma, mean)
            pictures += [
                join_chroma(photo, np.ascontiguousarray(ab, np.float32))
                for photo, ab in zip(photos, chroma, strict=True)
            ]
        return pictures


def build_trainer(config: TrainConfig, views: Views, source: Path, *, tuned: bool) -> Trainer:
    """condiff's own trainer on the cached views; keeps nothing on disk."""
    trainer = Trainer(config, source, None)
    trainer.dataset = views  # type: ignore[assignment]
    if tuned:
        _tune_last_stage(trainer)
    return trainer


def _tune_last_stage(trainer: Trainer) -> None:
    """Let the backbone's blocks of stride 32 learn: cached are the maps that they start from."""
    model = trainer.model
    blocks = model.encoder.backbone.blocks
    first = max(i for i, block in enumerate(blocks) if block.stride == 2)
    tail = nn.Sequential(*blocks[first:]).requires_grad_(True)

    def see_anew(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        features = kwargs["features"]
        return args, {**kwargs, "features": {**features, 32: tail(features[16])}}

    model.register_forward_pre_hook(see_anew, with_kwargs=True)
    optimizer = trainer.optimizer.optimizer
    optimizer.add_param_group({"params": list(tail.parameters())})

    def slow_down(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        own, pretrained = optimizer.param_groups
        pretrained["lr"] = own["lr"] * TUNED_RATE

    optimizer.register_step_pre_hook(slow_down)
    trainer.ema = _average(model, trainer.config.optimizer.ema_decay)


def _average(model: Model, decay: float) -> EMAModel:
    """An average as the trainer keeps it."""
    return EMAModel(model.trainable(), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)


def equal_steps(row: Row, photos: Photos, *, rounds: int = 3, steps: int = 4) -> int:
    """As many steps of a row as take the processor time of the reference's, timed side by side."""
    rows = (ROWS[REFERENCE], row)
    runs = []
    for each in rows:
        config = config_of(each, photos.overrides)
        views, _ = photos.views(each, seed=0)
        runs.append(iter(build_trainer(config, views, photos.source, tuned=False).steps()))
    best = [np.inf, np.inf]
    for number in range(rounds + 1):
        for i, run in enumerate(runs):
            began = time.process_time()
            for _ in islice(run, 1 if number == 0 else steps):
                pass
            if number:
                best[i] = min(best[i], time.process_time() - began)
    total = config_of(rows[0], photos.overrides).max_train_steps
    assert total is not None
    return max(1, round(total * best[0] / best[1]))


def run_row(
    name: str, photos: Photos, judge: Judge, *, seed: int, steps: int | None = None
) -> list[dict[str, Any]]:
    """Train a row and tell its figures; the reference's other averages are rows of their own."""
    row = ROWS[name]
    config = config_of(row, photos.overrides, seed=seed)
    if steps:
        config = config.model_copy(update={"max_train_steps": steps})
    views, scale = photos.views(row, seed=seed)
    trainer = build_trainer(config, views, photos.source, tuned=row.tuned)
    parameters = trainer.model.trainable()
    averages = {
        label: _average(trainer.model, decay) if decay else None
        for label, decay in (AVERAGES.items() if name == REFERENCE else ())
    }
    began, losses = time.process_time(), []
    for step in trainer.steps():
        losses.append(step.loss)
        for average in averages.values():
            if average:
                average.step(parameters)
    told: dict[str, Any] = {
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
        question = row.question if label == name else "average"
        lines.append({"row": label, "question": question, **told, **judge.figures(pictures)})
    return lines


def train(args: argparse.Namespace) -> None:
    """Every row with every seed that WORK/runs.jsonl does not have yet."""
    quiet_libraries()
    path = args.output / "runs.jsonl"
    photos = Photos(args.photos, args.output, tuple(args.set))
    judge = Judge(args.val, args.limit)
    for name in args.rows or ROWS:
        for seed in SEEDS:
            done = [line for line in read_lines(path) if line["row"] == name]
            if any(line["seed"] == seed for line in done):
                continue
            steps = None
            if ROWS[name].equal_time:
                steps = done[0]["steps"] if done else equal_steps(ROWS[name], photos)
            append(path, run_row(name, photos, judge, seed=seed, steps=steps))


def sample(args: argparse.Namespace) -> None:
    """Steps x scheduler of the embedded model; two seeds up to ten steps, as the yardstick."""
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
                for i, truth in enumerate(judge.truths):
                    began = time.process_time()
                    (picture,) = pipeline(
                        Image.fromarray(truth), steps=steps, scheduler=scheduler, seed=1000 * seed + i
                    )
                    seconds.append(time.process_time() - began)
                    pictures.append(np.asarray(picture))
                spent = {"seconds": round(float(np.median(seconds)), 3)}
                append(path, [{**key, "steps": steps, **spent, **judge.figures(pictures)}])


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Lines at the end of a file, and on the terminal."""
    with open(path, "a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(json.dumps(line, ensure_ascii=False), flush=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The runs that are done."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def table(args: argparse.Namespace) -> None:
    """The tables of all that is done."""
    runs = read_lines(args.output / "runs.jsonl")
    for question, title in QUESTIONS.items():
        names = list(dict.fromkeys(r["row"] for r in runs if r["question"] == question))
        if names:
            print(f"\n## {title}\n\n{markdown(runs, [REFERENCE, *names])}")
    if grid := read_lines(args.output / "sampling.jsonl"):
        names = list(dict.fromkeys(line["row"] for line in grid))
        print(f"\n## Steps and solvers\n\n{markdown(grid, names, more=SECONDS)}")


COST: tuple[tuple[str, str, str], ...] = (("steps", "steps", "d"), ("parameters", "parameters", ","))
SECONDS = (("seconds", "s a photo", ".2f"),)


def markdown(
    lines: list[dict[str, Any]],
    names: Sequence[str],
    *,
    more: Sequence[tuple[str, str, str]] = COST,
) -> str:
    """A line a row: means of its seeds, and behind them how far the seeds lie apart."""
    columns = [*FIGURES, *more]
    text = ["|  | " + " | ".join(label for _, label, _ in columns) + " |"]
    text.append("|---" * (len(columns) + 1) + "|")
    for name in names:
        seeds = [line for line in lines if line["row"] == name]
        cells = []
        for key, _, form in columns:
            values = [line[key] for line in seeds]
            if not values:
                cells.append("–")
            elif key in dict.fromkeys(k for k, *_ in more) and key != "seconds":
                cells.append(format(values[0], form))
            else:
                apart = f" ± {format((max(values) - min(values)) / 2, form)}"
                cells.append(format(float(np.mean(values)), form) + apart * (len(values) > 1))
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def main() -> None:
    """Parse the arguments, do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        command.add_argument("-o", "--output", type=Path, default=Path("ablations"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    args.action(args)


if __name__ == "__main__":
    main()

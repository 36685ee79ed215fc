"""The table of ablations: what each row changes in the reference, and the question it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from condiff.config import TrainConfig, read_config

RECIPE = Path(__file__).parents[1] / "configs" / "colorize-cpu.yaml"
# A small version of the recipe, without guidance and loss weights. Views are not degraded: chroma
# belongs to the photo's own L*. At the recipe's rate of 5e-4 so short a run is worse than grey:
# Fréchet 1.25 of grey's after 240 steps, against 0.91 at 2e-3.
SMALL = (
    "max_minutes=null", "max_train_steps=200", "train_batch_size=32",
    "optimizer.learning_rate=2e-3", "model.sample_size=16", "model.block_out_channels=[24,48,96]",
    "model.norm_num_groups=8", "data.size=128", "data.degrade=0",
    "data.files={large-*: 1700, mini-*: 1500}",
    "diffusion.loss_weighting=none", "diffusion.cond_drop_prob=0", "diffusion.timestep_shift=2",
)  # fmt: skip
SEEDS = (0, 1)
LAB_SCALE = 50.0
REFERENCE = "reference"


@dataclass(frozen=True)
class Row:
    """The reference with other settings, or with changes that are not settings of condiff."""

    question: str
    overrides: tuple[str, ...] = ()
    space: str = "Lab"
    scale: float = LAB_SCALE  # of Lab; other spaces get the same spread of x_0
    tuned: bool = False  # the backbone's last stage is trained too
    equal_time: bool = False  # the reference's processor time instead of its samples


BLIND = ("diffusion.rescale_betas_zero_snr=false",)
ROWS = {
    REFERENCE: Row("reference"),
    "no backbone": Row("backbone", ("model.backbone_variant=null",)),
    "epsilon": Row("objective", (*BLIND, "diffusion.prediction_type=epsilon")),
    "epsilon, linear": Row(
        "objective",
        (*BLIND, "diffusion.prediction_type=epsilon", "diffusion.beta_schedule=linear"),
    ),
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
# Other averages of the reference's weights, by their decay; the rows are of the same run.
AVERAGES = {"no average": None, "EMA 0.9": 0.9}
QUESTIONS = (  # in the order of docs/notes/ablations.md
    "backbone", "tuned", "lightness", "objective", "scale", "space", "shape", "average",
)  # fmt: skip


def config_of(row: Row, overrides: Sequence[str] = (), *, seed: int = 0) -> TrainConfig:
    """The validated configuration of a row; `overrides` apply to all rows."""
    return read_config(RECIPE, [*SMALL, *overrides, *row.overrides, f"seed={seed}"])

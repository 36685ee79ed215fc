"""The table of tasks: what x_0 is, and what it is conditioned on."""

from dataclasses import dataclass
from typing import Literal

from condiff.config import Task as TaskName
from condiff.errors import ConfigError


@dataclass(frozen=True)
class Task:
    """One row: x_0 has `out_channels`, is `scale` units a one, and never exceeds ±clip.

    x_0 is a photo's Lab chroma (a,b), its condition L*; or RGB, its condition a drawing of one of
    the kinds in `conditions`, chosen at random for each photo in training; or RGB and no condition;
    or a window of RGB, its condition the window made small and brought up again, then its lines.
    """

    name: TaskName
    x_0: Literal["chroma", "rgb"]
    out_channels: int
    condition_channels: int
    hint_channels: int = 0
    scale: float = 1.0
    clip: float = 1.0
    conditions: tuple[str, ...] = ()  # kinds of lines that are drawn from photos for training
    augments_lines: bool = False  # whether they are varied as hands and scanners would
    enlarges: bool = False  # x_0 is a window; its small picture is the condition's first channels
    attends: bool = True  # in the U-Net's middle; without, a large picture can be done in tiles


TASKS: dict[str, Task] = {
    # x_0 is (a,b)/50: sRGB reaches ±110, so ±2.2; most photos stay within ±1.
    "colorize": Task(
        "colorize",
        x_0="chroma",
        out_channels=2,
        condition_channels=1,
        hint_channels=3,
        scale=50.0,
        clip=2.2,
    ),
    "sketch": Task(
        "sketch",
        x_0="rgb",
        out_channels=3,
        condition_channels=1,
        conditions=("canny", "sketch", "pencil", "lineart"),
        augments_lines=True,
    ),
    "edge": Task(
        "edge",
        x_0="rgb",
        out_channels=3,
        condition_channels=1,
        conditions=("canny",),
    ),
    "none": Task(
        "none",
        x_0="rgb",
        out_channels=3,
        condition_channels=0,
    ),
    # The second stage of a cascade (Ho et al. 2021, arXiv:2106.15282): SR3 (Saharia et al. 2021,
    # arXiv:2104.07636) that sees the lines beside the small picture.
    "upscale": Task(
        "upscale",
        x_0="rgb",
        out_channels=3,
        condition_channels=4,
        conditions=("canny", "sketch", "pencil", "lineart"),
        augments_lines=True,
        enlarges=True,
        attends=False,
    ),
}


def find_task(name: str) -> Task:
    """The row of that name."""
    if name not in TASKS:
        raise ConfigError(f"There is no task {name!r}: choose from {', '.join(TASKS)}.")
    return TASKS[name]

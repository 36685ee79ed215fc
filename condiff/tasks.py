"""The table of tasks: what the model generates (x_0), and from which condition."""

from dataclasses import dataclass
from typing import Literal

from condiff.config import Task as TaskName
from condiff.errors import ConfigError


@dataclass(frozen=True)
class Task:
    """One row of the table. x_0 has `out_channels` and stays within ±clip; 1 is `scale` units.

    `colorize`: x_0 is a photo's Lab chroma (a,b), the condition its L*. `sketch` and `edge`: x_0 is
    RGB, the condition its lines, drawn in training by one of `conditions` at random. `none`: RGB
    without condition. `upscale`: x_0 is a window of RGB; the condition is the window shrunk and
    enlarged again (3 channels), then its lines.
    """

    name: TaskName
    x_0: Literal["chroma", "rgb"]
    out_channels: int
    condition_channels: int
    hint_channels: int = 0
    scale: float = 1.0
    clip: float = 1.0
    conditions: tuple[str, ...] = ()  # kinds of lines that training draws from photos
    augments_lines: bool = False  # whether they are varied like hand drawings and scans
    enlarges: bool = False  # whether it makes a small picture larger
    attends: bool = True  # whether the U-Net has attention, which tiles do not allow


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

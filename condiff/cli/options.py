"""Flags that mean the same in every command, and how commands speak."""

import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer

from condiff import __version__
from condiff.errors import ImageError

Input = Annotated[str, typer.Argument(metavar="INPUT", help="A photo, or - for standard input.")]
OUTPUT = typer.Option("-o", "--output", help="Where to, or - for standard output.")
Output = Annotated[str | None, OUTPUT]  # None: beside INPUT, by a name that the command tells
Model = Annotated[
    str, typer.Option("-m", "--model", help="An embedded model's name, or a model folder.")
]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")]
Scheduler = Annotated[
    str, typer.Option(help="Solver: ddpm, ddim, dpmsolver++, unipc, euler or heun.")
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Random seed: the same picture again (default: a new one, reported)."),
]
Samples = Annotated[int, typer.Option(min=1, help="How many different answers.")]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=50,
        help="Above 1 follows the condition more: closer to the lines, colours stronger; 1 is off, "
        "and twice as fast (default: as the model says).",
    ),
]
Variety = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="How far answers may differ in broad areas: 0 is what is likeliest there, 1 all that "
        "may be (default: as the model says).",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the network: torch, onnx or openvino (auto: onnx on a cpu where the model "
        "has graphs, see `condiff export`)."
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1, help="Processor threads of the network; another number rounds in another way."
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")]
DryRun = Annotated[
    bool, typer.Option("-n", "--dry-run", help="Say what would be done, and do nothing.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="More on stderr, and tracebacks of errors.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a result on stdout.")]

DEFAULT_MAX_PIXELS = 200_000_000

Size = Annotated[
    int | None,
    typer.Option(
        min=32,
        max=2048,
        help="Short side that the model sees, in pixels (default: as it was trained).",
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="Of JPEG, WebP, AVIF (default: as the source, or high)."),
]
Saturation = Annotated[
    float, typer.Option(min=0, max=5, help="Times as much chroma; 1 is as it is.")
]
Temperature = Annotated[
    float, typer.Option(min=-100, max=200, help="Warmer by so many mired, or cooler if below 0.")
]
Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance/--no-provenance", help="Note in the file that a model made the colours."
    ),
]
Page = Annotated[
    int | None, typer.Option(min=1, help="Which page or frame, where a file has several.")
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse pictures of more pixels.")]


def print_version(wanted: bool) -> None:
    """`--version`."""
    if wanted:
        print(f"condiff {__version__}")
        raise typer.Exit


def open_input(source: str) -> Path | BytesIO:
    """The path that INPUT is, or the whole of standard input."""
    if source != "-":
        return Path(source)
    if sys.stdin is None:
        raise ImageError("cannot read standard input: it is closed; give the name of a file.")
    return BytesIO(sys.stdin.buffer.read())


def say(message: Any, *, quiet: bool) -> None:
    """Chatter goes to stderr; stdout is for results."""
    if not quiet:
        print(message, file=sys.stderr)


def quiet_libraries() -> None:
    """Keep diffusers' advice to developers out of our users' terminals, without importing it."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

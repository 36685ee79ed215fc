"""Flags that several commands share, and what they print to stderr."""

import os
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condiff.cli.process import on_one_line
from condiff.cli.sampling import Group
from condiff.errors import ImageError
from condiff.files import short_digest
from condiff.photos.formats import MAX_PIXELS

if TYPE_CHECKING:
    from condiff.color.edits import ColorEdits
    from condiff.color.hints import Hints
    from condiff.models.info import ModelInfo
    from condiff.photos.photo import Photo

MAX_SAMPLES = 10_000  # of one command: a mistyped number would plan names for hours

Input = Annotated[str, typer.Argument(metavar="INPUT", help="A photo, or - for standard input.")]
Inputs = Annotated[
    list[str], typer.Argument(metavar="PHOTO...", help="Photos, or - for standard input.")
]
OUTPUT = typer.Option(
    "-o",
    "--output",
    help="File or folder to write to (a new folder with a slash at its end), or - for stdout.",
)
Output = Annotated[str | None, OUTPUT]  # None: beside INPUT, under a name that the command chooses
Model = Annotated[
    str, typer.Option("-m", "--model", help="An embedded model's name, or a model folder.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Random seed; the same one gives the same picture (default: a new one, reported).",
    ),
]
Samples = Annotated[
    int, typer.Option(min=1, max=MAX_SAMPLES, help="How many different results to make.")
]
Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu, cuda or mps.")]
Engine = Annotated[
    str,
    typer.Option(
        help="Library that runs the network: torch, onnx or openvino. auto takes onnx on a "
        "processor if the model has ONNX graphs (see `condiff export`), else torch."
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1,
        max=256,
        help="Processor threads of the network. Another number rounds differently, so that results "
        "differ slightly.",
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite existing files.")]
Touch = Annotated[
    bool,
    typer.Option("--touch", help="Give results the present date (default: the photo's)."),
]
DryRun = Annotated[
    bool, typer.Option("-n", "--dry-run", help="Print what would be done, and do nothing.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors on stderr.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print the traceback of an error, too.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per result on stdout.")]

Quality = Annotated[
    int | None,
    typer.Option(
        min=1, max=100, help="Quality of a JPEG, WebP or AVIF (default: as the source, or high)."
    ),
]
Look = Annotated[
    str | None,
    typer.Option(
        metavar="quiet|natural|vivid",
        help="How strong the colours are: one of the model's sets of guidance, variety and "
        "saturation (default: natural). Flags that set one of these take precedence.",
    ),
]
Saturation = Annotated[
    float | None,
    typer.Option(
        min=0, max=5, help="Multiply the chroma of all colours by this (default: the look's)."
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=-100, max=200, help="Make colours warmer by this many mired, or cooler if negative."
    ),
]
Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance/--no-provenance", help="Note in the file that a model made the colours."
    ),
]
Page = Annotated[
    int | None, typer.Option(min=1, help="Page or frame to take of a file that has several.")
]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse pictures with more pixels than this.")]

Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse photos whose file is damaged or cut short, instead of taking what can be "
        "read, with a warning.",
    ),
]


@dataclass(frozen=True)
class Reading(Group):
    """How photos are read."""

    panel = "What is read"

    page: Page = None
    max_pixels: MaxPixels = MAX_PIXELS
    strict: Strict = False


@dataclass(frozen=True)
class Content(Group):
    """What a photo contains, and which part of it is coloured."""

    panel = "What the photo contains"

    invert: Annotated[
        bool, typer.Option("--invert", help="Make a positive of a negative, and colour that.")
    ] = False
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A grey picture of the photo's aspect: white places are coloured, black ones stay "
            "grey. In a batch also a folder of them: a/b.png is for a/b.jpg.",
        ),
    ] = None
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOR",
            help="Replace transparency by this colour (white, #rrggbb), as JPEG needs it.",
        ),
    ] = None
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Colour the borders of scans, too, and show the model dark and faded photos as "
            "they are.",
        ),
    ] = False

    def paths(self) -> list[Path]:
        """The picture that is read."""
        return [self.mask] if self.mask else []

    @property
    def masks(self) -> Path | None:
        """The value of --mask if it is a folder."""
        return self.mask if self.mask and self.mask.is_dir() else None

    def edit(
        self,
        adjustment: "Adjustment",
        references: "ReferenceFlags",
        hints: Any = (),
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> "ColorEdits":
        """These and other edits of the colours in one; the mask has at most `max_pixels`."""
        from condiff.color.edits import ColorEdits
        from condiff.color.palette import parse_palette
        from condiff.photos.reading import read_image

        mask = None
        if self.mask and not self.masks:
            mask = read_image(self.mask, max_pixels=max_pixels)
        return ColorEdits(
            hints,
            adjustment.saturation,
            adjustment.temperature,
            mask=mask,
            invert=self.invert,
            background=self.background,
            as_is=self.as_is,
            references=list(references.reference),
            strict_reference=references.strict_reference,
            palette=parse_palette(references.palette) if references.palette else None,
        )


@dataclass(frozen=True)
class Machine(Group):
    """Where the network runs, and which library runs it."""

    panel = "Machine"

    device: Device = "auto"
    engine: Engine = "auto"
    threads: Threads = 1

    def check(self, model: "ModelInfo") -> None:
        """Raise ConfigError or ModelError if the model cannot run this way; nothing is loaded."""
        from condiff.backends.table import choose_engine, find_device

        choose_engine(model, self.engine, find_device(self.device, engine=self.engine))


@dataclass(frozen=True)
class Messages(Group):
    """What a command prints."""

    panel = "Messages"

    quiet: Quiet = False
    verbose: Verbose = False
    as_json: Json = False


@dataclass(frozen=True)
class Adjustment(Group):
    """How the colours of a result are adjusted."""

    panel = "How it looks"

    look: Look = None
    saturation: Saturation = None
    temperature: Temperature = 0.0


@dataclass(frozen=True)
class HintFlags(Group):
    """Colours that the user gives."""

    panel = "How it looks"

    hint: Annotated[
        list[str],
        typer.Option(
            metavar="X,Y,COLOR",
            help="Put a colour at a place; may be repeated. Numbers with a decimal point are "
            "shares of width and height (0.5,0.25,#3c5ac8), integers pixels (300,200,#3c5ac8).",
            show_default=False,
        ),
    ] = ()  # type: ignore[assignment]
    hints: Annotated[
        Path | None,
        typer.Option(
            help="Take hints from a PNG of the picture's aspect: strokes of colour on transparency."
        ),
    ] = None

    def paths(self) -> list[Path]:
        """The picture that is read."""
        return [self.hints] if self.hints else []

    def read(self, *, max_pixels: int = MAX_PIXELS) -> "Hints":
        """The hints of --hint, or those of --hints; BadParameter if both are given.

        The picture of --hints has at most `max_pixels`.
        """
        from condiff.color.hints import parse_hint
        from condiff.photos.reading import read_image

        if self.hint and self.hints:
            raise typer.BadParameter("Give hints as --hint or as --hints, not both.")
        if self.hints:
            return read_image(self.hints, max_pixels=max_pixels)
        return [parse_hint(text) for text in self.hint]

    def describe(self) -> dict[str, Any]:
        """The hints for a note in a result: as they were given, or the digest of their picture."""
        if self.hints:
            return {"strokes": short_digest(self.hints.read_bytes())}
        return {"hints": list(self.hint)} if self.hint else {}


@dataclass(frozen=True)
class ReferenceFlags(Group):
    """Colour photos that a result takes its colours from."""

    panel = "How it looks"

    reference: Annotated[
        list[Path],
        typer.Option(
            metavar="PHOTO",
            help="Take colours from a colour photo of the same scene or objects, where it matches; "
            "may be repeated.",
            show_default=False,
        ),
    ] = ()  # type: ignore[assignment]
    strict_reference: Annotated[
        bool,
        typer.Option(
            "--strict-reference", help="Refuse a photo that the references hardly match anywhere."
        ),
    ] = False
    palette: Annotated[
        str | None,
        typer.Option(
            metavar="PHOTO|#RRGGBB,...",
            help="Give the automatic colours the overall palette of a colour photo or of a list of "
            "colours.",
        ),
    ] = None

    def paths(self) -> list[Path]:
        """The photos that are read."""
        # Not Path.exists: a list of colours may be longer than a file's name.
        photo = [Path(self.palette)] if self.palette and os.path.exists(self.palette) else []
        return [*self.reference, *photo]


class StandardInput(BytesIO):
    """All that was read from standard input; errors name it by Python's name of that stream."""

    name = "<stdin>"


def open_input(source: str) -> Path | StandardInput:
    """The path of INPUT, or for - all of standard input; ImageError if that is closed."""
    if source != "-":
        return Path(source)
    if sys.stdin is None:
        raise ImageError("cannot read standard input: it is closed; give the name of a file.")
    stdin: Any = sys.stdin.buffer  # not read(): a signal between two of its reads would wait
    return StandardInput(b"".join(iter(lambda: stdin.read1(1 << 20), b"")))


def read_input(source: str, reading: Reading, *, quiet: bool) -> "Photo":
    """The photo in INPUT, which is a path or -; reports what is odd about it on stderr."""
    from condiff.photos.reading import read_photo

    photo = read_photo(
        open_input(source),
        max_pixels=reading.max_pixels,
        page=reading.page,
        strict=reading.strict,
    )
    name = "standard input" if source == "-" else source
    for warning in photo.info.get("warnings", ()):
        report(f"{name}: {warning}", quiet=quiet)
    return photo


def report(message: Any, *, quiet: bool) -> None:
    """Print a message to stderr on one line, unless quiet; stdout is for results."""
    if not quiet:
        print(on_one_line(str(message)), file=sys.stderr)


def quiet_libraries() -> None:
    """Silence diffusers' advice to developers, without importing it."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

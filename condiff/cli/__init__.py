"""The command line: one file a command, nothing heavy imported before a command runs."""

import re
import sys
import traceback
import warnings
from typing import Any

import typer
from typer.core import TyperCommand

from condiff.cli.batch import batch
from condiff.cli.colorize import colorize
from condiff.cli.condition import condition
from condiff.cli.eval import evaluate
from condiff.cli.export import export
from condiff.cli.figure import figure
from condiff.cli.info import info
from condiff.cli.options import print_version
from condiff.cli.prep import prep
from condiff.cli.render import render
from condiff.cli.train import train
from condiff.errors import CondiffError, UsageError

NO_MEMORY = "There is not enough memory: close other programs, or scale the picture down."
WRONG_TORCHVISION = (
    "The torchvision that is installed was made for another build of torch, which keeps diffusers "
    "from loading: pip uninstall torchvision (condiff does without it), or install the one that "
    "goes with your torch."
)
VERBOSE = re.compile("--verbose|-[fnqv]*v[fnqv]*")  # alone, or with other short flags: -qv

app = typer.Typer(
    name="condiff",
    help="Colours for black-and-white photos, pictures from sketches: conditional diffusion.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, and a tenth of a second less of imports
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PanelCommand(TyperCommand):
    """A command whose plain help lists its options by the panels of their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then a section for each panel, in the order of their options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            is_argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None)
            name = "Arguments" if is_argument else panel or "Options"
            sections.setdefault(name, []).append(record)
        if "Options" in sections:  # those of no panel, and --help, come last
            sections["Other options"] = sections.pop("Options")
        if "Arguments" in sections:
            sections = {"Arguments": sections.pop("Arguments"), **sections}
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


for command in (colorize, render, batch, condition, prep, train, evaluate, export, info):
    name = "eval" if command is evaluate else None
    app.command(name, cls=PanelCommand, no_args_is_help=command is not info)(command)
app.add_typer(figure, name="figure")


@app.callback()
def common(
    version: bool = typer.Option(
        False, "--version", callback=print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Colours for black-and-white photos, pictures from sketches: conditional diffusion."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    # Pillow warns developers of odd metadata; what matters to a user is an ImageError.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        app(arguments, prog_name="condiff")
    except SystemExit as end:  # typer has printed usage errors (2) and caught Ctrl-C (130)
        code = end.code if isinstance(end.code, int) else 1
        if code == 130:
            print("condiff: interrupted.", file=sys.stderr)
        return code
    except Exception as error:
        told = _sentence_for(error)
        if told is None:
            raise
        if any(VERBOSE.fullmatch(argument) for argument in arguments):
            traceback.print_exc()
        print(f"condiff: {told}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _sentence_for(error: Exception) -> str | None:
    """What a user is told of an error; None of one that no user can bring about."""
    if isinstance(error, CondiffError):
        return str(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, RuntimeError) and "torchvision::" in str(error):
        return WRONG_TORCHVISION
    return None

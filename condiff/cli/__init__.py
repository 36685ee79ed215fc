"""The command line: one file a command, imported only when that command runs or shows its help."""

import os
import re
import sys
import traceback
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from condiff._version import __version__
from condiff.cli.process import ended_by_sigterm, flush, on_one_line, open_streams
from condiff.errors import NO_MEMORY, CondiffError, UsageError

# The commands in the order of the help, and the first sentence of each one's help.
COMMANDS = {
    "colorize": "Colour black-and-white photos.",
    "render": "Make pictures that follow the lines of drawings.",
    "batch": "Colour every photo of a folder.",
    "video": "Give a black-and-white film steady colours.",
    "web": "Serve a page that colours photos and makes pictures from drawings.",
    "condition": "Draw the edges, lines or other condition images of photos.",
    "prep": "Turn photos into a training set.",
    "train": "Train a model on your photos.",
    "eval": "Measure results, or a model, against true photos.",
    "figure": "Draw pictures of the diffusion process.",
    "export": "Write the ONNX graphs that run a model without torch.",
    "info": "Show versions and devices, or describe a model.",
}
WITHOUT_ARGUMENTS = {"web", "info"}  # without arguments the others show their help
WRONG_TORCHVISION = (
    "The installed torchvision was made for another build of torch, which keeps diffusers from "
    "loading: pip uninstall torchvision (condiff does not need it), or install the one that fits "
    "your torch."
)
NO_FOLDER = "The current folder was removed: change to another one."
ENDED = {130: "interrupted", 143: "ended by SIGTERM"}
OPENCV_NO_MEMORY = -4  # cv2.Error.StsNoMem
MAY_BE_EMPTY = {"--prompt", "--negative-prompt"}
VERBOSE = re.compile("--verbose|-[fnqv]*v[fnqv]*")  # alone, or with other short flags: -qv

# Plain help, whose imports take a tenth of a second less.
PLAIN: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}


class PanelCommand(TyperCommand):
    """A command whose plain help lists its options by the panels of their groups."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; errors for wrong values omit pydantic's name for them."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise

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


class LazyGroup(TyperGroup):
    """The group of all commands: it imports a command when it is asked for by its name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, None if there is none."""
        return _build_command(cmd_name) if cmd_name in COMMANDS else None

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a name in an error for a wrong value cannot control the terminal."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = on_one_line(error.message)
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@cache  # a program that calls `main` often builds each command once
def _build_command(name: str) -> Any:
    function = "evaluate" if name == "eval" else name  # eval is Python's own
    made = getattr(import_module(f"condiff.cli.{name}"), function)
    if not isinstance(made, typer.Typer):
        only = typer.Typer(add_completion=False, **PLAIN)
        needs = name not in WITHOUT_ARGUMENTS
        only.command(name, cls=PanelCommand, no_args_is_help=needs)(made)
        made = only
    command = typer.main.get_command(made)
    command.name = name
    return command


app = typer.Typer(
    name="condiff",
    cls=LazyGroup,
    help="Colours for black-and-white photos, pictures from sketches: conditional diffusion.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **PLAIN,
)


def print_version(wanted: bool) -> None:
    """`--version`."""
    if wanted:
        print(f"condiff {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: bool = typer.Option(
        False, "--version", callback=print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Colours for black-and-white photos, pictures from sketches: conditional diffusion."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 ended."""
    arguments = sys.argv[1:] if argv is None else argv
    open_streams()
    if place := _find_empty(arguments):
        print(f"condiff: {place} is empty: is a variable of the shell not set?", file=sys.stderr)
        return 2
    if name := _find_dashed(arguments):
        print(f"condiff: {name} begins with a dash: write ./{name} for the file.", file=sys.stderr)
        return 2
    # Pillow warns developers of odd metadata; what matters to a user is an ImageError.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        with ended_by_sigterm():
            app(arguments, prog_name="condiff")
    except SystemExit as end:  # typer has printed usage errors (2) and caught Ctrl-C (130)
        code = end.code if isinstance(end.code, int) else 1
        if code in ENDED:
            print(f"condiff: {ENDED[code]}.", file=sys.stderr)
        return code if code else flush()
    except Exception as error:
        message = _sentence_for(error)
        if message is None:
            raise
        if any(VERBOSE.fullmatch(argument) for argument in arguments):
            traceback.print_exc()
        print(f"condiff: {on_one_line(message)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return flush()


def _find_empty(arguments: list[str]) -> str | None:
    """The place of an empty argument, which would be taken for the current folder."""
    for number, argument in enumerate(arguments):
        flag = arguments[number - 1] if number else ""
        if argument == "" and flag not in MAY_BE_EMPTY:
            return f"The value of {flag}" if flag.startswith("-") else f"Argument {number + 1}"
        name, is_set, value = argument.partition("=")
        if name.startswith("--") and is_set and not value and name not in MAY_BE_EMPTY:
            return f"The value of {name}"
    return None


def _find_dashed(arguments: list[str]) -> str | None:
    """An argument that is a file's name but would be taken for a flag."""
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    with suppress(OSError, ValueError):  # names that no file can have
        return next((a for a in flags if a.startswith("-") and os.path.isfile(a)), None)
    return None


def _sentence_for(error: Exception) -> str | None:
    """The message for an error that a user can cause; None for any other."""
    if isinstance(error, CondiffError):
        return str(error)
    if isinstance(error, MemoryError) or getattr(error, "code", None) == OPENCV_NO_MEMORY:
        return NO_MEMORY
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return NO_FOLDER
    if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
        where = error.filename2 or error.filename  # for example of a name that is too long
        what = f"cannot use {where}" if where else "cannot write any further"
        return f"{what}: {error.strerror}; what was finished before is complete."
    cause: BaseException | None = error
    while cause is not None:  # transformers wraps it where it is installed
        if isinstance(cause, RuntimeError) and "torchvision::" in str(cause):
            return WRONG_TORCHVISION
        cause = cause.__cause__ or cause.__context__
    return None

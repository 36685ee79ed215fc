"""The command line: one file a command, nothing heavy imported before a command runs."""

import os
import sys
import traceback

import click
import typer

from condiff.cli.colorize import colorize
from condiff.cli.info import info
from condiff.cli.options import print_version
from condiff.cli.prep import prep
from condiff.cli.train import train
from condiff.errors import CondiffError

app = typer.Typer(
    name="condiff",
    help="Colours for black-and-white photos, pictures from sketches: conditional diffusion.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (colorize, prep, train, info):
    app.command(no_args_is_help=command in (colorize, prep))(command)


@app.callback()
def common(
    version: bool = typer.Option(
        False, "--version", callback=print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Colours for black-and-white photos, pictures from sketches: conditional diffusion."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return app(arguments, prog_name="condiff", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CondiffError as error:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        print(f"condiff: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away; there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        print("condiff: interrupted.", file=sys.stderr)
        return 130

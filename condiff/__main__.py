"""`python -m condiff` is the `condiff` command."""

import sys


def main() -> int:
    """Run the command; Ctrl-C while it is still being loaded is no error either."""
    try:
        from condiff.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("condiff: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

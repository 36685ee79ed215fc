"""`python -m condiff` is the `condiff` command."""

import sys

from condiff.cli import main

if __name__ == "__main__":
    sys.exit(main())

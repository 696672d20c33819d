"""Command line: `python -m legw` is the same as `legw`."""

import sys

from legw.cli import main

sys.exit(main())

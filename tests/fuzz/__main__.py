"""`python -m tests.fuzz --cases 100000`: run so many cases, and print the split by kind."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.run import run


def main() -> int:
    """Run the cases; exit code 1 if any ended in anything but one clear line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="one kind")
    parser.add_argument("--number", type=int, default=-1, help="one case of it alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            given.cases, Path(folder), seed=given.seed, only=given.only, number=given.number,
            tell=lambda line: print(line, flush=True),
        )  # fmt: skip
    if result.failures:
        print(result.grouped(), flush=True)
    print(result.table())
    return bool(result.failures)


if __name__ == "__main__":
    sys.exit(main())

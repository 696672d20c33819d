"""Write the tables of README and docs from what lies beside this file.

    python results/tables.py            # say whether they are current
    python results/tables.py --write    # bring them up to date

A block between ``<!-- table NAME -->`` and ``<!-- end -->`` is the table of the
study in ``results/NAME``, with one true sentence below it. ``docs/NAME.svg`` is drawn
with the table of a study that a page shows a picture of.
"""

import re
import sys
from pathlib import Path

from legw import evidence, figures, verdict
from legw.table import Cell, Table

HERE = Path(__file__).parent
PICTURES = ("digits-lstm", "mnist-lstm")
PAGES = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(folder: Path) -> str:
    """Return a study's table as Markdown: mean and 95 % interval over seeds."""
    found = evidence.read(folder)[0]
    table = found.table
    lines = [
        f"| rule | batch | lr | {table.metric}, last epoch | n | diverged |",
        "|---|---|---|---|---|---|",
        *(_line(table, cell) for cell in sorted(table.cells, key=lambda cell: cell.batch_size)),
        "",
        verdict.sentence(table),
    ]
    return "\n".join(lines) + "\n"


def _line(table: Table, cell: Cell) -> str:
    name = f"{cell.rule} {cell.variant}".strip()
    lr = "-" if cell.lr is None else f"{cell.lr:.4g}"
    return (
        f"| {name} | {cell.batch_size} | {lr} | {_figure(cell)} "
        f"| {len(cell.metrics)} | {cell.diverged or '-'} |"
    )


def _figure(cell: Cell) -> str:
    estimate = cell.estimate
    if estimate is None:
        return cell.reason or "-"
    digits = 4 if abs(estimate.mean) < 1.5 else 2  # a share, or a perplexity or BLEU
    if estimate.half_width is None:
        return f"{estimate.mean:.{digits}f}"
    return f"{estimate.mean:.{digits}f} ± {estimate.half_width:.{digits}f}"


def updated(text: str) -> str:
    """Return a page's text with all its tables made anew."""
    return BLOCK.sub(lambda match: match[1] + markdown(HERE / match[2]) + match[3], text)


def draw(folder: Path, picture: Path) -> None:
    """Draw a study's metric against the batch size."""
    import vl_convert

    found = evidence.read(folder)[0]
    chart = figures.metric_by_batch(found.table, title=found.title)
    picture.write_text(vl_convert.vegalite_to_svg(chart), "utf-8")


def main(write: bool) -> int:
    """Return 0 if all pages are current, or have been made so."""
    stale = [page for page in PAGES if updated(page.read_text("utf-8")) != page.read_text("utf-8")]
    for page in stale:
        if write:
            page.write_text(updated(page.read_text("utf-8")), "utf-8")
        else:
            print(f"{page}: a table is not current; python results/tables.py --write")
    if write:
        for name in PICTURES:
            draw(HERE / name, HERE.parent / "docs" / f"{name}.svg")
    return 0 if write or not stale else 1


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))

"""Command `legw recipes`: lists the base recipes that ship."""

from __future__ import annotations

from dataclasses import dataclass

from legw import presets
from legw.cli import output
from legw.cli.options import Flag
from legw.recipe import to_dict


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the base recipes that ship, each tuned at its base batch size only."""

    json: Flag = False
    """Print one JSON object: recipes, with all their fields."""


def run(options: Options) -> int:
    """Print the shipped recipes and where their numbers come from."""
    found = list(presets.RECIPES.values())
    if options.json:
        output.print_json({"recipes": [to_dict(recipe) for recipe in found]})
        return 0
    from legw.cli import tables

    output.show(tables.listing(found), tables.sources(found))
    print("legw scale NAME -b N carries one to batch size N.")
    return 0

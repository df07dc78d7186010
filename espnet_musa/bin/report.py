"""Tables, figures and the page of a recipe (stage 9), from its scores.

python -m espnet_musa.bin.report --config exp/recipe.yaml

Writes results.json and RESULTS.md into the recipe's directory, the page and the figures into exp/report, and prints
the summary. Run it in the recipe's directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..report.build import build
from ..report.markdown import text_table
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Make and print the report."""
    results, files = build(*load(recipe_parser(__doc__).parse_args(argv)))
    home = os.environ.get("CALLED_FROM", ".")  # the user's directory, which the driver has left
    print("\n" + text_table(results, [Path(os.path.relpath(file, home)) for file in files]))


if __name__ == "__main__":
    run_verb(main)

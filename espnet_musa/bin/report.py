"""Tables, figures and the page of a recipe (stage 9), from its scores.

python -m espnet_musa.bin.report --config exp/recipe.yaml

Writes the page and the figures into exp/report and prints the summary. results.json and RESULTS.md go into the recipe's
directory, or into exp/report if the systems or evaluators are not those of conf/recipe.yaml. Run it in the recipe's
directory.
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
    if results["partial"]:
        print("Not the systems and evaluators of conf/recipe.yaml: the recipe's RESULTS.md stays as it was.")


if __name__ == "__main__":
    run_verb(main)

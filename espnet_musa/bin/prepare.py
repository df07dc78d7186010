"""Stage 1, data: the recipe's corpora -> data/<set>.

python -m espnet_musa.bin.prepare --config exp/recipe.yaml [--nj 2]
"""

from __future__ import annotations

from ..pipeline.prepare import prepare
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Prepare all corpora of the recipe."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--nj", type=int, default=1, help="processes, for corpora that are generated")
    args = parser.parse_args(argv)
    recipe, root = load(args)
    prepare(recipe, root, jobs=args.nj, force=args.force)


if __name__ == "__main__":
    run_verb(main)

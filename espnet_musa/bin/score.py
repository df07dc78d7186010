"""Stage 8, score: run the recipe's evaluators on one system; and probe its codec, if it has one of its own.

python -m espnet_musa.bin.score --system b2_mcadams --config exp/recipe.yaml [--nj 2] [--device cuda]
"""

from __future__ import annotations

from ..pipeline.probe import probe
from ..pipeline.score import score
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Score one system."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--system", required=True, help="name of a conf/systems/*.yaml")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    recipe, root = load(args)
    score(recipe, root, args.system, jobs=args.nj, device=args.device, force=args.force)
    probe(recipe, root, args.system, device=args.device, force=args.force)


if __name__ == "__main__":
    run_verb(main)

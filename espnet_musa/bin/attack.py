"""Stage 7, attack: train the recipe's speaker-verification models on dump/<attack_train>.

python -m espnet_musa.bin.attack --config exp/recipe.yaml [--device cuda]
"""

from __future__ import annotations

from ..pipeline.attack import attack
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Train all attackers of the recipe."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    recipe, root = load(args)
    attack(recipe, root, device=args.device, force=args.force)


if __name__ == "__main__":
    run_verb(main)

"""Stage 4, train: the models of the recipe's systems, on all formatted sets with role `train`.

python -m espnet_musa.bin.train --config exp/recipe.yaml [--device cuda]
"""

from __future__ import annotations

from .. import config
from ..pipeline.train import train
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Train all models of the recipe's systems."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda (all GPUs that are visible), cuda:1, ...")
    args = parser.parse_args(argv)
    recipe, root = load(args)
    if not config.trained_systems(recipe, root):
        print(f"no chosen system ({' '.join(recipe.systems)}) is trained: nothing to do")
        return
    train(recipe, root, device=args.device, force=args.force)


if __name__ == "__main__":
    run_verb(main)

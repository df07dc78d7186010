"""Stage 2, format: data/<set> -> dump/<set>, 16 kHz mono 16-bit.

python -m espnet_musa.bin.format --config exp/recipe.yaml [--sets "a b"] [--step plan|shard|finish] [--shard 1/4]
"""

from __future__ import annotations

from ..pipeline import format as stage
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Run one step, or all of them in this process."""
    args = recipe_parser(__doc__, sharded=True).parse_args(argv)
    recipe, root = load(args)
    if args.step in ("plan", "all"):
        stage.plan(recipe, root, args.sets, force=args.force)
    if args.step in ("shard", "all"):
        stage.shard(recipe, root, args.sets, args.shard)
    if args.step in ("finish", "all"):
        stage.finish(recipe, root, args.sets)


if __name__ == "__main__":
    run_verb(main)

"""Stage 3, tokenize: teacher tokens of the training sets, for the recipe's systems that learn from them.

python -m espnet_musa.bin.tokenize --config exp/recipe.yaml [--device cuda]
python -m espnet_musa.bin.tokenize --config exp/recipe.yaml --part model|tokens [--step plan|shard|finish --shard 1/4]

The part `model` trains the tokenizers, the part `tokens` needs them. All sets with role `train` take part; --sets,
which chooses sets of other stages, is ignored.
"""

from __future__ import annotations

from ..errors import UserError
from ..pipeline.tokenize import ModelRun, TokensRun
from .common import load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Run one step of one part, or all in this process."""
    parser = recipe_parser(__doc__, sharded=True)
    parser.add_argument("--part", choices=("model", "tokens", "all"), default="all")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    if args.part == "all" and args.step != "all":
        raise UserError(f"--step {args.step} of which part?", expected="--part model or --part tokens")
    recipe, root = load(args)
    if args.part in ("model", "all"):
        model = ModelRun(recipe, root)
        if not model.tokens:
            print(f"no chosen system ({' '.join(recipe.systems)}) learns from teacher tokens: nothing to do")
            return
        if args.step in ("plan", "all"):
            model.plan(force=args.force)
        if args.step in ("shard", "all"):
            model.shard(args.shard, args.device)
        if args.step in ("finish", "all"):
            model.finish(args.device)
    if args.part in ("tokens", "all"):
        tokens = TokensRun(recipe, root)
        if args.step in ("plan", "all"):
            tokens.plan(force=args.force)
        if args.step in ("shard", "all"):
            tokens.shard(args.shard, args.device)
        if args.step in ("finish", "all"):
            tokens.finish()


if __name__ == "__main__":
    run_verb(main)

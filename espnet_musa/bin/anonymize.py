"""Anonymize a file, a folder, or (stage 5) the formatted sets of a recipe.

python -m espnet_musa.bin.anonymize --system b2_mcadams in.wav out.wav
python -m espnet_musa.bin.anonymize --system b2_mcadams folder/ anonymized/
python -m espnet_musa.bin.anonymize --system b2_mcadams --config exp/recipe.yaml [--step ... --shard ... --sets ...]
python -m espnet_musa.bin.anonymize --stage f0 --config exp/recipe.yaml      (all variants: stage 6)

A file may have any format that libsndfile reads, any length, any rate from 8 kHz; the output is 16 kHz mono 16-bit
WAV. Files of a folder keep their relative names with the ending .wav; those already there are skipped.
"""

from __future__ import annotations

from pathlib import Path

from .. import config
from ..config import ROOT
from ..errors import UserError
from ..pipeline import importing
from ..pipeline.anonymize import Run, shard
from ..pipeline.files import anonymize_files, plain
from .common import check_device, load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Dispatch between files and a recipe."""
    parser = recipe_parser(__doc__, sharded=True)
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="IN OUT", help="a file or a folder, and its output"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--system", help="name of a conf/systems/*.yaml")
    which.add_argument(
        "--stage", choices=["f0"], help="all F0 variants that the recipe names, instead of one system"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0, help="for files; a recipe brings its own")
    parser.add_argument(
        "--channels", default="mean", choices=("error", "first", "mean"), help="for files that have several"
    )
    args = parser.parse_args(argv)
    if args.paths:
        if not args.system:
            raise UserError("files, and no --system to anonymize them with")
        if len(args.paths) != 2:
            raise UserError(f"{len(args.paths)} paths given", expected="an input and an output")
        check_device(args.device)
        recipe = plain((args.system,), args.set, seed=args.seed, channels=args.channels)
        system = config.load_system(recipe, args.system, ROOT)
        anonymize_files(
            args.system,
            system,
            *args.paths,
            seed=recipe.seed,
            device=args.device,
            settings=recipe.format,
            force=args.force,
        )
        return
    recipe, root = load(args)
    runs = []
    for name in [args.system] if args.system else config.variants(recipe, root):
        run = Run(recipe, root, name, args.sets)
        if run.system.lower_bound:
            print(f"{name}: the original speech (lower bound); nothing to anonymize")
        elif run.system.imported:
            importing.require(recipe, root, name)
            print(f"{name}: imported; nothing to anonymize")
        else:
            runs.append(run)
    if args.step in ("plan", "all"):
        for run in runs:
            run.plan(force=args.force)
    if args.step in ("shard", "all"):
        shard(runs, args.shard, args.device)
    if args.step in ("finish", "all"):
        for run in runs:
            run.finish()


if __name__ == "__main__":
    run_verb(main)

"""Bring in speech that another program anonymized, in VoicePrivacy's layout, to score it without its system.

python -m espnet_musa.bin.import_submission --system theirs /path/to/submission
../../run.sh --config conf/recipe.yaml --stage score --systems "orig theirs"

Run it in the recipe's directory, after stage 2. The submission holds <set><suffix>/wav/<utterance>.wav for every set
of dump/; other files are not needed. It becomes exp/<system>/data/<set>. A submission is refused as a whole, with a
list of what is wrong: missing, extra and duplicate files, other formats, silence, copies of the originals.
"""

from __future__ import annotations

from pathlib import Path

from ..pipeline.importing import LENGTH, Options, import_submission
from .common import boolean, load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Import one submission."""
    parser = recipe_parser(__doc__)
    parser.add_argument("source", type=Path, help="folder of the submission, or what holds it as data/")
    parser.add_argument("--system", required=True, help="name to give it; conf/systems/NAME.yaml is made")
    parser.add_argument(
        "--suffix", help="what follows a set's name in its folder's (default: the one that fits)"
    )
    parser.add_argument(
        "--convert", type=boolean, default=False, help="accept other rates and formats (true)"
    )
    parser.add_argument(
        "--length", type=float, default=LENGTH, help="largest relative difference in duration (default: 0.05)"
    )
    parser.add_argument("--sets", default="", help="names of the sets (default: all)")
    args = parser.parse_args(argv)
    options = Options(args.suffix, args.convert, args.length, args.sets, args.force)
    recipe, root = load(args)
    sets = import_submission(recipe, root, args.system, args.source, options)
    print(f"{args.system}: imported {', '.join(sets)}")


if __name__ == "__main__":
    run_verb(main)

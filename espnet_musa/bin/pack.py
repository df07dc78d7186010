"""Stage 10, pack: the anonymized data and scores of the recipe's systems in the VoicePrivacy Challenge's layout.

python -m espnet_musa.bin.pack --config exp/recipe.yaml [--system b2_mcadams --suffix _mcadams]

Without --system, all systems of the recipe but the original speech, which is never packed.
"""

from __future__ import annotations

from .. import config
from ..errors import UserError
from ..pipeline.pack import pack
from .common import boolean, load, recipe_parser, run_verb


def main(argv: list[str]) -> None:
    """Pack one system or all."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--system", help="name of a conf/systems/*.yaml")
    parser.add_argument("--suffix", help="of the sets' names (default: _ and the system's name)")
    parser.add_argument(
        "--models", type=boolean, default=False, help="put the semi-informed attacker into the zip (true)"
    )
    args = parser.parse_args(argv)
    recipe, root = load(args)
    made = [s for s in recipe.systems if not config.load_system(recipe, s, root).lower_bound]
    systems = [args.system] if args.system else made
    if not systems:
        raise UserError("nothing to pack: the original speech is never packed", hint="--systems")
    if args.suffix and len(systems) > 1:
        raise UserError(f"one suffix for {len(systems)} systems", hint="--system names one")
    for system in systems:
        print(
            f"{system}: {pack(recipe, root, system, suffix=args.suffix, models=args.models, force=args.force)}"
        )


if __name__ == "__main__":
    run_verb(main)

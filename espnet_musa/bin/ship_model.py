"""Put a trained model into the repository: weights at half precision, and its card.

python -m espnet_musa.bin.ship_model musa_small --model egs/musa_small/exp/models/musa_small --sample speech.wav
python -m espnet_musa.bin.ship_model musa_small

It is refused if it makes something else of the sample than the trained model does, or if it has more than 40 MB.
`conf/cards/<name>.yaml` has what no other file knows. The second command writes the card alone, once the recipe has
measured the model: it then has its numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import config, stamp
from ..config import ROOT
from ..pipeline.shipping import PRECISIONS, Facts, compared, ship, write_card
from ..report.card import CardConfig, card, numbers
from .common import run_verb


def about(facts: Facts) -> dict[str, str]:
    """Lines of a card: what a model consists of."""
    rate = facts.config["sample_rate"]
    found = {
        "parameters": f"{facts.parameters / 1e6:.1f} M, {facts.precision}: {compared(facts)}",
        "encoder, decoder": " and ".join(f"`{name}`" for name in facts.parts) + f", {facts.dimension} wide",
        "codebooks": ", ".join(map(str, facts.codebooks)) + " codes",
        "audio": f"{rate} Hz mono, a frame every {1000 * facts.hop / rate:g} ms",
    }
    if facts.voices:
        found["other voices"] = f"mean embeddings of {facts.voices} training speakers, without names"
    return found


def main(argv: list[str]) -> None:
    """Ship one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", help="by which it is loaded from then on")
    parser.add_argument(
        "--model", type=Path, help="directory of a trained model; without it, the card is written again"
    )
    parser.add_argument("--sample", type=Path, help="speech to compare both on, 16 kHz mono")
    parser.add_argument("--recipe", type=Path, help="that has measured it; default: egs/<name>")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the weights; default: %(default)s"
    )
    args = parser.parse_args(argv)
    if (args.model is None) != (args.sample is None):
        parser.error("--model and --sample go together")
    recipe = args.recipe or ROOT / "egs" / args.name
    conf = config.load(CardConfig, config.conf_file(recipe, "cards", args.name))
    system = config.load(config.System, config.conf_file(recipe, "systems", args.name))
    params = {key: value for key, value in system.params.items() if key != "model"}
    results = recipe / "results.json"
    measured = numbers(stamp.read_json(results) if results.is_file() else None, args.name)

    def text(facts: Facts) -> str:
        return card(args.name, conf, facts.config, about(facts), params, measured)

    if args.model is None:
        print(write_card(args.name, text))
    else:
        print(ship(args.model, args.name, args.sample, text, precision=args.precision))


if __name__ == "__main__":
    run_verb(main)

"""Put a trained model into the repository: weights at half precision, and its card.

python -m espnet_musa.bin.ship_model egs/musa_small/exp/models/musa_small musa_small --sample speech.wav

Run it again once the recipe has measured the model: the card then quotes its results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import ROOT
from ..pipeline.shipping import ship
from .common import run_verb


def main(argv: list[str]) -> None:
    """Ship one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", type=Path, help="directory of a trained model")
    parser.add_argument("name", help="by which it is loaded from then on")
    parser.add_argument("--sample", type=Path, required=True, help="speech to compare both precisions on, 16 kHz mono")
    parser.add_argument("--recipe", type=Path, help="that has measured it; default: egs/<name>")
    args = parser.parse_args(argv)
    print(ship(args.model, args.name, args.sample, args.recipe or ROOT / "egs" / args.name))


if __name__ == "__main__":
    run_verb(main)

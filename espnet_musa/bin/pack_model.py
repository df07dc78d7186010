"""Pack a trained model into one zip, or unpack one.

python -m espnet_musa.bin.pack_model exp/models/musa_mini musa_mini.zip
python -m espnet_musa.bin.pack_model musa_mini.zip folder/

The zip loads as it is (`--set musa_mini.params.model=musa_mini.zip`, `Musa.from_pretrained("musa_mini.zip")`). It holds
config.json and model.safetensors, as Hugging Face's hub expects them, and meta.yaml, as ESPnet's `unpack` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..codec import archive
from ..errors import UserError
from .common import run_verb


def main(argv: list[str]) -> None:
    """Pack a directory or unpack a zip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", type=Path, help="directory of a model, or a zip")
    parser.add_argument("out", type=Path, help="zip to make, or directory to unpack into")
    args = parser.parse_args(argv)
    if args.model.is_file():
        if args.out.exists():
            raise UserError("is there already", path=args.out, hint="name a directory that is not")
        archive.unpack(args.model, args.out)
    else:
        archive.pack(args.model, args.out)
    print(args.out)


if __name__ == "__main__":
    run_verb(main)

"""A page in the browser: record or choose speech, hear and see it before and after, and what an attacker makes of it.

python -m espnet_musa.bin.demo --system musa_small --port 8000
python -m espnet_musa.bin.demo --system b2_mcadams --set b2_mcadams.target.policy=uniform

The server answers this machine only; nothing is kept. Other systems that can be loaded are offered beside.
"""

from __future__ import annotations

import argparse
import contextlib
import signal

from ..demo.server import serving
from ..demo.service import load
from .common import check_device, run_verb


def main(argv: list[str]) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--system", action="append", default=[], help="name of a conf/systems/*.yaml; several may be given"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0, help="that the page suggests")
    args = parser.parse_args(argv)
    check_device(args.device)
    systems = load(args.system, args.set, args.device)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary files go
    with (
        serving(systems, args.port, args.seed, args.device) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"open {server.url} in a browser; Ctrl-C ends it", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run_verb(main)

"""Systems as a user meets them, by the command on a short and on a long file: start-up, real-time factor, peak memory.

python benchmarks/bench_anonymize.py [--systems musa_small b2_mcadams] [--audio FILE] [--seconds 10 3600]

Each file is anonymized in a process of its own, after one of a second that imports, loads and compiles: that is the
start-up; the real-time factor is without it. Threads: as many as the environment says (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import voice  # noqa: E402

from espnet_musa.data.audio import read_audio, to_int16, write_pcm  # noqa: E402
from espnet_musa.report.markdown import table  # noqa: E402
from espnet_musa.report.tables import Row, Table  # noqa: E402

COLUMNS = ("audio s", "start-up s", "conversion s", "real-time factor", "times the last one's", "peak MB")
# The peak of this process alone; ru_maxrss would count what its parent held when it forked.
CHILD = """
import re, sys, time
def timed(given, made):
    begun = time.perf_counter()
    from espnet_musa.bin.anonymize import main
    main([*sys.argv[4:], given, made])
    return time.perf_counter() - begun
started = timed(sys.argv[1], sys.argv[3])
taken = timed(sys.argv[2], sys.argv[3])
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
print(started, taken, peak)
"""


def tiled(audio: Path | None, seconds: float, out: Path) -> None:
    """A file of that length from a recording, or from sounds like speech, over and over."""
    if audio is None:
        pieces, rate = [voice(i, 10.0, 110 + 10 * i) for i in range(6)], 16000
    else:
        wav, rate = read_audio(audio)
        pieces = [wav]
    samples = round(seconds * rate)

    def blocks():
        left, i = samples, 0
        while left:
            piece = pieces[i % len(pieces)][:left]
            yield to_int16(piece)
            left, i = left - len(piece), i + 1

    write_pcm(out, blocks(), rate)


def measured(
    system: str, sets: list[str], short: Path, given: Path, made: Path
) -> tuple[float, float, float]:
    """Seconds of start-up and of conversion, and peak resident memory in MB, of one process."""
    words = ["--system", system, "--force", "true", *(word for one in sets for word in ("--set", one))]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, short, given, made, *words],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    started, taken, peak = map(float, done.stdout.split()[-3:])
    return started, taken, peak / 1024


def main() -> None:
    """Alternate the systems, the best time of each, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--systems", nargs="+", default=["musa_small", "b2_mcadams"], help="the last one to compare with"
    )
    parser.add_argument("--audio", type=Path, help="a mono recording; without it sounds like speech are made")
    parser.add_argument(
        "--seconds", nargs="+", type=float, default=[10.0, 3600.0], help="lengths of the files"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes for a file of up to a minute; a longer one has one"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        short, given, made = (Path(scratch) / name for name in ("short.wav", "in.wav", "out.wav"))
        tiled(args.audio, 1.0, short)
        for seconds in args.seconds:
            tiled(args.audio, seconds, given)
            rounds = [
                [measured(system, args.set, short, given, made) for system in args.systems]
                for _ in range(args.repeats if seconds <= 60 else 1)
            ]
            best = np.array(rounds).min(axis=0)  # (systems, 3)
            for system, (started, taken, peak) in zip(args.systems, best, strict=True):
                numbers = (f"{seconds:g}", f"{started:.1f}", f"{taken:.2f}", f"{taken / seconds:.4f}")
                rows.append(Row((system,), [*numbers, f"{taken / best[-1][1]:.2f}", f"{peak:.0f}"]))
    print(table(Table(("system",), [(column,) for column in COLUMNS], rows)), end="")


if __name__ == "__main__":
    main()

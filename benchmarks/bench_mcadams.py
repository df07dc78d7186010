"""Speed and parity of the McAdams anonymizer against a plain per-frame reading (tests/plain_mcadams.py), one core.

python benchmarks/bench_mcadams.py [--audio FILE] [--seconds 10] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from conftest import voice  # noqa: E402 - the paths come first
from plain_mcadams import plain_mcadams, plain_pcm  # noqa: E402

from espnet_musa.anonymizers.base import ArraySource, to_peak  # noqa: E402
from espnet_musa.anonymizers.mcadams import McAdams  # noqa: E402
from espnet_musa.data.audio import read_audio, to_int16  # noqa: E402

COEFFICIENT = 0.8


def seconds(run: Callable[[], np.ndarray]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Alternate the two, keep the best of each, print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, help="a mono recording; without it a speech-like signal is made"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio to use at most")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    wav, rate = read_audio(args.audio) if args.audio else (voice(seconds=args.seconds), 16000)
    wav = wav[: int(args.seconds * rate)]

    def ours() -> np.ndarray:
        blocks = McAdams().convert_stream(ArraySource(wav, rate), COEFFICIENT, np.random.default_rng(0))
        return to_int16(to_peak(np.concatenate(list(blocks))), truncate=True)

    def plain() -> np.ndarray:
        return plain_pcm(plain_mcadams(wav, rate, COEFFICIENT))

    difference = np.abs(ours().astype(int) - plain())  # and both are compiled now
    times = np.array([(seconds(ours), seconds(plain)) for _ in range(args.repeats)]).min(axis=0)
    length = len(wav) / rate
    print(
        json.dumps(
            {
                "what": f"mcadams, {length:.1f} s of audio at {rate} Hz, one core",
                "ours_s": round(times[0], 4),
                "baseline_s": round(times[1], 4),
                "ratio": round(times[1] / times[0], 1),
                "ours_s_per_audio_s": round(times[0] / length, 5),
                "baseline_s_per_audio_s": round(times[1] / length, 5),
                "largest_difference_16bit_steps": int(difference.max()),
                "samples_that_differ": round(float((difference > 0).mean()), 6),
            }
        )
    )


if __name__ == "__main__":
    main()

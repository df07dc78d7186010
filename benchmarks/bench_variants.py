"""Speed of stage 6: a sweep over mean reversion and noise with shared analyses, against full runs and bare synthesis.

python benchmarks/bench_variants.py [--repeats 3] [--tracker harvest]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench_scoring import compare

from espnet_musa.anonymizers.base import ArraySource
from espnet_musa.anonymizers.dsp_f0 import DspF0
from espnet_musa.pipeline.analysis import Analyses

GRID = [(alpha, db) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0) for db in (None, 10.0, 0.0)]
RATE = 16000


def voice(seconds: float) -> np.ndarray:
    """A gliding buzz with syllables: (T,) float32."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(150 * 2 ** (0.3 * np.sin(2 * np.pi * 0.7 * time))) / RATE
    buzz = sum(np.sin(h * phase) / h for h in range(1, 20)) * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1)
    return (0.1 * buzz + 0.002 * np.random.default_rng(0).standard_normal(time.size)).astype(np.float32)


def variants(tracker: str) -> list[DspF0]:
    """One anonymizer a point of the grid."""
    out = []
    for alpha, db in GRID:
        transforms = [{"mean_reversion": {"alpha": alpha}}] + ([] if db is None else [{"awgn": {"db": db}}])
        out.append(DspF0(f0={"tracker": tracker}, transforms=transforms))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--tracker", default="harvest", choices=("harvest", "dio", "yaapt"))
    args = parser.parse_args()
    wav = voice(args.seconds)
    source, points = ArraySource(wav, RATE), variants(args.tracker)
    analysis = points[0].analyze(source)

    def shared() -> None:
        with tempfile.TemporaryDirectory() as place:
            for one in points:
                list(
                    one.synthesize(
                        source, Analyses(one, Path(place)).one("utt", source), 1.1, np.random.default_rng(0)
                    )
                )

    def full() -> None:
        for one in points:
            one.convert(wav, 1.1, np.random.default_rng(0))

    def bare() -> None:
        for one in points:
            list(one.synthesize(source, analysis, 1.1, np.random.default_rng(0)))

    what = f"{len(points)} variants of {args.seconds:g} s, {args.tracker}, analysis shared"
    compare(f"{what}, against full runs", shared, full, args.repeats)
    compare(f"{what}, against synthesis alone", shared, bare, args.repeats)


if __name__ == "__main__":
    main()

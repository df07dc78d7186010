"""Speed of the similarity matrices behind G_VD, of calibration and of PLDA scores, against plain loops.

python benchmarks/bench_gvd.py [--repeats 3] [--skip-large]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
from collections import defaultdict

import numpy as np
from bench_scoring import compare, seconds

from espnet_musa.evaluators.backends import Plda, pair_scores
from espnet_musa.metrics.calibration import calibrate
from espnet_musa.metrics.similarity import similarity_matrix


def loop_pav(scores: list[tuple[float, int]]) -> list[float]:
    """LLRs of sorted (score, label) with Laplace's rule, one trial at a time."""
    pools: list[list[int]] = []
    for label in [1, 0, *(label for _, label in scores), 1, 0]:
        pools.append([label, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            hits, count = pools.pop()
            pools[-1] = [pools[-1][0] + hits, pools[-1][1] + count]
    targets = sum(label for _, label in scores)
    prior = math.log(targets / (len(scores) - targets))
    return [math.log(h / (n - h)) - prior for h, n in pools for _ in range(n)][2:-2]


def loop_calibrate(tar: np.ndarray, non: np.ndarray) -> list[float]:
    """Sort and pool."""
    return loop_pav(sorted([*((s, 1) for s in tar.tolist()), *((s, 0) for s in non.tolist())]))


def loop_matrix(x: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """Pair by pair, as lists of scores with names are calibrated and averaged."""
    pairs = []
    for k in range(len(x)):
        for j in range(k + 1, len(x)):
            pairs.append((float(x[k] @ x[j]), int(speaker[k] == speaker[j]), speaker[k], speaker[j]))
    pairs.sort(key=lambda pair: pair[:2])
    llrs = defaultdict(list)
    for llr, (_, _, i, j) in zip(loop_pav([pair[:2] for pair in pairs]), pairs, strict=True):
        llrs[i, j].append(llr)
    out = np.empty((max(speaker) + 1,) * 2)
    for (i, j), values in llrs.items():
        out[i, j] = out[j, i] = 1 / (1 + math.exp(-sum(values) / len(values)))
    return out


def loop_plda(plda: Plda, models: np.ndarray, counts: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """The two Gaussian log-likelihoods of every pair."""
    u, t, psi = plda._project(models, counts), plda._project(trials, np.ones(len(trials))), plda._psi
    out = np.empty((len(u), len(t)))
    for s, n in enumerate(counts):
        mean, variance = n * psi / (n * psi + 1) * u[s], 1 + psi / (n * psi + 1)
        for k in range(len(t)):
            same = np.log(variance).sum() + ((t[k] - mean) ** 2 / variance).sum()
            out[s, k] = (np.log(1 + psi).sum() + (t[k] ** 2 / (1 + psi)).sum() - same) / 2
    return out


def voices(speakers: int, utts: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 192) unit vectors with a voice in them, and their (N,) speakers."""
    rng = np.random.default_rng(0)
    speaker = np.sort(np.arange(utts) % speakers)
    x = rng.normal(size=(speakers, 192))[speaker] + 3 * rng.normal(size=(utts, 192))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), speaker


def main() -> None:
    """Print one JSON line per comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument(
        "--skip-large", action="store_true", help="leave out the largest set of VoicePrivacy 2022"
    )
    args = parser.parse_args()
    x, speaker = voices(20, 1018)  # libri_dev_trials_f
    assert np.abs(similarity_matrix(x, x, speaker) - loop_matrix(x, speaker)).max() < 1e-3
    compare(
        "similarity matrix, 1,018 utterances",
        lambda: similarity_matrix(x, x, speaker),
        lambda: loop_matrix(x, speaker),
        args.repeats,
    )
    rng = np.random.default_rng(1)
    tar, non = rng.normal(1, 1, 10_000), rng.normal(0, 1, 190_000)
    compare(
        "PAV calibration, 200,000 trials",
        lambda: calibrate(tar, non, laplace=True),
        lambda: loop_calibrate(tar, non),
        args.repeats,
    )
    plda, counts = Plda(x, speaker), np.full(15, 12)
    pairs = np.repeat(np.arange(15), len(x)), np.tile(np.arange(len(x)), 15)

    def scores() -> np.ndarray:
        return pair_scores(*plda.factors(x[:15], counts, x), *pairs)

    assert np.allclose(scores(), loop_plda(plda, x[:15], counts, x).ravel(), atol=1e-3)
    compare("PLDA, 15,270 trials", scores, lambda: loop_plda(plda, x[:15], counts, x), args.repeats)
    if not args.skip_large:
        x, speaker = voices(15, 5422)  # vctk_dev_trials_f: 14.7 million pairs
        spent = min(seconds(lambda: similarity_matrix(x, x, speaker)) for _ in range(args.repeats))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
        report = {
            "what": "similarity matrix, 5,422 utterances",
            "ours_s": round(spent, 3),
            "baseline_s": None,
        }
        print(json.dumps({**report, "ratio": None, "peak_gb": round(peak, 2)}), flush=True)


if __name__ == "__main__":
    main()

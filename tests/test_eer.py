"""EER in three readings: published values, brute force over every threshold, degenerate cases; DET curve."""

import math
from itertools import pairwise

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.eer import det_curve, eer


def loop_vpc2024(tar: np.ndarray, non: np.ndarray) -> float:
    """The published definition, word for word: every score and every midpoint, first smallest |FAR - FRR|."""
    scores = sorted(set(tar.tolist()) | set(non.tolist()))
    middles = [(a + b) / 2 for a, b in pairwise(scores)]
    best = (2.0, 0.0)
    for t in sorted(scores + middles):
        frr, far = (tar <= t).sum() / tar.size, (non > t).sum() / non.size
        if abs(far - frr) < best[0] - 1e-12:
            best = (abs(far - frr), (far + frr) / 2)
    return best[1]


def loop_vpc2022(tar: np.ndarray, non: np.ndarray) -> float:
    """Kaldi's loop."""
    tar, non = sorted(tar), sorted(non)
    p = 0
    while p + 1 < len(tar):
        if non[max(0, len(non) - 1 - math.floor(len(non) * p / len(tar)))] < tar[p]:
            break
        p += 1
    return p / len(tar)


def loop_rocch(tar: np.ndarray, non: np.ndarray) -> float:
    """Lowest crossing of FAR = FRR by any chord between two operating points."""
    points = [((non >= t).mean(), (tar < t).mean()) for t in [*tar, *non, np.inf]]
    best = 1.0
    for fa, miss in points:
        for fa2, miss2 in points:
            below, above = fa - miss, miss2 - fa2
            if below >= 0 and above >= 0:
                part = below / (below + above) if below + above else 0.0
                best = min(best, miss + part * (miss2 - miss))
    return best


LOOPS = {"vpc2024": loop_vpc2024, "vpc2022": loop_vpc2022, "rocch": loop_rocch}


@pytest.mark.parametrize("method", LOOPS)
@pytest.mark.parametrize("seed", range(40))
def test_equals_brute_force(method, seed):
    rng = np.random.default_rng(seed)
    n_tar, n_non = rng.integers(1, 30, 2)
    decimals = 1 if seed % 2 else 6  # odd seeds: many ties, within and across the classes
    tar = rng.normal(rng.uniform(-1, 3), 1, n_tar).round(decimals).astype(np.float32)
    non = rng.normal(0, 1, n_non).round(decimals).astype(np.float32)
    assert eer(tar, non, method).eer == pytest.approx(LOOPS[method](tar, non), abs=1e-12)


@pytest.mark.parametrize(
    ("rejected", "targets", "accepted", "nontargets", "percent"),
    [  # published OO values of VoicePrivacy 2024 with the trial counts of its sets
        (74, 704, 1531, 14566, 10.511),
        (6, 644, 119, 12796, 0.931),
        (2, 449, 37, 9457, 0.418),
    ],
)
def test_published_values_decompose(rejected, targets, accepted, nontargets, percent):
    tar = np.repeat([-1.0, 2.0], [rejected, targets - rejected])
    non = np.repeat([-2.0, 1.0], [nontargets - accepted, accepted])
    result = eer(tar, non)
    assert round(100 * result.eer, 3) == percent
    assert result.eer == (rejected / targets + accepted / nontargets) / 2
    assert result.threshold == -1.0  # scores above it are accepted


def test_readings_differ_as_defined():
    # targets 1 2 3 4, non-targets 0 1.5 2.5: at t = 1.5 FRR = 1/4, FAR = 1/3; at 2: 2/4, 1/3; the first is closer
    tar, non = np.array([1.0, 2, 3, 4]), np.array([0.0, 1.5, 2.5])
    assert eer(tar, non).eer == pytest.approx((1 / 4 + 1 / 3) / 2)
    # Kaldi: p=0: 2.5 < 1 no; p=1: non[2 - floor(3/4)] = 2.5 < 2 no; p=2: non[2 - 1] = 1.5 < 3 yes: 2/4
    assert eer(tar, non, "vpc2022").eer == 0.5
    # hull: (1/3, 1/4) at t = 2 and (2/3, 0) at t = 1, (0, 1/2) at t = 3: between the first and the last:
    # FRR = 1/4 + u/4, FAR = 1/3 - u/3 meet at u = 1/7, 2/7
    assert eer(tar, non, "rocch").eer == pytest.approx(2 / 7)


def test_kaldi_rate_is_a_share_of_targets_and_hull_is_lower():
    rng = np.random.default_rng(1)
    for _ in range(50):
        tar, non = rng.normal(0.7, 1, 97), rng.normal(0, 1, 1313)
        rate = eer(tar, non, "vpc2022").eer
        assert (97 * rate) == pytest.approx(round(97 * rate), abs=1e-9)
        assert eer(tar, non, "rocch").eer <= rate


@pytest.mark.parametrize("method", LOOPS)
def test_degenerate(method):
    assert eer([2.0, 3.0], [0.0, 1.0], method).eer == 0.0  # separable
    assert eer([1.0], [0.0], method).eer == 0.0
    for scores in ([0.5], [0.5] * 7):  # nothing to tell the classes apart by
        expected = {"vpc2024": 0.5, "rocch": 0.5, "vpc2022": (len(scores) - 1) / len(scores)}
        assert eer(scores, scores, method).eer == expected[method]
    # every target below every non-target; Kaldi never tries its last target
    assert eer([0.0, 1.0], [2.0, 3.0], method).eer == {"vpc2024": 1.0, "rocch": 0.5, "vpc2022": 0.5}[method]


def test_threshold_separates():
    result = eer([2.0, 3.0], [0.0, 1.0])
    assert 1.0 <= result.threshold < 2.0
    assert eer([2.0, 3.0], [0.0, 1.0], "rocch").threshold == 2.0


def test_scores_are_compared_in_float32():
    assert eer(np.array([1.0 + 1e-12]), np.array([1.0])).eer == 0.5


@pytest.mark.parametrize("bad", [[], [np.nan], [1.0, np.inf], [-np.inf, 0.0], [1e300]])
def test_refuses_what_is_no_score(bad):
    for tar, non, name in ((bad, [0.0], "target"), ([0.0], bad, "non-target")):
        with pytest.raises(UserError, match=name):
            eer(np.array(tar), np.array(non))
    with pytest.raises(UserError, match="did you mean 'vpc2024'"):
        eer([1.0], [0.0], "vpc2042")


def test_det_curve():
    rng = np.random.default_rng(2)
    tar, non = rng.normal(1.5, 1, 3000), rng.normal(0, 1, 50000)
    far, frr = det_curve(tar, non, points=200)
    assert far.size == frr.size <= 200
    assert (far[0], frr[0]) == (1, 0) and (far[-1], frr[-1]) == (0, 1)
    assert (np.diff(far) <= 0).all() and (np.diff(frr) >= 0).all()
    near = np.argmin(abs(far - frr))
    assert (far[near] + frr[near]) / 2 == pytest.approx(eer(tar, non).eer, abs=0.005)
    assert ((far > 0) & (far < 1e-3)).sum() >= 5  # the tails keep points
    far, frr = det_curve([1.0], [0.0])
    assert 0 in far + frr  # passes through the perfect point
    with pytest.raises(UserError):
        det_curve(tar, non, points=3)

"""PAV calibration, C_llr, D_sys and ZEBRA: closed forms, plain loops, degenerate cases."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.calibration import TILT, calibrate, llr_of_counts
from espnet_musa.metrics.cllr import cllr, cllr_min
from espnet_musa.metrics.eer import eer
from espnet_musa.metrics.linkability import linkability
from espnet_musa.metrics.zebra import MOST, tag, zebra


def loop_calibrate(tar, non, laplace: bool) -> tuple[list[float], list[float]]:
    """PAV by the book: sort, pool neighbours while the posterior falls, take the prior out; no two scores are equal."""
    order = sorted([(s, 0, i) for i, s in enumerate(non)] + [(s, 1, i) for i, s in enumerate(tar)])
    ideal = [label for _, label, _ in order]
    if laplace:
        ideal = [1, 0, *ideal, 1, 0]
    pools: list[list[int]] = []  # targets, trials
    for label in ideal:
        pools.append([label, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            hits, count = pools.pop()
            pools[-1] = [pools[-1][0] + hits, pools[-1][1] + count]
    posterior = [hits / count for hits, count in pools for _ in range(count)]
    if laplace:
        posterior = posterior[2:-2]
    out = {0: [0.0] * len(non), 1: [0.0] * len(tar)}
    for rank, ((_, label, i), p) in enumerate(zip(order, posterior, strict=True)):
        logit = -math.inf if p == 0 else math.inf if p == 1 else math.log(p / (1 - p))
        out[label][i] = logit - math.log(len(tar) / len(non)) + rank * 1e-6 / len(order)
    return out[1], out[0]


@pytest.mark.parametrize("laplace", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_calibration_equals_the_loop(seed, laplace):
    rng = np.random.default_rng(seed)
    n_tar, n_non = rng.integers(1, 40, 2)
    tar, non = rng.normal(rng.uniform(-1, 3), 1, n_tar), rng.normal(0, 1, n_non)
    for ours, loop in zip(
        calibrate(tar, non, laplace=laplace), loop_calibrate(tar, non, laplace), strict=True
    ):
        np.testing.assert_allclose(ours, loop, rtol=0, atol=1e-12)


def test_calibration_of_separated_scores_in_closed_form():
    """Three targets above two non-targets; Laplace pools (1, 0) with the lower and (1, 0) with the upper class."""
    prior = math.log(3 / 2)
    tar, non = calibrate([3.0, 4.0, 5.0], [1.0, 2.0])
    assert tar.tolist() == [math.inf] * 3
    assert non.tolist() == [-math.inf] * 2
    tar, non = calibrate([3.0, 4.0, 5.0], [1.0, 2.0], laplace=True)
    # below: the added target and 1 + 2 non-targets; above: 3 + 1 targets and the added non-target
    np.testing.assert_allclose(non, math.log(1 / 3) - prior, atol=2 * TILT)
    np.testing.assert_allclose(tar, math.log(4 / 1) - prior, atol=2 * TILT)
    assert (np.diff([*non, *tar]) > 0).all()  # the tilt keeps the order within a pool


def test_equal_scores_get_equal_llrs():
    tar, non = calibrate(np.ones(7), np.ones(30))
    np.testing.assert_allclose([*tar, *non], 0, atol=1e-12)
    tar, non = calibrate([0.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(tar, np.log([1 / 2, 2, 2]), atol=TILT)
    np.testing.assert_allclose(non, np.log([1 / 2, 1 / 2, 2]), atol=TILT)


def test_calibration_of_counts_is_that_of_trials():
    llr = llr_of_counts([1, 0, 3], [4, 2, 1], laplace=True)
    tar, non = calibrate([0, 2, 2, 2], [0, 0, 0, 0, 1, 1, 2], laplace=True)
    np.testing.assert_allclose(tar, llr[[0, 2, 2, 2]])
    np.testing.assert_allclose(non, llr[[0, 0, 0, 0, 1, 1, 2]])


def test_calibrated_scores_cannot_be_calibrated_better():
    rng = np.random.default_rng(0)
    tar, non = rng.normal(1.5, 1, 500), rng.normal(0, 1, 2000)
    llrs = calibrate(tar, non, laplace=True)
    assert cllr_min(*llrs) == pytest.approx(cllr_min(tar, non), abs=1e-9)
    assert cllr_min(tar, non) <= cllr(*llrs) < cllr_min(tar, non) + 0.02
    assert eer(*llrs).eer == pytest.approx(eer(tar, non).eer, abs=1e-3)


def test_cllr_in_closed_form():
    assert cllr([0.0], [0.0, 0.0]) == pytest.approx(1)  # knows nothing, says nothing
    assert cllr([math.inf], [-math.inf]) == 0
    assert cllr([-math.inf], [0.0]) == math.inf
    assert cllr([math.log(3)], [-math.log(3)]) == pytest.approx(math.log2(4 / 3))
    assert cllr([-1000.0], [1000.0]) == pytest.approx(1000 / math.log(2))  # confident and wrong, yet finite


def test_cllr_min_in_closed_form():
    assert cllr_min([2.0, 3.0], [0.0, 1.0]) == pytest.approx(0, abs=1e-6)
    assert cllr_min([0.0] * 5, [0.0] * 50) == pytest.approx(1)
    assert cllr_min([0.0, 1.0], [2.0, 3.0]) == pytest.approx(
        1, abs=1e-6
    )  # upside down: the best is to say nothing
    # one of two targets below both non-targets: the pool of three has a posterior of 1/3, LLR log(1/2)
    expected = 0.5 * (0.5 * math.log2(3) + math.log2(1.5))
    assert cllr_min([0.0, 3.0], [1.0, 2.0]) == pytest.approx(expected, abs=1e-6)


def test_cllr_min_of_gaussians():
    """Equal-variance Gaussians d apart are calibrated by s -> d s - d^2 / 2: PAV must find as good a function."""
    rng = np.random.default_rng(1)
    d = 2.0
    tar, non = rng.normal(d, 1, 40000), rng.normal(0, 1, 40000)
    ideal = cllr(d * tar - d * d / 2, d * non - d * d / 2)
    assert cllr_min(tar, non) < ideal
    assert cllr_min(tar, non) == pytest.approx(ideal, abs=0.004)


def loop_linkability(tar, non) -> float:
    """The published definition, bin by bin."""
    bins = min(len(tar) // 10, 100)
    low, high = min(*tar, *non), max(*tar, *non)
    width = (high - low) / bins
    density = []
    for scores in (tar, non):
        counts = [0] * bins
        for s in scores:
            counts[min(bins - 1, int((s - low) / width))] += 1
        density.append([c / len(scores) / width for c in counts])
    values = []
    for p_t, p_n in zip(*density, strict=True):
        ratio = p_t / p_n if p_n else 1.0
        local = 2 * ratio / (1 + ratio) - 1 if ratio > 1 else 0.0
        values.append((1.0 if p_n == 0 < p_t else local) * p_t)
    return sum((a + b) / 2 * width for a, b in pairwise(values))


@pytest.mark.parametrize("seed", range(10))
def test_linkability_equals_the_loop(seed):
    rng = np.random.default_rng(seed)
    tar = rng.normal(rng.uniform(0, 3), 1, rng.integers(20, 3000))
    non = rng.normal(0, 1, rng.integers(1, 5000))
    assert linkability(tar, non) == pytest.approx(loop_linkability(tar, non), abs=1e-9)


def test_linkability_of_extremes():
    rng = np.random.default_rng(0)
    non = rng.uniform(0, 1, 9000)
    assert linkability(rng.uniform(2, 3, 4000), non) > 0.98  # half of the last bin is lost: 1 - 1/66
    assert linkability(non[:4000], non) < 0.05
    assert linkability(rng.uniform(0, 1, 500), non) < 0.15  # biased by the bins, as published rows are
    assert (
        linkability(rng.uniform(-2, -1, 4000), non) > 0.98
    )  # far below non-targets, targets are linkable, too
    assert linkability(np.ones(40), np.ones(99)) == 0
    # two bins: all non-targets and half of the targets in the lower one, p_t = 0.5, p_n = 1 and 0.5, 0 (width 1)
    assert linkability([0.0] * 10 + [2.0] * 10, [0.5] * 7) == pytest.approx((0 + 1 * 0.5) / 2)
    assert linkability([0.0] * 10 + [2.0] * 10, [0.5] * 7, omega=4) == pytest.approx((0.5 / 3 + 0.5) / 2)


def test_zebra_of_extremes():
    apart = zebra(np.arange(50) + 100.0, np.arange(70))
    assert apart.population == pytest.approx(MOST, abs=1e-6)
    assert pytest.approx(0.7213, abs=1e-4) == MOST
    # worst case: 50 + 1 targets to the one added non-target, against a prior of 50 / 70
    assert apart.individual == pytest.approx(math.log10(max(51 * 70 / 50, 71 * 50 / 70)), abs=1e-5)
    assert apart.tag == "B"
    equal = zebra(np.zeros(30), np.zeros(30))
    assert equal.population == pytest.approx(0, abs=1e-9)
    assert (equal.individual, equal.tag) == (pytest.approx(0, abs=1e-6), "0")
    assert zebra([0.0], [1.0]).population == pytest.approx(0, abs=1e-6)


def test_zebra_in_closed_form():
    """One of two targets below both non-targets: the LLRs are log(1/2) three times and infinity once."""
    a = math.log(0.5)

    def h(x):
        return (x - math.expm1(x)) / math.expm1(x) ** 2

    information = 0.25 + (h(a) + 0) / 4 + 0.25 + h(-a) / 2
    assert zebra([0.0, 3.0], [1.0, 2.0]).population == pytest.approx(information / math.log(2), abs=1e-5)


def test_zebra_is_the_integral_over_priors():
    """Expected disclosure = prior entropy minus the empirical cross-entropy, integrated over the prior log-odds."""
    rng = np.random.default_rng(3)
    scores = rng.normal(1.2, 1, 300), rng.normal(0, 1, 500)
    tar, non = calibrate(*scores)
    prior = np.linspace(0, 1, 20001)[1:-1]
    odds = np.log(prior / (1 - prior))
    with np.errstate(over="ignore"):
        cross = prior * np.logaddexp(0, -(tar[:, None] + odds)).mean(axis=0)
        cross += (1 - prior) * np.logaddexp(0, non[:, None] + odds).mean(axis=0)
    entropy = -prior * np.log2(prior) - (1 - prior) * np.log2(1 - prior)
    expected = np.trapezoid(entropy - cross / np.log(2), prior)
    assert zebra(*scores).population == pytest.approx(expected, abs=1e-4)


def test_tags():
    values = {0.0: "0", 0.289: "A", 1.0: "B", 2.094: "C", 3.829: "C", 4.0: "D", 5.0: "E", 6.0: "F", 40.0: "F"}
    assert {value: tag(value) for value in values} == values


@pytest.mark.parametrize("measure", [calibrate, cllr, cllr_min, zebra, linkability])
def test_bad_scores_are_refused(measure):
    with pytest.raises(UserError, match="no target"):
        measure([], [1.0])
    with pytest.raises(UserError, match="no non-target"):
        measure([1.0] * 30, [])
    with pytest.raises(UserError, match="NaN"):
        measure([1.0] * 30, [math.nan])


def test_few_targets_have_no_linkability():
    with pytest.raises(UserError, match="at least 20"):
        linkability(np.ones(19), np.zeros(100))


def test_shuffled_labels_disclose_nothing():
    rng = np.random.default_rng(5)
    scores = rng.permutation(rng.normal(size=12000))
    tar, non = scores[:2000], scores[2000:]
    assert 100 * eer(tar, non).eer == pytest.approx(50, abs=3)
    assert cllr_min(tar, non) > 0.98
    assert zebra(tar, non).population < 0.02
    assert linkability(tar, non) < 0.15

"""Bootstrap over speakers: weights against an explicit replica, coverage, degenerate sets."""

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.bootstrap import _eers, eer_interval
from espnet_musa.metrics.eer import eer


def experiment(rng, speakers=12, utts=8, impostors=3, spread=1.0):
    """Trials of a set in which speakers differ: some are easy to recognise, some easy to imitate."""
    enroll = np.repeat(np.arange(speakers), (speakers + impostors) * utts)
    speaker = np.tile(np.repeat(np.arange(speakers + impostors), utts), speakers)
    target = enroll == speaker
    goat, wolf = spread * rng.normal(size=speakers), spread * rng.normal(size=speakers + impostors)
    scores = np.where(target, 2 + goat[enroll], 0.5 * wolf[speaker]) + rng.normal(size=enroll.size)
    return scores.astype(np.float32), enroll, speaker, target


def test_weights_are_those_of_the_replica():
    """Drawing speakers with multiplicity m is the same as writing their trials that many times."""
    rng = np.random.default_rng(0)
    scores, enroll, speaker, target = experiment(rng)
    draws = rng.multinomial(15, np.full(15, 1 / 15), size=130).T  # more than one block
    found = _eers(scores, enroll.astype(np.int32), speaker.astype(np.int32), draws)
    for r in range(130):
        m = draws[:, r]
        times = np.where(target, m[enroll], m[enroll] * m[speaker])
        replica, label = np.repeat(scores, times), np.repeat(target, times)
        assert found[r] == pytest.approx(eer(replica[label], replica[~label]).eer, abs=1e-9)


def test_binned_large_set_is_within_the_stated_resolution():
    rng = np.random.default_rng(1)
    scores, enroll, speaker, target = experiment(rng, speakers=30, utts=250)
    assert scores.size > 200_000
    one = _eers(scores, enroll.astype(np.int32), speaker.astype(np.int32), np.ones((33, 1)))
    assert one[0] == pytest.approx(eer(scores[target], scores[~target]).eer, abs=0.0005)


def test_ties_are_one_threshold():
    rng = np.random.default_rng(2)
    _, enroll, speaker, target = experiment(rng)
    scores = np.round(target + rng.normal(size=target.size)).astype(np.float32)
    one = _eers(scores, enroll.astype(np.int32), speaker.astype(np.int32), np.ones((15, 1)))
    assert one[0] == pytest.approx(eer(scores[target], scores[~target]).eer, abs=1e-12)


def test_interval_is_reproducible_and_holds_the_estimate():
    trials = experiment(np.random.default_rng(3))
    low, high = eer_interval(*trials, rng=np.random.default_rng(5))
    assert (low, high) == eer_interval(*trials, rng=np.random.default_rng(5))
    assert (low, high) != eer_interval(*trials, rng=np.random.default_rng(6))
    assert 0 <= low < eer(trials[0][trials[3]], trials[0][~trials[3]]).eer < high <= 1
    narrow = eer_interval(*trials, level=0.5, rng=np.random.default_rng(5))
    assert low < narrow[0] < narrow[1] < high


def test_numbering_does_not_matter():
    scores, enroll, speaker, target = experiment(np.random.default_rng(4))
    here = eer_interval(scores, enroll, speaker, target, rng=np.random.default_rng(0))
    there = eer_interval(scores, 3 * enroll + 7, 3 * speaker + 7, target, rng=np.random.default_rng(0))
    assert here == there


def test_coverage():
    """The 90 % interval holds the true value in most repetitions; one over trials would hold it in far fewer."""
    rng = np.random.default_rng(7)
    sets = (experiment(rng, utts=40) for _ in range(300))
    truth = np.mean([eer(scores[target], scores[~target]).eer for scores, _, _, target in sets])
    covered, naive = 0, 0
    for _ in range(150):
        scores, enroll, speaker, target = experiment(rng, utts=40)
        low, high = eer_interval(scores, enroll, speaker, target, repeats=200, level=0.9, rng=rng)
        covered += low <= truth <= high
        p = eer(scores[target], scores[~target]).eer
        naive += abs(p - truth) <= 1.645 * np.sqrt(p * (1 - p) / target.sum())
    assert 0.80 <= covered / 150 <= 0.97
    assert naive < 0.75 * covered


def test_too_few_speakers():
    rng = np.random.default_rng(8)
    trials = experiment(rng, speakers=2, impostors=0)
    assert eer_interval(*trials, rng=rng) is None
    assert eer_interval(*experiment(rng, speakers=3, impostors=0), rng=rng) is not None
    empty = np.zeros(0)
    assert eer_interval(empty, empty, empty, empty, rng=rng) is None


def test_only_one_class_has_no_interval():
    scores, enroll, speaker, target = experiment(np.random.default_rng(9))
    only = (scores[target], enroll[target], speaker[target], target[target])
    assert eer_interval(*only, rng=np.random.default_rng(0)) is None


def test_refuses():
    scores, enroll, speaker, target = experiment(np.random.default_rng(10))
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="against their speakers"):
        eer_interval(scores, enroll, speaker, ~target, rng=rng)
    with pytest.raises(UserError, match="scores for"):
        eer_interval(scores[1:], enroll, speaker, target, rng=rng)
    with pytest.raises(UserError, match="NaN"):
        eer_interval(np.where(target, np.nan, scores), enroll, speaker, target, rng=rng)
    with pytest.raises(UserError, match="negative"):
        eer_interval(scores, enroll - 1, speaker - 1, target, rng=rng)

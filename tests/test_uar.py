"""Unweighted average recall: by hand, against scikit-learn, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.uar import confusions, recalls, uar, uar_interval


def test_by_hand():
    """Two folds of one speaker: recalls 1, 1/2 and 0, 1."""
    counts = confusions(
        np.array([0, 1, 1, 0, 0, 1]), np.array([0, 1, 0, 1, 2, 1]), np.array([0, 0, 0, 1, 1, 1]), 2, 2
    )
    assert counts.shape == (2, 2, 3) and counts.sum() == 6
    fold = np.array([0, 1])
    assert uar(counts, fold) == pytest.approx((0.75 + 0.5) / 2)
    assert recalls(counts, fold) == pytest.approx([0.5, 0.75])
    assert uar(counts, fold, "pooled") == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert recalls(counts, fold, "pooled") == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_folds_equal_scikit_learn(classes, seed):
    """[vpc24]'s way: macro recall of a fold by scikit-learn, then the plain mean of the folds."""
    from sklearn.metrics import recall_score

    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(6), 10)
    truth = rng.integers(0, classes, 60)
    truth[::10] = 0
    for k in range(classes):
        truth[speaker * 10 + k == np.arange(60)] = k  # every speaker has every class
    heard = rng.integers(0, classes, 60)
    fold = np.array([0, 0, 1, 1, 2, 2])
    expected = np.mean(
        [
            recall_score(truth[fold[speaker] == k], heard[fold[speaker] == k], average="macro")
            for k in range(3)
        ]
    )
    counts = confusions(truth, heard, speaker, classes, 6)
    assert uar(counts, fold) == pytest.approx(expected)
    assert uar(counts, fold, "pooled") == pytest.approx(recall_score(truth, heard, average="macro"))


def random_counts(speakers: int, accuracy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four classes, 30 utterances each and speaker."""
    truth = np.tile(np.repeat(np.arange(4), 30), speakers)
    speaker = np.repeat(np.arange(speakers), 120)
    right = rng.random(len(truth)) < accuracy[speaker]
    return confusions(truth, np.where(right, truth, (truth + 1) % 4), speaker, 4, speakers)


@pytest.mark.parametrize("reading", ["vpc2024", "pooled"])
def test_interval_covers_and_knows_speakers(reading):
    """It covers the truth in most draws of speakers, and is as wide as speakers differ."""
    rng = np.random.default_rng(0)
    fold = np.arange(10) % 5
    hits, widths = 0, []
    for _ in range(40):
        counts = random_counts(10, rng.normal(0.6, 0.1, 10), rng)
        low, high = uar_interval(counts, fold, reading, repeats=300, rng=rng)
        hits += low <= 0.6 <= high
        widths.append(high - low)
    assert 30 <= hits <= 40
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(10), rel=0.3)


def test_one_speaker_a_fold_is_the_bootstrap_of_the_folds_mean():
    counts = random_counts(5, np.array([0.2, 0.4, 0.5, 0.7, 0.9]), np.random.default_rng(1))
    own = np.array([uar(counts[[s]], np.zeros(1, int)) for s in range(5)])
    draws = np.random.default_rng(2).multinomial(5, np.full(5, 0.2), size=500)
    expected = np.quantile(draws @ own / 5, [0.025, 0.975])
    found = uar_interval(counts, np.arange(5), repeats=500, rng=np.random.default_rng(2))
    assert found == pytest.approx(expected)


def test_no_interval_for_two_speakers_and_no_unknown_reading():
    counts = random_counts(2, np.array([0.5, 0.5]), np.random.default_rng(0))
    assert uar_interval(counts, np.arange(2), rng=np.random.default_rng(0)) is None
    with pytest.raises(UserError, match="did you mean 'pooled'"):
        uar(counts, np.arange(2), "poold")

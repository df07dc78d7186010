"""Unweighted average recall: how well emotions are still recognised, each emotion counting alike.

Everything is computed from one confusion matrix a speaker: folds are sums of speakers, and the interval draws speakers,
since utterances of one speaker err together.
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError, suggest

READINGS = ("vpc2024", "pooled")
_MIN_SPEAKERS = 3


def confusions(
    reference: np.ndarray, hypothesis: np.ndarray, speaker: np.ndarray, classes: int, speakers: int
) -> np.ndarray:
    """Count recognitions.

    Args:
        reference: (N,) true class in [0, classes).
        hypothesis: (N,) recognised class in [0, classes], where `classes` is "something else".
        speaker: (N,) in [0, speakers).

    Returns:
        (S, C, C + 1) counts [speaker, reference, hypothesis].
    """
    counts = np.zeros((speakers, classes, classes + 1))
    np.add.at(counts, (speaker, reference, hypothesis), 1)
    return counts


def recalls(counts: np.ndarray, fold: np.ndarray, reading: str = "vpc2024") -> np.ndarray:
    """Recall of every class.

    Args:
        counts: (S, C, H) confusion matrices of speakers, H >= C, see `confusions`.
        fold: (S,) fold of each speaker, numbered from 0.
        reading: "vpc2024", the plain mean over folds of the recall in a fold, as the VoicePrivacy Challenge 2024
            reports (each fold has a classifier of its own); "pooled", the recall over all utterances.

    Returns:
        (C,) in [0, 1]; NaN for a class without an utterance.
    """
    weights = np.ones((1, len(counts)))
    return _recalls(counts, np.asarray(fold), weights, reading)[0]


def uar(counts: np.ndarray, fold: np.ndarray, reading: str = "vpc2024") -> float:
    """Unweighted average recall in [0, 1]: the mean over folds of the mean recall ("vpc2024"), or over all ("pooled").

    Differs from [vpc24] in a fold that lacks a class: it is left out of the fold's mean, where scikit-learn's macro
    recall counts it as 0 if any utterance was taken for it. The evaluator refuses such folds.
    """
    weights = np.ones((1, len(counts)))
    return float(_uar(counts, np.asarray(fold), weights, reading)[0])


def uar_interval(
    counts: np.ndarray,
    fold: np.ndarray,
    reading: str = "vpc2024",
    *,
    repeats: int = 1000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the UAR over speakers; the classifiers stay as they are.

    A fold weighs as many speakers as were drawn from it, relative to its size: with one speaker a fold, as in IEMOCAP,
    this is the bootstrap of the mean of the folds.

    Returns:
        (low, high) in [0, 1], or None with fewer than three speakers.
    """
    speakers = len(counts)
    if speakers < _MIN_SPEAKERS:
        return None
    draws = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=repeats).astype(float)
    low, high = np.quantile(
        _uar(counts, np.asarray(fold), draws, reading), [(1 - level) / 2, (1 + level) / 2]
    )
    return float(low), float(high)


def _parts(
    counts: np.ndarray, fold: np.ndarray, weights: np.ndarray, reading: str
) -> tuple[np.ndarray, np.ndarray]:
    """Recalls (R, K, C) in K parts under each row of weights (R, S), NaN without utterances; (R, K) part weights."""
    if reading not in READINGS:
        raise UserError(f"unknown reading of the UAR '{reading}'{suggest(reading, READINGS)}")
    member = np.ones((len(counts), 1)) if reading == "pooled" else (fold[:, None] == np.unique(fold)) * 1.0
    right = np.diagonal(counts, axis1=1, axis2=2)[:, :, None] * member[:, None]  # (S, C, K)
    total = counts.sum(axis=2)[:, :, None] * member[:, None]
    right, total = (np.tensordot(weights, x, 1).transpose(0, 2, 1) for x in (right, total))
    with np.errstate(invalid="ignore"):
        return right / total, weights @ member / member.sum(axis=0)


def _mean(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Weighted mean that leaves NaN out; NaN where nothing is left."""
    weights = np.where(np.isnan(values), 0.0, np.broadcast_to(weights, values.shape))
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(values) * weights).sum(axis) / weights.sum(axis)


def _recalls(counts: np.ndarray, fold: np.ndarray, weights: np.ndarray, reading: str) -> np.ndarray:
    values, share = _parts(counts, fold, weights, reading)
    return _mean(values, share[:, :, None], axis=1)


def _uar(counts: np.ndarray, fold: np.ndarray, weights: np.ndarray, reading: str) -> np.ndarray:
    values, share = _parts(counts, fold, weights, reading)
    return _mean(_mean(values, np.ones(1), axis=2), share, axis=1)

"""Equal error rate of a verification experiment, in the three readings found in the field, and the DET curve.

A trial is accepted when its score lies above a threshold t. FRR(t) is the share of rejected target trials, FAR(t)
the share of accepted non-target trials; the EER is the error where the two meet. With finitely many trials they
rarely meet exactly, and the readings differ in what they do then:

`vpc2024` (default)
    VoicePrivacy 2024 and 2026 (the definition of SpeechBrain): the mean of FAR and FRR at the first threshold where
    they are closest. Scores are compared in float32, as there.
`vpc2022`
    VoicePrivacy 2020 and 2022 (the definition of Kaldi's compute-eer): a multiple of 1 / number of targets.
`rocch`
    the EER of the convex hull of the ROC (Brümmer and de Villiers, "The BOSARIS toolkit", 2011, section 2.4): what an
    attacker reaches who may also flip a coin between two thresholds. Never above 50 %.

All three cost one sort, O(N log N): ten million trials take about a second.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from ..errors import UserError, suggest


@dataclass(frozen=True)
class EerResult:
    """An equal error rate and where it is reached."""

    eer: float  # in [0, 1]; above 0.5 where targets score lower than non-targets
    threshold: float  # vpc2024: scores above it are accepted; vpc2022, rocch: scores from it on


def _sorted(scores: np.ndarray, name: str) -> np.ndarray:
    """(N,) scores as sorted float32; `name` is the class to name in an error."""
    scores = np.asarray(scores).ravel()
    if scores.size == 0:
        raise UserError(f"no {name} score", expected="target and non-target trials")
    with np.errstate(over="ignore"):  # a float64 beyond the range of float32 is reported as infinite
        scores = np.sort(scores.astype(np.float32))
    if not np.isfinite(scores[[0, -1]]).all():  # a sort puts -inf first, inf and NaN last
        bad = int((~np.isfinite(scores)).sum())
        raise UserError(f"{bad} of {scores.size} {name} scores are NaN or infinite", expected="finite scores")
    return scores


def _vpc2024(tar: np.ndarray, non: np.ndarray) -> EerResult:
    """(FAR + FRR) / 2 at the lowest score t with the smallest |FAR(t) - FRR(t)|.

    Every distinct score changes FAR or FRR, so the gap FRR - FAR rises strictly from score to score: the smallest
    absolute gap is at the first score where it is not negative, or at the score just below. Bisection finds the two.
    (The reference also tries the midpoints between scores; they never change a count.) Gaps are compared as integers.
    """

    def errors(t: np.float32) -> tuple[int, int]:
        """Rejected targets and accepted non-targets at threshold t."""
        rejected = int(np.searchsorted(tar, t, side="right"))
        return rejected, non.size - int(np.searchsorted(non, t, side="right"))

    def gap(t: np.float32) -> int:
        rejected, accepted = errors(t)
        return rejected * non.size - accepted * tar.size

    above, below = [], []  # the scores of each class next to the crossing
    for scores in (tar, non):
        i = bisect_left(range(scores.size), 0, key=lambda i, s=scores: gap(s[i]))
        above += [scores[i]] if i < scores.size else []
        below += [scores[i - 1]] if i else []
    candidates = [*([max(below)] if below else []), min(above)]
    best = min(
        candidates, key=lambda t: abs(gap(t))
    )  # `min` keeps the first, that is the lower, of two equals
    rejected, accepted = errors(best)
    return EerResult((accepted / non.size + rejected / tar.size) / 2, float(best))


def _vpc2022(tar: np.ndarray, non: np.ndarray) -> EerResult:
    """p / N_t for the first p with non[N_n - 1 - floor(N_n p / N_t)] < tar[p]; like Kaldi, p stops at N_t - 1."""
    p = np.arange(tar.size)
    crossed = non[non.size - 1 - non.size * p // tar.size] < tar
    first = int(np.argmax(crossed)) if crossed.any() else tar.size - 1
    return EerResult(first / tar.size, float(tar[first]))


def _rocch(tar: np.ndarray, non: np.ndarray) -> EerResult:
    """Where the lower convex hull of the points (FAR, FRR) meets FAR = FRR.

    A vertex of the hull accepts from a target score on, or accepts nothing. The edge that meets the diagonal is found
    by chords: as long as a point lies below the chord, the lowest one replaces the chord's end on its own side.
    Counts are exact integers; a chord shrinks at least once per step and in practice takes a few.
    """
    nothing = np.nextafter(max(tar[-1], non[-1]), np.float32(np.inf))  # the threshold above every score
    score = np.append(np.unique(tar), nothing)
    miss = np.searchsorted(tar, score).astype(np.int64)  # rejected targets when accepting from `score` on
    fa = non.size - np.searchsorted(non, score).astype(np.int64)  # accepted non-targets
    side = miss * non.size - fa * tar.size  # of the diagonal: negative while FRR < FAR
    low, high = 0, score.size - 1
    while True:
        down, right = miss[high] - miss[low], fa[low] - fa[high]
        height = down * fa + right * miss  # minus a constant: distance from the chord
        lowest = int(np.argmin(height))
        if height[lowest] == height[low]:
            break
        low, high = (lowest, high) if side[lowest] <= 0 else (low, lowest)
    gap_low, gap_high = -int(side[low]), int(side[high])
    part = gap_low / (gap_low + gap_high)
    eer = (miss[low] + part * (miss[high] - miss[low])) / tar.size
    nearest = low if gap_low <= gap_high else high
    return EerResult(float(eer), float(score[nearest]))


METHODS = {"vpc2024": _vpc2024, "vpc2022": _vpc2022, "rocch": _rocch}


def eer(target_scores: np.ndarray, nontarget_scores: np.ndarray, method: str = "vpc2024") -> EerResult:
    """Equal error rate of a set of trials.

    Args:
        target_scores: (N_t,) scores of same-speaker trials, higher means more alike.
        nontarget_scores: (N_n,) scores of different-speaker trials.
        method: "vpc2024" (default), "vpc2022" or "rocch"; see the module.

    Returns:
        the rate in [0, 1] and its threshold.

    Raises:
        UserError: if a class is empty, a score is NaN or infinite, or the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f"unknown EER method '{method}'{suggest(method, METHODS)}")
    return METHODS[method](_sorted(target_scores, "target"), _sorted(nontarget_scores, "non-target"))


def det_curve(
    target_scores: np.ndarray, nontarget_scores: np.ndarray, points: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Detection error trade-off, thinned for plotting.

    Thresholds are ranks of each class spread evenly on the normal-deviate axes of a DET plot (Martin et al., "The DET
    curve in assessment of detection task performance", Eurospeech 1997), so the tails keep their points.

    Args:
        target_scores: (N_t,) scores of same-speaker trials.
        nontarget_scores: (N_n,) scores of different-speaker trials.
        points: largest number of points.

    Returns:
        far (P,) falling from 1 to 0 and frr (P,) rising from 0 to 1, P <= points.

    Raises:
        UserError: as `eer`; also for fewer than 4 points.
    """
    if points < 4:
        raise UserError(f"a DET curve of {points} points", expected="at least 4")
    tar, non = _sorted(target_scores, "target"), _sorted(nontarget_scores, "non-target")
    quantile = ndtr(np.linspace(-4.5, 4.5, (points - 1) // 2))
    thresholds = [scores[(quantile * (scores.size - 1)).round().astype(int)] for scores in (tar, non)]
    # from "accept everything" on; the largest score rejects everything
    t = np.unique(np.concatenate([*thresholds, [max(tar[-1], non[-1])]]))
    frr = np.searchsorted(tar, t, side="right") / tar.size
    far = 1 - np.searchsorted(non, t, side="right") / non.size
    return np.append(1.0, far), np.append(0.0, frr)

"""ZEBRA: what scores disclose to an attacker whose prior belief nobody knows.

Nautsch et al., "The privacy ZEBRA: zero evidence biometric recognition assessment", Interspeech 2020. Both figures
rest on calibrated log-likelihood ratios, so they measure the order of the scores and not their scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import TILT, calibrate

TAGS = ((2 * TILT, "0"), (1.0, "A"), (2.0, "B"), (4.0, "C"), (5.0, "D"), (6.0, "E"), (np.inf, "F"))
MOST = 0.5 / np.log(2)  # bits: the population's expected disclosure of perfectly separated scores


@dataclass(frozen=True)
class Zebra:
    """The two figures."""

    population: float  # expected disclosure in bits, from 0 to 0.7213
    individual: float  # worst case: the strongest evidence in a single trial, log10 of its likelihood ratio

    @property
    def tag(self) -> str:
        """Category of the worst case."""
        return tag(self.individual)


def tag(individual: float) -> str:
    """Category of a worst case: "0" for none, "A" below a factor of 10, and on to "F" from a million."""
    return next(name for limit, name in TAGS if individual < limit)


def _information(llrs: np.ndarray) -> float:
    """1/4 + 1/2 mean of h(a), h(a) = (a - b) / b^2 with b = e^a - 1: evidence integrated over all priors, in nats."""
    h = np.zeros_like(llrs)  # its limit for infinite evidence
    small = np.abs(llrs) < 1e-6
    h[small] = -0.5
    usual = np.isfinite(llrs) & ~small
    with np.errstate(over="ignore"):
        b = np.expm1(llrs[usual])
        h[usual] = (llrs[usual] / b - 1) / b
    return 0.25 + h.mean() / 2


def zebra(target_scores: np.ndarray, nontarget_scores: np.ndarray) -> Zebra:
    """ZEBRA of a set of trials.

    Args:
        target_scores: (N_t,) scores of same-speaker trials, higher means more alike; any scale.
        nontarget_scores: (N_n,) scores of different-speaker trials.

    Raises:
        UserError: if a class is empty or a score is NaN or infinite.
    """
    tar, non = calibrate(target_scores, nontarget_scores)
    population = (_information(tar) + _information(-non)) / np.log(2)
    worst = max(np.abs(llrs).max() for llrs in calibrate(target_scores, nontarget_scores, laplace=True))
    return Zebra(float(population), float(worst / np.log(10)))

"""Scores become log-likelihood ratios by isotonic regression: pool adjacent violators (PAV).

Among all rising functions of the score, PAV finds the posterior that fits the labels best; without the prior it is the
log-likelihood ratio (LLR) of an attacker who knows how to read the scores (Brümmer and du Preez, "Application-
independent evaluation of speaker detection", CSL 20, 2006, section 5.3). Natural logarithms throughout.

Differs from [vpc22], the VoicePrivacy Challenge 2022: equal scores get equal LLRs. There, non-targets come first among
equals, so that scores which are all the same, of an anonymizer that makes one voice of all, are taken for perfectly
separated. Where no two scores are equal, both are the same.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

from ..errors import UserError

TILT = 1e-6  # rise of the LLRs from the lowest to the highest score, which keeps their order within a pool [vpc22]


def llr_of_counts(target: np.ndarray, nontarget: np.ndarray, *, laplace: bool = False) -> np.ndarray:
    """LLR of each of K distinct scores, ascending, from how often it occurs.

    Args:
        target: (K,) number of same-speaker trials with that score.
        nontarget: (K,) number of different-speaker trials with it; the two are not both 0.
        laplace: add a target and a non-target trial below and above all scores (in this order), as [vpc22] does: a
            rule of succession that keeps every LLR finite.

    Returns:
        (K,) rising LLRs; without `laplace` -inf below the first target and inf above the last non-target.
    """
    tar, non = (np.asarray(x, np.float64) for x in (target, nontarget))
    prior = np.log(tar.sum() / non.sum())
    below = np.cumsum(tar + non) - (tar + non)
    tilt = TILT * below / (tar.sum() + non.sum())
    if laplace:
        tar, non = (np.concatenate([[a, 1 - a], x, [a, 1 - a]]) for a, x in ((1, tar), (0, non)))
    fit = isotonic_regression(tar / (tar + non), weights=tar + non)
    # The sums over the pools are whole numbers, hence exact; the regression's own means are not.
    with np.errstate(divide="ignore"):
        odds = np.log(np.add.reduceat(tar, fit.blocks[:-1])) - np.log(np.add.reduceat(non, fit.blocks[:-1]))
    odds = np.repeat(odds, np.diff(fit.blocks))
    return (odds[2:-2] if laplace else odds) - prior + tilt


def calibrate(
    target_scores: np.ndarray, nontarget_scores: np.ndarray, *, laplace: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """LLRs of trials, calibrated on the trials themselves.

    Args:
        target_scores: (N_t,) scores of same-speaker trials, higher means more alike.
        nontarget_scores: (N_n,) scores of different-speaker trials.
        laplace: see `llr_of_counts`.

    Returns:
        (N_t,) and (N_n,) LLRs.

    Raises:
        UserError: if a class is empty or a score is NaN or infinite.
    """
    tar, non = checked(target_scores, nontarget_scores)
    scores, index = np.unique(np.concatenate([tar, non]), return_inverse=True)
    counts = (np.bincount(part, minlength=scores.size) for part in (index[: tar.size], index[tar.size :]))
    llr = llr_of_counts(*counts, laplace=laplace)[index]
    return llr[: tar.size], llr[tar.size :]


def checked(
    target: np.ndarray, nontarget: np.ndarray, *, finite: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Scores or LLRs of both classes as flat float64.

    Raises:
        UserError: if a class is empty, a value is NaN or, unless allowed, infinite.
    """
    out = []
    for name, values in (("target", target), ("non-target", nontarget)):
        values = np.asarray(values, np.float64).ravel()
        if not values.size:
            raise UserError(f"no {name} score", expected="target and non-target trials")
        bad = int((~np.isfinite(values) if finite else np.isnan(values)).sum())
        if bad:
            raise UserError(
                f"{bad} of {values.size} {name} scores are NaN or infinite", expected="finite scores"
            )
        out.append(values)
    return out[0], out[1]

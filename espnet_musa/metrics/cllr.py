"""Cost of log-likelihood ratios: what an attacker loses who bets on them, in bits per trial.

Brümmer and du Preez, "Application-independent evaluation of speaker detection", CSL 20, 2006: 0 for perfect knowledge,
1 for an attacker who knows nothing and knows it; above 1 for one who is misled by his own confidence.
"""

from __future__ import annotations

import numpy as np

from .calibration import calibrate, checked


def cllr(target_llrs: np.ndarray, nontarget_llrs: np.ndarray) -> float:
    """C_llr = 1/2 [mean over targets of log2(1 + e^-s) + mean over non-targets of log2(1 + e^s)].

    Only log-likelihood ratios, such as scores of PLDA, make it meaningful; a cosine is none.

    Differs from [vpc22], where it is infinite as soon as a posterior underflows (|s| above 745): it is computed on
    logarithms, and infinite only for an infinite LLR of the wrong sign.

    Args:
        target_llrs: (N_t,) natural log-likelihood ratios of same-speaker trials, possibly infinite.
        nontarget_llrs: (N_n,) of different-speaker trials.

    Raises:
        UserError: if a class is empty or a value is NaN.
    """
    tar, non = checked(target_llrs, nontarget_llrs, finite=False)
    return float((np.logaddexp(0, -tar).mean() + np.logaddexp(0, non).mean()) / (2 * np.log(2)))


def cllr_min(target_scores: np.ndarray, nontarget_scores: np.ndarray) -> float:
    """C_llr of the best calibration, in [0, 1]: what the order of the scores gives away.

    Args:
        target_scores: (N_t,) scores of same-speaker trials, higher means more alike; any scale.
        nontarget_scores: (N_n,) scores of different-speaker trials.

    Raises:
        UserError: if a class is empty or a score is NaN or infinite.
    """
    return cllr(*calibrate(target_scores, nontarget_scores))

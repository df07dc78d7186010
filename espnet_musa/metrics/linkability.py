"""Global linkability D_sys: how much a score says about whether two utterances share a speaker.

Gomez-Barrero et al., "General framework to evaluate unlinkability in biometric template protection systems", IEEE TIFS
13, 2018; for speech Maouche et al., "A comparative study of speech anonymization metrics", Interspeech 2020.
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from .calibration import checked

MIN_TARGETS = 20  # below, there are not two bins of ten targets


def linkability(target_scores: np.ndarray, nontarget_scores: np.ndarray, omega: float = 1.0) -> float:
    """D_sys with histograms as [vpc22] makes them: min(N_t // 10, 100) equal bins over the joint range.

    With p_t and p_n the densities, D(s) = 2 omega LR / (1 + omega LR) - 1 where omega LR = omega p_t / p_n > 1, else 0,
    and D_sys is the integral of D p_t, by the trapezoidal rule over the bins' centres. That rule loses half of the
    outermost bins, so perfect separation gives a little less than 1; and the bins' noise makes D_sys of scores that say
    nothing a little more than 0 (0.05 to 0.15 on VoicePrivacy's sets).

    Args:
        target_scores: (N_t,) scores of same-speaker trials, higher means more alike.
        nontarget_scores: (N_n,) scores of different-speaker trials.
        omega: prior odds of the same speaker.

    Returns:
        D_sys in [0, 1]: 0 unlinkable, 1 fully linkable.

    Raises:
        UserError: if a class is empty, there are fewer than 20 targets, or a score is NaN or infinite.
    """
    tar, non = checked(target_scores, nontarget_scores)
    if tar.size < MIN_TARGETS:
        raise UserError(f"D_sys of {tar.size} target scores", expected=f"at least {MIN_TARGETS}")
    edges = np.histogram_bin_edges(np.concatenate([tar, non]), min(tar.size // 10, 100))
    (p_t, _), (p_n, _) = (np.histogram(scores, edges, density=True) for scores in (tar, non))
    # 2 LR / (1 + LR) - 1 = (p_t - p_n) / (p_t + p_n) holds for p_n = 0, too.
    local = np.divide(omega * p_t - p_n, omega * p_t + p_n, out=np.zeros_like(p_t), where=p_t > 0)
    return float(np.trapezoid(np.maximum(local, 0) * p_t, (edges[1:] + edges[:-1]) / 2))

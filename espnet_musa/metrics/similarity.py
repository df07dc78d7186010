"""Voice similarity matrices, gain of voice distinctiveness G_VD and de-identification De-ID.

Noé et al., "Speech pseudonymisation assessment using voice similarity matrices", Interspeech 2020: M(i, j) says how
alike the speakers i and j sound to a speaker verification system, in the original voices (oo), between original and
anonymized voices (oa) or among anonymized ones (aa). A clear diagonal means that speakers are told apart.

A score of utterances k and l is the product of two vectors, left[k] @ right[l], which holds for a cosine as for PLDA.
The score matrix is computed and read in blocks, so memory does not grow with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from scipy.special import expit

from ..errors import UserError
from .calibration import llr_of_counts

_BINS = 1 << 20  # of the range of the scores: about the resolution of float32
_BLOCK = 1 << 21  # scores held at a time
_LEAST = 1e-6  # a diagonal dominance below this is none; it bounds G_VD at about -60 dB


@njit(cache=True)
def _limits(scores):  # pragma: no cover - compiled
    """Smallest and largest of the pairs of a block; scores[i, j] is about utterances i < j of the block's own."""
    low, high = np.inf, -np.inf
    for i in range(scores.shape[0]):
        for j in range(i + 1, scores.shape[1]):
            low, high = min(low, scores[i, j]), max(high, scores[i, j])
    return low, high


@njit(cache=True)
def _count(scores, speaker, low, scale, counts):  # pragma: no cover - compiled
    """Add a block's pairs to counts (2, bins): different speakers, same speaker."""
    for i in range(scores.shape[0]):
        for j in range(i + 1, scores.shape[1]):
            counts[int(speaker[i] == speaker[j]), int((scores[i, j] - low) * scale)] += 1


@njit(cache=True)
def _sum(scores, speaker, low, scale, llr, sums):  # pragma: no cover - compiled
    """Add the LLRs (bins,) of a block's pairs to sums (S, S)."""
    for i in range(scores.shape[0]):
        for j in range(i + 1, scores.shape[1]):
            sums[speaker[i], speaker[j]] += llr[int((scores[i, j] - low) * scale)]


def similarity_matrix(left: np.ndarray, right: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """M(i, j) = sigmoid of the mean LLR of all pairs of an utterance of speaker i and one of speaker j.

    As [vpc22] does, the LLRs are calibrated on these pairs by PAV with Laplace's rule; a pair is (k, l) with k before l
    in the order of the utterances, so that none is compared with itself or with its own anonymized version, and the
    upper triangle is mirrored. Differs from [vpc22] where utterances of different speakers are mixed in the list:
    they are sorted by speaker first, so that no pair is lost.

    Args:
        left, right: (N, F) factors of the utterances as first and as second of a pair, score = left[k] @ right[l].
        speaker: (N,) index of the speaker of each utterance, 0 to S - 1.

    Returns:
        (S, S) symmetric matrix of similarities in (0, 1).

    Raises:
        UserError: for fewer than two speakers, a speaker with fewer than two utterances, or scores that are not finite.
    """
    order = np.argsort(speaker, kind="stable")
    left, right, speaker = left[order], right[order], np.ascontiguousarray(speaker[order], dtype=np.int64)
    of_speaker = np.bincount(speaker)
    if of_speaker.size < 2 or of_speaker.min() < 2:
        raise UserError(
            f"{of_speaker.size} speakers, {(of_speaker < 2).sum()} of them with less than two utterances",
            expected="two or more speakers with two or more utterances each",
        )
    limits = np.array([_limits(scores) for _, scores in _blocks(left, right)])
    low, high = limits[:, 0].min(), limits[:, 1].max()
    if not np.isfinite(high - low):
        raise UserError("a score is NaN or infinite", expected="finite scores")
    scale = (_BINS - 1) / (high - low) if high > low else 0.0
    counts = np.zeros((2, _BINS), np.int64)
    for start, scores in _blocks(left, right):
        _count(scores, speaker[start:], low, scale, counts)
    used = np.flatnonzero(counts.sum(axis=0))
    llr = np.zeros(_BINS)
    llr[used] = llr_of_counts(counts[1, used], counts[0, used], laplace=True)
    sums = np.zeros((of_speaker.size, of_speaker.size))
    for start, scores in _blocks(left, right):
        _sum(scores, speaker[start:], low, scale, llr, sums)
    pairs = np.outer(of_speaker, of_speaker).astype(float)
    np.fill_diagonal(pairs, of_speaker * (of_speaker - 1) / 2)
    upper = np.triu(expit(sums / pairs))
    return upper + np.triu(upper, 1).T


def _blocks(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of rows of the score matrix from the diagonal on: first utterance, (rows, N - first) scores."""
    rows = max(1, _BLOCK // len(left))
    for start in range(0, len(left), rows):
        yield start, left[start : start + rows] @ right[start:].T


def diagonal_dominance(matrix: np.ndarray) -> float:
    """D_diag = |mean of the diagonal - mean of the rest| of an (S, S) matrix, S > 1."""
    size = len(matrix)
    diagonal = np.trace(matrix)
    return float(abs(diagonal / size - (matrix.sum() - diagonal) / (size * (size - 1))))


def voice_distinctiveness(m_aa: np.ndarray, m_oo: np.ndarray) -> float:
    """G_VD = 10 log10(D_diag(M_aa) / D_diag(M_oo)) in dB: 0 keeps the differences between voices, below 0 loses some.

    A dominance below 1e-6 counts as 1e-6, so anonymized voices that are all the same have about -60 dB.

    Raises:
        UserError: if not even the original voices are told apart.
    """
    return float(10 * np.log10(max(diagonal_dominance(m_aa), _LEAST) / _original(m_oo)))


def de_identification(m_oa: np.ndarray, m_oo: np.ndarray) -> float:
    """De-ID = 1 - D_diag(M_oa) / D_diag(M_oo): 1 if anonymized voices do not resemble their originals, 0 if all do.

    Raises:
        UserError: if not even the original voices are told apart.
    """
    return 1 - diagonal_dominance(m_oa) / _original(m_oo)


def _original(m_oo: np.ndarray) -> float:
    dominance = diagonal_dominance(m_oo)
    if dominance < _LEAST:
        raise UserError(
            "the encoder does not tell the original voices apart", expected="M_oo with a diagonal",
            hint="is the model trained?",
        )  # fmt: skip
    return dominance

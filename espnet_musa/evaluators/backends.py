"""Back-ends: how alike are a speaker's enrolment and a trial, given their embeddings?

Both are bilinear: `factors` turns S models and N trials into vectors with score(s, t) = left[s] @ right[t], so that all
pairs of any list cost one product of matrices.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.linalg import eigh

from ..errors import UserError

_BLOCK = 1 << 22  # entries of a score matrix held at a time


class Backend(Protocol):
    """What compares embeddings."""

    def factors(
        self, models: np.ndarray, counts: np.ndarray, trials: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Factors of scores, higher means more alike.

        Args:
            models: (S, D) mean embeddings of the enrolled speakers.
            counts: (S,) utterances behind each mean.
            trials: (N, D) embeddings.

        Returns:
            left (S, F) and right (N, F): score = left @ right.T.
        """
        ...


class Cosine:
    """Cosine of enrolment mean and trial, as the VoicePrivacy Challenges 2024 and 2026 score."""

    def factors(
        self, models: np.ndarray, counts: np.ndarray, trials: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend`."""
        norms = (np.linalg.norm(x, axis=1, keepdims=True) for x in (models, trials))
        left, right = (x / np.maximum(norm, 1e-12) for x, norm in zip((models, trials), norms, strict=True))
        return left, right


class Plda:
    """LDA, length normalisation and two-covariance PLDA; scores are log-likelihood ratios.

    The back-end of the VoicePrivacy Challenges 2020 and 2022 ([vpc22]), with the definitions of Kaldi: Ioffe,
    "Probabilistic linear discriminant analysis", ECCV 2006 (the score, which knows how many utterances a model
    averages); EM for the two covariances from unit matrices, ten times; Garcia-Romero and Espy-Wilson, "Analysis of
    i-vector length normalization", Interspeech 2011, before the EM and again, by the length that the model expects,
    before a score.

    Differs from [vpc22]: the within-speaker covariance of the LDA is shrunk by the rule of Ledoit and Wolf, "A
    well-conditioned estimator for large-dimensional covariance matrices", JMVA 88, 2004. With the challenge's data that
    changes next to nothing; with fewer utterances than dimensions nothing works without.

    Args:
        embeddings: (N, D) of the training set.
        speaker: (N,) index of the speaker of each, 0 to C - 1.
        dimension: of the LDA, at most D and C - 1.
        iterations: of the EM.

    Raises:
        UserError: for fewer than two speakers, or no speaker with two utterances.
    """

    def __init__(
        self, embeddings: np.ndarray, speaker: np.ndarray, dimension: int = 200, iterations: int = 10
    ) -> None:
        check_training(speaker)
        x, counts = np.asarray(embeddings, np.float64), np.bincount(speaker)
        self._center = x.mean(axis=0)
        x = x - self._center
        means = _means(x, speaker)
        within = shrunk_covariance(x - means[speaker])
        between = (means * counts[:, None]).T @ means / len(x)
        size = min(dimension, x.shape[1], len(counts) - 1)
        _, vectors = eigh(between, within, subset_by_index=(x.shape[1] - size, x.shape[1] - 1))
        self._lda = vectors
        self._mean, self._transform, self._psi = _estimate(_unit(x @ vectors), speaker, iterations)

    def _project(self, x: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(N, D) means of `counts` (N,) embeddings -> where the within-speaker covariance is the identity."""
        u = (_unit((x - self._center) @ self._lda) - self._mean) @ self._transform
        expected = self._psi + 1 / counts[:, None]  # variance of a mean of so many
        return u * np.sqrt(len(self._psi) / np.maximum((u**2 / expected).sum(axis=1, keepdims=True), 1e-12))

    def factors(
        self, models: np.ndarray, counts: np.ndarray, trials: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend`.

        Given n enrolment utterances of mean u, a trial of the same speaker is N(n psi u / (n psi + 1), 1 + psi /
        (n psi + 1)), and N(0, 1 + psi) otherwise; their log ratio is a sum of terms in t^2, t and 1.
        """
        u, t = self._project(models, counts), self._project(trials, np.ones(len(trials)))
        n, psi = counts[:, None], self._psi
        mean, variance, prior = n * psi / (n * psi + 1) * u, 1 + psi / (n * psi + 1), 1 + psi
        constant = np.log(prior / variance) - mean**2 / variance
        left = [(1 / prior - 1 / variance) / 2, mean / variance, constant.sum(axis=1, keepdims=True) / 2]
        return np.hstack(left), np.hstack([t**2, t, np.ones((len(t), 1))])


def check_training(speaker: np.ndarray) -> None:
    """What training PLDA needs: (N,) speakers of the utterances.

    Raises:
        UserError: for fewer than two speakers, or no speaker with two utterances.
    """
    counts = np.bincount(speaker, minlength=1)
    if len(counts) < 2 or counts.max() < 2:
        raise UserError(
            f"PLDA cannot be trained on {len(speaker)} utterances of {len(counts)} speakers",
            expected="two or more speakers, several utterances of one",
        )


def _means(x: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """(N, D) rows and (N,) owners -> (C, D) means."""
    total = np.zeros((speaker.max() + 1, x.shape[1]))
    np.add.at(total, speaker, x)
    return total / np.bincount(speaker)[:, None]


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to the length sqrt(D)."""
    return x * np.sqrt(x.shape[1]) / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def shrunk_covariance(x: np.ndarray) -> np.ndarray:
    """Covariance (D, D) of centred rows (N, D), moved towards a multiple of the identity as far as its noise asks."""
    count, size = x.shape
    covariance = x.T @ x / count
    scale = np.trace(covariance) / size
    distance = (covariance**2).sum() / size - scale**2
    noise = (((x**2).sum(axis=1) ** 2).sum() / count - (covariance**2).sum()) / count / size
    share = min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0
    return (1 - share) * covariance + share * max(scale, 1e-12) * np.eye(size)


def _estimate(
    x: np.ndarray, speaker: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """EM for x = global mean + speaker (covariance B) + rest (covariance W).

    B and W are diagonalised together in every iteration, W to the identity: then the posterior of every speaker is a
    vector of variances, and all speakers are treated at once.

    Args:
        x: (N, D) embeddings.
        speaker: (N,) indices.
        iterations: how many.

    Returns:
        mean (D,), transform (D, D) with (x - mean) @ transform having W = 1, and psi (D,), the diagonal of B there.
    """
    n, means = np.bincount(speaker)[:, None], _means(x, speaker)
    scatter = (x - means[speaker]).T @ (x - means[speaker])
    center = means.mean(axis=0)
    within = between = np.eye(x.shape[1])
    for _ in range(iterations):
        psi, transform = eigh(between, within)
        psi, back = np.maximum(psi, 0), transform.T @ within  # its inverse
        m = (means - center) @ transform
        variance = psi / (1 + n * psi)  # of the speaker's place, given the mean m
        place = n * variance * m
        rest = np.diag((n * variance).sum(axis=0)) + (n * (m - place)).T @ (m - place)
        within = (scatter + back.T @ rest @ back) / len(x)
        between = back.T @ (np.diag(variance.sum(axis=0)) + place.T @ place) @ back / len(means)
    psi, transform = eigh(between, within)
    return center, transform, np.maximum(psi, 0)


def pair_scores(left: np.ndarray, right: np.ndarray, enroll: np.ndarray, trial: np.ndarray) -> np.ndarray:
    """Scores of (K,) pairs from factors (S, F) and (N, F): (K,) float32.

    Trial lists are (nearly) all pairs, so whole blocks of the score matrix are computed and read out.
    """
    scores = np.empty(len(enroll), np.float32)
    order = np.argsort(enroll, kind="stable")
    step = max(1, _BLOCK // len(right))
    for first in range(0, len(left), step):
        bounds = np.searchsorted(enroll, [first, first + step], sorter=order)
        rows = order[bounds[0] : bounds[1]]
        scores[rows] = (left[first : first + step] @ right.T)[enroll[rows] - first, trial[rows]]
    return scores

"""Voice similarity matrices, G_VD and De-ID: the definition by loops, closed forms, degenerate voices."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics import similarity
from espnet_musa.metrics.calibration import calibrate
from espnet_musa.metrics.similarity import (
    de_identification,
    diagonal_dominance,
    similarity_matrix,
    voice_distinctiveness,
)


def loop_matrix(left: np.ndarray, right: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """The published definition pair by pair; speakers come one after the other."""
    scores = {True: [], False: []}
    pairs = {True: [], False: []}
    for k in range(len(left)):
        for j in range(k + 1, len(left)):
            same = bool(speaker[k] == speaker[j])
            scores[same].append(float(left[k] @ right[j]))
            pairs[same].append((speaker[k], speaker[j]))
    llrs = calibrate(scores[True], scores[False], laplace=True)
    of_pair = defaultdict(list)
    for same, values in zip((True, False), llrs, strict=True):
        for pair, llr in zip(pairs[same], values, strict=True):
            of_pair[pair].append(llr)
    size = max(speaker) + 1
    out = np.empty((size, size))
    for (i, j), values in of_pair.items():
        out[i, j] = out[j, i] = 1 / (1 + math.exp(-sum(values) / len(values)))
    return out


def voices(seed: int, speakers: int = 6, utts: int = 40, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, 16) that carry their speaker, and the speakers (N,)."""
    rng = np.random.default_rng(seed)
    speaker = np.sort(np.concatenate([np.arange(speakers).repeat(2), rng.integers(0, speakers, utts)]))
    x = rng.normal(size=(speakers, 16))[speaker] + noise * rng.normal(size=(len(speaker), 16))
    return x / np.linalg.norm(x, axis=1, keepdims=True), speaker


@pytest.mark.parametrize("seed", range(6))
def test_matrix_equals_the_loop(seed, monkeypatch):
    x, speaker = voices(seed)
    other = voices(seed + 100)[0][: len(x)]
    monkeypatch.setattr(similarity, "_BLOCK", (1 << 21, len(x), 7 * len(x))[seed % 3])
    for right in (x, other):
        np.testing.assert_allclose(
            similarity_matrix(x, right, speaker), loop_matrix(x, right, speaker), atol=1e-4
        )


def test_order_of_the_utterances_does_not_matter():
    x, speaker = voices(1)
    order = np.random.default_rng(2).permutation(len(x))
    ours = similarity_matrix(x[order], x[order], speaker[order])
    np.testing.assert_allclose(ours, similarity_matrix(x, x, speaker), atol=1e-9)


def test_separated_voices_in_closed_form():
    """3 speakers with 4 equal utterances each: 18 same and 48 different pairs, pooled with Laplace's added trials."""
    x, speaker = np.eye(3).repeat(4, axis=0), np.arange(3).repeat(4)
    matrix = similarity_matrix(x, x, speaker)
    prior = 18 / 48
    np.testing.assert_allclose(
        np.diag(matrix), 19 / (19 + prior), atol=1e-6
    )  # odds (18 + 1) / 1 over the prior
    np.testing.assert_allclose(
        matrix[~np.eye(3, dtype=bool)], 1 / (1 + 49 * prior), atol=1e-6
    )  # odds 1 / (48 + 1)
    assert diagonal_dominance(matrix) == pytest.approx(19 / (19 + prior) - 1 / (1 + 49 * prior), abs=1e-6)


def test_diagonal_dominance_in_closed_form():
    assert diagonal_dominance(np.array([[0.9, 0.2], [0.4, 0.7]])) == pytest.approx(0.8 - 0.3)
    assert diagonal_dominance(np.array([[0.1, 0.6], [0.6, 0.1]])) == pytest.approx(0.5)
    assert diagonal_dominance(np.full((5, 5), 0.4)) == pytest.approx(0, abs=1e-15)


def test_gain_and_de_identification_in_closed_form():
    m_oo, half = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.7, 0.3], [0.3, 0.7]])
    assert voice_distinctiveness(half, m_oo) == pytest.approx(-3.0103, abs=1e-4)
    assert voice_distinctiveness(m_oo, m_oo) == de_identification(m_oo, m_oo) == 0
    assert de_identification(half, m_oo) == pytest.approx(0.5)
    assert de_identification(np.full((2, 2), 0.5), m_oo) == 1


def test_one_voice_for_all_has_no_distinctiveness():
    x, speaker = voices(3, noise=0.5)
    same = np.ones_like(x) / 4
    m_oo, m_aa = similarity_matrix(x, x, speaker), similarity_matrix(same, same, speaker)
    assert np.ptp(m_aa) < 1e-6
    assert voice_distinctiveness(m_aa, m_oo) < -50
    with pytest.raises(UserError, match="does not tell the original voices apart"):
        voice_distinctiveness(m_oo, m_aa)


def test_shuffled_speakers_lose_distinctiveness():
    x, speaker = voices(4, speakers=8, utts=400, noise=1.0)
    mixed = x[np.random.default_rng(0).permutation(len(x))]
    m_oo = similarity_matrix(x, x, speaker)
    assert voice_distinctiveness(similarity_matrix(mixed, mixed, speaker), m_oo) < -10
    assert de_identification(similarity_matrix(x, mixed, speaker), m_oo) > 0.9


def test_bad_input_is_refused():
    x = np.eye(4)
    with pytest.raises(UserError, match="1 speakers"):
        similarity_matrix(x, x, np.zeros(4, int))
    with pytest.raises(UserError, match="1 of them with less"):
        similarity_matrix(x, x, np.array([0, 0, 0, 1]))
    with pytest.raises(UserError, match="NaN or infinite"):
        similarity_matrix(x * np.nan, x, np.array([0, 0, 1, 1]))

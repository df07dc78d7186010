"""Cosine and PLDA: bilinear scores in any blocking, the published formulas, and what PLDA recovers from data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from espnet_musa.errors import UserError
from espnet_musa.evaluators import backends
from espnet_musa.evaluators.backends import Cosine, Plda, pair_scores, shrunk_covariance
from espnet_musa.metrics.eer import eer


def test_cosine_scores_match_the_definition_in_any_blocking(monkeypatch):
    rng = np.random.default_rng(0)
    models, trials = rng.standard_normal((7, 5)), rng.standard_normal((11, 5))
    enroll, trial = rng.integers(0, 7, 40), rng.integers(0, 11, 40)
    expected = [
        models[e] @ trials[t] / np.linalg.norm(models[e]) / np.linalg.norm(trials[t])
        for e, t in zip(enroll, trial, strict=True)
    ]
    for block in (1, 25, 1 << 20):
        monkeypatch.setattr(backends, "_BLOCK", block)
        factors = Cosine().factors(models, np.ones(7), trials)
        np.testing.assert_allclose(pair_scores(*factors, enroll, trial), expected, atol=1e-6)


def speech(rng, speakers: int, utts: int, size: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the two-covariance model: unit within-speaker variance in a skewed basis."""
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(size, size)))[0] * np.linspace(0.2, 3, size)
    speaker = np.repeat(np.arange(speakers), utts)
    voices = spread * rng.normal(size=(speakers, size)) * np.linspace(2, 0.2, size)
    return (voices[speaker] + rng.normal(size=(len(speaker), size))) @ basis + 3, speaker


@pytest.fixture(scope="module")
def trained() -> tuple[Plda, np.ndarray, np.ndarray]:
    x, speaker = speech(np.random.default_rng(0), 400, 6, 12, 2.0)
    return Plda(x, speaker, dimension=8), *speech(np.random.default_rng(1), 30, 5, 12, 2.0)


def by_the_book(plda: Plda, mean: np.ndarray, n: int, trial: np.ndarray) -> float:
    """The score of one trial from the likelihoods of all utterances, without Ioffe's predictive formula.

    n utterances that average u and a trial t, of one speaker or of two: mean and trial are jointly Gaussian.
    """
    u = plda._project(mean[None], np.array([n]))[0]
    t = plda._project(trial[None], np.ones(1))[0]
    score = 0.0
    for ui, ti, psi in zip(u, t, plda._psi, strict=True):
        same = multivariate_normal([0, 0], [[psi + 1 / n, psi], [psi, psi + 1]])
        score += (
            same.logpdf([ui, ti])
            - norm(0, np.sqrt(psi + 1 / n)).logpdf(ui)
            - norm(0, np.sqrt(psi + 1)).logpdf(ti)
        )
    return score


def test_plda_scores_are_log_likelihood_ratios_that_know_the_enrolment(trained):
    plda, x, _ = trained
    counts = np.array([1, 3, 20])
    left, right = plda.factors(x[:3], counts, x[3:8])
    for s in range(3):
        for t in range(5):
            assert (left @ right.T)[s, t] == pytest.approx(
                by_the_book(plda, x[s], counts[s], x[3 + t]), abs=1e-9
            )


def test_plda_projection_has_the_length_that_the_model_expects(trained):
    plda, x, _ = trained
    for n in (1, 7):
        u = plda._project(x[:5], np.full(5, n))
        np.testing.assert_allclose((u**2 / (plda._psi + 1 / n)).sum(axis=1), 8)


def test_em_recovers_the_covariances():
    """Without LDA and length normalisation in between: W and B of the data that were drawn."""
    rng = np.random.default_rng(2)
    speaker = np.repeat(np.arange(3000), rng.integers(2, 8, 3000))
    true_psi = np.array([0.25, 1.0, 4.0])
    skew = np.array([[1.0, 0.5, 0], [0, 1, -0.7], [0, 0, 2]])
    x = (rng.normal(size=(3000, 3)) * np.sqrt(true_psi))[speaker] + rng.normal(size=(len(speaker), 3))
    mean, transform, psi = backends._estimate(x @ skew + [1, 2, 3], speaker, 20)
    np.testing.assert_allclose(np.sort(psi), true_psi, rtol=0.1)
    np.testing.assert_allclose(mean, [1, 2, 3], atol=0.15)
    within = np.linalg.inv(transform @ transform.T)
    np.testing.assert_allclose(within, skew.T @ skew, rtol=0.05, atol=0.05)


def test_one_em_step_equals_the_textbook():
    """Speaker by speaker with matrix inverses, as the definition reads."""
    rng = np.random.default_rng(3)
    speaker = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 2, 3, 9])
    x = rng.normal(size=(len(speaker), 4)) + rng.normal(size=(9, 4))[speaker]
    center = np.mean([x[speaker == s].mean(axis=0) for s in range(9)], axis=0)
    within, between = np.eye(4), np.eye(4)
    for _ in range(3):
        w_sum, b_sum = np.zeros((4, 4)), np.zeros((4, 4))
        for s in range(9):
            own = x[speaker == s]
            m = own.mean(axis=0)
            variance = np.linalg.inv(np.linalg.inv(between) + len(own) * np.linalg.inv(within))
            place = variance @ (len(own) * np.linalg.inv(within) @ (m - center))
            rest = m - center - place
            w_sum += (own - m).T @ (own - m) + len(own) * (variance + np.outer(rest, rest))
            b_sum += variance + np.outer(place, place)
        within, between = w_sum / len(x), b_sum / 9
    mean, transform, psi = backends._estimate(x, speaker, 3)
    np.testing.assert_allclose(mean, center)
    np.testing.assert_allclose(transform.T @ within @ transform, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(transform.T @ between @ transform, np.diag(psi), atol=1e-9)


def test_plda_beats_the_cosine_where_channels_are_loud(trained):
    plda, x, speaker = trained
    same = speaker[:, None] == speaker
    upper = np.triu(np.ones_like(same), 1)

    def error(backend) -> float:
        left, right = backend.factors(x, np.ones(len(x)), x)
        scores = left @ right.T
        np.testing.assert_allclose(scores, scores.T, atol=1e-6)  # with one utterance on both sides
        return eer(scores[same & upper], scores[~same & upper]).eer

    assert error(plda) < 0.7 * error(Cosine())


def test_plda_of_fewer_utterances_than_dimensions():
    """Six speakers in 40 dimensions: the LDA has 5 dimensions and nothing is singular."""
    rng = np.random.default_rng(4)
    speaker = np.repeat(np.arange(6), 4)
    voices = 3 * rng.normal(size=(6, 40))
    plda = Plda(voices[speaker] + rng.normal(size=(24, 40)), speaker)
    new = voices[speaker] + rng.normal(size=(24, 40))
    left, right = plda.factors(new, np.ones(24), new)
    assert len(plda._psi) == 5
    scores = left @ right.T
    same = speaker[:, None] == speaker
    assert np.isfinite(scores).all()
    assert np.median(scores[same]) > 0 > np.median(scores[~same])
    assert eer(scores[same], scores[~same]).eer < 0.1


def test_shrinkage_vanishes_with_data_and_rules_without():
    rng = np.random.default_rng(5)
    scale = np.linspace(1, 4, 10)
    many = rng.normal(size=(50000, 10)) * scale
    np.testing.assert_allclose(shrunk_covariance(many), many.T @ many / 50000, rtol=0.01, atol=0.02)
    few = rng.normal(size=(5, 10)) * scale
    values = np.linalg.eigvalsh(shrunk_covariance(few))
    assert values.min() > 0.5
    assert values.sum() == pytest.approx(np.trace(few.T @ few / 5))


def test_impossible_training_is_refused():
    x = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(UserError, match="4 utterances of 1 speakers"):
        Plda(x, np.zeros(4, int))
    with pytest.raises(UserError, match="4 utterances of 4 speakers"):
        Plda(x, np.arange(4))

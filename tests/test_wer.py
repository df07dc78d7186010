"""Word and character error rates against hand-worked counts; the bootstrap against a loop and against the truth."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.wer import Counts, count, interval


def test_reference_against_itself_is_zero():
    texts = ["A B C", "D", "E'S F"]
    for unit in ("words", "characters"):
        assert count(texts, texts, unit).rate() == 0.0


def test_counts_by_hand():
    """`the cat sat on mats` -> `a cat on mats too`: one substituted, `sat` deleted, `too` inserted; `x` -> nothing."""
    counts = count(["the cat sat on mats", "x"], ["a cat on mats too", ""])
    assert counts.substitutions.tolist() == [1, 0]
    assert counts.deletions.tolist() == [1, 1]
    assert counts.insertions.tolist() == [1, 0]
    assert counts.length.tolist() == [5, 1]
    assert counts.errors.tolist() == [3, 1]
    assert counts.rate() == pytest.approx(100 * 4 / 6)  # pooled; the mean of the rates would be 80
    assert counts.take(np.array([1])).rate() == 100.0
    assert counts.totals("words") == {"words": 6, "substitutions": 1, "deletions": 2, "insertions": 1}


def test_characters_by_hand():
    """Spaces do not count: `ab cd` -> `abd`, one deletion in four."""
    counts = count(["ab cd"], ["abd"], "characters")
    assert counts.length.tolist() == [4]
    assert (counts.deletions.tolist(), counts.rate()) == ([1], 25.0)
    assert count(["今天早上"], ["今天晚上"], "characters").rate() == 25.0


def test_insertions_exceed_hundred_percent():
    assert count(["a"], ["b c d"]).rate() == 300.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], []), "0 hypotheses for 1"),
        ((["a", " "], ["a", "b"]), "reference 2 is empty"),
        ((["a"], ["a"], "phones"), "unknown unit 'phones'"),
    ],
)
def test_bad_input(arguments, message: str):
    with pytest.raises(UserError, match=message):
        count(*arguments)


def counts_of(errors: np.ndarray, length: np.ndarray) -> Counts:
    zero = np.zeros_like(errors)
    return Counts(errors, zero, zero, length)


def test_interval_equals_a_loop():
    rng = np.random.default_rng(0)
    errors, length, owner = rng.integers(0, 5, 40), rng.integers(5, 20, 40), np.arange(40) % 7
    got = interval(counts_of(errors, length), owner, repeats=500, rng=np.random.default_rng(3))
    draws = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), size=500)
    rates = []
    for draw in draws:
        rows = np.concatenate([np.tile(np.flatnonzero(owner == s), draw[s]) for s in range(7)])
        rates.append(100 * errors[rows].sum() / length[rows].sum())
    assert got == pytest.approx(np.quantile(rates, [0.025, 0.975]))


def test_interval_holds_the_truth():
    """Speakers that differ: 90 % intervals hold the expected rate in most draws of 30 speakers."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        own = np.repeat(rng.beta(4, 16, 30), 8)  # expected rate 20 %
        found = interval(
            counts_of(rng.binomial(12, own), np.full(240, 12)),
            np.repeat(np.arange(30), 8),
            level=0.9,
            rng=rng,
        )
        held += found[0] <= 20 <= found[1]
    assert 160 <= held <= 195


def test_interval_needs_three():
    one = counts_of(np.array([1, 0]), np.array([4, 4]))
    assert interval(one, np.zeros(2), rng=np.random.default_rng(0)) is None
    three = counts_of(np.array([1, 0, 2]), np.array([4, 4, 4]))
    assert interval(three, np.zeros(3), rng=np.random.default_rng(0)) is not None  # utterances of one speaker
    assert interval(three, np.arange(3), repeats=0, rng=np.random.default_rng(0)) is None

"""Word and character error rates: errors counted by jiwer, pooled over utterances, with bootstrap intervals.

WER = 100 (S + D + I) / N, with N the words of the reference (Morris, Maier and Green, "From WER and RIL to MER and
WIL", Interspeech 2004); with characters in place of words it is the CER. A rate over several utterances pools their
counts: it is no mean of rates. It may exceed 100 % (insertions).

The interval is the percentile bootstrap of Bisani and Ney ("Bootstrap estimates for confidence intervals in ASR
performance evaluation", ICASSP 2004), with whole speakers drawn instead of utterances where there are at least three:
the errors of one speaker's utterances are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from ..errors import UserError

MIN_UNITS = 3  # speakers (or utterances) that a bootstrap needs


@dataclass(frozen=True)
class Counts:
    """Errors of N utterances: (N,) whole numbers each."""

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    length: np.ndarray  # of the references, in words or characters

    @property
    def errors(self) -> np.ndarray:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    def take(self, rows: np.ndarray) -> Counts:
        """The counts of some utterances."""
        return Counts(
            self.substitutions[rows], self.deletions[rows], self.insertions[rows], self.length[rows]
        )

    def rate(self) -> float:
        """Errors per 100 words (characters), pooled."""
        return 100 * float(self.errors.sum()) / float(self.length.sum())

    def totals(self, unit: str) -> dict[str, int]:
        """Sums for a metric's `n`; `unit` ("words", "characters") names the length."""
        return {
            unit: int(self.length.sum()),
            "substitutions": int(self.substitutions.sum()),
            "deletions": int(self.deletions.sum()),
            "insertions": int(self.insertions.sum()),
        }


def count(references: Sequence[str], hypotheses: Sequence[str], unit: str = "words") -> Counts:
    """Count the errors of each utterance, by a shortest edit of the reference into the hypothesis.

    Args:
        references: N texts, normalised.
        hypotheses: N texts, normalised alike; may be empty.
        unit: "words" (parted by spaces) or "characters" (spaces are not counted).

    Raises:
        UserError: for another unit, another number of hypotheses or an empty reference.
    """
    if unit not in ("words", "characters"):
        raise UserError(f"unknown unit '{unit}'", expected="words or characters")
    if len(references) != len(hypotheses):
        raise UserError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    if unit == "characters":
        references, hypotheses = ([" ".join(t.replace(" ", "")) for t in x] for x in (references, hypotheses))
    found = np.zeros((4, len(references)), np.int64)
    for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        if not reference.strip():
            raise UserError(f"reference {i + 1} is empty", expected="at least one word")
        out = jiwer.process_words(reference, hypothesis)
        found[:, i] = out.substitutions, out.deletions, out.insertions, len(out.references[0])
    return Counts(*found)


def interval(
    counts: Counts, owner: np.ndarray, *, repeats: int = 1000, level: float = 0.95, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Percentile interval of the pooled rate.

    Args:
        counts: of N utterances.
        owner: (N,) index of the speaker of each; utterances are drawn where there are fewer than three speakers.
        repeats: draws; 0: no interval.
        level: coverage in (0, 1).
        rng: source of the draws.

    Returns:
        (low, high) in %, or None with fewer than three utterances.
    """
    _, unit = np.unique(owner, return_inverse=True)
    if unit.max(initial=-1) + 1 < MIN_UNITS:
        unit = np.arange(len(owner))
    units = unit.max(initial=-1) + 1
    if units < MIN_UNITS or not repeats:
        return None
    errors, length = np.bincount(unit, counts.errors), np.bincount(unit, counts.length)
    draws = rng.multinomial(
        units, np.full(units, 1 / units), size=repeats
    )  # (R, U) times each unit was drawn
    low, high = np.quantile(100 * (draws @ errors) / (draws @ length), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

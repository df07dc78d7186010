"""Analyses of utterances: what the variants of a system share, so that each is made once (stages 5 and 6).

They tell how the original speaker speaks. So they lie in `exp/cache`, never below an anonymized set.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .. import config
from ..anonymizers.base import Analysis, F0Anonymizer, Source
from ..data.datadir import DataDir


@dataclass(frozen=True)
class Analyses:
    """The analyses of one set by one anonymizer.

    Attributes:
        anonymizer: makes what is missing.
        place: a file an utterance.
    """

    anonymizer: F0Anonymizer
    place: Path
    last: ClassVar[tuple[Path | None, Analysis]] = (None, {})  # variants ask for an utterance one by one

    @classmethod
    def of(cls, anonymizer: F0Anonymizer, data: DataDir, base: str, root: Path) -> Analyses:
        """Those of a set in a recipe's directory; another analysis, model or set has another place.

        Args:
            anonymizer: of the system or of one of its variants.
            data: the set.
            base: name of the system that the variants are of.
            root: of the recipe.
        """
        key = [anonymizer.analysis_params(), anonymizer.fingerprint(), data.fingerprint]
        return cls(
            anonymizer, root / "exp" / "cache" / "analysis" / base / f"{data.name}.{config.digest(key)}"
        )

    def one(self, utt: str, source: Source) -> Analysis:
        """Of one recording; with what its last synthesis has left in it, if that was of the same recording."""
        if Analyses.last[0] != self.place / utt:
            found = self._load(utt) or self._save(utt, self.anonymizer.analyze(source))
            Analyses.last = (self.place / utt, found)
        return Analyses.last[1]

    def batch(self, utts: Sequence[str], wavs: Sequence[np.ndarray]) -> list[Analysis]:
        """Of a batch of (T,) samples; if one is missing all are made, since the last bits may depend on the batch."""
        found = [self._load(utt) for utt in utts]
        if all(found):
            return found
        return [self._save(*pair) for pair in zip(utts, self.anonymizer.analyze_batch(wavs), strict=True)]

    def _load(self, utt: str) -> Analysis | None:
        """None if it is not there or damaged."""
        try:
            with np.load(self.place / f"{utt}.npz", allow_pickle=False) as arrays:
                return dict(arrays)
        except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def _save(self, utt: str, analysis: Analysis) -> Analysis:
        self.place.mkdir(parents=True, exist_ok=True)
        temporary = self.place / f"{utt}.{os.getpid()}.tmp"
        with temporary.open("wb") as stream:
            np.savez(stream, **{name: values for name, values in analysis.items() if name[0] != "_"})
        temporary.replace(self.place / f"{utt}.npz")
        return analysis

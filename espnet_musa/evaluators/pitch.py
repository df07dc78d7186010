"""How much of the intonation survives: correlation of the pitch before and after anonymization."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.audio import AudioFile
from ..errors import Problems, UserError, suggest
from ..f0 import praat
from ..f0.extract import check_tracker, extract_stream
from ..log import progress
from ..metrics.pitch import pitch_correlation
from .base import Metric, PairedEvaluator, Resources
from .per_utterance import in_order, means

if TYPE_CHECKING:
    from ..data.datadir import DataDir

TRACKERS = {
    "harvest": "WORLD harvest replaces Praat",
    "dio": "WORLD dio replaces Praat",
    "yaapt": "YAAPT replaces Praat",
    "praat": "Praat",
}
READINGS = ("vpc2022", "voiced")
HOP_MS, FLOOR, CEILING = 10.0, 75.0, 500.0  # ms, Hz, of [vpc22]


class Pitch(PairedEvaluator):
    """Mean pitch correlation over utterances, per gender, their plain mean, and over all.

    Reference: Tomashenko et al., "The VoicePrivacy 2022 Challenge evaluation plan", section 4.2: at least 0.3 is asked
    of a system. With the tracker "praat", an optional package, it is the metric of [vpc22]; by default another tracker
    replaces Praat's, at the same 10 ms and 75-500 Hz.

    Args:
        tracker: "harvest" (robust), "dio" (several times faster), "yaapt" or "praat", see `f0.extract`.
        reading: "vpc2022" or "voiced", see `metrics.pitch`.
    """

    def __init__(self, tracker: str = "harvest", reading: str = "vpc2022") -> None:
        for name, known in ((tracker, TRACKERS), (reading, READINGS)):
            if name not in known:
                raise UserError(f"unknown tracker or reading '{name}'{suggest(name, known)}")
        check_tracker(tracker, HOP_MS, FLOOR, CEILING)
        self.tracker, self.reading = tracker, reading

    def score(self, original: DataDir, anonymized: DataDir, out: Path, resources: Resources) -> list[Metric]:
        """Score one set; writes `<out>/pitch` (`utterance correlation` a line).

        Raises:
            UserError: if the two directories hold different utterances.
        """
        problems = Problems()
        for utt in sorted(set(original.utts) ^ set(anonymized.utts)):
            problems.add("only in one of the two sets", path=anonymized.path, utt=utt)
        problems.raise_if_any()
        pairs = [(original.audio_path(utt), anonymized.audio_path(utt)) for utt in original.utts]
        one = partial(correlation, tracker=self.tracker, reading=self.reading)
        values = list(
            progress(in_order(one, pairs, resources.jobs), total=len(pairs), desc=f"pitch {original.name}")
        )
        lines = [f"{utt} {value:.4f}\n" for utt, value in zip(original.utts, values, strict=True)]
        (out / "pitch").write_text("".join(lines), encoding="utf-8")
        notes = f"{TRACKERS[self.tracker]}; reading {self.reading}"
        return means("pitch_correlation", original, values, seed=resources.seed, notes=notes)


def correlation(paths: tuple[Path, Path], tracker: str, reading: str) -> float:
    """Pitch correlation of two files, in [-1, 1]."""
    return pitch_correlation(*(_pitch(path, tracker) for path in paths), reading=reading)


def _pitch(path: Path, tracker: str) -> np.ndarray:
    """(F,) Hz. Praat's frames are not moved to the grid of the other trackers: the metric takes them as they are."""
    with AudioFile(path) as source:
        if tracker == "praat":
            return praat.pitch(source.read(), source.sample_rate, HOP_MS, FLOOR, CEILING)
        return extract_stream(source, tracker=tracker, hop_ms=HOP_MS, floor=FLOOR, ceiling=CEILING)

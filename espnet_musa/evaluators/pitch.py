"""How much of the intonation survives: correlation of the pitch before and after anonymization."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.audio import AudioFile
from ..errors import Problems, UserError, suggest
from ..f0.extract import extract_stream
from ..log import progress
from ..metrics.pitch import pitch_correlation
from .base import Metric, PairedEvaluator, Resources

if TYPE_CHECKING:
    from ..data.datadir import DataDir

TRACKERS = ("harvest", "dio")
READINGS = ("vpc2022", "voiced")
FLOOR, CEILING = 75.0, 500.0  # Hz, of [vpc22]


class Pitch(PairedEvaluator):
    """Mean pitch correlation over utterances, per gender, their plain mean, and over all.

    Reference: Tomashenko et al., "The VoicePrivacy 2022 Challenge evaluation plan", section 4.2: at least 0.3 is asked
    of a system. Differs from [vpc22]: WORLD's tracker (Morise, 2016) replaces Praat's, at the same 10 ms and 75-500 Hz.

    Args:
        tracker: "harvest" (robust) or "dio" (several times faster).
        reading: "vpc2022" or "voiced", see `metrics.pitch`.
    """

    def __init__(self, tracker: str = "harvest", reading: str = "vpc2022") -> None:
        for name, known in ((tracker, TRACKERS), (reading, READINGS)):
            if name not in known:
                raise UserError(f"unknown tracker or reading '{name}'{suggest(name, known)}")
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
            progress(_map(one, pairs, resources.jobs), total=len(pairs), desc=f"pitch {original.name}")
        )
        lines = [f"{utt} {value:.4f}\n" for utt, value in zip(original.utts, values, strict=True)]
        (out / "pitch").write_text("".join(lines), encoding="utf-8")
        return self._metrics(original, np.array(values))

    def _metrics(self, data: DataDir, values: np.ndarray) -> list[Metric]:
        notes = f"WORLD {self.tracker} replaces Praat; reading {self.reading}"
        utt2spk = data.table("utt2spk")
        rows = {"all": np.ones(len(values), bool)}
        if data.has("spk2gender"):
            genders = data.table("spk2gender")
            gender = np.array([genders[utt2spk[utt]] for utt in data.utts])
            rows |= {g: gender == g for g in ("f", "m") if (gender == g).any()}
        means = {group: float(values[row].mean()) for group, row in rows.items()}
        counts = {group: int(row.sum()) for group, row in rows.items()}
        if "f" in means and "m" in means:
            means["avg"], counts["avg"] = (means["f"] + means["m"]) / 2, len(values)
        return [
            Metric(
                "pitch_correlation",
                mean,
                "",
                data.name,
                data.meta.split,
                group,
                "",
                {"utterances": counts[group]},
                notes=notes,
            )
            for group, mean in means.items()
        ]


def correlation(paths: tuple[Path, Path], tracker: str, reading: str) -> float:
    """Pitch correlation of two files, in [-1, 1]."""
    tracks = []
    for path in paths:
        with AudioFile(path) as source:
            tracks.append(extract_stream(source, tracker=tracker, floor=FLOOR, ceiling=CEILING))
    return pitch_correlation(*tracks, reading=reading)


def _map(one: partial, pairs: list[tuple[Path, Path]], jobs: int) -> Iterator[float]:
    """The correlations in order; processes are spawned, since forking a process that runs torch can hang."""
    if jobs == 1:
        yield from map(one, pairs)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one, pairs, chunksize=8)

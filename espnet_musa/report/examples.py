"""Utterances to listen to: which ones, and their original and anonymized versions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from .. import seed as seeds
from ..data.datadir import SAMPLE_RATE, DataDir
from ..f0.extract import extract

HOP = 0.010  # seconds between two values of a pitch contour
_PREFERRED = (2.0, 8.0)  # seconds: long enough to hear a voice, short enough to compare
_SHORTEST, _LONGEST = 3.0, 12.0  # seconds of a clip that does not show its whole utterance
_FACTS = {"gender": "spk2gender", "language": "utt2lang", "emotion": "utt2emo"}


@dataclass(frozen=True)
class Clip:
    """One version of an utterance.

    Attributes:
        system: who made it; the lower bound for the original.
        wav: (T,) float32, 16 kHz.
        f0: (F,) Hz each 10 ms, 0 = unvoiced.
    """

    system: str
    wav: np.ndarray
    f0: np.ndarray

    def flac(self) -> bytes:
        """The samples without loss, as every current browser plays them."""
        buffer = io.BytesIO()
        sf.write(buffer, self.wav, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        return buffer.getvalue()


@dataclass(frozen=True)
class Example:
    """An utterance: its set, id, facts ("gender" -> "f", ...), transcript ("" if unknown) and versions."""

    set: str
    utt: str
    facts: dict[str, str]
    text: str
    clips: list[Clip]
    cut: bool  # only the beginning is shown


def facts(data: DataDir, utt: str) -> dict[str, str]:
    """Gender, language and emotion, as far as the set has them."""
    speaker = data.table("utt2spk")[utt]
    found = {}
    for name, file in _FACTS.items():
        value = data.tables.get(file, {}).get(speaker if file.startswith("spk") else utt)
        if value is not None:
            found[name] = value
    return found


def choose(sets: Sequence[DataDir], count: int, seed: int) -> list[tuple[DataDir, str]]:
    """Utterances that differ as much as they can: in gender, language, emotion, then speaker and set.

    Args:
        sets: formatted sets.
        count: how many, at most.
        seed: of the recipe; decides between equals.
    """
    pool = [(data, utt) for data in sets for utt in data.utts]
    lasting = [data.tables.get("utt2dur", {}).get(utt, 0.0) for data, utt in pool]
    fitting = [one for one, d in zip(pool, lasting, strict=True) if _PREFERRED[0] <= d <= _PREFERRED[1]]
    pool = fitting or pool
    order = seeds.generator(seed, "report", "examples", "choice").permutation(len(pool))
    left = [pool[i] for i in order]
    traits = {
        (data.name, utt): {
            *facts(data, utt).items(),
            ("speaker", data.table("utt2spk")[utt]),
            ("set", data.name),
        }
        for data, utt in left
    }
    chosen: list[tuple[DataDir, str]] = []
    seen: set[tuple[str, str]] = set()
    while left and len(chosen) < count:
        data, utt = max(left, key=lambda one: len(traits[one[0].name, one[1]] - seen))  # the first of equals
        chosen.append((data, utt))
        seen |= traits[data.name, utt]
        left.remove((data, utt))
    return chosen


def load(
    chosen: Sequence[tuple[DataDir, str]], bound: str, versions: dict[str, Path], audio: float
) -> list[Example]:
    """Read the chosen utterances and their anonymized versions.

    Args:
        chosen: see `choose`.
        bound: what to call the original speech.
        versions: system -> directory of its anonymized sets.
        audio: seconds of all versions together; of 100 the page gets 2.7 MB longer.
    """
    clips = max(1, len(chosen) * (1 + len(versions)))
    limit = round(min(_LONGEST, max(_SHORTEST, audio / clips)) * SAMPLE_RATE)
    out = []
    for data, utt in chosen:
        wavs = {bound: data.load(utt)}
        for system, place in versions.items():
            wavs[system] = DataDir.read(place / data.name).load(utt)
        made = [Clip(system, wav[:limit], contour(wav[:limit])) for system, wav in wavs.items()]
        text = data.tables.get("text", {}).get(utt, "")
        cut = max(wav.size for wav in wavs.values()) > limit
        out.append(Example(data.name, utt, facts(data, utt), text, made, cut))
    return out


def contour(wav: np.ndarray) -> np.ndarray:
    """(F,) Hz each `HOP` of (T,) samples, 0 = unvoiced."""
    return extract(wav, SAMPLE_RATE, tracker="dio", hop_ms=1000 * HOP, floor=75, ceiling=500)

"""What the page shows of a recording and its anonymized version: pictures, pitch, quality, and an attacker's view."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from ..data.audio import read_audio
from ..errors import UserError
from ..evaluators.encoders import SAMPLE_RATE, Resemblyzer
from ..evaluators.mos import dnsmos
from ..report import figures
from ..report.examples import HOP, contour

HALVES = 4.0  # seconds from which a recording is long enough to compare one half of it with the other


def compare(original: Path, anonymized: Path, encoder: Resemblyzer) -> dict[str, Any]:
    """Everything about two files, ready for JSON.

    Args:
        original: 16 kHz mono WAV.
        anonymized: the same, of about the same length.
        encoder: the attacker's.

    Returns:
        `original` and `anonymized` (see `_version`) and `similarity` (see `similarity`).
    """
    before, after = read_audio(original)[0], read_audio(anonymized)[0]
    contours = contour(before), contour(after)
    seconds = max(len(before), len(after)) / SAMPLE_RATE
    return {
        "original": _version(original, before, contours[0], seconds, None),
        "anonymized": _version(anonymized, after, contours[1], seconds, contours[0]),
        "similarity": similarity(before, after, encoder),
    }


def similarity(before: np.ndarray, after: np.ndarray, encoder: Resemblyzer) -> dict[str, float | None]:
    """Cosine similarities of voices, as an attacker computes them who knows nothing of the system.

    Two halves of a recording are one voice with different words: what `same` says of the original, `crossed` says of
    the anonymized version. The halves of recordings below `HALVES` say too little.

    Args:
        before: (T,) float32, 16 kHz.
        after: (T',) anonymized.
        encoder: the attacker's.

    Returns:
        whole: the original and its anonymized version, same words.
        same: the two halves of the original; None if it is too short.
        crossed: a half of the original and the other half of the anonymized version, mean of both ways; or None.
    """
    parts = [before, after]
    if len(before) >= HALVES * SAMPLE_RATE:
        parts += [half for wav in (before, after) for half in np.array_split(wav, 2)]
    vectors = encoder.embed(parts)
    table = (vectors @ vectors.T).tolist()
    if len(parts) == 2:
        return {"whole": table[0][1], "same": None, "crossed": None}
    return {"whole": table[0][1], "same": table[2][3], "crossed": (table[2][5] + table[3][4]) / 2}


def _version(
    path: Path, wav: np.ndarray, f0: np.ndarray, seconds: float, original: np.ndarray | None
) -> dict[str, Any]:
    """One of the two: `wav` and `figure` (PNG) in base64, `f0` (median Hz, None: unvoiced) and `dnsmos` or None."""
    tone = figures.INK if original is None else figures.PALETTE[0]
    figure = figures.example(wav, SAMPLE_RATE, f0, hop=HOP, tone=tone, original=original, seconds=seconds)
    try:
        quality = dict(zip(("sig", "bak", "ovrl"), dnsmos(path, "sound").tolist(), strict=True))
    except UserError:  # a package is missing
        quality = None
    voiced = f0[f0 > 0]
    return {
        "wav": _text(path.read_bytes()),
        "figure": _text(figures.png(figure)),
        "f0": float(np.median(voiced)) if len(voiced) else None,
        "dnsmos": quality,
    }


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")

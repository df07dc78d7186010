"""Praat's pitch (Boersma, "Accurate short-term analysis of the fundamental frequency ...", IFA Proceedings 17, 1993).

By Praat itself, through the optional package praat-parselmouth; it is under the GPL, so nothing here needs it.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from ..errors import UserError


def check() -> None:
    """Refuse to go on without the package.

    Raises:
        UserError: saying how to get it.
    """
    if find_spec("parselmouth") is None:
        raise UserError(
            "the F0 tracker 'praat' needs the optional package praat-parselmouth (GPL-3.0-or-later)",
            hint="pip install 'praat-parselmouth>=0.4.5', or take the tracker harvest, dio or yaapt",
        )


def pitch(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    """Praat's "To Pitch" on a whole recording, with all its other defaults.

    Args:
        wav: (T,) samples.
        rate: Hz.
        hop_ms: distance of frames in milliseconds.
        floor: lowest F0 in Hz; three of its periods are a window.
        ceiling: highest F0 in Hz.

    Returns:
        (F,) float64 Hz, 0 = unvoiced, as many frames as whole windows fit, centred in the recording; one unvoiced frame
        if none fits.

    Raises:
        UserError: see `check`.
    """
    check()
    import parselmouth

    if wav.size < np.ceil(3 / floor * rate) + 1:
        return np.zeros(1)
    sound = parselmouth.Sound(np.asarray(wav, dtype=np.float64), sampling_frequency=rate)
    found = sound.to_pitch(time_step=hop_ms / 1000, pitch_floor=floor, pitch_ceiling=ceiling)
    return np.array(found.selected_array["frequency"])


def track(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    """`pitch` with frame k centred at k * hop_ms, (F,) Hz with F = floor(duration / hop) + 1.

    The recording is padded such that exactly these frames fit.
    """
    hop, before = hop_ms * rate / 1000, int(np.ceil(1.5 / floor * rate)) + 1
    count = int(1000 * wav.size / rate / hop_ms) + 1
    size = 2 * before + round((count - 1) * hop)
    padded = np.zeros(size)
    part = wav[: size - before]
    padded[before : before + part.size] = part
    return pitch(padded, rate, hop_ms, floor, ceiling)

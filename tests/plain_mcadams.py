"""A plain per-frame reading of VoicePrivacy 2024's B2: what `McAdams` must equal, and the baseline of its benchmark."""

from __future__ import annotations

import librosa
import numpy as np
import scipy.signal

EPS = float(np.finfo(np.float32).eps)


def plain_frame(frame: np.ndarray, coefficient: float, order: int = 20) -> np.ndarray:
    """One windowed frame (W,) through the bent all-pole filter."""
    a = librosa.lpc(frame + EPS, order=order)
    poles = np.roots(a)
    angle = np.angle(poles)
    bent = np.abs(poles) * np.exp(1j * np.sign(angle) * np.abs(angle) ** coefficient)
    new = np.poly(np.where(poles.imag == 0, poles, bent)).real
    return scipy.signal.lfilter([1.0], new, scipy.signal.lfilter(a, [1.0], frame))


def plain_mcadams(
    wav: np.ndarray, rate: int, coefficient: float, *, order: int = 20, first_frame: int = 0
) -> np.ndarray:
    """A whole waveform (T,) before its level is set: (T,) float64."""
    wav = wav.astype(np.float64) + EPS
    width, hop = int(20 * rate / 1000), int(10 * rate / 1000)
    window = np.hanning(width)
    window = np.sqrt(window / (window.sum() / hop))
    out = np.zeros(len(wav))
    for i in range(first_frame, 1 + (len(wav) - width) // hop):
        part = slice(i * hop, i * hop + width)
        out[part] += plain_frame(wav[part] * window, coefficient, order) * window
    return out


def plain_pcm(out: np.ndarray) -> np.ndarray:
    """Peak to 32766, cut to 16 bit: (T,) int16."""
    return (out / np.abs(out).max() * 32766).astype(np.int16)

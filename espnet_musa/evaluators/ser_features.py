"""What the recipe's emotion classifier hears: functionals of spectrum, energy and pitch, level and channel aside.

In the spirit of the GeMAPS set (Eyben et al., "The Geneva minimalistic acoustic parameter set", IEEE Transactions on
Affective Computing 7, 2016), but defined here: short-time contours, then statistics of each over an utterance.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from ..data.audio import read_audio
from ..f0.extract import extract

RATE = 16000
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples
_BANDS, _CEPSTRA = 26, 13
_FLOOR = 1e-4  # of the loudest frame's energy: what is 40 dB below is pause
_PERCENTILES = (10, 50, 90)


@lru_cache(maxsize=1)
def _mel_matrix() -> np.ndarray:
    """(K, bands) triangles, equally spaced in mel between 60 and 7600 Hz; K = FFT bins."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([60.0, 7600.0]) / 700)), _BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / RATE)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down))


@lru_cache(maxsize=1)
def _dct_matrix() -> np.ndarray:
    """(bands, cepstra) orthonormal DCT-II without its first column: the level goes into a contour of its own."""
    k = np.arange(1, _CEPSTRA + 1)
    return np.sqrt(2 / _BANDS) * np.cos(np.pi * np.outer(np.arange(_BANDS) + 0.5, k) / _BANDS)


def contours(wav: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Short-time contours of a waveform, a frame each 10 ms.

    Args:
        wav: (T,) float32, 16 kHz.

    Returns:
        (F, 17) spectral contours (13 cepstra, energy in dB below the loudest frame, slope, centroid, flux),
        (F,) pitch in semitones above 55 Hz with NaN where unvoiced, (F,) true where there is sound.
    """
    wav = np.asarray(wav, np.float64)
    if len(wav) < _WINDOW:
        wav = np.pad(wav, (0, _WINDOW - len(wav)))
    emphasized = np.append(wav[0], wav[1:] - 0.97 * wav[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(emphasized, _WINDOW)[::_HOP] * np.hamming(_WINDOW)
    power = np.abs(np.fft.rfft(frames, _FFT)) ** 2
    plain = np.lib.stride_tricks.sliding_window_view(wav, _WINDOW)[::_HOP]
    energy = np.mean(plain**2, axis=1)
    loudest = max(energy.max(), 1e-12)
    bands = np.log(power @ _mel_matrix() + 1e-7 * max(power.sum(axis=1).max(), 1e-12))
    bins = np.arange(power.shape[1]) * RATE / _FFT
    share = power / np.maximum(power.sum(axis=1, keepdims=True), 1e-12)
    flux = np.sqrt(np.sum(np.diff(np.sqrt(share), axis=0, prepend=np.sqrt(share[:1])) ** 2, axis=1))
    slope = np.log((power[:, bins < 1000].sum(axis=1) + 1e-12) / (power[:, bins >= 1000].sum(axis=1) + 1e-12))
    spectral = np.column_stack(
        [bands @ _dct_matrix(), 10 * np.log10(energy / loudest + _FLOOR), slope, share @ bins / 1000, flux]
    )
    f0 = extract(wav, RATE, tracker="dio", floor=60.0, ceiling=600.0)
    f0 = np.pad(f0, (0, max(0, len(spectral) - len(f0))))[: len(spectral)]
    with np.errstate(divide="ignore"):
        pitch = np.where(f0 > 0, 12 * np.log2(f0 / 55.0), np.nan)
    return spectral, pitch, energy > _FLOOR * loudest


def functionals(wav: np.ndarray) -> np.ndarray:
    """One vector of a waveform (T,) of 16 kHz, independent of its level: (250,) finite float64.

    Statistics of the spectral contours over sound and over voiced sound, of the pitch, then the pitch's range and
    trend, and the shares of voiced frames, of sound, and of changes between voiced and unvoiced.
    """
    spectral, pitch, sound = contours(wav)
    voiced = ~np.isnan(pitch)
    loud = spectral[sound] if sound.any() else spectral
    both = spectral[sound & voiced] if (sound & voiced).any() else loud
    track = pitch[voiced] if voiced.any() else np.zeros(1)
    spread = np.ptp(np.percentile(track, (5, 95)))
    time = np.arange(len(track)) - (len(track) - 1) / 2
    trend = time @ track / max(time @ time, 1.0)  # semitones a frame
    changes = np.count_nonzero(np.diff(voiced)) / len(voiced)
    rest = [spread, trend, voiced.mean(), sound.mean(), changes]
    return np.concatenate([_statistics(loud), _statistics(both), _statistics(track[:, None]), rest])


def functionals_of_file(path: Path) -> np.ndarray:
    """`functionals` of a 16 kHz mono WAV file."""
    return functionals(read_audio(path)[0])


def _statistics(x: np.ndarray) -> np.ndarray:
    """(F, D) contours -> (7 D,): mean, deviation, percentiles, mean absolute change and its deviation."""
    change = np.abs(np.diff(x, axis=0)) if len(x) > 1 else np.zeros_like(x)
    parts = [x.mean(0), x.std(0), *np.percentile(x, _PERCENTILES, axis=0), change.mean(0), change.std(0)]
    return np.concatenate(parts)

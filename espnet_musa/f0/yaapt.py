"""YAAPT, a pitch tracker that looks at spectrum and waveform and decides by dynamic programming.

S. A. Zahorian and H. Hu, "A spectral/temporal method for robust fundamental frequency tracking", JASA 123(6), 2008; the
details it leaves open are as in the Python package AMFM_decompy 1.0.12 (B. Schmitt). Steps:

1. the signal and its square are band-passed;
2. low-frequency energy (NLFER) over its mean says which frames may be voiced;
3. the spectral harmonics correlation of the square gives candidates, dynamic programming a rough track through them;
4. peaks of the cross-correlation (NCCF) of both signals near that track give candidates;
5. dynamic programming chooses among those, the rough track and "unvoiced".

Energy, mean and spread of the track are those of the whole utterance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import UserError

_BLOCK = 32  # spectra made at once: they stay in the cache of a core
_TYPICAL = 150.0  # Hz, of the rough track of an utterance with nearly no voiced frame


@dataclass(frozen=True)
class Yaapt:
    """Parameters, by the names and with the defaults of YAAPT.

    With `compat` the track is, frame for frame, that of AMFM_decompy 1.0.12. Without it five things differ:

    - frame k is centred at k * frame_space: the signal is padded, and the delay of the band-pass undone. The package's
      frame k is centred at (k * frame_space + frame_length / 2), and late by the delay (4.7 ms at 16 kHz).
    - A lag of n samples means sample_rate / n. The package takes n + 1 (20 cents low at 200 Hz and 16 kHz), and for
      the rough track the bin below the right one.
    - A frame with more than `shc_maxpeaks` spectral peaks has the best of them as candidates. The package takes it for
      unvoiced, also one with exactly as many.
    - The mean is taken off each frame by itself. The package does so in overlapping memory, and so disturbs the frames
      that follow.
    - The track does not depend on the level. The package's candidates of quiet speech are weighted otherwise.
    """

    frame_length: float = 35.0  # ms
    tda_frame_length: float = 35.0  # ms, for the cross-correlation
    frame_space: float = 10.0  # ms
    f0_min: float = 60.0  # Hz
    f0_max: float = 400.0  # Hz
    fft_length: int = 8192
    bp_forder: int = 150  # even
    bp_low: float = 50.0  # Hz
    bp_high: float = 1500.0  # Hz
    nlfer_thresh1: float = 0.75  # of the mean energy: above, a frame may be voiced
    nlfer_thresh2: float = 0.1  # below, it cannot be
    shc_numharms: int = 3  # beyond the fundamental
    shc_window: float = 40.0  # Hz
    shc_maxpeaks: int = 4
    shc_pwidth: float = 50.0  # Hz
    shc_thresh1: float = 5.0
    shc_thresh2: float = 1.25
    dp5_k1: float = 11.0
    nccf_thresh1: float = 0.3
    nccf_thresh2: float = 0.9
    nccf_maxcands: int = 3
    nccf_pwidth: int = 5
    merit_boost: float = 0.2
    merit_pivot: float = 0.99
    median_value: int = 7  # frames, odd
    dp_w1: float = 0.15
    dp_w2: float = 0.5
    dp_w3: float = 0.1
    dp_w4: float = 0.9
    spec_pitch_min_std: float = 0.05  # of the mean
    compat: bool = False


def check(rate: int, p: Yaapt) -> None:
    """Refuse a rate and a range of F0 that the spectra and frames cannot hold.

    Raises:
        UserError: saying what they can.
    """
    size = p.frame_length * rate / 1000
    if not (rate >= 8000 and 16 <= size < 2048):
        raise UserError(f"YAAPT on audio of {rate} Hz", expected="8000 to 58000 Hz")
    highest = (rate / 2 - p.shc_window) / (p.shc_numharms + 1) - 2 * p.shc_pwidth
    if not 2 * p.f0_min < p.f0_max <= highest:
        raise UserError(
            f"an F0 range of {p.f0_min:g} to {p.f0_max:g} Hz",
            expected=f"for YAAPT at {rate} Hz more than an octave, and at most {highest:g} Hz",
        )
    lag, longest = rate / p.f0_min + p.nccf_pwidth, p.tda_frame_length * rate / 1000
    if lag >= longest:
        raise UserError(
            f"a lowest F0 of {p.f0_min:g} Hz",
            expected=f"for YAAPT a period well below {p.tda_frame_length:g} ms",
        )


def track(wav: np.ndarray, rate: int, params: Yaapt | None = None) -> np.ndarray:
    """F0 of an utterance.

    Args:
        wav: (T,) samples, finite.
        rate: Hz.
        params: see `Yaapt`; None: the defaults.

    Returns:
        (F,) float64 Hz, 0 = unvoiced; F = floor(duration / frame_space) + 1, or the package's count with `compat`.

    Raises:
        UserError: see `check`.
    """
    params = params or Yaapt()
    check(rate, params)
    wav, size = np.asarray(wav, dtype=np.float64), _samples(params.frame_length, rate)
    if params.compat:
        hop = _samples(params.frame_space, rate)
        starts = np.arange(0, wav.size - 2 * (size // 2), hop)
    else:
        peak = np.abs(wav).max(initial=0.0)
        wav = wav / peak if peak > 0 else wav
        count = int(1000 * wav.size / rate / params.frame_space) + 1
        starts = (np.arange(count) * (params.frame_space * rate / 1000)).astype(np.int64)
        before = size // 2 - params.bp_forder // 2
        wav = np.pad(wav, (before, size))
    if not starts.size or not wav.any():
        return np.zeros(starts.size)
    return _Utterance(wav, starts, rate, params).track()


def _samples(ms: float, rate: int) -> int:
    return int(ms * rate / 1000)


@lru_cache(maxsize=8)
def _tables(rate: int, p: Yaapt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Band-pass (bp_forder + 1,), real and imaginary part of NLFER's windowed DFT (L, bins each)."""
    from scipy.signal import firwin
    from scipy.signal.windows import hann

    bandpass = firwin(p.bp_forder + 1, [p.bp_low / (rate / 2), p.bp_high / (rate / 2)], pass_zero=False)
    size = _samples(p.frame_length, rate)
    low, high = (int(np.around(f / rate * p.fft_length)) for f in (2 * p.f0_min, p.f0_max))
    angle = 2 * np.pi / p.fft_length * np.outer(np.arange(size), np.arange(low - 1, high))
    window = hann(size + 2)[1:-1, None]
    return bandpass, window * np.cos(angle), window * np.sin(angle)


class _Utterance:
    """The steps of the tracker on one signal; a frame starts at each of `starts`.

    Attributes:
        linear, squared: (T,) band-passed signal and square, with zeros up to the end of the last frame.
        energy: (F,) over its mean.
        active: (F,) bool, frames that may be voiced.
    """

    def __init__(self, wav: np.ndarray, starts: np.ndarray, rate: int, params: Yaapt) -> None:
        from scipy.signal import lfilter

        self.rate, self.params, self.starts = rate, params, starts
        self.size = _samples(params.frame_length, rate)
        bandpass, cosine, sine = _tables(rate, params)
        end = np.zeros(max(0, int(starts[-1]) + 2 * self.size - wav.size))
        self.linear, self.squared = (np.append(lfilter(bandpass, 1.0, x), end) for x in (wav, wav**2))
        windows, energy = sliding_window_view(self.linear, self.size), np.empty(starts.size)
        for first in range(0, starts.size, _BLOCK):
            frames = windows[starts[first : first + _BLOCK]]
            energy[first : first + _BLOCK] = np.hypot(frames @ cosine, frames @ sine).sum(axis=1)
        mean = energy.mean()
        self.energy = energy / mean if mean > 0 else energy
        self.active = self.energy > params.nlfer_thresh1

    def track(self) -> np.ndarray:
        """(F,) Hz, 0 = unvoiced."""
        spectral, spread = self._spectral_track()
        candidates = [self._temporal_candidates(x, spectral, spread) for x in (self.linear, self.squared)]
        pitch, merit = (np.concatenate(both, axis=1) for both in zip(*candidates, strict=True))
        return self._decide(pitch, merit, spectral)

    def _spectral_candidates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices (V,) of frames with spectral candidates, their Hz and merits (V, shc_maxpeaks)."""
        from scipy.fft import rfft
        from scipy.signal.windows import kaiser

        from .yaapt_kernels import harmonic_peaks

        p, delta = self.params, self.rate / self.params.fft_length
        half_window, highest = int(p.shc_window / delta) // 2, int((p.f0_max + 2 * p.shc_pwidth) / delta)
        half_width = -(-(int(p.shc_pwidth / delta) // 2 * 2 + 1) // 2)
        low, high = int(p.f0_min / delta - half_width), int(p.f0_max / delta + half_width)
        harmonics, shift = p.shc_numharms + 1, int(p.compat)
        window, active = kaiser(2 * self.size, 0.5), np.flatnonzero(self.active)
        windows = sliding_window_view(self.squared, 2 * self.size)
        pieces = []
        for first in range(0, max(1, active.size), _BLOCK):
            frames = windows[self.starts[active[first : first + _BLOCK]]] * window
            frames -= frames.mean(axis=1, keepdims=True)
            spectra = rfft(frames, p.fft_length)[:, : harmonics * highest + half_window + 1]
            found = harmonic_peaks(
                np.abs(spectra), int(np.ceil(p.f0_min / delta)), highest, half_window, harmonics, half_width,
                (low + shift, high + shift), (p.shc_thresh1, p.shc_thresh2), p.shc_maxpeaks,
            )  # fmt: skip
            pieces.append(found)
        bins, merit, count = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        kept = (count > 0) & (count < p.shc_maxpeaks) if p.compat else count > 0
        bins, merit, count = bins[kept], merit[kept], count[kept]
        empty = np.arange(p.shc_maxpeaks) >= count[:, None]
        bins, merit = np.where(empty, bins[:, :1], bins), np.where(empty, merit[:, :1], merit)
        return active[kept], (bins - shift) * delta, merit

    def _spectral_track(self) -> tuple[np.ndarray, float]:
        """The rough track (F,) Hz, unvoiced frames interpolated, and its standard deviation."""
        from scipy.interpolate import PchipInterpolator
        from scipy.ndimage import median_filter
        from scipy.signal import lfilter

        from .yaapt_kernels import smooth_path

        p, count = self.params, self.starts.size
        voiced, pitch, merit = self._spectral_candidates()
        chosen = np.full(max(1, voiced.size), _TYPICAL)
        if voiced.size > 2:
            rows, width = np.arange(voiced.size), max(1, p.median_value - 2)
            mean, spread = pitch[:, 0].mean(), pitch[:, 0].std()
            middle = (np.abs(pitch - 0.8 * mean) * (3 - merit)).argmin(axis=1)
            pitch[rows, middle] = median_filter(pitch[rows, middle], width, mode="constant")
            path = smooth_path(pitch, merit, p.dp5_k1 * spread / mean, p.f0_min)
            chosen = median_filter(pitch[rows, path], width, mode="constant")
        mean = chosen.mean()
        spread = max(chosen.std(), p.spec_pitch_min_std * mean)
        rough = np.zeros(count)
        rough[voiced] = chosen[: voiced.size]
        for end in (0, -1):
            if rough[end] < mean / 2:
                rough[end] = mean
        if count < 4:
            return np.where(rough > 0, rough, mean), spread
        known = np.flatnonzero(rough)
        rough = lfilter(np.full(3, 1 / 3), 1.0, PchipInterpolator(known, rough[known])(np.arange(count)))
        rough[:2] = rough[2:4]
        return rough, spread

    def _means(self, wav: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
        """What frames lose: column d (F, S) is taken off the first `size - d * hop` samples.

        One column, their mean; as the package does it, with frames that overlap in memory, more: frame k loses the mean
        of what the frames before have left of it, and each of them its own where they overlap: a recursive filter.
        """
        from scipy.signal import lfilter

        running = np.concatenate([[0.0], np.cumsum(wav)])
        mean = (running[starts + size] - running[starts]) / size
        if not self.params.compat or starts.size < 2:
            return mean[:, None]
        shared = np.arange(size, 0, starts[0] - starts[1]) / size
        mean = lfilter([1.0], shared, mean)
        return np.stack([np.pad(mean, (d, 0))[: mean.size] for d in range(shared.size)], axis=1)

    def _temporal_candidates(
        self, wav: np.ndarray, spectral: np.ndarray, spread: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hz and merit (F, nccf_maxcands) of correlation peaks within two `spread` of the rough track, 0 if none."""
        from scipy.fft import irfft, next_fast_len, rfft
        from scipy.ndimage import maximum_filter1d

        from .yaapt_kernels import correlation_peaks

        p, size = self.params, _samples(self.params.tda_frame_length, self.rate)
        starts = self.starts if p.compat else self.starts + (self.size - size) // 2
        low, high = np.maximum(spectral - 2 * spread, p.f0_min), np.minimum(spectral + 2 * spread, p.f0_max)
        lags = np.stack([self.rate / high, self.rate / low], axis=1).astype(np.int64)
        lags += [-(p.nccf_pwidth // 2), p.nccf_pwidth // 2]
        # silent frames out of the reach of the median have no say
        near = maximum_filter1d(self.active.view(np.uint8), p.median_value) > 0
        heard = np.flatnonzero(near | (self.energy > p.nlfer_thresh2))
        lag, merit = np.zeros((2, starts.size, p.nccf_maxcands))
        windows, means = sliding_window_view(wav, size), self._means(wav, starts, size)
        hop = int(np.diff(starts[:2]).sum())
        padded = next_fast_len(size, real=True)
        for first in range(0, heard.size, _BLOCK):
            which = heard[first : first + _BLOCK]
            frames = windows[starts[which]]
            for d in range(means.shape[1]):
                frames[:, : size - d * hop] -= means[which, d, None]
            part = np.where(np.arange(size) < size - lags[which, 1:], frames, 0.0)
            products = irfft(rfft(frames, padded) * rfft(part, padded).conj(), padded)
            lag[which], merit[which] = correlation_peaks(
                products, frames, lags[which], p.nccf_pwidth // 2, (p.nccf_thresh1, p.nccf_thresh2), p.nccf_maxcands
            )  # fmt: skip
        lag += p.compat
        pitch = np.where(merit > 0, self.rate / np.maximum(lag, 1), 0.0)
        nearness = np.maximum(0, 1 - np.abs(pitch - spectral[:, None]) / (5 * spread))
        return pitch, (1 + p.merit_boost) * merit * nearness

    def _decide(self, pitch: np.ndarray, merit: np.ndarray, spectral: np.ndarray) -> np.ndarray:
        """The track (F,) from candidates (F, K), by `refine` and `dynamic` of the package."""
        from scipy.ndimage import median_filter

        from .yaapt_kernels import voicing_path

        p, energy = self.params, self.energy
        order = np.argsort(-merit, axis=1, kind="stable")
        pitch, merit = np.take_along_axis(pitch, order, 1), np.take_along_axis(merit, order, 1)
        middle = median_filter(pitch[:, 0], p.median_value, mode="constant") * self.active
        if not middle.any():
            return np.zeros(energy.size)
        best, loudness = merit[:, 0].copy(), np.minimum(1, energy / 2)
        silent, found = energy <= p.nlfer_thresh2, pitch[:, 0] > 0
        pitch[silent], merit[silent] = 0.0, p.merit_pivot
        merit[:, 1:-1][(~silent & found)[:, None] & (pitch[:, 1:-1] == 0)] = 0.0
        pitch[~silent & found, -1], merit[~silent & found, -1] = 0.0, 1 - best[~silent & found]
        guess = ~silent & ~found
        pitch[guess, 0], pitch[guess, 1:] = spectral[guess], 0.0
        merit[guess, 0], merit[guess, 1:] = loudness[guess], 1 - loudness[guess, None]
        pitch[:, -2], merit[:, -2] = middle, np.where(middle > 0, merit[:, 0], 1 - loudness)
        pitch[:, -3], merit[:, -3] = spectral, energy / 5
        weights = (p.dp_w1, p.dp_w2, p.dp_w3, p.dp_w4)
        path = voicing_path(pitch, merit, energy, middle[middle > 0].mean(), weights)
        return pitch[np.arange(energy.size), path]

"""The loops of YAAPT whose bounds differ from frame to frame, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

_exact = njit(cache=True, nogil=True, error_model="numpy")  # paths: many tie but for the order of a sum
_compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _keep_best(pitch: np.ndarray, merit: np.ndarray, found: int, value: float, score: float) -> None:
    """Insert a candidate into lists (K,) sorted by falling merit, of which `found` were offered before."""
    at = min(found, merit.size)
    while at > 0 and merit[at - 1] < score:
        at -= 1
    for k in range(merit.size - 1, at, -1):
        pitch[k], merit[k] = pitch[k - 1], merit[k - 1]
    if at < merit.size:
        pitch[at], merit[at] = value, score


@_compiled
def harmonic_peaks(
    magnitude: np.ndarray,
    lowest: int,
    highest: int,
    half_window: int,
    harmonics: int,
    half_width: int,
    search: tuple[int, int],
    thresholds: tuple[float, float],
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Peaks of the spectral harmonics correlation of each frame (Zahorian & Hu 2008, equation 4).

    Args:
        magnitude: (F, N) of spectra; N > harmonics * highest + half_window.
        lowest: first bin to correlate; smaller ones count as 0. `half_window` <= it.
        highest: last bin to correlate.
        half_window: bins to both sides over which products are summed.
        harmonics: spectra that are multiplied, at one to so many times a bin.
        half_width: bins to both sides that a peak must exceed.
        search: first and last bin of the range over which the function is scaled and averaged; peaks lie more than
            `half_width` inside.
        thresholds: a frame whose best peak is below the first times the mean (or whose mean exceeds one by it) has no
            candidates; peaks below the second times the mean are none.
        most: K, candidates that are kept.

    Returns:
        bins (F, K) and merits (F, K) in [0, 1], the best first, 0 where there are fewer, and the number found (F,).
    """
    frames = magnitude.shape[0]
    bins, merits = np.zeros((frames, most)), np.zeros((frames, most))
    counts = np.zeros(frames, np.int64)
    for f in range(frames):
        row, shc = magnitude[f], np.zeros(highest + 1)
        for k in range(lowest, highest + 1):
            total = 0.0
            for d in range(-half_window, half_window + 1):
                product = row[k + d]
                for r in range(2, harmonics + 1):
                    product *= row[r * k + d]
                total += product
            shc[k] = total
        scale = shc[search[0] : search[1] + 1].max()
        if scale > 1e-14:
            shc /= scale
        mean = shc[search[0] : search[1] + 1].mean()
        if not 0 < mean <= 1 / thresholds[0]:
            continue
        for k in range(search[0] + half_width + 1, search[1] - half_width + 1):
            if shc[k] > thresholds[1] * mean and shc[k - 1] < shc[k] > shc[k + 1]:
                if shc[k - half_width : k].max() < shc[k] >= shc[k + 1 : k + half_width + 1].max():
                    _keep_best(bins[f], merits[f], counts[f], k, shc[k])
                    counts[f] += 1
        if merits[f, 0] < thresholds[0] * mean:
            bins[f], merits[f], counts[f] = 0.0, 0.0, 0
    return bins, merits, counts


@_compiled
def correlation_peaks(
    products: np.ndarray,
    frames: np.ndarray,
    lags: np.ndarray,
    half_width: int,
    thresholds: tuple[float, float],
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of the normalised cross-correlation of each frame with itself (Talkin's RAPT, 1995).

    Args:
        products: (F, N) of the first L - last lag samples of a frame with those `n` samples later.
        frames: (F, L) samples.
        lags: (F, 2) first lag of each frame, more than 0, and its last, below L.
        half_width: lags to both sides that a peak must exceed.
        thresholds: least value of a peak; value above which only the highest peak counts.
        most: K, candidates that are kept.

    Returns:
        lags (F, K) and values (F, K), the highest first, 0 where there are fewer.
    """
    count, size = frames.shape
    found, values = np.zeros((count, most)), np.zeros((count, most))
    phi = np.zeros(size + 1)
    for f in range(count):
        low, high = lags[f]
        x, span = frames[f], size - high
        fixed = np.sum(x[:span] ** 2)
        moving = np.sum(x[low : low + span] ** 2)
        phi[low - 1] = phi[high] = 0.0
        largest = 0.0
        for lag in range(low, high):
            phi[lag] = products[f, lag] / np.sqrt(moving * fixed) if moving * fixed > 0 else 0.0
            largest = max(largest, phi[lag])
            moving += x[lag + span] ** 2 - x[lag] ** 2
        offered, alone = 0, largest > thresholds[1]
        for lag in range(low + half_width, high - half_width + 1):
            if phi[lag] > thresholds[0] and phi[lag - 1] < phi[lag] > phi[lag + 1]:
                before = phi[lag - half_width : lag].max()
                after = phi[lag + 1 : lag + half_width + 1].max()
                if alone or before < phi[lag] >= after:
                    _keep_best(found[f], values[f], offered, lag, phi[lag])
                    offered += 1
        if alone:
            found[f, 1:] = values[f, 1:] = 0.0
    return found, values


@_exact
def _path(local: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """(F,) choices that end in the cheapest state; `previous` (F, K) is the best predecessor of each."""
    frames = previous.shape[0]
    path = np.zeros(frames, np.int64)
    for k in range(local.size):
        if local[k] <= local[path[-1]]:
            path[-1] = k
    for f in range(frames - 1, 0, -1):
        path[f - 1] = previous[f, path[f]]
    return path


@_exact
def smooth_path(pitch: np.ndarray, merit: np.ndarray, weight: float, unit: float) -> np.ndarray:
    """Choose of (F, K) candidates with merits those of a likely and smooth track.

    The cost of a step d = |change| / unit is weight * (0.05 d + d^2), that of a candidate 1 - merit. Equal costs: the
    last candidate.

    Returns:
        (F,) index into the candidates.
    """
    frames, count = pitch.shape
    cost, last = np.zeros(count), 1 - merit[0]
    previous = np.zeros((frames, count), np.int64)
    for f in range(1, frames):
        for k in range(count):
            best = np.inf
            for j in range(count):
                step = abs(pitch[f, k] - pitch[f - 1, j]) / unit
                total = last[j] + weight * (0.05 * step + step * step)
                if total <= best:
                    best, previous[f, k] = total, j
            cost[k] = best + (1 - merit[f, k])
        last[:] = cost
    return _path(last, previous)


@_exact
def voicing_path(
    pitch: np.ndarray,
    merit: np.ndarray,
    energy: np.ndarray,
    mean: float,
    weights: tuple[float, float, float, float],
) -> np.ndarray:
    """Choose of (F, K) candidates, 0 = unvoiced, those of the cheapest path; energy (F,) of the frames.

    Steps between voiced candidates cost weights[0] * |change| / mean; between voiced and unvoiced weights[1] * (1 -
    change of energy, at most 1); between unvoiced weights[2]; all over weights[3]. Equal costs: the last candidate.

    Returns:
        (F,) index into the candidates.
    """
    frames, count = pitch.shape
    cost, last = np.zeros(count), 1 - merit[0]
    previous = np.zeros((frames, count), np.int64)
    for f in range(1, frames):
        onset = weights[1] * (1 - min(1.0, abs(energy[f] - energy[f - 1])))
        for k in range(count):
            best, to = np.inf, pitch[f, k]
            for j in range(count):
                start = pitch[f - 1, j]
                if to > 0 and start > 0:
                    step = weights[0] * (abs(to - start) / mean)
                else:
                    step = onset if to > 0 or start > 0 else weights[2]
                total = last[j] + step / weights[3]
                if total <= best:
                    best, previous[f, k] = total, j
            cost[k] = best + (1 - merit[f, k])
        last[:] = cost
    return _path(last, previous)

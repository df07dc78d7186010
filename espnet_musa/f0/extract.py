"""Fundamental frequency of speech by the trackers of WORLD, in memory that does not grow with the recording.

Audio is tracked in chunks of 30 s, each with 1 s of context on both sides that is thrown away. The grid of chunks is
part of the definition: a recording gives the same track from memory, from a file, and however it is asked for.
"""

from __future__ import annotations

import warnings

import numpy as np

from ..data.audio import ArraySource, AudioFile
from ..errors import UserError, suggest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources only to read its own version
    import pyworld

CHUNK = 30  # seconds
_CONTEXT = 1  # seconds


def _harvest(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    return pyworld.harvest(wav, rate, f0_floor=floor, f0_ceil=ceiling, frame_period=hop_ms)[0]


def _dio(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    raw, time = pyworld.dio(wav, rate, f0_floor=floor, f0_ceil=ceiling, frame_period=hop_ms)
    return pyworld.stonemask(wav, raw, time, rate)


_TRACKERS = {"harvest": _harvest, "dio": _dio}


def check_tracker(tracker: str, hop_ms: float, floor: float, ceiling: float) -> None:
    """Refuse settings that no recording could be tracked with.

    Raises:
        UserError: for an unknown tracker, a hop that does not divide 1 s, or not 40 <= floor < ceiling <= 2000 Hz.
    """
    if tracker not in _TRACKERS:
        raise UserError(f"unknown F0 tracker '{tracker}'{suggest(tracker, _TRACKERS)}")
    if not 1 <= hop_ms <= 100 or (1000 / hop_ms) % 1:
        raise UserError(
            f"an F0 hop of {hop_ms} ms", expected="1 to 100 ms, a whole number of hops in a second"
        )
    if not 40 <= floor < ceiling <= 2000:
        raise UserError(f"an F0 range of {floor} to {ceiling} Hz", expected="40 <= floor < ceiling <= 2000")


def extract_stream(
    source: AudioFile | ArraySource,
    *,
    tracker: str = "harvest",
    hop_ms: float = 10.0,
    floor: float = 71.0,
    ceiling: float = 800.0,
) -> np.ndarray:
    """F0 of a recording of any length; holds 32 s of audio at a time.

    Args:
        source: anything with `frames`, `sample_rate` and `read(start, stop)`.
        tracker: "harvest" (Morise, Interspeech 2017; robust, a tenth of real time) or "dio" (Morise et al., AES 35th
            conference, 2009, refined by StoneMask; forty times faster, more voicing errors).
        hop_ms: distance of frames in milliseconds.
        floor: lowest F0 in Hz (default of WORLD).
        ceiling: highest F0 in Hz (default of WORLD).

    Returns:
        (F,) float64 Hz, 0 = unvoiced; frame k is centred at k * hop_ms, F = floor(duration / hop) + 1.

    Raises:
        UserError: for no samples, samples that are not finite, or wrong settings (`check_tracker`).
    """
    check_tracker(tracker, hop_ms, floor, ceiling)
    if source.frames == 0:
        raise UserError("no samples to find an F0 in", expected="at least one")
    rate, per_second = source.sample_rate, round(1000 / hop_ms)
    total = int(1000 * source.frames / rate / hop_ms) + 1
    tracks = []
    for first in range(0, total, CHUNK * per_second):
        second = first // per_second
        start = max(0, second - _CONTEXT)
        wav = source.read(start * rate, min(source.frames, (second + CHUNK + _CONTEXT) * rate))
        if not np.isfinite(wav).all():
            raise UserError("a sample is NaN or infinite", expected="finite samples")
        f0 = _TRACKERS[tracker](wav.astype(np.float64), rate, hop_ms, floor, ceiling)
        skip = (second - start) * per_second
        tracks.append(f0[skip : skip + min(CHUNK * per_second, total - first)])
    return np.concatenate(tracks)


def extract(
    wav: np.ndarray,
    sample_rate: int,
    *,
    tracker: str = "harvest",
    hop_ms: float = 10.0,
    floor: float = 71.0,
    ceiling: float = 800.0,
) -> np.ndarray:
    """F0 of a waveform (T,) in memory; see `extract_stream`."""
    source = ArraySource(np.asarray(wav), sample_rate)
    return extract_stream(source, tracker=tracker, hop_ms=hop_ms, floor=floor, ceiling=ceiling)

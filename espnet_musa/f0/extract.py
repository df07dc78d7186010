"""Fundamental frequency of speech by several trackers, in memory that does not grow with the recording.

- "harvest": WORLD's (Morise, Interspeech 2017; robust, a tenth of real time).
- "dio": WORLD's older one (Morise et al., AES 35th conference, 2009), refined by StoneMask; forty times faster, more
  voicing errors.
- "yaapt": Zahorian & Hu, JASA 123(6), 2008, see `f0.yaapt`; what B1, B5 and B6 of VoicePrivacy use; about as fast as
  dio.
- "praat": Boersma, IFA Proceedings 17, 1993, by Praat itself; needs the optional package of `f0.praat`.

Audio is tracked in chunks with context on both sides that is thrown away: for WORLD 30 s and 1 s. YAAPT and Praat weigh
frames by means and peaks of what they get, so they get 120 s with 15 s: shorter recordings are tracked as a whole, and
no chunk has less than 15 s to judge by. The grid of chunks is part of the definition: a recording gives the same track
from memory, from a file, alone or in a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from ..data.audio import ArraySource, AudioFile
from ..errors import UserError, suggest
from . import praat, yaapt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources only to read its own version
    import pyworld

CHUNK = 30  # seconds
_CONTEXT = 1  # seconds
UTTERANCE = 120  # seconds, the chunk of trackers that use means of the utterance,
_SURROUNDINGS = 15  # and its context


def _harvest(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    return pyworld.harvest(wav, rate, f0_floor=floor, f0_ceil=ceiling, frame_period=hop_ms)[0]


def _dio(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    raw, time = pyworld.dio(wav, rate, f0_floor=floor, f0_ceil=ceiling, frame_period=hop_ms)
    return pyworld.stonemask(wav, raw, time, rate)


def _yaapt(wav: np.ndarray, rate: int, hop_ms: float, floor: float, ceiling: float) -> np.ndarray:
    return yaapt.track(wav, rate, yaapt.Yaapt(frame_space=hop_ms, f0_min=floor, f0_max=ceiling))


_TRACKERS: dict[str, Callable[..., np.ndarray]] = {
    "harvest": _harvest,
    "dio": _dio,
    "yaapt": _yaapt,
    "praat": praat.track,
}
_OF_UTTERANCE = ("yaapt", "praat")


def check_tracker(tracker: str, hop_ms: float, floor: float, ceiling: float, rate: int = 16000) -> None:
    """Refuse settings that no recording could be tracked with.

    Raises:
        UserError: for an unknown tracker or one that is not installed, a hop that does not divide 1 s, a range not
            within 40 to 2000 Hz, or one too narrow or high for YAAPT.
    """
    if tracker not in _TRACKERS:
        raise UserError(f"unknown F0 tracker '{tracker}'{suggest(tracker, _TRACKERS)}")
    if not 1 <= hop_ms <= 100 or (1000 / hop_ms) % 1:
        raise UserError(
            f"an F0 hop of {hop_ms} ms", expected="1 to 100 ms, a whole number of hops in a second"
        )
    if not 40 <= floor < ceiling <= 2000:
        raise UserError(f"an F0 range of {floor} to {ceiling} Hz", expected="40 <= floor < ceiling <= 2000")
    if tracker == "praat":
        praat.check()
    if tracker == "yaapt":
        yaapt.check(rate, yaapt.Yaapt(f0_min=floor, f0_max=ceiling))


def extract_stream(
    source: AudioFile | ArraySource,
    *,
    tracker: str = "harvest",
    hop_ms: float = 10.0,
    floor: float = 71.0,
    ceiling: float = 800.0,
) -> np.ndarray:
    """F0 of a recording of any length; holds a chunk at a time.

    Args:
        source: anything with `frames`, `sample_rate` and `read(start, stop)`.
        tracker: "harvest", "dio", "yaapt" or "praat", see above.
        hop_ms: distance of frames in milliseconds.
        floor: lowest F0 in Hz (default of WORLD; YAAPT's own is 60).
        ceiling: highest F0 in Hz (default of WORLD; YAAPT's own is 400).

    Returns:
        (F,) float64 Hz, 0 = unvoiced; frame k is centred at k * hop_ms, F = floor(duration / hop) + 1.

    Raises:
        UserError: for no samples, samples that are not finite, or wrong settings (`check_tracker`).
    """
    check_tracker(tracker, hop_ms, floor, ceiling, source.sample_rate)
    if source.frames == 0:
        raise UserError("no samples to find an F0 in", expected="at least one")
    chunk, context = (UTTERANCE, _SURROUNDINGS) if tracker in _OF_UTTERANCE else (CHUNK, _CONTEXT)
    rate, per_second = source.sample_rate, round(1000 / hop_ms)
    total = int(1000 * source.frames / rate / hop_ms) + 1
    tracks = []
    for first in range(0, total, chunk * per_second):
        second = first // per_second
        start = max(0, second - context)
        wav = source.read(start * rate, min(source.frames, (second + chunk + context) * rate))
        if not np.isfinite(wav).all():
            raise UserError("a sample is NaN or infinite", expected="finite samples")
        f0 = _TRACKERS[tracker](wav.astype(np.float64), rate, hop_ms, floor, ceiling)
        skip = (second - start) * per_second
        tracks.append(f0[skip : skip + min(chunk * per_second, total - first)])
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


def extract_batch(
    wavs: Sequence[np.ndarray],
    sample_rate: int,
    *,
    tracker: str = "harvest",
    hop_ms: float = 10.0,
    floor: float = 71.0,
    ceiling: float = 800.0,
) -> list[np.ndarray]:
    """F0 of many waveforms (T_i,), each exactly as `extract` gives it.

    One after the other: the frames of a single utterance fill a core already (an utterance of half a second takes no
    more time a second than one of ten), and padding to a common length would cost more than it saves.

    Raises:
        UserError: see `extract_stream`.
    """
    settings = {"tracker": tracker, "hop_ms": hop_ms, "floor": floor, "ceiling": ceiling}
    return [extract(wav, sample_rate, **settings) for wav in wavs]

"""Correlation of two pitch tracks: how much of the intonation an anonymizer keeps."""

from __future__ import annotations

import numpy as np

from ..errors import UserError, suggest

_FLOOR, _CEILING = 75.0, 500.0  # Hz, of VoicePrivacy 2022


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two (F,) tracks; 0 where it is undefined (fewer than 2 frames, or a constant track)."""
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def _vpc2022(a: np.ndarray, b: np.ndarray) -> float:
    """VoicePrivacy 2022: any lag, circular shift, unvoiced zeros included."""
    from scipy.signal import correlate  # takes seconds to import: only who correlates waits for it

    n = max(a.size, b.size)
    # the first and last frames of both tracks are put on each other
    a, b = (
        np.interp(np.linspace(0, x.size - 1, n), np.arange(x.size), x) if x.size < n else x for x in (a, b)
    )
    a, b = (np.where((x < _FLOOR) | (x > _CEILING), 0.0, x) for x in (a, b))
    lag = int(np.argmax(correlate(a, b, mode="full"))) - (n - 1)
    return _pearson(a, np.roll(b, lag))


def _shifted(a: np.ndarray, b: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The frames that overlap when b is moved `lag` frames later."""
    n = a.size
    return a[max(lag, 0) : n + min(lag, 0)], b[max(-lag, 0) : n - max(lag, 0)]


def _voiced(a: np.ndarray, b: np.ndarray, max_lag: int) -> float:
    """Frames voiced in both tracks, after a shift of at most `max_lag` frames."""
    n = max(a.size, b.size)
    # nearest frame: interpolating between voiced and unvoiced frames would invent pitches
    a, b = (x if x.size == n else x[np.linspace(0, x.size - 1, n).round().astype(int)] for x in (a, b))
    reach = min(max_lag, n - 1)
    lags = sorted(range(-reach, reach + 1), key=abs)  # of equally good lags the smallest
    best = max(lags, key=lambda lag: np.dot(*_shifted(a, b, lag)))
    a, b = _shifted(a, b, best)
    both = (a > 0) & (b > 0)
    return _pearson(a[both], b[both])


def pitch_correlation(
    f0_a: np.ndarray, f0_b: np.ndarray, reading: str = "vpc2022", max_lag: int = 10
) -> float:
    """Correlation of the pitch of an utterance before and after anonymization.

    The reading "vpc2022" is the secondary metric of VoicePrivacy 2022 (evaluation plan, section 4.2): the shorter track
    is stretched linearly to the frames of the longer one, values outside 75-500 Hz become 0, the second track is
    rolled circularly by the lag of the largest cross-correlation (no bound), and Pearson's correlation is taken over
    all frames, the zeros of unvoiced ones included. Its value is therefore mostly the agreement of voicing.

    The reading "voiced" is about intonation: lag within `max_lag` frames, no wrap-around, and only frames voiced in
    both tracks.

    Args:
        f0_a: (F,) Hz of the original, one frame each 10 ms, 0 = unvoiced.
        f0_b: (F',) Hz of the anonymized speech.
        reading: "vpc2022" (default) or "voiced".
        max_lag: frames, for "voiced".

    Returns:
        a correlation in [-1, 1]; 0 by convention where it is undefined: a constant track (silence, monotone speech) or,
        for "voiced", fewer than two frames voiced in both.

    Raises:
        UserError: for an empty track, a value that is not finite or negative, or an unknown reading.
    """
    tracks = [np.asarray(x, dtype=np.float64) for x in (f0_a, f0_b)]
    for name, track in zip(("first", "second"), tracks, strict=True):
        if track.ndim != 1 or not track.size or not np.isfinite(track).all() or (track < 0).any():
            raise UserError(
                f"the {name} pitch track is no pitch track", expected="(F,) finite Hz, 0 = unvoiced"
            )
    if reading == "vpc2022":
        return _vpc2022(*tracks)
    if reading == "voiced":
        return _voiced(*tracks, max_lag)
    raise UserError(f"unknown reading '{reading}'{suggest(reading, ('vpc2022', 'voiced'))}")

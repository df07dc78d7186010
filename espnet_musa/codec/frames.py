"""Frames of 20 ms: what codes and F0 of a recording have in common. No torch here."""

from __future__ import annotations

import numpy as np

HOP = 320  # samples from frame to frame
HOP_MS = 20.0


def frames_of(samples: int) -> int:
    """Frames of a recording: those of 320 samples that it begins."""
    return -(-samples // HOP)


def fit_frames(codes: np.ndarray, frames: int) -> np.ndarray:
    """Codes (F',) as (frames,): the last one repeated, or those behind cut off.

    An acoustic model may leave out frames at the end that are not all there.
    """
    return np.pad(codes[:frames], (0, max(0, frames - len(codes))), mode="edge")

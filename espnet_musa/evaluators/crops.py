"""What a training of speaker models sees: stretches of features, a held-out part, random crops.

[vpc24] is the VoicePrivacy Challenge 2024; where its protocol differs from ours, see `ecapa_train`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

QUIET = 5e-4  # mean absolute amplitude below which [vpc24] drops a crop


@dataclass(frozen=True)
class Segments:
    """Stretches of the feature file with their speakers: (N,) arrays each, `start` and `frames` in frames.

    `draws` says how many crops an epoch takes of each.
    """

    start: np.ndarray
    frames: np.ndarray
    speaker: np.ndarray
    draws: np.ndarray

    def take(self, rows: np.ndarray) -> Segments:
        """The segments of these indices, in their order."""
        return Segments(self.start[rows], self.frames[rows], self.speaker[rows], self.draws[rows])


def split(whole: Segments, share: float, crop: int, rng: np.random.Generator) -> tuple[Segments, Segments]:
    """Protocol sound: hold out utterances at random, never a speaker's last; speakers are in both parts, as in [vpc24].

    Where that leaves nothing to hold out (one utterance a speaker), the end of every utterance is held out instead: a
    crop or `share` of it, whichever is longer, but never more than half.

    Returns:
        training and held-out segments; no frame is in both.
    """
    wanted = max(1, round(share * len(whole.start)))
    left = Counter(whole.speaker.tolist())
    held = np.zeros(len(whole.start), bool)
    for row in rng.permutation(len(whole.start)):
        if held.sum() == wanted:
            break
        if left[whole.speaker[row]] > 1:
            left[whole.speaker[row]] -= 1
            held[row] = True
    if held.any():
        return whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
    tail = np.minimum(whole.frames // 2, np.maximum(crop, np.round(share * whole.frames).astype(int)))
    body = whole.frames - tail
    draws = np.maximum(1, body // crop)
    training = Segments(whole.start, body, whole.speaker, draws)
    return training, Segments(whole.start + body, tail, whole.speaker, np.ones_like(draws))


def cut(whole: Segments, share: float, rng: np.random.Generator) -> tuple[Segments, Segments]:
    """Protocol vpc2024: shuffle the utterances and hold out the end of the list, whosever they are."""
    order = rng.permutation(len(whole.start))
    kept = int((1 - share) * len(order))
    return whole.take(order[:kept]), whole.take(order[kept:])


def crops(
    features: np.ndarray, segments: Segments, length: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One random crop of each segment, repeating the shorter ones.

    Returns:
        (B, length, mel_bands) float16 log-mel features and (B,) speaker indices.
    """
    room = np.where(segments.frames >= length, segments.frames - length + 1, segments.frames)
    offset = (rng.random(len(room)) * room).astype(np.int64)
    inside = (offset[:, None] + np.arange(length)) % segments.frames[:, None]
    batch = features[segments.start[:, None] + inside]
    return torch.from_numpy(np.ascontiguousarray(batch)), torch.from_numpy(segments.speaker)


def loud_crops(wav: np.ndarray, crop_s: float, sample_rate: int = 16000) -> int:
    """How many of the consecutive whole crops of a waveform [vpc24] keeps."""
    length = round(crop_s * sample_rate)
    whole = wav[: len(wav) // length * length].reshape(-1, length)
    return int((np.abs(whole).mean(axis=1) >= QUIET).sum())

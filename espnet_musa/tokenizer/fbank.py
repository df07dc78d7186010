"""The teacher of B6's acoustic model: Kaldi's log mel filter bank, two frames of 10 ms stacked into one of 20 ms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from .teachers import SAMPLE_RATE, Teacher, n_frames, runs

if TYPE_CHECKING:
    import torch

STACKED = 2  # frames of 10 ms in one of ours
GROUP = 600 * SAMPLE_RATE  # samples of a group; each utterance is computed for itself
_FULL_SCALE = 32768.0  # Kaldi computes on 16-bit integers


class Fbank(Teacher):
    """Log energies of mel bands from 20 Hz to 8 kHz as Kaldi's `compute-fbank-feats` defines them, less their mean.

    Windows of 25 ms (Povey's) every 10 ms, pre-emphasis 0.97, no dither, and frame k centred on sample 160 k + 80
    (`--snip-edges=false`). The mean over the utterance is taken out of each band, the variance stays. Frame i is the
    frames 2i and 2i + 1 of 10 ms, one after the other, so it sees samples 320 i - 120 to 320 i + 440; a frame of 10 ms
    beyond the last whole one of 20 ms is dropped.

    Args:
        bands: mel bands.
    """

    def __init__(self, bands: int = 80) -> None:
        if bands < 1:
            raise UserError(f"bands is {bands}", expected="1 or more")
        self._bands, self.dimension = bands, STACKED * bands

    def groups(self, samples: Mapping[str, int], speakers: Mapping[str, str]) -> list[list[str]]:
        """Ten minutes of anyone's."""
        utts = sorted(samples)
        return [[utts[i] for i in run] for run in runs([samples[utt] for utt in utts], GROUP)]

    def features(self, wavs: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher`; (F_i, 2 x bands), computed on the CPU, faster than it is read."""
        return [self._stacked(wav) for wav in wavs]

    def _stacked(self, wav: np.ndarray) -> torch.Tensor:
        import torch
        from torchaudio.compliance import kaldi

        x = kaldi.fbank(
            torch.from_numpy(wav)[None] * _FULL_SCALE, num_mel_bins=self._bands, sample_frequency=float(SAMPLE_RATE),
            window_type="povey", snip_edges=False, dither=0.0,
        )  # fmt: skip
        x = x - x.mean(dim=0)
        return x[: STACKED * n_frames(len(wav))].reshape(-1, self.dimension)

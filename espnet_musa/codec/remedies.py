"""Measures against identity that travels through the codes; all off in the paper's configurations.

Instance normalisation removes what is constant over an utterance in a channel (Chou and Lee, "One-shot voice
conversion by separating speaker and content representations with instance normalization", 2019). Warped formants at the
encoder's input, with an unwarped target, leave the vocal tract's length to the speaker embedding (Choi et al., "NANSY",
2021). Gradient reversal trains the frames against a speaker classifier (Ganin and Lempitsky, 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mel import inside

EPSILON = 1e-5  # added to the variance, as torch's InstanceNorm1d does


class FrameStatistics:
    """Mean and deviation over time of frames that arrive in blocks: the first pass over a long recording."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, frames: Tensor) -> None:
        """Count frames (B, D, n), n >= 0, in double precision."""
        if not frames.shape[2]:
            return
        frames = frames.double()
        self._count += frames.shape[2]
        self._sum = self._sum + frames.sum(dim=2, keepdim=True)
        self._squares = self._squares + frames.square().sum(dim=2, keepdim=True)

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, D, 1); at least one frame must have been added."""
        mean = self._sum / self._count
        variance = (self._squares / self._count - mean.square()).clamp(min=0)
        return mean.float(), (variance + EPSILON).sqrt().float()


class InstanceNorm(nn.Module):
    """Frames minus their mean over time, divided by their deviation over time; nothing to learn.

    The statistics are the whole recording's. For one processed in blocks they come from a first pass over it
    (`FrameStatistics`): exact, at the price of running the encoder twice.
    """

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, statistics: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """x (B, D, F), lengths (B,) in frames or None, statistics (B, D, 1) twice or None -> (B, D, F)."""
        if statistics is None:
            keep = inside(lengths, x.shape[2])
            keep = x.new_ones(1, 1, x.shape[2]) if keep is None else keep[:, None].to(x.dtype)
            count = keep.sum(dim=2, keepdim=True)
            mean = (x * keep).sum(dim=2, keepdim=True) / count
            variance = ((x - mean).square() * keep).sum(dim=2, keepdim=True) / count
            statistics = mean, (variance + EPSILON).sqrt()
        return (x - statistics[0]) / statistics[1]


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """x itself; its gradient is multiplied by -weight."""
    return _Reversal.apply(x, weight)


@torch.no_grad()
def warp_formants(wav: Tensor, limit: float, n_fft: int = 1024, hop: int = 256, width: int = 17) -> Tensor:
    """Move the formants of each waveform by a random factor; F0 and its harmonics stay.

    The spectral envelope is stretched along frequency and applied to the spectrum in place of the original one. The
    envelope is the running maximum of the log magnitudes, smoothed: with a smoothed cepstrum, which also follows the
    valleys between the harmonics, the formants of a pulse train of 125 Hz moved by a third of the factor only.

    Args:
        wav: (B, T).
        limit: factors are drawn uniformly from [1 - limit, 1 + limit], 0 < limit < 1, by torch's generator.
        n_fft: samples of the window.
        hop: samples from frame to frame.
        width: bins of the maximum and of the smoothing, odd; 17 at 16 kHz are 266 Hz, so voices up to 320 Hz show one
            harmonic in each.

    Returns:
        (B, T).
    """
    window = torch.hann_window(n_fft, device=wav.device)
    factor = 1 + limit * (2 * torch.rand(wav.shape[0], device=wav.device) - 1)
    with torch.autocast(wav.device.type, enabled=False):
        padded = F.pad(wav.float(), (0, -wav.shape[1] % hop))
        spectrum = torch.stft(padded, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        level = (spectrum.abs() + 1e-5).log().transpose(1, 2)  # (B, F, bins)
        level = F.max_pool1d(level, width, 1, width // 2)
        envelope = F.avg_pool1d(level, width, 1, width // 2, count_include_pad=False)
        bins = envelope.shape[2]
        # The warped envelope at bin k is the original one at k / factor, between bins interpolated.
        place = (torch.arange(bins, device=wav.device) / factor[:, None]).clamp(max=bins - 1)
        low = place.floor().long().clamp(max=bins - 2)
        share = (place - low)[:, None]
        low = low[:, None].expand_as(envelope)
        warped = envelope.gather(2, low) * (1 - share) + envelope.gather(2, low + 1) * share
        changed = spectrum * (warped - envelope).exp().transpose(1, 2)
        return torch.istft(changed, n_fft, hop, window=window, length=padded.shape[1])[:, : wav.shape[1]]

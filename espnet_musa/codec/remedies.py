"""Measures against identity that travels through the codes; all off in the paper's configurations.

Instance normalisation removes what is constant over an utterance in a channel (Chou and Lee, "One-shot voice
conversion by separating speaker and content representations with instance normalization", 2019). Warped formants at the
encoder's input, with an unwarped target, leave the vocal tract's length to the speaker embedding (Choi et al., "NANSY",
2021). `Perturbation` does that to a spectrum, together with pitch and timbre, at a fraction of the cost. Gradient
reversal trains the frames against a speaker classifier (Ganin and Lempitsky, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
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


@dataclass(frozen=True)
class Perturbation:
    """Random changes of a magnitude spectrum that make it another voice's, one draw for each item of a batch.

    Harmonics and formants move together by stretching the frequency axis, then the formants by stretching the envelope
    alone. Drawn by torch's generator, in training only.
    """

    pitch: float = 0.0  # semitones: F0 moves by up to so many, up or down
    formants: float = 0.0  # log2 of the factor: the formants move by up to 2 ** +-formants
    tilt: float = (
        0.0  # dB: deviation of each of TILTS slow waves along frequency that are added to the spectrum
    )
    level: float = 0.0  # dB: loudness moves by up to so much, up or down

    TILTS = 4
    WIDTH = 300.0  # Hz, of the maximum that draws the envelope: voices up to there show one harmonic in each

    def __post_init__(self) -> None:
        if min(self.pitch, self.formants, self.tilt, self.level) < 0 or self.formants >= 1:
            raise UserError(f"{self}", expected="ranges from 0, formants below 1")

    @torch.no_grad()
    def __call__(self, magnitude: Tensor, sample_rate: int) -> Tensor:
        """(B, F, bins) magnitudes, bins evenly from 0 to half of `sample_rate` (Hz) -> as many of another voice."""
        batch, _, bins = magnitude.shape
        device = magnitude.device

        def draw(limit: float) -> Tensor:
            return limit * (2 * torch.rand(batch, device=device) - 1)

        pitch, formants = 2 ** draw(self.pitch / 12), 2 ** draw(self.formants)
        level = (stretched(magnitude, pitch) + 1e-5).log()
        width = 2 * round(self.WIDTH / (sample_rate / 2) * (bins - 1) / 2) + 1
        envelope = F.max_pool1d(level, width, 1, width // 2)
        envelope = F.avg_pool1d(envelope, width, 1, width // 2, count_include_pad=False)
        level = level + stretched(envelope, formants / pitch) - envelope
        orders = torch.arange(1, self.TILTS + 1, device=device)
        waves = orders[:, None] * torch.linspace(0, torch.pi, bins, device=device)
        gain = (
            self.tilt * torch.randn(batch, self.TILTS, device=device) @ waves.cos()
            + draw(self.level)[:, None]
        )
        return (level + gain[:, None] * (torch.log(torch.tensor(10.0)) / 20)).exp()


def stretched(x: Tensor, factor: Tensor) -> Tensor:
    """x (B, F, bins) along its last axis by factor (B,): what was at bin k lies at factor * k, between bins a line."""
    bins = x.shape[2]
    place = (torch.arange(bins, device=x.device) / factor[:, None]).clamp(max=bins - 1)
    low = place.floor().long().clamp(max=bins - 2)
    share = (place - low)[:, None]
    low = low[:, None].expand_as(x)
    return x.gather(2, low) * (1 - share) + x.gather(2, low + 1) * share


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
        changed = spectrum * (stretched(envelope, factor) - envelope).exp().transpose(1, 2)
        return torch.istft(changed, n_fft, hop, window=window, length=padded.shape[1])[:, : wav.shape[1]]

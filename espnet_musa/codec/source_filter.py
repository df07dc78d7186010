"""Source-filter decoder: pulses at F0 and white noise, each through a filter that a network gives for every frame.

Engel et al., "DDSP: differentiable digital signal processing", ICLR 2020, section 3, and the source of Wang et al.,
"Neural source-filter-based waveform model for statistical parametric speech synthesis", ICASSP 2019. The pitch of the
output is that of the pulses, whatever the network has learnt, so even a model trained for a minute renders F0.

Frames are those of `spectral`: hop 320, frame i stands for the samples from 320 i on. F0 is measured around sample
320 i (`f0.extract`), so that between frames i and i + 1 it moves from one value to the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import UserError
from .mel import cleared, inside
from .spectral import SpectralDecoder

PITCH = 3  # channels of the source that tell the pulses: phase, F0 of this frame, F0 of the next one
RANGE = (50.0, 500.0)  # Hz, of what is rendered
LEVELS = (-2.5, -4.5)  # log magnitudes of an untrained model's filters: speech that is mostly voiced


def pitch_of(hz: Tensor, start: Tensor, hop: int, sample_rate: int) -> Tensor:
    """What the pulses of each frame need to know.

    A frame is voiced up to its middle if its own F0 is, and from there on if the next one's is. F0 is a straight line
    between two voiced values, and constant next to an unvoiced one.

    Args:
        hz: (B, F) F0, 0 where unvoiced; zeros behind an item's end.
        start: (B,) phase of the first sample, in periods.
        hop: samples a frame, even.
        sample_rate: Hz.

    Returns:
        (B, 3, F) float32: phase of the frame's first sample in [0, 1), F0 of this frame, F0 of the next (0 at the end).
    """
    hz = hz.double()
    later = nn.functional.pad(hz[:, 1:], (0, 1))
    # Sums over the frame's samples: of a straight line that does not reach the next value, or of half a frame.
    both = hop * hz + (later - hz) * (hop - 1) / 2
    one = (hz + later) * (hop // 2)
    periods = torch.where((hz > 0) & (later > 0), both, one) / sample_rate
    phase = start.double()[:, None] + periods.cumsum(1) - periods
    return torch.stack([phase.remainder(1), hz, later], dim=1).float()


def pulses(pitch: Tensor, hop: int, sample_rate: int) -> Tensor:
    """Pulses of all harmonics below half the rate, equally strong, of power 1 where voiced.

    The sum over k = 1..K of cos(2 pi k p) in closed form, the kernel of Dirichlet: sin((2 K + 1) pi p) / (2 sin(pi p))
    - 1 / 2.

    Args:
        pitch: (B, 3, F), see `pitch_of`.
        hop: samples a frame.
        sample_rate: Hz.

    Returns:
        (B, F, hop), zero where unvoiced.
    """
    phase, here, later = (part[:, :, None] for part in pitch.unbind(1))
    place = torch.arange(hop, device=pitch.device, dtype=pitch.dtype) / hop
    line = here + (later - here) * place
    near = torch.where(place < 0.5, here, later)
    hz = torch.where((here > 0) & (later > 0), line, near)
    p = phase + (hz.cumsum(2) - hz) / sample_rate
    p = p - p.round()
    count = (sample_rate / 2 / hz.clamp(min=1.0)).floor()
    below = (torch.pi * p).sin()
    peak = below.abs() < 1e-5
    kernel = torch.sin((2 * count + 1) * torch.pi * p) / (2 * below.masked_fill(peak, 1.0)) - 0.5
    kernel = torch.where(peak, count, kernel)
    return torch.where(hz > 0, kernel * (2 / count.clamp(min=1)).sqrt(), 0.0)


class SourceFilterDecoder(SpectralDecoder):
    """ConvNeXt blocks, then two log-magnitude filters a frame, of the pulses and of the noise, in the STFT domain.

    Args:
        dimension: D, width of the frames.
        channels: width of the blocks.
        layers: number of blocks.
        expansion: widening inside a block.
        kernel_size: frames, odd.
        n_fft: samples of the window, a multiple of `hop`.
        hop: samples a frame, even.
        bands: of a filter, evenly spaced on the mel scale, with straight lines between them.
        sample_rate: Hz.
        minimum_phase: filters ring after a pulse, as a vocal tract does, instead of before and after it alike.

    Attributes:
        context: frames on either side that a frame's samples depend on.

    Raises:
        UserError: for sizes that do not fit.
    """

    def __init__(
        self,
        dimension: int = 512,
        channels: int = 256,
        layers: int = 4,
        expansion: int = 3,
        kernel_size: int = 7,
        n_fft: int = 960,
        hop: int = 320,
        bands: int = 80,
        sample_rate: int = 16000,
        minimum_phase: bool = False,
    ) -> None:
        super().__init__(dimension, channels, layers, expansion, kernel_size, n_fft, hop)
        if hop % 2 or not 2 <= bands <= n_fft // 2:
            raise UserError(
                f"source_filter backbone with hop {hop}, bands {bands}",
                expected="an even hop, 2 to n_fft / 2 bands",
            )
        self.sample_rate, self.minimum_phase = sample_rate, minimum_phase
        self.backbone.out = nn.Linear(channels, 2 * bands)
        nn.init.trunc_normal_(self.backbone.out.weight, std=0.02)
        with torch.no_grad():
            self.backbone.out.bias.copy_(torch.tensor(LEVELS).repeat_interleave(bands))
        self.register_buffer("lines", _lines(bands, n_fft, sample_rate), persistent=False)
        # A window of the output holds the sources of `margin` frames on either side, and of its neighbours as many.
        margin = self.context - self.backbone.context
        self.context = max(self.context, 2 * margin)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode frames.

        Args:
            frames: (B, D + 3 + hop, F): what the blocks hear, `pitch_of`, white noise of variance 1.
            lengths: (B,) frames of each item, 1 to F; None: F.

        Returns:
            (B, 1, F * hop); what lies behind an item's end is zero.
        """
        heard, pitch, noise = frames.split([frames.shape[1] - PITCH - self.hop, PITCH, self.hop], dim=1)
        logs = self.backbone(heard.transpose(1, 2), lengths)
        keep = inside(lengths, frames.shape[2])
        ones = frames.new_ones(1, frames.shape[2], 1) if keep is None else keep[:, :, None].to(frames.dtype)
        with torch.autocast(logs.device.type, enabled=False):
            with torch.no_grad():
                sources = pulses(pitch, self.hop, self.sample_rate), noise.transpose(1, 2)
                spectra = [self._spectrum(source * ones) for source in sources]
            filters = (logs.to(frames.dtype).unflatten(2, (2, -1)) @ self.lines).clamp(max=5.0)
            filters = _minimum_phase(filters).exp() if self.minimum_phase else filters.exp()
            spectrum = sum(own * filters[:, :, i] for i, own in enumerate(spectra))
            parts = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
            wav, weight = self._overlap_add(parts * ones), self._overlap_add(ones * self.window.square())
            wav = wav / weight.clamp(min=1e-8)
        return cleared(wav, None if lengths is None else lengths * self.hop)[:, None]

    def _spectrum(self, source: Tensor) -> Tensor:
        """(B, F, hop) -> (B, F, n_fft / 2 + 1): windows centred on the frames, zeros beyond the ends."""
        margin = (self.n_fft - self.hop) // 2
        wav = nn.functional.pad(source.flatten(1), (margin, margin))
        return torch.fft.rfft(wav.unfold(1, self.n_fft, self.hop) * self.window)


def _minimum_phase(level: Tensor) -> Tensor:
    """Log magnitudes (..., n_fft / 2 + 1) -> logarithm of the causal filter with these magnitudes, complex.

    Oppenheim and Schafer, "Discrete-time signal processing": the cepstrum folded onto positive quefrencies.
    """
    n_fft = 2 * (level.shape[-1] - 1)
    fold = level.new_zeros(n_fft)
    fold[0] = fold[n_fft // 2] = 1
    fold[1 : n_fft // 2] = 2
    return torch.fft.rfft(torch.fft.irfft(level, n=n_fft) * fold)


def _lines(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """(bands, n_fft / 2 + 1): values at points evenly spaced on the mel scale -> straight lines between them."""
    hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    mel = (1 + hz / 700).log()
    place = mel / mel[-1] * (bands - 1)
    distance = (place - torch.arange(bands, dtype=torch.float64)[:, None]).abs()
    return (1 - distance).clamp(min=0).float()

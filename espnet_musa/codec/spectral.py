"""Spectral encoder and decoder: log-mel spectrogram, ConvNeXt blocks, inverse STFT. The backbone for CPUs.

Siuzdak, "Vocos: closing the gap between time-domain and Fourier-based neural vocoders", ICLR 2024, with ConvNeXt blocks
of Liu et al., CVPR 2022. Frames are those of the other backbone: hop 320, frame i stands for the samples from 320 i on,
F = ceil(T / 320); its window is centred on them. All layers run at the frame rate, hence the speed.

Ends: behind and before a recording there are zeros, in the waveform and at every convolution, so that neither a batch
nor a block (see `streaming`) changes a frame.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .mel import cleared, inside, mel_filters
from .remedies import Perturbation
from .streaming import Overlap, Stream


class ConvNeXtBlock(nn.Module):
    """x + scale * (depthwise convolution, normalisation, wide layer, GELU, narrow layer): (B, F, C) -> (B, F, C)."""

    def __init__(self, channels: int, expansion: int, kernel_size: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, (1, kernel_size), padding=(0, kernel_size // 2), groups=channels
        )
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """x (B, F, C), keep (B, F, 1) with zeros for padding, or None."""
        y = x if keep is None else x * keep
        # Channels stay last: as an image one pixel high, the convolution runs where the linear layers left the data.
        y = self.depthwise(y.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)
        return x + self.scale * self.narrow(F.gelu(self.wide(self.norm(y))))


class Backbone(nn.Module):
    """Convolution, normalisation, ConvNeXt blocks, normalisation, linear layer: (B, F, I) -> (B, F, O)."""

    def __init__(
        self, inputs: int, outputs: int, channels: int, layers: int, expansion: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.embed = nn.Conv1d(inputs, channels, kernel_size, padding=kernel_size // 2)
        self.norm_in = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(channels, expansion, kernel_size, 1 / layers) for _ in range(layers)
        )
        self.norm_out = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, outputs)
        self.context = (layers + 1) * (kernel_size // 2)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        keep = inside(lengths, x.shape[1])
        keep = None if keep is None else keep[:, :, None].to(x.dtype)
        x = x if keep is None else x * keep
        x = self.norm_in(self.embed(x.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x, keep)
        return self.out(self.norm_out(x))


def _check(n_fft: int, hop: int, layers: int, kernel_size: int) -> None:
    if n_fft % hop or (n_fft - hop) % 2 or layers < 1 or kernel_size % 2 == 0:
        raise UserError(
            f"spectral backbone with n_fft {n_fft}, hop {hop}, layers {layers}, kernel_size {kernel_size}",
            expected="n_fft a multiple of hop with an even difference, at least one layer, an odd kernel_size",
        )


class SpectralEncoder(nn.Module):
    """E_c: log-mel spectrogram and ConvNeXt blocks.

    Args:
        dimension: D, width of the frames.
        sample_rate: Hz.
        channels: width of the blocks.
        layers: number of blocks.
        expansion: widening inside a block.
        kernel_size: frames, odd.
        n_mels: bands of the input.
        n_fft: samples of the window, a multiple of `hop`.
        hop: samples a frame.

    Attributes:
        context: frames on either side that a frame depends on.
    """

    def __init__(
        self,
        dimension: int = 512,
        sample_rate: int = 16000,
        channels: int = 256,
        layers: int = 6,
        expansion: int = 3,
        kernel_size: int = 7,
        n_mels: int = 100,
        n_fft: int = 1280,
        hop: int = 320,
    ) -> None:
        super().__init__()
        _check(n_fft, hop, layers, kernel_size)
        self.hop, self.n_fft, self.dimension, self.sample_rate = hop, n_fft, dimension, sample_rate
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, n_fft, n_mels), persistent=False)
        self.backbone = Backbone(n_mels, dimension, channels, layers, expansion, kernel_size)
        self._margin = (n_fft - hop) // 2
        self.context = self.backbone.context + ceil(self._margin / hop)

    def forward(
        self, wav: Tensor, lengths: Tensor | None = None, perturbation: Perturbation | None = None
    ) -> Tensor:
        """Encode waveforms.

        Args:
            wav: (B, 1, T).
            lengths: (B,) frames of each item, 1 to ceil(T / hop); None: all.
            perturbation: of the spectrum; None: none.

        Returns:
            (B, D, ceil(T / hop)).
        """
        wav = cleared(wav[:, 0], None if lengths is None else lengths * self.hop)
        with torch.autocast(wav.device.type, enabled=False):
            wav = F.pad(wav.float(), (self._margin, self._margin + -wav.shape[1] % self.hop))
            spectrum = torch.fft.rfft(wav.unfold(1, self.n_fft, self.hop) * self.window)
            power = spectrum.real.square() + spectrum.imag.square()
            magnitude = (power + 1e-16).sqrt()
            if perturbation is not None:
                magnitude = perturbation(magnitude, self.sample_rate)
            mel = (magnitude @ self.filters).clamp(min=1e-5).log()
        return self.backbone(mel, lengths).transpose(1, 2)

    def stream(self) -> Stream:
        """A new stream of one recording: samples (B, 1, n) in, frames (B, D, m) out, equal to the whole."""
        return Overlap(self, self.context, self.hop, 1)


class SpectralDecoder(nn.Module):
    """ConvNeXt blocks, then the magnitude and phase of one STFT frame for each frame, and the inverse STFT.

    Args:
        dimension: D, width of the frames.
        channels: width of the blocks.
        layers: number of blocks.
        expansion: widening inside a block.
        kernel_size: frames, odd.
        n_fft: samples of the window, a multiple of `hop`.
        hop: samples a frame.

    Attributes:
        context: frames on either side that a frame's samples depend on.
    """

    def __init__(
        self,
        dimension: int = 512,
        channels: int = 256,
        layers: int = 6,
        expansion: int = 3,
        kernel_size: int = 7,
        n_fft: int = 1280,
        hop: int = 320,
    ) -> None:
        super().__init__()
        _check(n_fft, hop, layers, kernel_size)
        self.hop, self.n_fft, self.dimension = hop, n_fft, dimension
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.backbone = Backbone(dimension, n_fft + 2, channels, layers, expansion, kernel_size)
        self.context = self.backbone.context + ceil((n_fft - hop) / 2 / hop)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode frames.

        Args:
            frames: (B, D, F).
            lengths: (B,) frames of each item, 1 to F; None: F.

        Returns:
            (B, 1, F * hop); what lies behind an item's end is zero.
        """
        logits = self.backbone(frames.transpose(1, 2), lengths)
        with torch.autocast(logits.device.type, enabled=False):
            magnitude, phase = logits.float().chunk(2, dim=2)
            # Vocos's safeguard: 100 is far above any magnitude of a signal within [-1, 1].
            spectrum = torch.polar(magnitude.exp().clamp(max=100.0), phase)
            parts = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
            keep = inside(lengths, frames.shape[2])
            ones = parts.new_ones(1, frames.shape[2], 1) if keep is None else keep[:, :, None].to(parts.dtype)
            wav, weight = self._overlap_add(parts * ones), self._overlap_add(ones * self.window.square())
            wav = wav / weight.clamp(min=1e-8)
        return cleared(wav, None if lengths is None else lengths * self.hop)[:, None]

    def _overlap_add(self, parts: Tensor) -> Tensor:
        """Windows (B, F, n_fft) -> (B, F * hop): their sum, without the ends that stick out of the recording."""
        batch, frames, _ = parts.shape
        hops = self.n_fft // self.hop
        parts = parts.unflatten(2, (hops, self.hop))
        total = parts.new_zeros(batch, frames + hops - 1, self.hop)
        for i in range(hops):
            total[:, i : i + frames] += parts[:, :, i]
        margin = (self.n_fft - self.hop) // 2
        return total.flatten(1)[:, margin : margin + frames * self.hop]

    def stream(self) -> Stream:
        """A new stream of one recording: frames (B, D, n) in, samples (B, 1, m) out, equal to the whole."""
        return Overlap(self, self.context, 1, self.hop)

"""The speaker encoder E_s: StyleSpeech's MelStyleEncoder on a log-mel spectrogram, averaged over time.

Min et al., "Meta-StyleSpeech: multi-speaker adaptive text-to-speech generation", ICML 2021. Parameter names are the
published ones, so that its checkpoints load; only the last layer is wider in MUSA (128 -> 512), since s is subtracted
from the frames of the speech encoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .mel import LogMel, inside

__all__ = ["LogMel", "MelStyleEncoder", "SpeakerEncoder"]


class _Linear(nn.Module):
    """A linear layer under the published name `fc`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class _GatedConv(nn.Module):
    """x + dropout(a * sigmoid(b)), with (a, b) = one convolution of x: (B, F, C) -> (B, F, C)."""

    def __init__(self, channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, 2 * channels, kernel_size, padding=kernel_size // 2)
        self.conv1 = nn.ModuleDict({"conv": conv})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gated = F.glu(self.conv1["conv"](x.transpose(1, 2)), dim=1)
        return x + self.dropout(gated.transpose(1, 2))


class _SelfAttention(nn.Module):
    """Multi-head self-attention with residual; the temperature is sqrt(channels), not sqrt(channels of a head)."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(channels)
        self.w_qs = nn.Linear(channels, channels)
        self.w_ks = nn.Linear(channels, channels)
        self.w_vs = nn.Linear(channels, channels)
        self.fc = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """x (B, F, C), keep (B, F), True for frames that may be attended to -> (B, F, C)."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.w_qs, self.w_ks, self.w_vs)
        )
        attended = F.scaled_dot_product_attention(
            query, key, value,
            attn_mask=None if keep is None else keep[:, None, None],
            dropout_p=self.dropout.p if self.training else 0.0,
            scale=self.scale,
        )  # fmt: skip
        return x + self.dropout(self.fc(attended.transpose(1, 2).flatten(2)))


class MelStyleEncoder(nn.Module):
    """Spectral layers, gated convolutions, self-attention, a linear layer, the mean over time.

    Args:
        n_mels: bands of the input.
        hidden: width between.
        dim: width of the embedding.
        kernel_size: frames, odd.
        heads: of the attention; divides `hidden`.
        dropout: probability, after every layer.
        mask_convolutions: clear the padding before each convolution, so that a padded recording gives what it gives
            alone. False is the published behaviour, in which padding leaks in (9e-3 in a batch of two); without
            padding both are the same.
    """

    def __init__(
        self,
        n_mels: int = 80,
        hidden: int = 128,
        dim: int = 512,
        kernel_size: int = 5,
        heads: int = 2,
        dropout: float = 0.1,
        mask_convolutions: bool = True,
    ) -> None:
        super().__init__()
        if hidden % heads or kernel_size % 2 == 0:
            raise UserError(
                f"speaker encoder with hidden {hidden}, heads {heads}, kernel_size {kernel_size}",
                expected="heads that divide hidden, an odd kernel_size",
            )
        self.mask_convolutions = mask_convolutions
        self.spectral = nn.Sequential(
            _Linear(n_mels, hidden), nn.Mish(), nn.Dropout(dropout),
            _Linear(hidden, hidden), nn.Mish(), nn.Dropout(dropout),
        )  # fmt: skip
        self.temporal = nn.Sequential(*(_GatedConv(hidden, kernel_size, dropout) for _ in range(2)))
        self.slf_attn = _SelfAttention(hidden, heads, dropout)
        self.fc = _Linear(hidden, dim)

    def forward(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed log-mel frames.

        Args:
            mel: (B, F, n_mels).
            mask: (B, F) boolean, True for padding; None: no padding. Every item has at least one frame.

        Returns:
            (B, dim).
        """
        x = self.spectral(mel)
        padding = None if mask is None else mask[:, :, None]
        for layer in self.temporal:
            x = layer(x if padding is None or not self.mask_convolutions else x.masked_fill(padding, 0))
        if padding is not None:
            x = x.masked_fill(padding, 0)
        x = self.fc(self.slf_attn(x, None if mask is None else ~mask))
        if padding is None:
            return x.mean(dim=1)
        return x.masked_fill(padding, 0).sum(dim=1) / (~padding).sum(dim=1)


class SpeakerEncoder(nn.Module):
    """E_s: waveforms -> s.

    A recording of up to `window_s` is embedded as a whole. A longer one is cut into windows of that length and s is
    the mean of their embeddings, weighted by duration: attention over an hour would take 400 GB, and training sees
    seconds anyway.

    Args:
        dim: D, the width of s.
        sample_rate: Hz.
        n_mels: bands of the log-mel input.
        n_fft: samples of its window.
        hop_length: samples from frame to frame.
        window_s: seconds embedded at once.
        encoder: further settings of `MelStyleEncoder`.
    """

    def __init__(
        self,
        dim: int = 512,
        sample_rate: int = 16000,
        n_mels: int = 80,
        n_fft: int = 1024,
        hop_length: int = 256,
        window_s: float = 30.0,
        **encoder: int | float | bool,
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(sample_rate, n_fft, hop_length, n_mels)
        self.style = MelStyleEncoder(n_mels=n_mels, dim=dim, **encoder)
        self.window = round(window_s * sample_rate)

    def forward(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wav (B, T), lengths (B,) in samples or None -> (B, D)."""
        if wav.shape[1] <= self.window:
            return self._embed(wav, lengths)
        if lengths is None:
            lengths = torch.full((wav.shape[0],), wav.shape[1], device=wav.device)
        total = 0.0
        for start in range(0, wav.shape[1], self.window):
            part = wav[:, start : start + self.window]
            samples = (lengths - start).clamp(0, part.shape[1])
            total = total + self._embed(part, samples.clamp(min=1)) * samples[:, None]
        return total / lengths[:, None]

    def _embed(self, wav: Tensor, lengths: Tensor | None) -> Tensor:
        mel = self.log_mel(wav, lengths)
        keep = None if lengths is None else inside(self.log_mel.frames(lengths), mel.shape[1])
        return self.style(mel, None if keep is None else ~keep)

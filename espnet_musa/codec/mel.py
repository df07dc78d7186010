"""Padding that knows where each recording of a batch ends, and log-mel spectrograms.

A batch of unequal recordings must give what each of them gives alone, so whatever looks over a recording's end (centred
windows, convolutions) has to see there what it would see without the others: its own reflection, or zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def inside(lengths: Tensor | None, size: int) -> Tensor | None:
    """Lengths (B,) -> (B, size) boolean, True inside the recording; None stays None: all of it."""
    return None if lengths is None else torch.arange(size, device=lengths.device) < lengths[:, None]


def cleared(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (..., T) of B items -> the same with zeros behind each item's length; lengths (B,) or None: unchanged."""
    keep = inside(lengths, x.shape[-1])
    return x if keep is None else x * (keep if x.ndim == 2 else keep[:, None]).to(x.dtype)


def reflect_pad(x: Tensor, left: int, right: int, lengths: Tensor | None = None) -> Tensor:
    """Reflect x (B, C, T) around its first sample and around the last one of each item.

    A recording shorter than the padding is reflected back and forth, so that one sample is enough.

    Args:
        x: (B, C, T).
        left: samples to add in front.
        right: samples to add behind each item.
        lengths: (B,) samples of each item, 1 to T; None: T.

    Returns:
        (B, C, left + T + right); what lies behind an item's padding is of no meaning.
    """
    size = x.shape[-1]
    if lengths is None and size > max(left, right):
        if x.is_contiguous():
            return F.pad(x, (left, right), mode="reflect")
        # As an image one pixel high, channels that come last in memory stay last.
        return F.pad(x[:, :, None], (left, right, 0, 0), mode="reflect")[:, :, 0]
    if lengths is None:
        lengths = torch.full((x.shape[0],), size, device=x.device)
    front = torch.arange(-left, 0, device=x.device).expand(x.shape[0], -1)
    back = lengths[:, None] + torch.arange(right, device=x.device)
    at = torch.cat([front, back], dim=1)  # (B, left + right), positions in x
    last = (lengths - 1)[:, None]
    source = at.remainder((2 * last).clamp(min=1))
    source = torch.minimum(source, 2 * last - source).clamp(min=0)
    values = x.gather(2, source[:, None].expand(-1, x.shape[1], -1))
    padded = F.pad(x[:, :, None], (left, right))[:, :, 0]
    return padded.scatter_(2, (at + left)[:, None].expand_as(values), values)


def mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None
) -> Tensor:
    """Triangular filters of unit area on Slaney's mel scale, librosa's default: (n_fft // 2 + 1, n_mels).

    Args:
        fmin: Hz.
        fmax: Hz; None: half the sampling rate.
    """
    from torchaudio.functional import melscale_fbanks

    fmax = sample_rate / 2 if fmax is None else fmax
    return melscale_fbanks(n_fft // 2 + 1, fmin, fmax, n_mels, sample_rate, norm="slaney", mel_scale="slaney")


class LogMel(nn.Module):
    """Logarithm of the mel magnitude spectrogram: centred Hann windows, reflected ends, floor 1e-5.

    StyleSpeech's front end (base 10), and with the natural logarithm the one of the reconstruction loss; the settings
    are theirs by default (specification of the codecs, O15 and O20). Always in single precision.

    Args:
        sample_rate: Hz.
        n_fft: samples of the FFT and of the window.
        hop_length: samples from frame to frame.
        n_mels: bands, 0 Hz to half the sampling rate.
        natural: natural logarithm instead of the decimal one.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 80,
        natural: bool = False,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.natural = n_fft, hop_length, natural
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, n_fft, n_mels), persistent=False)

    def frames(self, samples: Tensor | int) -> Tensor | int:
        """Number of frames of so many samples: 1 + T // hop_length."""
        return 1 + samples // self.hop_length

    def forward(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Waveforms (B, T), lengths (B,) in samples or None -> (B, 1 + T // hop_length, n_mels)."""
        half = self.n_fft // 2
        with torch.autocast(wav.device.type, enabled=False):
            padded = reflect_pad(wav.float()[:, None], half, half, lengths)[:, 0]
            spectrum = torch.stft(
                padded, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()
            # The root has no finite gradient at zero; 1e-16 lies ten orders below the floor of the mel magnitude.
            mel = (power + 1e-16).sqrt().transpose(1, 2) @ self.filters
            return mel.clamp(min=1e-5).log() if self.natural else mel.clamp(min=1e-5).log10()

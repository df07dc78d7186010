"""Losses of the generator and the discriminators: equations 5 to 8 of the paper.

All in single precision, whatever the precision of what they compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .discriminators import Features
from .mel import LogMel


class Reconstruction(NamedTuple):
    """Scalars: the weighted sum, and the terms before their weights.

    Attributes:
        total: what equation 5 adds up, before lambda_r.
        wave: mean absolute difference of the samples.
        mel: mean absolute difference of the natural logarithms of the mel magnitudes.
        mel_square: mean squared difference of the same.
    """

    total: Tensor
    wave: Tensor
    mel: Tensor
    mel_square: Tensor


class ReconstructionLoss(nn.Module):
    """L_rec: waveform L1 + log-mel L1 + log-mel MSE (O20).

    Args:
        sample_rate: Hz.
        scales: of the mel terms, (n_fft, hop, bands) each; their mean over the scales counts. The paper has one;
            small models, which hear nothing from weak discriminators, learn more from several.
        wave_weight: of the waveform L1; small models gain by a low one, since they cannot meet the phase.
        mel_weight: of the log-mel L1.
        mel_square_weight: of the log-mel MSE.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        scales: Sequence[Sequence[int]] = ((1024, 256, 80),),
        wave_weight: float = 1.0,
        mel_weight: float = 1.0,
        mel_square_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.log_mels = nn.ModuleList(LogMel(sample_rate, *scale, natural=True) for scale in scales)
        self.weights = (wave_weight, mel_weight, mel_square_weight)

    def forward(self, fake: Tensor, real: Tensor) -> Reconstruction:
        """Compare waveforms (B, T) of the same length."""
        fake, real = fake.float(), real.float()
        absolute, squared = [], []
        for log_mel in self.log_mels:
            with torch.no_grad():
                target = log_mel(real)
            mel = log_mel(fake)
            absolute.append(F.l1_loss(mel, target))
            squared.append(F.mse_loss(mel, target))
        terms = F.l1_loss(fake, real), torch.stack(absolute).mean(), torch.stack(squared).mean()
        total = sum(weight * term for weight, term in zip(self.weights, terms, strict=True))
        return Reconstruction(total, *terms)


def discriminator_loss(real: Features, fake: Features) -> tuple[Tensor, Tensor]:
    """Least squares: sums over the sub-discriminators of mean (1 - D(real))^2 and of mean D(fake)^2."""
    return (
        torch.stack([(1 - layers[-1].float()).square().mean() for layers in real]).sum(),
        torch.stack([layers[-1].float().square().mean() for layers in fake]).sum(),
    )


def adversarial_loss(fake: Features) -> Tensor:
    """Least squares: the sum over the sub-discriminators of mean (1 - D(fake))^2."""
    return torch.stack([(1 - layers[-1].float()).square().mean() for layers in fake]).sum()


def feature_matching_loss(real: Features, fake: Features, logits_matched: Sequence[bool]) -> Tensor:
    """Sum over sub-discriminators and layers of the mean absolute difference; the real side has no gradient.

    The paper's equation 8, so without HiFi-Codec's factor 2 (O21).

    Args:
        real: of the recorded speech.
        fake: of the reconstruction.
        logits_matched: for each sub-discriminator, whether its logit counts as a layer:
            `MusaDiscriminator.logits_matched`.
    """
    terms = []
    for r, f, with_logit in zip(real, fake, logits_matched, strict=True):
        layers = len(r) if with_logit else len(r) - 1
        terms += [
            F.l1_loss(b.float(), a.detach().float()) for a, b in zip(r[:layers], f[:layers], strict=True)
        ]
    return torch.stack(terms).sum()

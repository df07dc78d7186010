"""HiFi-Codec's discriminators: multi-period, multi-scale, multi-scale STFT.

Yang et al., "HiFi-Codec", 2023: MPD and MSD of HiFi-GAN (Kong et al., 2020), MS-STFT of EnCodec (Défossez et al., 2022)
with five resolutions. Sizes are theirs by default (71.2 M parameters) and can be reduced. Parameter names are the
published ones up to the form of weight normalisation, whose old names load as well.

The MS-STFT discriminator is ESPnet's, equal to HiFi-Codec's. ESPnet's MPD is not: its last kernel is (2, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

from espnet2.gan_codec.shared.discriminator.msstft_discriminator import MultiScaleSTFTDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from ..errors import UserError
from .mel import reflect_pad

Features = list[list[Tensor]]  # for each sub-discriminator: what its layers give, and at the end its logit
SLOPE = 0.1  # of the leaky ReLUs


class _Period(nn.Module):
    """The waveform folded into columns of a period; the convolutions look along each column."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels, 32 * channels]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, outputs, (5, 1), (stride, 1), (2, 0)))
            for inputs, outputs, stride in zip(widths[:-1], widths[1:], (3, 3, 3, 3, 1), strict=True)
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = reflect_pad(x, 0, -x.shape[2] % self.period).unflatten(2, (-1, self.period))
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return [*features, self.conv_post(x).flatten(1)]


class MultiPeriodDiscriminator(nn.Module):
    """MPD: (B, 1, T) -> for each period five layers and the logit.

    Args:
        periods: samples.
        channels: of the first layer; the last has 32 times as many.
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), channels: int = 32) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(_Period(period, channels) for period in periods)

    def forward(self, x: Tensor) -> Features:
        """x (B, 1, T)."""
        return [discriminator(x) for discriminator in self.discriminators]


class _Scale(nn.Module):
    """Grouped, strided convolutions over the waveform."""

    def __init__(self, channels: int, spectral: bool) -> None:
        super().__init__()
        norm = spectral_norm if spectral else weight_norm
        widths = [1, *(n * channels for n in (1, 1, 2, 4, 8, 8, 8))]
        kernels, strides, groups = (
            (15, 41, 41, 41, 41, 41, 5),
            (1, 2, 2, 4, 4, 1, 1),
            (1, 4, 16, 16, 16, 16, 1),
        )
        self.convs = nn.ModuleList(
            norm(nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=group))
            for inputs, outputs, kernel, stride, group in zip(
                widths[:-1], widths[1:], kernels, strides, groups, strict=True
            )
        )
        self.conv_post = norm(nn.Conv1d(widths[-1], 1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return [*features, self.conv_post(x).flatten(1)]


class MultiScaleDiscriminator(nn.Module):
    """MSD: (B, 1, T), also at half the rate, a quarter, ... -> for each scale seven layers and the logit.

    Args:
        scales: number of rates.
        channels: of the first layer, a multiple of 16; the last has 8 times as many.

    Raises:
        UserError: if the groups do not divide the channels.
    """

    def __init__(self, scales: int = 3, channels: int = 128) -> None:
        super().__init__()
        if channels % 16:
            raise UserError(
                f"{channels} channels of the multi-scale discriminator", expected="a multiple of 16"
            )
        self.discriminators = nn.ModuleList(_Scale(channels, spectral=not i) for i in range(scales))

    def forward(self, x: Tensor) -> Features:
        """x (B, 1, T)."""
        outputs = []
        for i, discriminator in enumerate(self.discriminators):
            x = F.avg_pool1d(x, 4, 2, padding=2) if i else x
            outputs.append(discriminator(x))
        return outputs


class MusaDiscriminator(nn.Module):
    """All three, as one list of sub-discriminators.

    Args:
        stft_n_ffts: FFT sizes of the MS-STFT discriminator, hop a quarter of it; empty: none.
        stft_channels: of its layers.
        periods: of the MPD, samples; empty: none.
        period_channels: of its first layer.
        scales: of the MSD; 0: none.
        scale_channels: of its first layer.

    Attributes:
        logits_matched: for each sub-discriminator, whether its logit enters the feature matching loss: as in
            HiFi-Codec, all but those of the MS-STFT discriminator (O21).

    Raises:
        UserError: if nothing is left.
    """

    def __init__(
        self,
        stft_n_ffts: Sequence[int] = (1024, 2048, 512, 256, 128),
        stft_channels: int = 32,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_channels: int = 32,
        scales: int = 3,
        scale_channels: int = 128,
    ) -> None:
        super().__init__()
        self.logits_matched = [False] * len(stft_n_ffts) + [True] * (len(periods) + scales)
        if not self.logits_matched:
            raise UserError("a discriminator without parts", expected="stft_n_ffts, periods or scales")
        self.shortest = max([2, *stft_n_ffts])
        n_ffts = list(stft_n_ffts)
        self.mstftd = MultiScaleSTFTDiscriminator(
            stft_channels, n_ffts=n_ffts, hop_lengths=[n // 4 for n in n_ffts], win_lengths=n_ffts
        )
        self.mpd = MultiPeriodDiscriminator(periods, period_channels)
        self.msd = MultiScaleDiscriminator(scales, scale_channels)

    def forward(self, wav: Tensor) -> Features:
        """wav (B, 1, T), T >= 1, filled with zeros up to the longest window -> one list for each sub-discriminator."""
        wav = F.pad(wav.float(), (0, max(0, self.shortest - wav.shape[2])))
        return [*self.mstftd(wav), *self.mpd(wav), *self.msd(wav)]

"""The vocoder of B5 and B6: content codes, F0 and a speaker's number in, speech out.

Champion, "Anonymizing speech: evaluating and designing speaker anonymization techniques", 2023 (arXiv 2308.04455), and
the evaluation plan of VoicePrivacy 2024. A frame of 20 ms has one of 48 codebook vectors of 256, the F0 of the
utterance in z-scores (0: unvoiced) and the speaker as a one-hot vector, constant over time.

Three decoders: "hifigan" (Kong et al., "HiFi-GAN", NeurIPS 2020; ESPnet's, with the sizes of B5), and two that CPUs
train in minutes: "spectral" (`spectral.SpectralDecoder`) and "source_filter" (`source_filter.SourceFilterDecoder`),
which follows F0 from the start. All make exactly 320 samples of each frame. The
published generator makes one more: it reflects one sample in front of its last convolution, so its output is this
one's a sample later, and beginning with another sample. Whoever cuts it to the input's length loses the last one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from espnet2.gan_tts.hifigan import HiFiGANGenerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..errors import UserError, suggest
from .mel import cleared, inside
from .source_filter import RANGE, SourceFilterDecoder, pitch_of
from .spectral import SpectralDecoder
from .streaming import Overlap, Stream


class HiFiGan(HiFiGANGenerator):
    """ESPnet's HiFi-GAN generator that knows where each item of a batch ends, and takes B5's kernels.

    Args:
        inputs: D, channels of the input.
        channels: of the first layer; each stage halves them.
        upsample_scales: of the stages; their product is `hop`.
        upsample_kernel_sizes: theirs; as even as the scales, at least as large.
        resblock_kernel_sizes: of the residual blocks, odd.
        resblock_dilations: theirs.

    Attributes:
        hop: samples a frame.
        context: frames on either side that a frame's samples depend on.

    Raises:
        UserError: for kernels that do not fit their scales.
    """

    def __init__(
        self,
        inputs: int,
        channels: int = 512,
        upsample_scales: Sequence[int] = (5, 4, 4, 2, 2),
        upsample_kernel_sizes: Sequence[int] = (11, 8, 8, 4, 4),
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
    ) -> None:
        stages = list(zip(upsample_scales, upsample_kernel_sizes, strict=True))
        if not stages or any(kernel < scale or (kernel - scale) % 2 for scale, kernel in stages):
            raise UserError(
                f"upsample_scales {list(upsample_scales)}, upsample_kernel_sizes {list(upsample_kernel_sizes)}",
                expected="kernels at least as large as the scales, and even where they are",
            )
        super().__init__(
            inputs, channels=channels, upsample_scales=list(upsample_scales),
            upsample_kernel_sizes=[2 * scale for scale in upsample_scales], use_weight_norm=False,
            resblock_kernel_sizes=list(resblock_kernel_sizes), resblock_dilations=[list(d) for d in resblock_dilations],
        )  # fmt: skip
        for stage, (scale, kernel) in zip(self.upsamples, stages, strict=True):
            if kernel != 2 * scale:  # ESPnet knows no others; 5/11 is B5's first
                old = stage[1]
                stage[1] = nn.ConvTranspose1d(
                    old.in_channels, old.out_channels, kernel, scale, padding=(kernel - scale) // 2
                )
        for module in list(self.modules()):
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                weight_norm(module)
        self.hop = math.prod(upsample_scales)
        self.context = self._context(stages, resblock_kernel_sizes, resblock_dilations)

    def reset_parameters(self) -> None:
        """Nothing: ESPnet's and the original's N(0, 0.01) is lost to their weight norms, and torch's own remains."""

    @staticmethod
    def _context(
        stages: Sequence[tuple[int, int]], kernels: Sequence[int], dilations: Sequence[Sequence[int]]
    ) -> int:
        """Frames on either side, counted from the output back."""
        block = max(
            sum((kernel // 2) * (dilation + 1) for dilation in own)
            for kernel, own in zip(kernels, dilations, strict=True)
        )
        reach = 3  # of the last convolution
        for scale, kernel in reversed(stages):
            reach = -(-(reach + block + kernel) // scale)
        return reach + 3  # of the first

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode frames.

        Args:
            frames: (B, D, F).
            lengths: (B,) frames of each item, 1 to F; None: F.

        Returns:
            (B, 1, F * hop); what lies behind an item's end is zero.
        """
        keep = inside(lengths, frames.shape[2])
        keep = None if keep is None else keep[:, None].to(frames.dtype)
        x = self.input_conv(_kept(frames, keep))
        for i, upsample in enumerate(self.upsamples):
            x = upsample(_kept(x, keep))
            keep = None if keep is None else keep.repeat_interleave(x.shape[2] // keep.shape[2], dim=2)
            blocks = self.blocks[i * self.num_blocks : (i + 1) * self.num_blocks]
            x = sum(_residual(block, x, keep) for block in blocks) / self.num_blocks
        return _kept(self.output_conv(_kept(x, keep)), keep)

    def stream(self) -> Stream:
        """A new stream of one recording: frames (B, D, n) in, samples (B, 1, m) out, equal to the whole."""
        return Overlap(self, self.context, 1, self.hop)


def _kept(x: Tensor, keep: Tensor | None) -> Tensor:
    """x (B, C, T) with zeros where keep (B, 1, T) has them: what a convolution sees behind a recording alone."""
    return x if keep is None else x * keep


def _residual(block: nn.Module, x: Tensor, keep: Tensor | None) -> Tensor:
    """ESPnet's `ResidualBlock` with zeros behind each item's end in front of every convolution."""
    for first, second in zip(block.convs1, block.convs2, strict=True):
        x = second(_kept(first(_kept(x, keep)), keep)) + x
    return x


BACKBONES = {"hifigan": HiFiGan, "spectral": SpectralDecoder, "source_filter": SourceFilterDecoder}


class Vocoder(nn.Module):
    """See the module's description.

    Args:
        n_codes: Q, number of content codes.
        code_dim: C, width of their vectors.
        n_speakers: S, voices it was trained on.
        backbone: "hifigan", "spectral" or "source_filter".
        decoder_conf: settings of the decoder's class, without width of the input.
        sample_rate: Hz.

    Attributes:
        codebook: (Q, C), the acoustic model's; it is not trained.
        inputs: width of a frame, C + 1 + S.
        hop: samples a frame.
        sourced: whether the decoder gets pulses and noise besides ("source_filter"). Such a vocoder has `f0_mean` and
            `f0_sd`, (S,) Hz, over the voiced frames of each voice: what its z-scores mean.

    Raises:
        UserError: for an unknown backbone or a key that does not fit.
    """

    def __init__(
        self,
        *,
        n_codes: int,
        code_dim: int,
        n_speakers: int,
        backbone: str = "hifigan",
        decoder_conf: dict[str, Any] | None = None,
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise UserError(f"unknown backbone '{backbone}'{suggest(backbone, BACKBONES)}")
        self.n_codes, self.n_speakers, self.sample_rate = n_codes, n_speakers, sample_rate
        self.inputs = code_dim + 1 + n_speakers
        self.register_buffer("codebook", torch.zeros(n_codes, code_dim))
        self.sourced = backbone == "source_filter"
        settings = dict(decoder_conf or {})
        if self.sourced:
            settings["sample_rate"] = sample_rate
            self.register_buffer("f0_mean", torch.full((n_speakers,), 150.0))
            self.register_buffer("f0_sd", torch.full((n_speakers,), 30.0))
        try:
            self.decoder = BACKBONES[backbone](self.inputs, **settings)
        except TypeError as error:
            raise UserError(f"decoder_conf: {error}") from error
        self.hop: int = self.decoder.hop

    def frames(self, codes: Tensor, f0: Tensor, speakers: Tensor) -> Tensor:
        """What the decoder gets.

        Args:
            codes: (B, F) integers, 0 to Q - 1.
            f0: (B, F) z-scores, 0 where unvoiced.
            speakers: (B,) integers, 0 to S - 1.

        Returns:
            (B, C + 1 + S, F): codebook vectors, F0, one-hot speakers.
        """
        content = self.codebook[codes].transpose(1, 2)
        voice = nn.functional.one_hot(speakers, self.n_speakers).to(content.dtype)
        return torch.cat(
            [content, f0[:, None].to(content.dtype), voice[:, :, None].expand(-1, -1, codes.shape[1])], dim=1
        )

    def z_scores(self, hz: Tensor, speakers: Tensor) -> Tensor:
        """F0 (B, F) in Hz, 0 where unvoiced -> z-scores by the statistics of its voice, 0 where unvoiced."""
        z = (hz - self.f0_mean[speakers, None]) / self.f0_sd[speakers, None]
        tiny = torch.finfo(z.dtype).tiny  # a voiced frame at the mean stays voiced
        return torch.where(hz > 0, torch.where(z == 0, tiny, z), 0.0)

    def pitch(self, f0: Tensor, speakers: Tensor, start: Tensor | None = None) -> Tensor:
        """Phase and F0 of the pulses, for a decoder with a source; see `source_filter.pitch_of`.

        Args:
            f0: (B, F) z-scores of whole recordings, 0 where unvoiced.
            speakers: (B,).
            start: (B,) phase of the first sample, in periods; None: 0.

        Returns:
            (B, 3, F).
        """
        hz = (self.f0_mean[speakers, None] + self.f0_sd[speakers, None] * f0).clamp(*RANGE)
        start = f0.new_zeros(len(f0)) if start is None else start
        return pitch_of(torch.where(f0 != 0, hz, 0.0), start, self.hop, self.sample_rate)

    def forward(
        self,
        codes: Tensor,
        f0: Tensor,
        speakers: Tensor,
        lengths: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Speech of whole recordings.

        Args:
            codes: (B, F).
            f0: (B, F).
            speakers: (B,).
            lengths: (B,) frames of each item, 1 to F; None: F.
            noise: (B, F * hop) of variance 1, for a decoder with a source, whose pulses then begin at phase 0; None:
                noise and phase are drawn by torch.

        Returns:
            (B, F * hop), zero behind an item's end.
        """
        frames = self.frames(codes, f0, speakers)
        if self.sourced:
            start = None if noise is not None else torch.rand(len(f0), device=f0.device)
            noise = torch.randn(*f0.shape, self.hop, device=f0.device) if noise is None else noise
            pitch = self.pitch(cleared(f0, lengths), speakers, start)
            frames = torch.cat([frames, pitch, self.by_frame(noise)], dim=1)
        return self.decoder(frames, lengths)[:, 0]

    def by_frame(self, noise: Tensor) -> Tensor:
        """Noise (B, F * hop) or (B, F, hop) -> (B, hop, F), the channels of a decoder with a source."""
        return noise.reshape(len(noise), -1, self.hop).transpose(1, 2)


def pooled(f0: Tensor) -> Tensor:
    """Z-scores of F0 in Hz (any shape, 0: unvoiced) over all voiced frames together, as the published toolkit does.

    Its statistics are those of the whole batch, in training and afterwards, so that a result depends on what else is in
    the batch; only kept to reproduce it (`compat`). Unbiased variance plus 1e-6; less than two voiced frames: all zero.
    """
    voiced = f0 > 0
    values = f0[voiced]
    if len(values) < 2:
        return torch.zeros_like(f0)
    z = (f0 - values.mean()) / (values.var() + 1e-6).sqrt()
    return torch.where(voiced, z, torch.zeros_like(z))

"""A source-filter decoder that finds F0 in the frames it decodes: for a codec, whose codes are all that there is.

One network tells from the frames whether a frame is voiced and how high, another the filters of pulses and noise
(`source_filter`), from the frames and that F0. In training the pulses follow the F0 that was measured, so that both
learn from the first step on; afterwards they follow the one that was found.

The noise is a fixed table, by the frame's place in the recording, and the first pulse is where the recording begins:
the same codes give the same samples, in blocks or at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mel import cleared
from .source_filter import RANGE, SourceFilterDecoder, pitch_of
from .spectral import Backbone
from .streaming import Overlap, Stream

REFERENCE = 150.0  # Hz: F0 is told in octaves above it
FOUND = 2  # channels that tell what was found: octaves, and the logit of being voiced
TABLE = 1024  # frames after which the noise repeats: 20 s


class PitchedDecoder(nn.Module):
    """See the module's description.

    Args:
        dimension: D, width of the frames.
        sample_rate: Hz.
        pitch_channels: width of the network that finds F0.
        pitch_layers: number of its blocks.
        decoder: further settings of `SourceFilterDecoder`.

    Attributes:
        hop: samples a frame.
    """

    def __init__(
        self,
        dimension: int = 512,
        sample_rate: int = 16000,
        pitch_channels: int = 128,
        pitch_layers: int = 4,
        **decoder: int | bool,
    ) -> None:
        super().__init__()
        settings = {"minimum_phase": True, **decoder}
        self.filter = SourceFilterDecoder(dimension + FOUND, sample_rate=sample_rate, **settings)
        self.finder = Backbone(dimension, FOUND, pitch_channels, pitch_layers, 3, 7)
        self.hop, self.sample_rate = self.filter.hop, sample_rate
        noise = torch.randn(self.hop, TABLE, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)

    def find(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames (B, D, F), lengths (B,) in frames or None -> (B, 2, F): octaves above 150 Hz, logit of voiced."""
        return self.finder(frames.transpose(1, 2), lengths).transpose(1, 2).float()

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode frames.

        Args:
            frames: (B, D, F).
            lengths: (B,) frames of each item, 1 to F; None: F.

        Returns:
            (B, 1, F * hop); what lies behind an item's end is zero.
        """
        hz = cleared(hertz(self.find(frames, lengths)), lengths)
        pitch = pitch_of(hz, hz.new_zeros(len(hz)), self.hop, self.sample_rate)
        return self.filter(self.inputs(frames, hz, pitch, self.noise_at(0, frames)), lengths)

    def rendered(self, frames: Tensor, f0: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `forward` with a given F0 (B, F) in Hz, 0 where unvoiced; phase and noise are drawn by torch."""
        hz = cleared(torch.where(f0 > 0, f0.clamp(*RANGE), 0.0), lengths)
        pitch = pitch_of(hz, torch.rand(len(hz), device=hz.device), self.hop, self.sample_rate)
        noise = torch.randn(len(hz), self.hop, hz.shape[1], device=hz.device)
        return self.filter(self.inputs(frames, hz, pitch, noise), lengths)

    def inputs(self, frames: Tensor, hz: Tensor, pitch: Tensor, noise: Tensor) -> Tensor:
        """What `filter` gets: frames (B, D, F), F0 (B, F) in Hz, of `pitch_of` (B, 3, F), noise (B, hop, F)."""
        voiced = hz > 0
        octaves = torch.where(voiced, (hz.clamp(min=1.0) / REFERENCE).log2(), 0.0)
        return torch.cat([frames.float(), octaves[:, None], voiced[:, None].float(), pitch, noise], dim=1)

    def noise_at(self, first: int, frames: Tensor) -> Tensor:
        """(B, hop, F) noise for frames (B, D, F), of which the recording's `first` comes first."""
        index = torch.arange(first, first + frames.shape[2], device=frames.device) % TABLE
        return self.noise[:, index].expand(len(frames), -1, -1)

    def stream(self) -> Stream:
        """A new stream of one recording: frames (B, D, n) in, samples (B, 1, m) out, equal to the whole."""
        return _PitchedStream(self)


def hertz(found: Tensor) -> Tensor:
    """(B, 2, F) of `PitchedDecoder.find` -> F0 (B, F) in Hz within `RANGE`, 0 where unvoiced."""
    return torch.where(found[:, 1] > 0, (REFERENCE * 2 ** found[:, 0]).clamp(*RANGE), 0.0)


class _PitchedStream:
    """F0 first, then, a frame behind it since F0 moves towards the next one's, the samples; the phase is carried."""

    def __init__(self, decoder: PitchedDecoder) -> None:
        self._decoder, self._done = decoder, 0
        self._finder = Overlap(decoder.find, decoder.finder.context)
        self._filter = decoder.filter.stream()
        self._frames = self._hz = self._phase = None

    def push(self, block: Tensor, last: bool) -> Tensor:
        """See `Stream`."""
        if self._hz is None:
            self._frames, self._hz = block[:, :, :0], block.new_zeros(len(block), 0)
            self._phase = block.new_zeros(len(block), dtype=torch.float64)
        found = self._finder.push(block, last)
        self._frames = torch.cat([self._frames, block], dim=2)
        if found.shape[2]:
            self._hz = torch.cat([self._hz, hertz(found)], dim=1)
        known = self._hz.shape[1]
        ready = known if last else known - 1
        if ready < 1:
            return block.new_zeros(len(block), 0, 0)
        pitch = pitch_of(self._hz, self._phase, self._decoder.hop, self._decoder.sample_rate)
        frames = self._frames[:, :, :ready]
        inputs = self._decoder.inputs(
            frames, self._hz[:, :ready], pitch[:, :, :ready], self._decoder.noise_at(self._done, frames)
        )
        if not last:
            self._phase = pitch[:, 0, ready].double()
        self._frames, self._hz = self._frames[:, :, ready:], self._hz[:, ready:]
        self._done += ready
        return self._filter.push(inputs, last)

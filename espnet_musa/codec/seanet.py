"""SEANet encoder and decoder, the paper's backbone: (transposed) convolutions over the waveform and an LSTM.

Tagliasacchi et al., "SEANet", 2020, as in EnCodec (Défossez et al., 2022), with the paper's residual units: two
convolutions of kernel 3 and an identity as skip (O1 of the codecs' specification). With `residual_kernel_sizes: [3, 1]`
the layers are ESPnet's `SEANetEncoder` and `SEANetDecoder`, number for number (a test holds it); ours also know where
each recording of a batch ends, and run over blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ..errors import UserError
from .mel import cleared, reflect_pad
from .streaming import CarriedLSTM, Chain, Overlap, Stream

STRIDES = (2, 4, 5, 8)


def _fast_layout(x: Tensor) -> Tensor:
    """x (B, C, T) with the channels last in memory, where that is faster: without gradients on a CPU.

    There, convolutions of few channels over long inputs run two to four times faster, and every layer keeps the layout
    of its input. With gradients the padding's backward pass takes back what the convolutions gain.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x
    return x.transpose(1, 2).contiguous().transpose(1, 2)


class _Conv1d(nn.Conv1d):
    """A convolution over an image one pixel high: the same numbers, in the memory layout of the input."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        image, kernel = x[:, :, None], weight[:, :, None]
        return F.conv2d(image, kernel, bias, (1, *self.stride), dilation=(1, *self.dilation))[:, :, 0]


class _ConvTranspose1d(nn.ConvTranspose1d):
    """Likewise, transposed."""

    def forward(self, x: Tensor) -> Tensor:
        image, kernel = x[:, :, None], self.weight[:, :, None]
        return F.conv_transpose2d(image, kernel, self.bias, (1, *self.stride))[:, :, 0]


class _Conv(nn.Module):
    """Weight-normed convolution with reflected ends: (B, C, T) -> (B, C', T / stride), T a multiple of stride."""

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = weight_norm(_Conv1d(inputs, outputs, kernel_size, stride, dilation=dilation))
        total = (kernel_size - 1) * dilation + 1 - stride
        self.padding = (total - total // 2, total // 2)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return self.conv(reflect_pad(x, *self.padding, lengths) if any(self.padding) else x)


class _TransposedConv(nn.Module):
    """Weight-normed transposed convolution of kernel 2 * stride: (B, C, T) -> (B, C', T * stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = weight_norm(_ConvTranspose1d(inputs, outputs, 2 * stride, stride))
        self.left = stride - stride // 2
        self.stride = stride

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        out = self.conv(cleared(x, lengths))
        return out[:, :, self.left : self.left + x.shape[2] * self.stride]


class _ResidualUnit(nn.Module):
    """skip(x) + convolutions of x, an ELU before each of them."""

    def __init__(
        self, channels: int, kernel_sizes: Sequence[int], dilation: int, compress: int, true_skip: bool
    ) -> None:
        super().__init__()
        widths = [channels] + [channels // compress] * (len(kernel_sizes) - 1) + [channels]
        self.convs = nn.ModuleList(
            _Conv(inputs, outputs, kernel_size, dilation=1 if i else dilation)
            for i, (inputs, outputs, kernel_size) in enumerate(
                zip(widths[:-1], widths[1:], kernel_sizes, strict=True)
            )
        )
        self.skip = None if true_skip else _Conv(channels, channels, 1)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.elu(y), lengths)
        return y + (x if self.skip is None else self.skip(x, lengths))


class _LSTM(nn.Module):
    """x + LSTM(x) over time, one direction: (B, C, F) -> (B, C, F)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        return CarriedLSTM(self.lstm).push(x, last=True)


def _check(strides: Sequence[int], kernel_sizes: Sequence[int], compress: int, channels: int) -> None:
    if not strides or not kernel_sizes or any(k % 2 == 0 for k in kernel_sizes) or channels % compress:
        raise UserError(
            f"strides {list(strides)}, residual_kernel_sizes {list(kernel_sizes)}, compress {compress}",
            expected="at least one stride, odd kernels, channels that compress divides",
        )


def _context(layers: Sequence[tuple[int, int]], hop: int) -> int:
    """Frames on either side that layers see: (reach in their input's samples, samples of the waveform in one)."""
    return ceil(sum(reach * size for reach, size in layers) / hop)


class SeanetEncoder(nn.Module):
    """E_c: a convolution, residual units and strided convolutions, an LSTM, a convolution.

    Args:
        dimension: D, width of the frames.
        channels: of the first convolution; doubled by every stride (O2: 32 to 512).
        strides: down-sampling of each block; hop is their product.
        residual_kernel_sizes: of the convolutions of a residual unit (O1).
        compress: narrowing inside a residual unit.
        true_skip: an identity as skip instead of a convolution of kernel 1.
        residual_layers: residual units of a block; the i-th is dilated 2 ** i times.
        lstm_layers: 0: no LSTM.
        kernel_size: of the first and the last convolution, odd.

    Attributes:
        context: frames on either side that a frame depends on, the LSTM apart.
    """

    def __init__(
        self,
        dimension: int = 512,
        channels: int = 32,
        strides: Sequence[int] = STRIDES,
        residual_kernel_sizes: Sequence[int] = (3, 3),
        compress: int = 1,
        true_skip: bool = True,
        residual_layers: int = 1,
        lstm_layers: int = 2,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        _check(strides, [*residual_kernel_sizes, kernel_size], compress, channels)
        self.hop, self.dimension = prod(strides), dimension
        self.first = _Conv(1, channels, kernel_size)
        self.units, self.downs = nn.ModuleList(), nn.ModuleList()
        reaches, size = [(kernel_size // 2, 1)], 1
        for stride in strides:
            unit = [
                _ResidualUnit(channels, residual_kernel_sizes, 2**i, compress, true_skip)
                for i in range(residual_layers)
            ]
            self.units.append(nn.ModuleList(unit))
            self.downs.append(_Conv(channels, 2 * channels, 2 * stride, stride))
            reaches += [(_reach(residual_kernel_sizes, residual_layers), size), (2 * stride, size)]
            channels, size = 2 * channels, size * stride
        self.lstm = _LSTM(channels, lstm_layers) if lstm_layers else None
        self.last = _Conv(channels, dimension, kernel_size)
        self._contexts = _context(reaches, self.hop), kernel_size // 2
        self.context = sum(self._contexts)

    def forward(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode waveforms.

        Args:
            wav: (B, 1, T); continued with zeros to a multiple of `hop`.
            lengths: (B,) frames of each item, 1 to ceil(T / hop); None: all.

        Returns:
            (B, D, ceil(T / hop)).
        """
        x = self._front(F.pad(wav, (0, -wav.shape[2] % self.hop)), lengths)
        return self._tail(x if self.lstm is None else self.lstm(x), lengths)

    def _front(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        lengths = None if lengths is None else lengths * self.hop
        x = _fast_layout(self.first(x, lengths))
        for units, down in zip(self.units, self.downs, strict=True):
            for unit in units:
                x = unit(x, lengths)
            x = down(F.elu(x), lengths)
            lengths = None if lengths is None else lengths // down.conv.stride[0]
        return x

    def _tail(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.last(F.elu(x), lengths)

    def stream(self) -> Stream:
        """A new stream of one recording: samples (B, 1, n) in, frames (B, D, m) out, equal to the whole."""
        front, tail = self._contexts
        streams = [Overlap(self._front, front, self.hop, 1), Overlap(self._tail, tail)]
        if self.lstm is not None:
            streams.insert(1, CarriedLSTM(self.lstm.lstm))
        return Chain(streams)


class SeanetDecoder(nn.Module):
    """The encoder's mirror: a convolution, an LSTM, transposed convolutions and residual units, a convolution.

    Args:
        dimension: D, width of the frames.
        channels: of the last convolution's input; the strides double them from there upwards.
        strides: the encoder's; used in reverse order.
        residual_kernel_sizes: as in `SeanetEncoder`, like all others.
        compress: narrowing inside a residual unit.
        true_skip: an identity as skip.
        residual_layers: residual units of a block.
        lstm_layers: 0: no LSTM.
        kernel_size: of the first and the last convolution, odd.

    Attributes:
        context: frames on either side that a frame's samples depend on, the LSTM apart.
    """

    def __init__(
        self,
        dimension: int = 512,
        channels: int = 32,
        strides: Sequence[int] = STRIDES,
        residual_kernel_sizes: Sequence[int] = (3, 3),
        compress: int = 1,
        true_skip: bool = True,
        residual_layers: int = 1,
        lstm_layers: int = 2,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        _check(strides, [*residual_kernel_sizes, kernel_size], compress, channels)
        self.hop, self.dimension = prod(strides), dimension
        size, width = self.hop, channels * 2 ** len(strides)
        self.first = _Conv(dimension, width, kernel_size)
        self.lstm = _LSTM(width, lstm_layers) if lstm_layers else None
        self.units, self.ups = nn.ModuleList(), nn.ModuleList()
        reaches = []
        for stride in reversed(strides):
            self.ups.append(_TransposedConv(width, width // 2, stride))
            reaches.append((2, size))
            width, size = width // 2, size // stride
            unit = [
                _ResidualUnit(width, residual_kernel_sizes, 2**i, compress, true_skip)
                for i in range(residual_layers)
            ]
            self.units.append(nn.ModuleList(unit))
            reaches.append((_reach(residual_kernel_sizes, residual_layers), size))
        self.last = _Conv(width, 1, kernel_size)
        self._contexts = kernel_size // 2, _context([*reaches, (kernel_size // 2, 1)], self.hop)
        self.context = sum(self._contexts)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode frames.

        Args:
            frames: (B, D, F).
            lengths: (B,) frames of each item, 1 to F; None: F.

        Returns:
            (B, 1, F * hop); what lies behind an item's end is zero.
        """
        x = self.first(frames, lengths)
        wav = self._tail(x if self.lstm is None else self.lstm(x), lengths)
        return cleared(wav, None if lengths is None else lengths * self.hop)

    def _tail(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = _fast_layout(x)
        for up, units in zip(self.ups, self.units, strict=True):
            x = up(F.elu(x), lengths)
            lengths = None if lengths is None else lengths * up.stride
            for unit in units:
                x = unit(x, lengths)
        return self.last(F.elu(x), lengths)

    def stream(self) -> Stream:
        """A new stream of one recording: frames (B, D, n) in, samples (B, 1, m) out, equal to the whole."""
        first, tail = self._contexts
        streams = [Overlap(lambda x: self.first(x, None), first), Overlap(self._tail, tail, 1, self.hop)]
        if self.lstm is not None:
            streams.insert(1, CarriedLSTM(self.lstm.lstm))
        return Chain(streams)


def _reach(kernel_sizes: Sequence[int], layers: int) -> int:
    """Samples on either side that a block's residual units see."""
    first, *others = (k // 2 for k in kernel_sizes)
    return sum(first * 2**i + sum(others) for i in range(layers))

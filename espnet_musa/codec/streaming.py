"""Processing of recordings of any length in blocks, equal to processing them whole.

A chain of parts: those that see a limited number of frames run over windows that overlap, and keep only what saw all
its context; recurrent ones carry their state. Memory depends on the block, not on the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stream(Protocol):
    """Blocks in, blocks out."""

    def push(self, block: Tensor, last: bool) -> Tensor:
        """Process a block (B, C, n), n >= 0; returns (B, C', m), what is ready now, and with `last` the rest."""
        ...


class Overlap:
    """A function of limited context over blocks.

    At the true ends of the recording the function itself pads, as it does for a whole recording. Inside, each window
    begins and ends `context` frames beyond what is kept of it.

    Args:
        function: (B, C, n * rate_in) -> (B, C', n * rate_out) for any number n of frames.
        context: frames on either side that a frame of the output depends on.
        rate_in: samples in a frame of the input; a last, partial frame is filled with zeros.
        rate_out: samples in a frame of the output.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], context: int, rate_in: int = 1, rate_out: int = 1
    ) -> None:
        self._function, self._context = function, context
        self._rate_in, self._rate_out = rate_in, rate_out
        self._buffer: Tensor | None = None
        self._done = 0  # frames of the buffer that serve as context alone

    def push(self, block: Tensor, last: bool) -> Tensor:
        """See `Stream`."""
        if self._buffer is None or not block.shape[2]:
            buffer = block if self._buffer is None else self._buffer
        else:
            buffer = torch.cat([self._buffer, block], dim=2)
        if last:
            buffer = F.pad(buffer, (0, -buffer.shape[2] % self._rate_in))
        frames = buffer.shape[2] // self._rate_in
        ready = frames if last else frames - self._context
        if ready <= self._done:
            self._buffer = buffer if buffer.shape[2] else None
            return block.new_zeros(block.shape[0], 0, 0)
        out = self._function(buffer[:, :, : frames * self._rate_in])
        out = out[:, :, self._done * self._rate_out : ready * self._rate_out]
        first = max(0, ready - self._context)
        self._buffer, self._done = buffer[:, :, first * self._rate_in :].clone(), ready - first
        return out


class CarriedLSTM:
    """An LSTM (time first) with residual over blocks (B, C, n), its state carried from block to block."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self._lstm, self._state = lstm, None

    def push(self, block: Tensor, last: bool) -> Tensor:
        """See `Stream`."""
        if not block.shape[2]:
            return block
        x = block.permute(2, 0, 1)
        y, self._state = self._lstm(x, self._state)
        return (x + y).permute(1, 2, 0)


class Chain:
    """Streams one after the other."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def push(self, block: Tensor, last: bool) -> Tensor:
        """See `Stream`."""
        for stream in self._streams:
            block = stream.push(block, last)
        return block

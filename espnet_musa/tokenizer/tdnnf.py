"""Factorized time-delay layers (TDNN-F) that hear nothing of the padding.

Povey et al., "Semi-orthogonal low-rank matrix factorization for deep neural networks", Interspeech 2018. A unit
splices k frames, maps them to a narrow bottleneck by a matrix that is kept semi-orthogonal, and from there to its
output: "B" and "A" in the tables of B5 and B6 (docs/tokens.md).

No convolution pads. An utterance is extended once on both sides by copies of its own first and last frame
(`replicate`), and every layer then uses some of that up. What its frames become therefore depends on nothing but the
utterance; only statistics over a batch have to know which frames count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UPDATE_SPEED = 0.125  # of the constraint; 1/8 makes Newton's step, with quadratic convergence


def replicate(x: Tensor, lengths: Tensor, before: int, after: int) -> Tensor:
    """Extend utterances by their own outermost frames, wherever the batch's padding begins.

    Args:
        x: (B, D, F).
        lengths: (B,) frames, from 1.
        before: frames to add in front.
        after: frames to add after the last one.

    Returns:
        (B, D, before + F + after); beyond `before` + length + `after` without meaning.
    """
    place = torch.arange(-before, x.shape[2] + after, device=x.device).clamp(min=0)
    place = torch.minimum(place, lengths[:, None] - 1)
    return x.gather(2, place[:, None].expand(-1, x.shape[1], -1))


def valid(lengths: Tensor, frames: int) -> Tensor:
    """(B,) numbers of frames -> (B, frames), True for frames of the utterance."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class MaskedBatchNorm(nn.Module):
    """Mean 0 and variance 1 in every dimension, without scale and shift; padding has no part in the statistics.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.momentum, self.epsilon = 0.1, 1e-5  # torch's
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise (B, D, F); in training by the frames where `mask` (B, F) is True (None: all), else as learnt."""
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            count = x.new_ones(len(x), x.shape[2]) if mask is None else mask.to(x.dtype)
            share = count / count.sum()
            mean = torch.einsum("bdf,bf->d", x, share)
            variance = (torch.einsum("bdf,bf->d", x.square(), share) - mean.square()).clamp(min=0)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach(), self.momentum)
        scale = (variance + self.epsilon).rsqrt()
        return torch.addcmul((-mean * scale)[:, None], x, scale[:, None])


class SemiOrthogonal(nn.Conv1d):
    """A matrix over spliced frames, without bias, whose shorter side stays orthogonal up to a common scale.

    Args:
        inputs: channels.
        outputs: channels.
        splice: frames.
        stride: frames from one output to the next.
    """

    def __init__(self, inputs: int, outputs: int, splice: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, splice, stride, bias=False)
        nn.init.normal_(self.weight, std=(inputs * splice) ** -0.5)

    @torch.no_grad()
    def constrain(self) -> None:
        """One step towards M M^T = a^2 I with a floating scale a (equation 4; far from it shorter, as in Kaldi)."""
        m = self.weight.flatten(1)
        m = m if m.shape[0] <= m.shape[1] else m.T
        p = m @ m.T
        trace, squares = p.trace(), p.square().sum()
        scale = squares / trace  # a^2
        # 1 where the constraint holds. Far from it Newton's step would overshoot.
        ratio = squares * len(p) / trace.square()
        speed = UPDATE_SPEED * torch.where(ratio > 1.1, 0.25, torch.where(ratio > 1.02, 0.5, 1.0))
        p.diagonal().sub_(scale)
        m.sub_((4 * speed / scale) * (p @ m))


class Unit(nn.Module):
    """A TDNN-F unit: splice, bottleneck, output, bypass, batch normalisation, ReLU, dropout.

    Args:
        inputs: channels.
        outputs: channels; the centre frame of the input is added where they are as many.
        bottleneck: channels.
        splice: k frames, odd.
        stride: 1, 1.5 or 2 frames from one output to the next.
        bypass: the factor of that centre frame.
        dropout: probability.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bottleneck: int,
        splice: int,
        stride: float,
        bypass: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stride, self.margin = stride, splice // 2
        self.bypass = bypass if inputs == outputs else 0.0
        self.narrow = SemiOrthogonal(inputs, bottleneck, splice, int(stride) if stride == int(stride) else 1)
        self.widen = Widen(bottleneck, outputs, dropout)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One unit.

        Args:
            x: (B, D, F).
            lengths: (B,) frames that count; None: all.

        Returns:
            (B, D', F') and how many of its frames count.
        """
        z, centre = self.narrow(x), None
        if self.narrow.stride[0] != self.stride:
            z = strided(z, self.stride)
        if self.bypass:
            centre = self.bypass * strided(x[:, :, self.margin : x.shape[2] - self.margin], self.stride)
        lengths = None if lengths is None else outputs_of(lengths, self.margin, self.stride)
        return self.widen(z, lengths, centre), lengths


class Widen(nn.Module):
    """The second half of a unit, from its bottleneck on.

    Args:
        bottleneck: channels.
        outputs: channels.
        dropout: probability.
    """

    def __init__(self, bottleneck: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.affine = nn.Conv1d(bottleneck, outputs, 1)
        nn.init.normal_(self.affine.weight, std=bottleneck**-0.5)
        nn.init.zeros_(self.affine.bias)
        self.norm, self.dropout = MaskedBatchNorm(outputs), nn.Dropout(dropout)

    def forward(self, z: Tensor, lengths: Tensor | None, bypassed: Tensor | None = None) -> Tensor:
        """(B, bottleneck, F) -> (B, outputs, F); `lengths` and `bypassed` as in `Unit`."""
        y = self.affine(z)
        y = y if bypassed is None else y + bypassed
        mask = None if lengths is None or not self.training else valid(lengths, y.shape[2])
        return self.dropout(F.relu(self.norm(y, mask)))


def strided(x: Tensor, stride: float) -> Tensor:
    """Frames 0, s, 2s, ... of (B, D, F), rounded down: with 1.5 two of every three."""
    if stride == 1:
        return x
    count = outputs_of(torch.tensor(x.shape[2]), 0, stride)
    return x[:, :, (torch.arange(int(count), device=x.device) * stride).long()]


def outputs_of(lengths: Tensor, margin: int, stride: float) -> Tensor:
    """Frames that so many become in a unit that sees `margin` frames to each side."""
    return torch.ceil((lengths - 2 * margin).clamp(min=0) / stride).long()


def constrain(module: nn.Module) -> None:
    """One step of the constraint in every matrix of a module that is being trained."""
    for part in module.modules():
        if isinstance(part, SemiOrthogonal) and part.weight.requires_grad:
            part.constrain()

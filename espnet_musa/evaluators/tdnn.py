"""ECAPA-TDNN and x-vector: SpeechBrain's modules and weights, computed faster.

The networks hold SpeechBrain's layers, so that state dictionaries are exchangeable, and compute what those compute, in
another way:

- Activations are (B, F, C), frame after frame, and a convolution is one product of all frames with its kernel; a wider
  kernel sees its taps side by side. A processor's matrix products then run at their full speed, convolutions of 128
  channels at less than half of it.
- The type of the input is the type of the activations: float32, or bfloat16 with float32 weights and statistics.
- Attentive pooling does not repeat its context for every frame, and its gradient is written out.
- Utterances of different lengths in one batch: every convolution reflects at each utterance's own end, where
  SpeechBrain's reflect at the end of the tensor, so that a batch changes nothing.
- No random number is added in the pooling of x-vectors (SpeechBrain: up to 9e-5, in evaluation too), so that an
  utterance has one embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

MARGIN = (
    4  # frames after the last that a batch with `lengths` needs: half the width of the widest convolution
)


class EcapaTdnn(nn.Module):
    """SpeechBrain's ECAPA_TDNN: Desplanques et al., Interspeech 2020.

    Args:
        original: an `ECAPA_TDNN` with global context; its layers become this module's.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        for name, child in original.named_children():
            self.add_module(name, child)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Embed features.

        Args:
            x: (B, F, mel_bands) features, float32 or bfloat16.
            lengths: (B,) in frames, at most F - MARGIN each; None: all of F.

        Returns:
            (B, 1, D) float32.
        """
        inside = _inside(x, lengths)
        x = _block(self.blocks[0], x, lengths)
        outputs = []
        for block in self.blocks[1:]:
            x = _se_res2net(block, x, lengths, inside)
            outputs.append(x)
        x = _block(self.mfa, torch.cat(outputs, dim=2), lengths)
        pooled = _attentive_pooling(self.asp, x, lengths, inside).to(self.fc.conv.weight.dtype)
        return _convolve(self.fc.conv, _normalise(self.asp_bn, pooled)[:, None], None)


class XVector(nn.Module):
    """SpeechBrain's Xvector: Snyder et al., ICASSP 2018.

    Args:
        original: an `Xvector`; its layers become this module's.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.blocks = original.blocks

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Embed features, as `EcapaTdnn.forward`."""
        *layers, _, last = self.blocks
        frames = x.shape[1] if lengths is None else lengths[:, None]
        inside = _inside(x, lengths)
        for conv, activation, norm in zip(*[iter(layers)] * 3, strict=True):
            x = _normalise(norm, activation(_convolve(conv.conv, x, lengths)))
        mean, variance = _Moments.apply(x, inside)
        std = (variance * frames / (frames - 1)).clamp(1e-12).sqrt() + 1e-5
        return last(torch.cat([mean, std], dim=1)[:, None].to(last.w.weight.dtype))


def _se_res2net(
    block: nn.Module, x: torch.Tensor, lengths: torch.Tensor | None, inside: torch.Tensor
) -> torch.Tensor:
    """SpeechBrain's SERes2NetBlock: (B, F, C) -> (B, F, C')."""
    residual = x if block.shortcut is None else _convolve(block.shortcut.conv, x, lengths)
    first, *others = _block(block.tdnn1, x, lengths).chunk(block.res2net_block.scale, dim=2)
    parts = [first]
    for part, layer in zip(others, block.res2net_block.blocks, strict=True):
        parts.append(_block(layer, part if len(parts) == 1 else part + parts[-1], lengths))
    x = _block(block.tdnn2, torch.cat(parts, dim=2), lengths)
    squeeze, excite = block.se_block.conv1.conv, block.se_block.conv2.conv
    mean = (inside.softmax(dim=1) * x).sum(dim=1, keepdim=True) if lengths is not None else x.mean(1, True)
    scale = _convolve(excite, _convolve(squeeze, mean, None).relu_(), None).sigmoid()
    return torch.addcmul(residual, x, scale)


def _attentive_pooling(
    asp: nn.Module, x: torch.Tensor, lengths: torch.Tensor | None, inside: torch.Tensor
) -> torch.Tensor:
    """SpeechBrain's AttentiveStatisticsPooling with global context: (B, F, C) -> (B, 2 C).

    There, mean and deviation of the utterance are repeated for every frame and convolved with it. Their part of the
    convolution is the same for all frames, so here it is computed once and added.
    """
    conv, channels = asp.tdnn.conv.conv, x.shape[2]
    weight, bias = conv.weight[:, :, 0].to(x.dtype), conv.bias.to(x.dtype)
    mean, variance = _Moments.apply(x, inside)
    context = torch.cat([mean, variance.clamp(1e-12).sqrt()], dim=1)
    fixed = functional.linear(context, weight[:, channels:], bias)
    hidden = (functional.linear(x, weight[:, :channels]) + fixed[:, None]).relu_()
    logits = _convolve(asp.conv.conv, _normalise(asp.tdnn.norm, hidden).tanh(), None)
    mean, variance = _Moments.apply(x, logits if lengths is None else logits + inside)
    return torch.cat([mean, variance.clamp(1e-12).sqrt()], dim=1)


def _inside(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Logits of uniform weights for the frames of (B, F, C): (B, F, 1), -inf in the padding, else 0."""
    logits = x.new_zeros(len(x), x.shape[1], 1)
    if lengths is None:
        return logits
    outside = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    return logits.masked_fill_(outside[:, :, None], float("-inf"))


def _block(block: nn.Module, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """SpeechBrain's TDNNBlock: convolution, ReLU, batch normalisation; (B, F, C) -> (B, F, C')."""
    return _normalise(block.norm, _convolve(block.conv.conv, x, lengths).relu_())


def _convolve(conv: nn.Conv1d, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """A convolution of "same" length with reflection: (B, F, C) -> (B, F, C')."""
    width, weight, bias = conv.kernel_size[0], conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    if width == 1:
        return functional.linear(x, weight[:, :, 0], bias)
    if lengths is not None:
        step = torch.arange(MARGIN, device=x.device)
        row = torch.arange(len(x), device=x.device)[:, None]
        x = x.clone()
        x[row, lengths[:, None] + step] = x[row, lengths[:, None] - 2 - step]
    return functional.linear(_Taps.apply(x, width, conv.dilation[0]), weight.transpose(1, 2).flatten(1), bias)


def _normalise(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """SpeechBrain's BatchNorm1d over all frames of (B, F, C), or (B, C)."""
    norm = norm.norm
    return norm(x.view(-1, x.shape[-1])).view(x.shape)


class _Taps(torch.autograd.Function):
    """What each tap of a kernel sees, side by side: (B, F, C) -> (B, F, width x C), reflected at both ends."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, width: int, dilation: int) -> torch.Tensor:
        batch, frames, channels = x.shape
        ctx.width, ctx.dilation = width, dilation
        pad = dilation * (width // 2)
        padded = torch.cat([x[:, 1 : pad + 1].flip(1), x, x[:, -pad - 1 : -1].flip(1)], dim=1)
        strides = (*padded.stride()[:2], dilation * channels, 1)
        return padded.as_strided((batch, frames, width, channels), strides).reshape(batch, frames, -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        batch, frames, _ = grad.shape
        grad = grad.view(batch, frames, ctx.width, -1)
        middle = ctx.width // 2
        total = grad[:, :, middle].clone(memory_format=torch.contiguous_format)
        for tap in range(ctx.width):
            shift = abs(tap - middle) * ctx.dilation
            part = grad[:, :, tap]
            if tap > middle:
                total[:, shift:] += part[:, :-shift]
                total[:, -shift - 1 : -1] += part[:, -shift:].flip(1)
            elif tap < middle:
                total[:, :-shift] += part[:, shift:]
                total[:, 1 : shift + 1] += part[:, :shift].flip(1)
        return total, None, None


class _Moments(torch.autograd.Function):
    """Weighted mean and variance over the frames: (B, F, C) and logits (B, F, C or 1) -> two of (B, C).

    The weights are the softmax of the logits, so they add up to 1 and both gradients are short: with u = x - mean,
    dx = w (dmean + 2 u dvariance), dlogits = w (u dmean + (u^2 - variance) dvariance).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = logits.softmax(dim=1)
        mean = (weights * x).sum(dim=1)
        variance = (x - mean[:, None]).square_().mul_(weights).sum(dim=1)
        ctx.save_for_backward(x, weights, mean, variance)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x, weights, mean, variance = ctx.saved_tensors
        grad_mean, grad_variance = (grad[:, None] for grad in grads)
        centred = x - mean[:, None]
        inner = torch.addcmul(grad_mean, centred, grad_variance)
        grad_x = torch.addcmul(inner, centred, grad_variance).mul_(weights)
        if not ctx.needs_input_grad[1]:
            return grad_x, None
        return grad_x, centred.mul_(inner).sub_(grad_variance * variance[:, None]).mul_(weights)

"""A codec of features with one codebook: its codes are the tokens.

RepCodec (Huang, Meng and Ko, "RepCodec: a speech representation codec for speech tokenization", ACL 2024), built anew;
names of weights and results are those of the published code. Convolutions without down-sampling encode the features,
the nearest code by Euclidean distance replaces each frame, and convolutions restore the features from the codes. A
token sees 8 frames to each side.

Differs from RepCodec by options that are off by default: `normalize`, `kmeans_init`, `revive` (see
`FeatureCodecConfig`). Always: a batch gives the tokens of its utterances alone (there, the padding of shorter ones
leaks into their last frames), and processes that train together share what moves the codebook.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..codec.quantizer import kmeans, nearest
from .config import FeatureCodecConfig

EPSILON = 1e-5  # Laplace smoothing of the counts of codes
ITERATIONS = 50  # of the k-means that a codebook starts from, at most


class Decoded(NamedTuple):
    """What a training step needs.

    Attributes:
        y: (B, D, F) the features as restored, normalised where the input is.
        x: (B, D, F) what they should be.
        commitment: scalar, mean squared distance of the encoded frames to their codes.
        perplexity: scalar, exponential of the entropy of the codes in the batch: how many are used, as if evenly.
    """

    y: Tensor
    x: Tensor
    commitment: Tensor
    perplexity: Tensor


def frame_mask(lengths: Tensor, frames: int) -> Tensor | None:
    """(B,) numbers of frames -> (B, 1, F), True for frames of the utterance; None if nothing is padded."""
    mask = torch.arange(frames, device=lengths.device) < lengths[:, None]
    return None if bool(mask.all()) else mask[:, None]


class _Conv(nn.Module):
    """Kernel 3, over frames; padding is taken out before it, as if the utterance ended there."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.conv(x if mask is None else x * mask)


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, channels)
        self.conv2 = nn.Conv1d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x + self.conv2(F.elu(self.conv1(F.elu(x), mask)))


class _Block(nn.Module):
    """Two residual units and a convolution, which comes last in the encoder and first in the decoder."""

    def __init__(self, channels: int, conv_first: bool) -> None:
        super().__init__()
        self.conv_first = conv_first
        self.res_units = nn.ModuleList(_ResidualUnit(channels) for _ in range(2))
        self.conv = _Conv(channels, channels, bias=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.conv_first:
            x = self.conv(x, mask)
        for unit in self.res_units:
            x = unit(x, mask)
        return x if self.conv_first else self.conv(x, mask)


class _Encoder(nn.Module):
    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv = _Conv(inputs, channels)
        self.conv_blocks = nn.ModuleList(_Block(channels, conv_first=False) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.conv(x, mask)
        for block in self.conv_blocks:
            x = block(x, mask)
        return x


class _Decoder(nn.Module):
    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _Conv(inputs, channels)
        self.conv_blocks = nn.ModuleList(_Block(channels, conv_first=True) for _ in range(2))
        self.conv2 = _Conv(channels, outputs)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.conv1(x, mask)
        for block in self.conv_blocks:
            x = block(x, mask)
        return self.conv2(x, mask)


class _Projector(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = _Conv(inputs, outputs)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.project(x, mask)


class _Codebook(nn.Module):
    """K codes of width C (stored (C, K)) that follow the frames which chose them; no gradient."""

    def __init__(self, width: int, size: int, decay: float, revive: float) -> None:
        super().__init__()
        self.decay, self.revive = decay, revive
        self.register_buffer("embed", torch.randn(width, size))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed_avg", self.embed.clone())

    def start(self, codes: Tensor, count: Tensor) -> None:
        """Begin at codes (K, C) that stand for so many frames (K,) a step."""
        self.embed.copy_(codes.T)
        self.cluster_size.copy_(count)
        self.embed_avg.copy_(self.embed * count)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, C) -> codes (N,) and what they stood for (N, C); in training the codebook moves afterwards."""
        index = nearest(frames, self.embed.T)
        quantized = F.embedding(index, self.embed.T)
        if self.training:
            self._update(frames, index)
        return index, quantized

    def _update(self, frames: Tensor, index: Tensor) -> None:
        size = self.embed.shape[1]
        count = torch.bincount(index, minlength=size).to(frames.dtype)
        total = frames.new_zeros(size, frames.shape[1]).index_add_(0, index, frames).T.contiguous()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            dist.all_reduce(total)
        self.cluster_size.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.embed_avg.mul_(self.decay).add_(total, alpha=1 - self.decay)
        everything = self.cluster_size.sum()
        smoothed = (self.cluster_size + EPSILON) / (everything + size * EPSILON) * everything
        self.embed.copy_(self.embed_avg / smoothed)
        mean = float(count.sum()) / size
        dead = (self.cluster_size < self.revive * mean).nonzero()[:, 0]
        if len(dead):
            # Of several processes, the first one's choice counts: it hands its buffers to the others at every step.
            new = frames[torch.randint(len(frames), (len(dead),), device=frames.device)].T
            self.embed[:, dead], self.embed_avg[:, dead] = new, new * mean
            self.cluster_size[dead] = mean


class _Codebooks(nn.Module):
    """One codebook; RepCodec's code would allow for several."""

    def __init__(self, width: int, size: int, decay: float, revive: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Codebook(width, size, decay, revive)])


class _Quantizer(nn.Module):
    def __init__(self, width: int, size: int, decay: float, revive: float) -> None:
        super().__init__()
        self.codebook = _Codebooks(width, size, decay, revive)

    @property
    def only(self) -> _Codebook:
        return self.codebook.layers[0]


class FeatureCodec(nn.Module):
    """Encoder, projector, codebook and decoder.

    Args:
        dimension: D, of the features.
        config: see `FeatureCodecConfig`.
    """

    def __init__(self, dimension: int, config: FeatureCodecConfig) -> None:
        super().__init__()
        self.dimension, self.n_tokens, self.config = dimension, config.codebook_size, config
        channels, width = config.channels or dimension, config.code_dim or dimension
        self.encoder = _Encoder(dimension, channels)
        self.projector = _Projector(channels, width)
        self.quantizer = _Quantizer(width, config.codebook_size, config.decay, config.revive)
        self.decoder = _Decoder(width, channels, dimension)
        if config.normalize:
            self.register_buffer("mean", torch.zeros(dimension, 1))
            self.register_buffer("deviation", torch.ones(dimension, 1))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Decoded:
        """Encode, quantize and restore features; in training mode the codebook learns.

        Args:
            x: (B, D, F).
            lengths: (B,) frames; None: all are F long.
        """
        mask = None if lengths is None else frame_mask(lengths, x.shape[2])
        x = self._normalized(x)
        z = self._encoded(x, mask).transpose(1, 2)  # (B, F, C)
        frames = z.flatten(0, 1) if mask is None else z[mask[:, 0]]
        index, quantized = self.quantizer.only(frames.detach())
        commitment = F.mse_loss(frames, quantized)
        straight = frames + (quantized - frames).detach()
        if mask is None:
            q = straight.unflatten(0, z.shape[:2])
        else:
            q = torch.zeros_like(z).masked_scatter(mask[:, 0, :, None], straight)
            x = x * mask
        y = self.decoder(q.transpose(1, 2), mask)
        share = torch.bincount(index, minlength=self.n_tokens) / len(index)
        perplexity = torch.exp(-(share * (share + 1e-10).log()).sum())
        return Decoded(y if mask is None else y * mask, x, commitment, perplexity)

    @torch.no_grad()
    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Tokens (B, F) of features (B, D, F), those beyond `lengths` (B,) without meaning.

        In half precision (that of `x`) the convolutions are computed so, the distances never.
        """
        mask = None if lengths is None else frame_mask(lengths, x.shape[2])
        half = x.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(x.device.type, x.dtype if half else torch.bfloat16, enabled=half):
            z = self._encoded(self._normalized(x), mask)
        frames = z.float().transpose(1, 2).flatten(0, 1)
        return nearest(frames, self.quantizer.only.embed.T).unflatten(0, (len(x), -1))

    @torch.no_grad()
    def initialize(self, features: Tensor, frames_a_step: int) -> None:
        """Before training: statistics and codebook from a sample, where the configuration wants them.

        Args:
            features: (B, D, F) crops.
            frames_a_step: of training, for the counts that codes start with.
        """
        if self.config.normalize:
            self.mean.copy_(features.mean(dim=(0, 2))[:, None])
            self.deviation.copy_(features.std(dim=(0, 2), correction=0).clamp(min=1e-5)[:, None])
        if self.config.kmeans_init:
            parts = [self._encoded(self._normalized(part), None) for part in features.split(64)]
            frames = torch.cat(parts).transpose(1, 2).flatten(0, 1)
            codes, count = kmeans(frames, self.n_tokens, ITERATIONS)
            self.quantizer.only.start(codes, count * (frames_a_step / len(frames)))

    def _normalized(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.deviation if self.config.normalize else x.float()

    def _encoded(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.projector(self.encoder(x, mask), mask)

"""The residual bottleneck: vector quantizers in cascade, their codebooks moving averages of the frames they quantize.

Van den Oord et al., "Neural discrete representation learning", 2017 (moving averages: appendix A.1; Razavi et al.,
VQ-VAE-2, 2019); in cascade and with k-means initialisation and revival of dead codes as in SoundStream (Zeghidour et
al., 2021). Settings: O7 to O10 of the codecs' specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError


class Quantized(NamedTuple):
    """What the bottleneck gives.

    Attributes:
        q: (B, D, F) sum of all quantizers; its gradient goes straight through to the input.
        q1: (B, D, F) the first quantizer alone, straight through as well: what the semantic head sees.
        codes: (Q, B, F) int64.
        commitment: scalar, mean squared distance to the codes, summed over the quantizers (O10).
        usage: (Q,) share of each codebook that the valid frames of this batch use.
    """

    q: Tensor
    q1: Tensor
    codes: Tensor
    commitment: Tensor
    usage: Tensor


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_reduce(*tensors: Tensor) -> None:
    """Sum over all processes, in place."""
    if _distributed():
        for tensor in tensors:
            dist.all_reduce(tensor)


def _gathered(frames: Tensor) -> Tensor:
    """Frames (N_i, D) of every process -> all of them (sum N_i, D), in the order of the processes."""
    if not _distributed():
        return frames
    sizes = [torch.zeros(1, dtype=torch.long, device=frames.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(frames)], device=frames.device))
    longest = int(max(sizes))
    parts = [frames.new_empty(longest, frames.shape[1]) for _ in sizes]
    dist.all_gather(parts, F.pad(frames, (0, 0, 0, longest - len(frames))))
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def _from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, in every process."""
    if _distributed():
        dist.broadcast(tensor, src=0)
    return tensor


def nearest(frames: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest code by Euclidean distance: (N, D), (K, D) -> (N,)."""
    # |x|^2 is the same for all codes.
    return torch.addmm(codebook.square().sum(1), frames, codebook.T, alpha=-2).argmin(dim=1)


def kmeans(frames: Tensor, size: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from distinct random frames, until nothing changes or `iterations` are done.

    With fewer distinct frames than codes, drawing with replacement would give duplicates, of which all but one can
    never be used. Here the surplus codes are frames with noise of a tenth of the frames' deviation and have counts of
    zero, so that the revival of dead codes replaces them by frames of the batches that follow.

    Args:
        frames: (N, D), N >= 1.
        size: K.

    Returns:
        centroids (K, D) and their numbers of frames (K,).
    """
    distinct = torch.unique(frames, dim=0)
    chosen = distinct[torch.randperm(len(distinct), device=frames.device)[:size]]
    surplus = size - len(chosen)
    if surplus:
        near = distinct[torch.randint(len(distinct), (surplus,), device=frames.device)]
        chosen = torch.cat([chosen, near + 0.1 * distinct.std(0, correction=0) * torch.randn_like(near)])
    previous = None
    for _ in range(iterations):
        index = nearest(frames, chosen)
        if previous is not None and torch.equal(index, previous):
            break
        count, total = _sums(frames, index, size)
        chosen = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], chosen)
        previous = index
    return chosen, _sums(frames, nearest(frames, chosen), size)[0]


def _sums(frames: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number (K,) and sum (K, D) of the frames (N, D) of each code."""
    count = torch.bincount(index, minlength=size).to(frames.dtype)
    return count, frames.new_zeros(size, frames.shape[1]).index_add_(0, index, frames)


class Codebook(nn.Module):
    """K codes of width D; in training, exponential moving averages of the frames that chose them.

    Args:
        size: K.
        dimension: D.
        decay: of the moving averages, a step.
        epsilon: Laplace smoothing of the counts.
        kmeans_iterations: at most so many, over the first batch; 0: the codes start as random frames of it.
        dead_code_threshold: a code whose average count of frames a step falls below is replaced by a frame of the
            batch; 0: never.
        dead_code_share: lowers that threshold to this share of the mean count (frames / K): with few frames a step
            the fixed threshold would replace almost every code at every step (O8).
    """

    def __init__(
        self,
        size: int,
        dimension: int,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        kmeans_iterations: int = 50,
        dead_code_threshold: float = 2.0,
        dead_code_share: float = 0.1,
    ) -> None:
        super().__init__()
        self.decay, self.epsilon, self.kmeans_iterations = decay, epsilon, kmeans_iterations
        self.dead_code_threshold, self.dead_code_share = dead_code_threshold, dead_code_share
        self.register_buffer("embed", torch.randn(size, dimension))
        self.register_buffer("embed_avg", self.embed.clone())
        self.register_buffer("cluster_size", torch.zeros(size))
        # An integer, since averaging of checkpoints, safetensors and gloo take that everywhere, unlike a boolean.
        self.register_buffer("initialized", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, frames: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Quantize frames (N, D); in training those that are `valid` (N,), or all, move the codebook afterwards.

        Returns:
            codes (N,) and what they stood for at that time (N, D).
        """
        learn = frames if valid is None or not self.training else frames[valid]
        if self.training and not self.initialized:
            self._initialize(learn)
        index = nearest(frames, self.embed)
        quantized = self.embed[index]
        if self.training:
            self._update(learn, index if valid is None else index[valid])
        return index, quantized

    def _initialize(self, frames: Tensor) -> None:
        every = _gathered(frames)
        if not len(every):
            return
        embed, count = kmeans(every, len(self.embed), self.kmeans_iterations)
        self.embed.copy_(_from_first(embed))
        self.cluster_size.copy_(_from_first(count))
        self.embed_avg.copy_(self.embed * self.cluster_size[:, None])
        self.initialized.fill_(1)

    def _update(self, frames: Tensor, index: Tensor) -> None:
        size = len(self.embed)
        count, total = _sums(frames, index, size)
        _all_reduce(count, total)
        self.cluster_size.lerp_(count, 1 - self.decay)
        self.embed_avg.lerp_(total, 1 - self.decay)
        everything = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.epsilon) / (everything + size * self.epsilon) * everything
        # A code that no frame ever chose has no average yet: it stays where it is.
        chosen = self.cluster_size > 0
        self.embed.copy_(torch.where(chosen[:, None], self.embed_avg / smoothed[:, None], self.embed))
        threshold = min(self.dead_code_threshold, self.dead_code_share * float(count.sum()) / size)
        self._revive(frames, (self.cluster_size < threshold).nonzero()[:, 0], threshold)

    def _revive(self, frames: Tensor, dead: Tensor, count: float) -> None:
        """Replace dead codes by different frames of all processes' batch, as many as there are frames."""
        if not len(dead):
            return
        every = _gathered(frames)
        pick = torch.randperm(len(every), device=frames.device)[: len(dead)]
        dead = dead[: len(pick)]
        new = _from_first(every[pick].clone())
        self.embed[dead] = new
        self.embed_avg[dead] = new * count
        self.cluster_size[dead] = count


class ResidualBottleneck(nn.Module):
    """Q quantizers in cascade: each quantizes what those before it left over.

    Args:
        dimension: D, of the frames and of every code: no projection (O7).
        n_quantizers: Q.
        codebook_size: K, one for all quantizers or one for each.
        dropout: in training, share of the items that pass on a random number of quantizers only, 1 to Q - 1, so that
            each number of them can be decoded (Zeghidour et al., 2021, section III-D).
        codebook: further settings of `Codebook`.

    Raises:
        UserError: for sizes below one, or a list of another length than Q.
    """

    def __init__(
        self,
        dimension: int = 512,
        n_quantizers: int = 8,
        codebook_size: int | Sequence[int] = 1024,
        dropout: float = 0.0,
        **codebook: int | float,
    ) -> None:
        super().__init__()
        sizes = [codebook_size] * n_quantizers if isinstance(codebook_size, int) else list(codebook_size)
        if not sizes or len(sizes) != n_quantizers or min(sizes) < 1:
            raise UserError(
                f"codebook_size {codebook_size} for {n_quantizers} quantizers",
                expected="one size, or one for each of at least one quantizer",
            )
        if not 0 <= dropout <= 1:
            raise UserError(f"dropout {dropout} of the quantizers", expected="0 to 1")
        self.dimension, self.codebook_sizes, self.dropout = dimension, tuple(sizes), dropout
        self.layers = nn.ModuleList(Codebook(size, dimension, **codebook) for size in sizes)

    @property
    def n_quantizers(self) -> int:
        """Q."""
        return len(self.layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize frames; in training, the codebooks learn from them.

        The gradient of `commitment` reaches x from every layer, since a residual is x minus constants (O9).

        Args:
            x: (B, D, F).
            mask: (B, F) boolean, True for frames that count (unlike the speaker encoder's); None: all of them.
        """
        with torch.autocast(x.device.type, enabled=False):
            frames = x.float().transpose(1, 2).flatten(0, 1)  # (N, D)
            valid = None if mask is None else mask.flatten()
            total, parts, codes, losses, usage = torch.zeros_like(frames), [], [], [], []
            passed, given = self._passed(x), torch.zeros_like(frames)
            for layer, size in zip(self.layers, self.codebook_sizes, strict=True):
                residual = frames - total
                index, quantized = layer(residual.detach(), valid)
                total = total + quantized
                given = total if passed is None else torch.where(passed > len(parts), total, given)
                error, counted = residual - quantized, index
                if valid is not None:
                    error, counted = error[valid], index[valid]
                losses.append(error.square().mean())
                usage.append((torch.bincount(counted, minlength=size) > 0).float().mean())
                codes.append(index)
                parts.append(quantized)
            # In x's own layout, so that what adding s back cancels (section 1.2) cancels to the last bit.
            x = x.float()
            q, q1 = (
                x + (value.unflatten(0, (len(x), -1)).transpose(1, 2) - x).detach()
                for value in (given, parts[0])
            )
        codes = torch.stack(codes).unflatten(1, (len(x), -1))
        return Quantized(q, q1, codes, torch.stack(losses).sum(), torch.stack(usage))

    def _passed(self, x: Tensor) -> Tensor | None:
        """How many quantizers of each frame of x (B, D, F) are passed on: (B * F, 1), or None for all of all."""
        if not self.training or not self.dropout or self.n_quantizers == 1:
            return None
        some = torch.randint(1, self.n_quantizers, (len(x),), device=x.device)
        drawn = torch.rand(len(x), device=x.device) < self.dropout
        return torch.where(drawn, some, self.n_quantizers).repeat_interleave(x.shape[2])[:, None]

    @torch.no_grad()
    def encode(self, x: Tensor, n: int | None = None) -> Tensor:
        """Codes of frames by the first n quantizers; the codebooks do not move.

        Args:
            x: (B, D, F).
            n: 0 to Q; None: Q.

        Returns:
            (n, B, F) int64.

        Raises:
            UserError: if there are not so many quantizers.
        """
        n = self.n_quantizers if n is None else n
        self._check(n)
        residual = x.float().transpose(1, 2).flatten(0, 1)
        codes = residual.new_zeros(n, len(residual), dtype=torch.long)
        for row, layer in zip(codes, self.layers, strict=False):
            row.copy_(nearest(residual, layer.embed))
            residual = residual - layer.embed[row]
        return codes.unflatten(1, (x.shape[0], x.shape[2]))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, B, F) of the first n quantizers, 0 <= n <= Q -> their sum (B, D, F).

        Raises:
            UserError: if there are more layers of codes than quantizers.
        """
        self._check(len(codes))
        total = self.layers[0].embed.new_zeros(*codes.shape[1:], self.dimension)
        for index, layer in zip(codes, self.layers, strict=False):
            total = total + F.embedding(index, layer.embed)
        return total.transpose(1, 2)

    def _check(self, n: int) -> None:
        if not 0 <= n <= self.n_quantizers:
            raise UserError(f"{n} quantizers asked for", expected=f"0 to {self.n_quantizers}")

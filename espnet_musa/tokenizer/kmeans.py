"""Plain k-means over features, as HuBERT makes its targets: each frame for itself, no context, no decoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..codec.quantizer import nearest
from .config import KMeansConfig


class KMeans(nn.Module):
    """Centroids of features; the nearest one's number is the token (Hsu et al., HuBERT, 2021, section II-A).

    Args:
        dimension: D, of the features.
        config: see `KMeansConfig`.
    """

    def __init__(self, dimension: int, config: KMeansConfig) -> None:
        super().__init__()
        self.dimension, self.n_tokens, self.config = dimension, config.codebook_size, config
        self.register_buffer("centroids", torch.zeros(config.codebook_size, dimension))
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("deviation", torch.ones(dimension))

    def fit(self, frames: np.ndarray, seed: int) -> None:
        """Fit to frames (N, D) float32, N at least the number of tokens."""
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits

        if self.config.normalize:
            self.mean.copy_(torch.from_numpy(frames.mean(axis=0)))
            self.deviation.copy_(torch.from_numpy(frames.std(axis=0)).clamp(min=1e-5))
        frames = self._normalized(torch.from_numpy(frames)).numpy()
        model = MiniBatchKMeans(
            self.n_tokens, batch_size=self.config.batch_size, max_iter=self.config.epochs, n_init=3,
            random_state=seed % 2**32, reassignment_ratio=0.0,
        )  # fmt: skip
        with threadpool_limits(1):  # sums over threads come in any order: other bits each time
            model.fit(frames)
        self.centroids.copy_(torch.from_numpy(model.cluster_centers_))

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Tokens (B, F) of features (B, D, F); padding (`lengths`) plays no part, each frame is for itself."""
        frames = self._normalized(x.float().transpose(1, 2).flatten(0, 1))
        return nearest(frames, self.centroids).unflatten(0, (len(x), -1))

    def _normalized(self, frames: Tensor) -> Tensor:
        return (frames - self.mean) / self.deviation

"""An acoustic model with a quantized bottleneck: its codes are the content tokens of B5 and B6.

Champion, "Anonymizing speech: evaluating and designing speaker anonymization techniques", 2023, chapter 6 (VQ-BN); the
sizes are those of its public models. TDNN-F units lead to a bottleneck of 256 dimensions, vector quantization
replaces each frame of it by one of 48 codes, and more units recognise the units of the transcript from these. What
does not help to recognise them, the speaker among it, finds no room in log2(48) = 5.6 bit.

`VqBottleneck` is what is kept: everything up to the codes. `AcousticHead` is what follows while it is trained
(`tasks/vq_bottleneck.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..codec.quantizer import ResidualBottleneck
from ..errors import UserError
from .config import VqBottleneckConfig
from .tdnnf import SemiOrthogonal, Unit, Widen, constrain, outputs_of, replicate

XENT = "xent"  # name of the regulariser's branch


class Bottleneck(NamedTuple):
    """The bottleneck of a batch.

    Attributes:
        z: (B, C, F) what enters the rest of the model: codes, straight through, or the frames themselves.
        codes: (B, F) int64, or None where nothing was quantized.
        commitment: scalar, mean squared distance of the frames to their codes; 0 where nothing was quantized.
    """

    z: Tensor
    codes: Tensor | None
    commitment: Tensor


class VqBottleneck(nn.Module):
    """Units, bottleneck and codebook.

    Args:
        dimension: D, of the features, those of 20 ms.
        config: see `VqBottleneckConfig`.

    Raises:
        UserError: for features that cannot be taken apart into two of 10 ms, where they should be.
    """

    def __init__(self, dimension: int, config: VqBottleneckConfig) -> None:
        super().__init__()
        self.dimension, self.n_tokens, self.config = dimension, config.codebook_size, config
        self.rate = 2 if config.halving else 1  # input frames to a frame
        if dimension % self.rate:
            raise UserError(
                f"features of {dimension} dimensions are not two stacked frames",
                expected="halving: 0 in params, or the teacher fbank",
            )
        self._frozen = 0
        inputs, self.margin = dimension // self.rate, 0
        units, step = [], 1
        for number, splice in enumerate(config.encoder, 1):
            stride = 2 if number == config.halving else 1
            units.append(
                Unit(
                    inputs, config.channels, config.bottleneck, splice, stride, config.bypass, config.dropout
                )
            )
            self.margin += step * (splice // 2)
            inputs, step = config.channels, step * stride
        self.margin += step  # the last unit sees three frames
        self.units = nn.ModuleList(units)
        self.narrow = SemiOrthogonal(inputs, config.code_dim, 3)
        revival = {"dead_code_threshold": 0.0} if config.compat else {}
        self.quantizer = ResidualBottleneck(
            config.code_dim, 1, config.codebook_size, decay=config.decay, **revival
        )
        if config.compat:  # the codes start as they are, N(0, 1), not at clusters of the first batch
            self.quantizer.layers[0].initialized.fill_(1)

    @property
    def codebook(self) -> Tensor:
        """(codebook_size, code_dim), what each token stands for."""
        return self.quantizer.layers[0].embed

    def frames(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What is quantized: features (B, D, F) -> (B, C, F); `lengths` (B,) frames, None: all are F long."""
        lengths = self._lengths(x, lengths)
        x = x.float()
        if self.rate == 2:
            x = x.unflatten(1, (2, -1)).permute(0, 2, 3, 1).flatten(2)  # (B, D / 2, 2F)
        own = lengths * self.rate
        x = replicate(x, own, self.margin, self.margin)
        counted = None if self._alike(own, x.shape[2] - 2 * self.margin) else own + 2 * self.margin
        for unit in self.units:
            x, counted = unit(x, counted)
        return self.narrow(x)

    def forward(self, x: Tensor, lengths: Tensor | None = None, *, quantize: bool = True) -> Bottleneck:
        """The bottleneck; in training the matrices stay semi-orthogonal and the codebook learns.

        Args:
            x: (B, D, F).
            lengths: (B,) frames; None: all are F long.
            quantize: False: frames pass as they are, and the codebook does not move.
        """
        if self.training:
            constrain(self)
        z = self.frames(x, lengths)
        if not quantize:
            return Bottleneck(z, None, z.new_zeros(()))
        lengths = self._lengths(x, lengths)
        mask = None
        if not self._alike(lengths, x.shape[2]):
            mask = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
        out = self.quantizer(z, mask)
        return Bottleneck(out.q, out.codes[0], out.commitment)

    @torch.no_grad()
    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Tokens (B, F) of features (B, D, F), those beyond `lengths` (B,) without meaning."""
        return self.quantizer.encode(self.frames(x, lengths))[0]

    def freeze(self, until: int) -> None:
        """Train the first `until` units no more: neither weights nor statistics change."""
        self._frozen = until
        self.units[:until].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> VqBottleneck:
        """See torch; frozen units stay in evaluation mode."""
        super().train(mode)
        self.units[: self._frozen].eval()
        return self

    def _lengths(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Lengths of all; the reference hears padding as speech."""
        if lengths is None or self.config.compat:
            return torch.full((len(x),), x.shape[2], device=x.device)
        return lengths.to(x.device)

    @staticmethod
    def _alike(lengths: Tensor, frames: int) -> bool:
        return bool((lengths == frames).all())


class AcousticHead(nn.Module):
    """From the bottleneck to scores of the units of the transcript, at two thirds of its rate (33.3 Hz).

    Args:
        config: of the model.
        outputs: scores a frame.
        branches: names of the outputs, each with units of its own after the shared ones.
    """

    def __init__(self, config: VqBottleneckConfig, outputs: int, branches: tuple[str, ...]) -> None:
        super().__init__()
        channels, settings = config.channels, (config.bypass, config.dropout)
        self.compat, self.margins = config.compat, [splice // 2 for splice in config.head]
        self.widen = Widen(config.code_dim, channels, config.dropout)
        self.strides = [config.head_stride] + [1.0] * (len(config.head) - 1)
        self.units = nn.ModuleList(
            Unit(channels, channels, config.bottleneck, splice, stride, *settings)
            for splice, stride in zip(config.head, self.strides, strict=True)
        )
        # As much context as the units use up, so that their last output is the end of the utterance.
        self.margin = self.margins[0] + int(config.head_stride * sum(self.margins[1:]))
        self.branches = nn.ModuleDict({
            name: nn.ModuleList(
                [Unit(channels, channels, 2 * config.bottleneck, 1, 1.0, *settings), nn.Conv1d(channels, outputs, 1)]
            )
            for name in branches
        })  # fmt: skip
        for _, last in self.branches.values():
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def lengths(self, lengths: Tensor) -> Tensor:
        """Frames of the output for so many frames of the bottleneck."""
        lengths = lengths + 2 * self.margin
        for margin, stride in zip(self.margins, self.strides, strict=True):
            lengths = outputs_of(lengths, margin, stride)
        return lengths

    def forward(self, z: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Bottleneck (B, C, F) of `lengths` (B,) frames -> branch -> (B, F', outputs), and their lengths (B,)."""
        if self.training:
            constrain(self)
        heard = torch.full_like(lengths, z.shape[2]) if self.compat else lengths
        z = replicate(z, heard, self.margin, self.margin)
        counted: Tensor | None = heard + 2 * self.margin
        if bool((heard == heard.max()).all()):
            counted = None
        x = self.widen(z, counted)
        for unit in self.units:
            x, counted = unit(x, counted)
        made = {
            name: last(unit(x, counted)[0]).transpose(1, 2) for name, (unit, last) in self.branches.items()
        }
        return made, self.lengths(lengths)

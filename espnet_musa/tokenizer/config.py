"""What stage 3 is told (`conf/tokens/*.yaml`): a teacher, a tokenizer, how much speech trains it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import config, registry
from ..config import Recipe
from ..errors import UserError, suggest

CODEC, BOTTLENECK, KMEANS = "feature_codec", "vq_bottleneck", "kmeans"
TRAINED = (CODEC, BOTTLENECK)  # the tokenizers that ESPnet trains
UNITS = ("characters", "lexicon", "phones")


@dataclass(frozen=True)
class FeatureCodecConfig:
    """Sizes of a `FeatureCodec` and what RepCodec does not have; the defaults are RepCodec's."""

    codebook_size: int = 1024  # tokens
    channels: int | None = None  # of the convolutions; None: as many as the features have dimensions
    code_dim: int | None = None  # of the codebook; None: as many as the features have dimensions
    decay: float = 0.8  # of the codebook's moving averages, a step
    normalize: bool = (
        False  # mean 0 and variance 1 in each dimension of the input, so that none rules the loss
    )
    kmeans_init: bool = False  # codebook from k-means over the untrained encoder's output instead of N(0, 1)
    revive: float = (
        0.0  # a code used less than this share of the mean is put on a frame of the batch; 0: never
    )

    def __post_init__(self) -> None:
        sizes = [self.codebook_size, self.channels or 1, self.code_dim or 1]
        if min(sizes) < 1 or not 0 <= self.decay < 1 or not 0 <= self.revive < 1:
            raise UserError(
                f"codebook_size {self.codebook_size}, channels {self.channels}, code_dim {self.code_dim}, "
                f"decay {self.decay}, revive {self.revive}",
                expected="sizes from 1; decay and revive from 0 to below 1",
            )


@dataclass(frozen=True)
class KMeansConfig:
    """How `KMeans` is fitted."""

    codebook_size: int = 1024  # tokens
    normalize: bool = True  # mean 0 and variance 1 in each dimension, so that none rules the distances
    frames: int = 500_000  # most frames to fit on, drawn from all; they are held in memory
    batch_size: int = 10_000  # frames of a step
    epochs: int = 100  # at most; it stops when nothing improves

    def __post_init__(self) -> None:
        if min(self.codebook_size, self.frames, self.batch_size, self.epochs) < 1:
            raise UserError("a size of the k-means is below 1", expected="codebook_size, frames, ... from 1")


@dataclass(frozen=True)
class UnitsConfig:
    """What the transcripts are written in when they train a `VqBottleneck`."""

    kind: str = "characters"  # characters | lexicon | phones (the data directory's own file)
    path: str | None = (
        None  # of the lexicon: a line a word, then its phones, as Kaldi and LibriSpeech write it
    )
    normalization: str = "language"  # of the text: a key of metrics.text_norm.SCHEMES, or "language"

    def __post_init__(self) -> None:
        if self.kind not in UNITS:
            raise UserError(f"unknown kind of units '{self.kind}'{suggest(self.kind, UNITS)}")
        if (self.kind == "lexicon") != (self.path is not None):
            raise UserError(
                f"units of kind '{self.kind}' with path: {self.path}", expected="a path for a lexicon only"
            )


@dataclass(frozen=True)
class VqBottleneckConfig:
    """Sizes of an acoustic model with a quantized bottleneck; the defaults are those of the fbank model (B6)."""

    codebook_size: int = 48  # tokens
    code_dim: int = 256  # of the codebook
    channels: int = 1024  # between units
    bottleneck: int = 128  # within units
    encoder: tuple[int, ...] = (3, 3, 3, 1, 3, 3, 3, 3, 3, 3, 3)  # frames that each unit before the VQ's sees
    halving: int = (
        4  # this unit takes every other frame, as features are two frames of 10 ms, stacked; 0: they are not
    )
    head: tuple[int, ...] = (1, 3, 3, 3)  # frames that each unit after the VQ's sees
    head_stride: float = 1.5  # of the first of them, in frames of 20 ms: 1, 1.5 or 2
    bypass: float = 0.66  # share of a unit's input that is added to its output
    dropout: float = 0.1
    decay: float = 0.99  # of the codebook's moving averages, a step
    units: UnitsConfig = field(default_factory=UnitsConfig)
    compat: bool = (
        False  # the reference's errors: padding is heard, and no commitment holds frames to their codes
    )

    def __post_init__(self) -> None:
        sizes = (self.codebook_size, self.code_dim, self.channels, self.bottleneck, len(self.encoder))
        odd = all(splice % 2 for splice in (*self.encoder, *self.head))
        if min(sizes) < 1 or not odd or not 0 <= self.decay < 1 or not 0 <= self.dropout < 1:
            raise UserError(
                f"codebook_size {self.codebook_size}, code_dim {self.code_dim}, channels {self.channels}, "
                f"bottleneck {self.bottleneck}, encoder {list(self.encoder)}, head {list(self.head)}, "
                f"decay {self.decay}, dropout {self.dropout}",
                expected="sizes from 1, units that see an odd number of frames, decay and dropout in [0, 1)",
            )
        if not 0 <= self.halving <= len(self.encoder):
            raise UserError(f"halving is {self.halving}", expected=f"a unit, 1 to {len(self.encoder)}, or 0")
        if self.head_stride not in (1.0, 1.5, 2.0):
            raise UserError(f"head_stride is {self.head_stride}", expected="1, 1.5 or 2")


TOKENIZERS = {CODEC: FeatureCodecConfig, KMEANS: KMeansConfig, BOTTLENECK: VqBottleneckConfig}


@dataclass(frozen=True)
class TokensConfig:
    """A teacher and the tokenizer of its features."""

    description: str
    reference: str
    teacher: str  # a name of registry.TEACHERS
    teacher_params: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = CODEC  # feature_codec | kmeans | vq_bottleneck
    params: dict[str, Any] = field(default_factory=dict)  # of the tokenizer's configuration above
    train: str | None = None  # how ESPnet trains it (conf/train/*.yaml); kmeans needs none
    hours: float = 100.0  # of speech to train the tokenizer on, drawn from all training sets
    checkpoint: str | None = None  # a file with the weights of a ready feature_codec, instead of training one
    keep_features: bool = (
        False  # keep the features that the tokenizer was trained on (0.4 GB an hour for XLS-R)
    )

    def __post_init__(self) -> None:
        if self.tokenizer not in TOKENIZERS:
            raise UserError(f"unknown tokenizer '{self.tokenizer}'{suggest(self.tokenizer, TOKENIZERS)}")
        trains = self.tokenizer in TRAINED and self.checkpoint is None
        if trains != (self.train is not None):
            raise UserError(
                f"tokenizer '{self.tokenizer}' with train: {self.train} and checkpoint: {self.checkpoint}",
                expected=f"`train` for a {' or '.join(TRAINED)} without checkpoint, and only there",
            )
        if self.checkpoint is not None and self.tokenizer != CODEC:
            raise UserError(
                "a checkpoint is read for a feature_codec only", expected="tokenizer: feature_codec"
            )
        if self.hours <= 0:
            raise UserError(f"hours is {self.hours}", expected="more than 0")


def load(recipe: Recipe, name: str, recipe_dir: Path) -> TokensConfig:
    """`conf/tokens/<name>.yaml` with the recipe's overrides, checked without importing torch.

    Raises:
        UserError: for an unknown file, key, teacher or parameter, or a wrong type.
    """
    path = config.conf_file(recipe_dir, "tokens", name)
    data, lines = config.load_yaml(path)
    data = config.merge(data, recipe.overrides.get(name, {}))
    below = {where[1:]: line for where, line in lines.items() if where[0] == "params"}
    try:
        tokens: TokensConfig = config.from_dict(TokensConfig, data, path, lines)
        config.from_dict(TOKENIZERS[tokens.tokenizer], tokens.params, path, below)
        teacher_of(tokens)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(str(error), path=path) from None
    return tokens


def teacher_of(tokens: TokensConfig) -> Any:
    """The teacher, not prepared yet: a `teachers.Teacher`."""
    plugin = registry.resolve(registry.TEACHERS, "teacher", tokens.teacher)
    return registry.construct(plugin, tokens.teacher_params, tokens.teacher)

"""What stage 3 leaves on disk: a tokenizer with its teacher's statistics, and tokens.

| file of exp/tokens/<name> | content |
|---|---|
| `model/config.yaml` | kinds, parameters and sizes; `n_tokens` among them |
| `model/model.safetensors` | the tokenizer |
| `model/teacher.safetensors` | what the teacher learnt, if it learns anything |
| `<set>/tokens.ark`, `<set>/tokens.scp` | an int32 vector an utterance, a token a frame |
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kaldiio
import numpy as np

from .. import config, stamp
from ..data.table import write_text
from ..errors import UserError
from .config import BOTTLENECK, CODEC, TOKENIZERS, TokensConfig, teacher_of

if TYPE_CHECKING:
    from torch import Tensor

    from .feature_codec import FeatureCodec
    from .kmeans import KMeans
    from .teachers import Teacher
    from .vq_bottleneck import VqBottleneck

    Tokenizer = FeatureCodec | KMeans | VqBottleneck

MODEL, CONFIG, WEIGHTS, TEACHER = "model", "config.yaml", "model.safetensors", "teacher.safetensors"


@dataclass(frozen=True)
class Facts:
    """`model/config.yaml`: what must be known to use a tokenizer."""

    n_tokens: int
    dimension: int  # of the features
    tokenizer: str
    params: dict[str, Any]
    teacher: str
    teacher_params: dict[str, Any] = field(default_factory=dict)


def build(kind: str, params: dict[str, Any], dimension: int) -> Tokenizer:
    """A tokenizer of features of so many dimensions, not trained.

    Args:
        kind: a key of `config.TOKENIZERS`.
        params: fields of its configuration.
        dimension: D, of the features.
    """
    settings = config.from_dict(TOKENIZERS[kind], params, Path("params"), {})
    if kind == CODEC:
        from .feature_codec import FeatureCodec

        return FeatureCodec(dimension, settings)
    if kind == BOTTLENECK:
        from .vq_bottleneck import VqBottleneck

        return VqBottleneck(dimension, settings)
    from .kmeans import KMeans

    return KMeans(dimension, settings)


def save(directory: Path, tokens: TokensConfig, tokenizer: Tokenizer) -> None:
    """Write a tokenizer's weights and `config.yaml`."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in tokenizer.state_dict().items()}
    save_file(state, directory / WEIGHTS)
    facts = Facts(
        n_tokens=tokenizer.n_tokens, dimension=tokenizer.dimension, tokenizer=tokens.tokenizer,
        params=config.to_dict(tokenizer.config), teacher=tokens.teacher, teacher_params=tokens.teacher_params,
    )  # fmt: skip
    config.save(facts, directory / CONFIG)


def load(directory: Path, device: str) -> Tokenizer:
    """A tokenizer, ready.

    Raises:
        UserError: if it is missing, damaged, or its weights do not fit its configuration.
    """
    facts: Facts = config.load(Facts, directory / CONFIG)
    tokenizer = build(facts.tokenizer, facts.params, facts.dimension)
    return fill(tokenizer, directory / WEIGHTS).to(device)


def save_teacher(directory: Path, teacher: Teacher) -> None:
    """Write what a teacher learnt, if anything."""
    from safetensors.torch import save_file

    if state := teacher.state():
        save_file(state, directory / TEACHER)


def load_teacher(directory: Path, tokens: TokensConfig, device: str) -> Teacher:
    """A teacher, ready, with what it learnt before the tokenizer of `directory` was trained."""
    teacher = teacher_of(tokens)
    teacher.prepare(device)
    if (directory / TEACHER).is_file():
        teacher.load_state(read_weights(directory / TEACHER))
    return teacher


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from RepCodec's checkpoints, `{"model": {"repcodec": ...}}`; no code runs.

    Raises:
        UserError: if the file is missing or holds anything else.
    """
    import torch
    from safetensors.torch import load_file

    try:
        state = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise UserError("no such checkpoint", path=path) from None
    except Exception as error:  # both raise a dozen kinds for damaged files
        text = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"not a checkpoint: {text}", path=path, expected="safetensors or RepCodec's"
        ) from error
    for key in ("model", "repcodec"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError("holds no weights", path=path, expected="names and tensors, or RepCodec's checkpoint")
    return state


def fill(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """Give a tokenizer the weights of a file; in evaluation mode.

    Raises:
        UserError: if they are not its own, name by name and size by size.
    """
    state, own = read_weights(path), tokenizer.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
    if wrong:
        there, wanted = (tuple(s[wrong[0]].shape) if wrong[0] in s else "none" for s in (state, own))
        raise UserError(
            f"the weights do not fit the tokenizer: {len(wrong)} tensors differ, the first is '{wrong[0]}' ({there})",
            path=path, expected=f"{wanted}; dimension {tokenizer.dimension}, params {config.to_dict(tokenizer.config)}",
        )  # fmt: skip
    tokenizer.load_state_dict(state)
    return tokenizer.eval()


def ready(tokens: TokensConfig) -> Tokenizer:
    """The tokenizer of `tokens.checkpoint`; its weights say how wide the features are.

    Raises:
        UserError: if the file is missing or its weights are those of something else.
    """
    path = Path(tokens.checkpoint)
    first = read_weights(path).get("encoder.conv.conv.weight")
    if first is None or first.ndim != 3:
        raise UserError(
            "not the weights of a feature codec", path=path, expected="'encoder.conv.conv.weight' and others"
        )
    return fill(build(tokens.tokenizer, tokens.params, first.shape[1]), path)


def hash_of(path: Path) -> str:
    """Of a file's content.

    Raises:
        UserError: if there is no such file.
    """
    if not path.is_file():
        raise UserError(
            "no such checkpoint", path=path, hint="`checkpoint` in conf/tokens is a path from the recipe"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def write_ark(path: Path, arrays: Mapping[str, np.ndarray], published: Path, **options: Any) -> None:
    """Write `<path>.ark`, then `<path>.scp`, each whole or not at all.

    Args:
        path: without ending.
        arrays: what to write, in this order.
        published: what the scp calls the ark, without ending: its place when it is read.
        options: of `kaldiio.save_ark`.
    """
    ark, table = path.with_suffix(".ark"), io.StringIO()
    temporary = ark.with_name(f"{ark.name}.{os.getpid()}.tmp")
    kaldiio.save_ark(str(temporary), arrays, scp=table, **options)
    temporary.replace(ark)
    name = published.with_suffix(".ark").as_posix()
    lines = [line.partition(" ") for line in table.getvalue().splitlines()]
    rows = [f"{utt} {name}:{place.rpartition(':')[2]}\n" for utt, _, place in lines]
    write_text(path.with_suffix(".scp"), "".join(rows))


class Ark(Mapping[str, np.ndarray]):
    """The arrays that scp files name, by utterance, read when asked for; the arks lie beside their scp files.

    Args:
        scps: the files.
    """

    def __init__(self, *scps: Path) -> None:
        self.places: dict[str, str] = {}  # utterance -> <ark>:<offset>
        for scp in scps:
            for line in scp.read_text(encoding="utf-8").splitlines():
                utt, _, place = line.partition(" ")
                ark, _, offset = place.rpartition(":")
                self.places[utt] = f"{scp.parent / Path(ark).name}:{offset}"
        self.places = dict(sorted(self.places.items()))

    def __getitem__(self, utt: str) -> np.ndarray:
        return kaldiio.load_mat(self.places[utt])

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def load_tokens(path: Path) -> Ark:
    """Tokens of a set: utterance -> (F,) int32, one a frame of 20 ms.

    Args:
        path: exp/tokens/<name>/<set>.

    Raises:
        UserError: if stage 3 has not made them.
    """
    stamp.require(path, "tokenize")
    return Ark(path / "tokens.scp")


def n_tokens(path: Path) -> int:
    """Number of different tokens of exp/tokens/<name>.

    Raises:
        UserError: if stage 3 has not trained the tokenizer.
    """
    stamp.require(path / MODEL, "tokenize")
    return config.load(Facts, path / MODEL / CONFIG).n_tokens

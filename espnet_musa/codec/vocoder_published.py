"""Reader of the public checkpoints of B5 and B6 (SA-toolkit, Apache-2.0): weights only, into our modules.

Such a checkpoint (`final.pt`) is a pickled dictionary: weights, arguments, and the speakers of the training
utterances. Its authors' loader runs a script of its repository's current state and unpickles with full trust. This one
reads tensors and plain containers and refuses everything else.

Names of weights are not documented, so layers are recognised by their shapes: of those of one shape, the first in the
file is the first in the model. The front end has torchaudio's names behind some prefix. Every weight must find its
place, and every place its weight. What shapes cannot tell is taken from the description of the systems: inputs of the
vocoder in the order content, F0, speaker; spliced frames one after the other in a row of a 2-d matrix.
"""

from __future__ import annotations

import argparse
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..tokenizer.config import VqBottleneckConfig
from ..tokenizer.fbank import Fbank
from ..tokenizer.teachers import n_frames
from ..tokenizer.vq_bottleneck import VqBottleneck
from .archive import fold_norms
from .config import F0Config
from .vocoder import Vocoder
from .vocoder_archive import Facts

FILE, EXTRACTOR = (
    "final.pt",
    "extractor.pt",
)  # the second: the final.pt of the feature extractor, if it is apart
FRONT = (
    "feature_extractor.conv_layers.0.conv.weight"  # torchaudio's name of a weight that all its models have
)
SKIPPED = (
    "num_batches_tracked",
    "discriminator",
    "mpd.",
    "msd.",
)  # parts of names of what only training uses
NORMS = {"weight_g": "g", "weight_v": "v"} | {
    f"parametrizations.weight.original{i}": gv for i, gv in enumerate("gv")
}


@dataclass(frozen=True)
class Layout:
    """Sizes of a published system."""

    decoder_conf: dict[str, Any] = field(default_factory=dict)
    bottleneck: VqBottleneckConfig = field(default_factory=VqBottleneckConfig)
    front: dict[str, Any] | None = None  # of torchaudio's wav2vec2_model; None: filter bank


_LARGE = {
    "extractor_mode": "layer_norm", "extractor_conv_layer_config": None, "extractor_conv_bias": True,
    "encoder_embed_dim": 1024, "encoder_projection_dropout": 0.0, "encoder_pos_conv_kernel": 128,
    "encoder_pos_conv_groups": 16, "encoder_num_layers": 24, "encoder_num_heads": 16,
    "encoder_attention_dropout": 0.0, "encoder_ff_interm_features": 4096, "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0, "encoder_layer_norm_first": True, "encoder_layer_drop": 0.0, "aux_num_out": None,
}  # fmt: skip
B5 = Layout(bottleneck=VqBottleneckConfig(encoder=(3, 3), halving=0), front=_LARGE)
B6 = Layout()


class FrontEnd:
    """B5's features: the last transformer layer of wav2vec 2.0, raw waveforms in, one frame repeated at the end.

    Args:
        model: torchaudio's.
        device: where it is.
    """

    def __init__(self, model: nn.Module, device: str) -> None:
        self._model, self._device = model.to(device).eval(), device

    def features(self, wavs: Sequence[np.ndarray]) -> list[Tensor]:
        """(T_i,) float32 -> (F_i + 1, D), F_i = floor((T_i - 400) / 320) + 1; each utterance alone, so unpadded."""
        return [self._one(torch.from_numpy(wav)[None].to(self._device)) for wav in wavs]

    @torch.inference_mode()
    def _one(self, wav: Tensor) -> Tensor:
        x = self._model.extract_features(wav)[0][-1][0]
        assert len(x) == n_frames(wav.shape[1])
        return torch.cat([x, x[-1:]])


def load(
    place: Path, device: str = "cpu", layouts: tuple[Layout, Layout] = (B5, B6)
) -> tuple[Vocoder, Facts, FrontEnd | Fbank, VqBottleneck]:
    """A published system, ready.

    Args:
        place: directory with `final.pt` and, if that lacks the acoustic model, `extractor.pt`.
        device: where to.
        layouts: with a front end, and with a filter bank.

    Raises:
        UserError: if a file is missing or holds code, a weight finds no place, or a place no weight.
    """
    path = place / FILE
    content = _read(path)
    state, speakers = _state(content, path), _speakers(content, path)
    if (place / EXTRACTOR).is_file():
        state |= _state(_read(place / EXTRACTOR), place / EXTRACTOR)
    state = {name: x for name, x in state.items() if not any(part in name for part in SKIPPED)}
    layout = layouts[0] if any(name.endswith(FRONT) for name in state) else layouts[1]
    codes = layout.bottleneck
    conf = {
        "n_codes": codes.codebook_size, "code_dim": codes.code_dim, "n_speakers": len(speakers),
        "decoder_conf": layout.decoder_conf,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        vocoder = Vocoder(**conf)
        teacher = Fbank() if layout.front is None else _front(state, layout.front, path, device)
        dimension = 160 if layout.front is None else layout.front["encoder_embed_dim"]
        tokenizer = VqBottleneck(dimension, codes)
    fold_norms(vocoder)
    codebook = _codebook(state, codes, path)
    vocoder.codebook.copy_(codebook)
    tokenizer.codebook.copy_(codebook)
    tokenizer.quantizer.layers[0].initialized.fill_(1)
    layers = _Layers(state, path)
    for module in vocoder.decoder.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            layers.give(module, "the vocoder")
    _acoustic(layers, tokenizer)
    layers.nothing_left()
    facts = Facts(conf, dict.fromkeys(speakers, ""), F0Config(), 0.95)
    return vocoder.to(device).eval(), facts, teacher, tokenizer.to(device).eval()


def _read(path: Path) -> Any:
    """Tensors and plain containers of a file."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", path=path) from None
    except Exception as error:  # a dozen kinds, for damaged files and for what would run
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"not read: {said}", path=path,
            expected="a pickle of tensors, texts, numbers, lists and dictionaries; nothing that runs code is loaded",
        ) from None  # fmt: skip


def _inside(content: Any) -> Iterator[tuple[str, Any]]:
    """All (key, value) of nested dictionaries and namespaces."""
    content = vars(content) if isinstance(content, argparse.Namespace) else content
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), value
            yield from _inside(value)


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    """The largest dictionary of tensors."""
    every = [content, *(value for _, value in _inside(content))]
    found = [x for x in every if isinstance(x, dict) and x and all(isinstance(v, Tensor) for v in x.values())]
    if not found:
        raise UserError("holds no weights", path=path, expected="names and tensors")
    return dict(max(found, key=len))


def _speakers(content: Any, path: Path) -> list[str]:
    """Ids in the order of the one-hot vector: sorted."""
    for key, value in _inside(content):
        if key == "utt2spk":
            lines = value.splitlines() if isinstance(value, str) else value
            values = value.values() if isinstance(value, dict) else [str(line).split()[-1] for line in lines]
            if found := sorted({str(speaker) for speaker in values}):
                return found
    raise UserError("does not say which speakers it knows", path=path, expected="`utt2spk`")


def _front(state: dict[str, Tensor], conf: dict[str, Any], path: Path, device: str) -> FrontEnd:
    """torchaudio's model with its weights, which are taken out of `state`."""
    import torchaudio

    model = torchaudio.models.wav2vec2_model(**conf)
    prefix = next(name for name in state if name.endswith(FRONT)).removesuffix(FRONT)
    own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    wanted = model.state_dict()
    for name in list(own):  # one prefix may stand before everything
        if name not in wanted and not _equal_norm(name, own, wanted):
            state[prefix + name] = own.pop(name)
    wrong = sorted(wanted.keys() ^ own.keys()) or [n for n in wanted if wanted[n].shape != own[n].shape]
    if wrong:
        raise UserError(
            f"the front end does not fit: {len(wrong)} weights differ, the first is '{wrong[0]}'", path=path,
            expected="torchaudio's wav2vec 2.0 (large) of B5",
        )  # fmt: skip
    model.load_state_dict(own)
    return FrontEnd(model, device)


def _equal_norm(name: str, own: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Rename a weight norm written in the other of torch's two ways; whether that was it."""
    old, new = (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    )
    for before, after in (*zip(old, new, strict=True), *zip(new, old, strict=True)):
        if name.endswith(before) and (other := name.removesuffix(before) + after) in wanted:
            own[other] = own.pop(name)
            return True
    return False


def _codebook(state: dict[str, Tensor], codes: VqBottleneckConfig, path: Path) -> Tensor:
    """The codebook, taken out of `state` with what its moving averages leave behind."""
    shape = (codes.codebook_size, codes.code_dim)
    alike = [name for name, x in state.items() if tuple(x.shape) == shape]
    found = [name for name in alike if "ema" not in name.lower()]
    if len(found) != 1:
        raise UserError(
            f"{len(found)} tensors could be the codebook", path=path,
            expected=f"one of shape {shape}; if the acoustic model is apart, put its final.pt beside as {EXTRACTOR}",
        )  # fmt: skip
    codebook = state[found[0]]
    counts = [n for n, x in state.items() if tuple(x.shape) == shape[:1] and "ema" in n.lower()]
    for name in (*alike, *counts):
        del state[name]
    return codebook


@dataclass
class _Layer:
    """Weights of one layer of a checkpoint, its norm folded."""

    name: str
    weight: Tensor
    bias: Tensor | None


class _Layers:
    """Layers of a checkpoint that wait for a place, by shape, in the order of the file.

    Args:
        state: weights by name.
        path: for messages.
    """

    def __init__(self, state: dict[str, Tensor], path: Path) -> None:
        self._path = path
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, x in state.items():
            suffix = next((s for s in NORMS if name.endswith(s)), name.rpartition(".")[2])
            parts[name.removesuffix(suffix)][NORMS.get(suffix, suffix)] = x
        self._waiting: dict[tuple, deque[_Layer]] = defaultdict(deque)
        for name, own in parts.items():
            if "g" in own and "v" in own:
                v, g = own.pop("v"), own.pop("g")
                own["weight"] = v * (g / v.flatten(1).norm(dim=1).reshape(g.shape))
            layer = _Layer(name, own.pop("weight", own.pop("running_mean", None)), own.pop("bias", None))
            layer.bias = own.pop("running_var", layer.bias)
            if layer.weight is None or own:
                raise UserError(f"'{name}' is no layer that is known: {', '.join(own)}", path=path)
            self._waiting[self._key(layer.weight, layer.bias)].append(layer)

    @staticmethod
    def _key(weight: Tensor, bias: Tensor | None) -> tuple:
        """Shape; matrices as convolutions that see one frame."""
        shape = tuple(weight.shape)
        return (*shape, 1, bias is not None) if len(shape) == 2 else (*shape, bias is not None)

    def take(self, what: str, *shapes: tuple[int, ...], bias: bool) -> _Layer:
        """The first layer of one of the shapes."""
        for shape in shapes:
            if waiting := self._waiting.get((*shape, bias)):
                return waiting.popleft()
        raise UserError(
            f"{what} lacks a layer of shape {' or '.join(map(str, shapes))} {'with' if bias else 'without'} bias",
            path=self._path,
            expected=f"B5 or B6; if the acoustic model is apart, put its final.pt beside as {EXTRACTOR}",
        )  # fmt: skip

    def give(self, module: nn.Conv1d | nn.ConvTranspose1d, what: str) -> None:
        """Fill a convolution; a matrix over spliced frames has them one after the other in its rows."""
        shape = tuple(module.weight.shape)
        spliced = (shape[0], shape[1] * shape[2], 1)
        layer = self.take(what, shape, spliced, bias=module.bias is not None)
        weight = layer.weight
        if weight.numel() == module.weight.numel() and tuple(weight.shape) != shape:
            weight = weight.reshape(shape[0], shape[2], shape[1]).transpose(1, 2)
        with torch.no_grad():
            module.weight.copy_(weight)
            if module.bias is not None:
                module.bias.copy_(layer.bias)

    def drop_outputs(self, inputs: int) -> None:
        """Throw away the two layers that score the units of the transcript, however many these are."""
        for key, waiting in self._waiting.items():
            if len(waiting) == 2 and key[1:] == (inputs, 1, True):
                waiting.clear()
                return

    def nothing_left(self) -> None:
        """Raise for the first layers that found no place."""
        left = [layer.name.rstrip(".") for waiting in self._waiting.values() for layer in waiting]
        if left:
            raise UserError(
                f"{len(left)} layers have no place in B5 or B6: {', '.join(left[:3])}", path=self._path
            )


def _acoustic(layers: _Layers, tokenizer: VqBottleneck) -> None:
    """Fill the units up to the bottleneck; what follows it (units, two branches) is taken and thrown away."""
    conf, what = tokenizer.config, "the acoustic model"
    wide, narrow = conf.channels, conf.bottleneck
    for unit in tokenizer.units:
        layers.give(unit.narrow, what)
        layers.give(unit.widen.affine, what)
        norm = layers.take(what, (wide,), bias=True)
        unit.widen.norm.running_mean.copy_(norm.weight)
        unit.widen.norm.running_var.copy_(norm.bias)
    layers.give(tokenizer.narrow, what)
    try:
        layers.take(what, (wide, conf.code_dim, 1), bias=True)
    except UserError:
        return  # an extractor that ends here
    layers.take(what, (wide,), bias=True)
    for splice in conf.head:
        layers.take(what, (narrow, wide, splice), (narrow, wide * splice, 1), bias=False)
        layers.take(what, (wide, narrow, 1), bias=True)
        layers.take(what, (wide,), bias=True)
    for _ in range(2):  # chain and cross entropy
        layers.take(what, (2 * narrow, wide, 1), bias=False)
        layers.take(what, (wide, 2 * narrow, 1), bias=True)
        layers.take(what, (wide,), bias=True)
    layers.drop_outputs(wide)

"""Neural speaker encoders: ECAPA-TDNN and x-vector, built from SpeechBrain's modules, and their checkpoints.

The modules and their weights are SpeechBrain's, so checkpoints are exchangeable; `build` only replaces what costs time
or determinism and computes the same (each replacement says what it replaces).
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from ..config import load
from ..errors import UserError, suggest

KINDS = ("ecapa", "xvector")


@dataclass(frozen=True)
class NetConfig:
    """Kind and sizes; the defaults are the ECAPA-TDNN of the VoicePrivacy Challenge 2024 (6.2 M parameters).

    Args:
        kind: "ecapa" (Desplanques et al., Interspeech 2020) or "xvector" (Snyder et al., ICASSP 2018).
        mel_bands: bands of the log-mel input, 0-8000 Hz.
        channels: of the convolutions before the last.
        pooled_channels: of the last convolution, before the pooling.
        attention_channels: ecapa: of the attentive statistics pooling.
        se_channels: ecapa: bottleneck of squeeze-and-excitation.
        res2net_scale: ecapa: groups of a Res2Net block; divides `channels`.
        embedding_dim: D.
    """

    kind: str = "ecapa"
    mel_bands: int = 80
    channels: int = 512
    pooled_channels: int = 1536
    attention_channels: int = 128
    se_channels: int = 128
    res2net_scale: int = 8
    embedding_dim: int = 192

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown speaker model '{self.kind}'{suggest(self.kind, KINDS)}")


def build(config: NetConfig) -> nn.Module:
    """The untrained network; forward: (B, F, mel_bands) and relative lengths (B,) or None -> (B, 1, D)."""
    from speechbrain.nnet.CNN import Conv1d

    net = _ecapa(config) if config.kind == "ecapa" else _xvector(config)
    for module in net.modules():
        if isinstance(module, Conv1d) and module.kernel_size == 1:
            module.padding = "valid"  # "same" copies its input to pad it by nothing
    return net


def _ecapa(config: NetConfig) -> nn.Module:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    net = ECAPA_TDNN(
        config.mel_bands,
        lin_neurons=config.embedding_dim,
        channels=[config.channels] * 4 + [config.pooled_channels],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=config.attention_channels,
        res2net_scale=config.res2net_scale,
        se_channels=config.se_channels,
    )
    net.asp = _AttentivePooling(net.asp)
    return net


def _xvector(config: NetConfig) -> nn.Module:
    from speechbrain.lobes.models.Xvector import Xvector
    from speechbrain.nnet.pooling import StatisticsPooling

    net = Xvector(
        in_channels=config.mel_bands,
        tdnn_channels=[config.channels] * 4 + [config.pooled_channels],
        lin_neurons=config.embedding_dim,
    )
    for index, module in enumerate(net.blocks):
        if isinstance(module, StatisticsPooling):
            net.blocks[index] = _StatisticsPooling()
    return net


def _inside(lengths: torch.Tensor | None, batch: int, frames: int, device: torch.device) -> torch.Tensor:
    """(B,) relative lengths or None -> (B, F), 1 inside the utterance and 0 in its padding."""
    if lengths is None:
        return torch.ones(batch, frames, device=device)
    return (torch.arange(frames, device=device) < lengths[:, None] * frames).float()


class _AttentivePooling(nn.Module):
    """SpeechBrain's AttentiveStatisticsPooling with global context: same weights, same result, a third of the work.

    There, mean and deviation of the utterance are repeated for every frame and convolved with it. Their part of the
    convolution is the same for all frames, so here it is computed once and added.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.tdnn, self.conv = original.tdnn, original.conv

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, F) -> (B, 2 C, 1): attentive means and standard deviations."""
        channels, inside = x.shape[1], _inside(lengths, len(x), x.shape[2], x.device)[:, None]
        conv = self.tdnn.conv.conv
        context = torch.cat(_moments(x, inside / inside.sum(dim=2, keepdim=True)), dim=1)
        fixed = nn.functional.linear(context, conv.weight[:, channels:, 0], conv.bias)
        hidden = nn.functional.conv1d(x, conv.weight[:, :channels]) + fixed[:, :, None]
        hidden = self.conv(self.tdnn.norm(self.tdnn.activation(hidden)).tanh())
        weights = hidden.float().masked_fill(inside == 0, float("-inf")).softmax(dim=2)
        return torch.cat(_moments(x, weights), dim=1)[:, :, None]


def _moments(x: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted means and standard deviations over the frames of (B, C, F): two of (B, C)."""
    mean = (weights * x).sum(dim=2)
    variance = (weights * (x - mean[:, :, None]).square()).sum(dim=2)
    return mean, variance.clamp(1e-12).sqrt()


class _StatisticsPooling(nn.Module):
    """Mean and standard deviation over the frames, as SpeechBrain's StatisticsPooling.

    Differs from it: no random number is added to the mean (there, up to 9e-5, in evaluation too), so that an utterance
    has one embedding; a batch is pooled at once.
    """

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, F, C) -> (B, 1, 2 C)."""
        inside = _inside(lengths, len(x), x.shape[1], x.device)[:, :, None]
        frames = inside.sum(dim=1)
        mean = (inside * x).sum(dim=1) / frames
        squares = (inside * (x - mean[:, None])).square().sum(dim=1)
        std = (squares / (frames - 1).clamp(1)).clamp(1e-12).sqrt() + 1e-5
        return torch.cat([mean, std], dim=1)[:, None]


class ReflectAtEnd:
    """Makes SpeechBrain's convolutions indifferent to padding.

    They pad by reflection at the end of the tensor, so that in a batch the frames near the end of a shorter utterance
    see padding instead of their own reflection; only the pooling is masked. Here the input of every convolution wider
    than one frame gets that reflection at each utterance's own end.
    """

    margin = 4  # frames: half the width of the widest convolution (kernel 3, dilation 4)

    def __init__(self, net: nn.Module) -> None:
        self._index: tuple[torch.Tensor, torch.Tensor] | None = None
        from speechbrain.nnet.CNN import Conv1d

        for module in net.modules():
            if isinstance(module, Conv1d) and module.kernel_size > 1:
                module.register_forward_pre_hook(self._hook)

    def _hook(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (x,) = inputs
        tail, source = self._index  # (B, margin) each
        batch = torch.arange(len(x), device=x.device)[:, None]
        x = x.clone()
        frames_last = x if module.skip_transpose else x.transpose(1, 2)  # a view: (B, C, F)
        frames_last[batch, :, tail] = frames_last[batch, :, source]
        return (x,)

    @contextlib.contextmanager
    def at(self, lengths: torch.Tensor) -> Iterator[None]:
        """Reflect at these (B,) lengths in frames while the context lasts."""
        step = torch.arange(self.margin, device=lengths.device)
        self._index = (lengths[:, None] + step, lengths[:, None] - 2 - step)
        try:
            yield
        finally:
            self._index = None


# ----------------------------------------------------------------------------------------------------------
# Checkpoints

OURS = ("config.yaml", "model.safetensors")
SPEECHBRAIN = ("hyperparams.yaml", "embedding_model.ckpt")


def load_net(model_dir: Path) -> tuple[NetConfig, nn.Module, str]:
    """A trained network from a directory written by stage 7, or in the layout of SpeechBrain's published models.

    Returns:
        its configuration, the network in evaluation mode, and the SHA-256 of its weights in hex.

    Raises:
        UserError: if there is no checkpoint of either layout, or it is damaged or of another kind of model.
    """
    model_dir = Path(model_dir)
    theirs = (model_dir / SPEECHBRAIN[1]).is_file()
    settings, weights = (model_dir / name for name in (SPEECHBRAIN if theirs else OURS))
    if not weights.is_file():
        expected = " or ".join(" and ".join(names) for names in (OURS, SPEECHBRAIN))
        hint = "train the attacker first (stage attack), or fetch the model that the evaluator names"
        raise UserError("no speaker model", path=model_dir, expected=expected, hint=hint)
    config = speechbrain_config(settings) if theirs else load(NetConfig, settings)
    net = build(config)
    try:
        # weights_only: a pickle may hold tensors, never code.
        state = torch.load(weights, map_location="cpu", weights_only=True) if theirs else load_file(weights)
        net.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        message = f"the weights do not fit the model of {settings.name}: {error}"
        raise UserError(message, path=weights) from error
    return config, net.eval(), file_digest(weights)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


class _Tagged(yaml.SafeLoader):
    """Reads HyperPyYAML as plain data: `!new:some.Class {...}` is a mapping with its tag under "!", never a call."""


def _as_data(loader: _Tagged, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {"!": tag, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return {"!": tag, "value": loader.construct_scalar(node)}


_Tagged.add_multi_constructor("!", _as_data)


def speechbrain_config(path: Path) -> NetConfig:
    """The sizes in a `hyperparams.yaml` of SpeechBrain; the file is read, never executed.

    Raises:
        UserError: if it is missing or not YAML, or describes another model or other features than `build` and
            `encoders.LogMel` make.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Tagged)
        embedding, front = data["embedding_model"], data["compute_features"]
        norm = data["mean_var_norm"]
        tag = embedding["!"].rsplit(".", 1)[-1]
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        expected = "compute_features, mean_var_norm and embedding_model of a SpeechBrain speaker encoder"
        raise UserError(f"cannot be read: {error}", path=path, expected=expected) from None

    def plain(value: Any) -> Any:  # !ref <name> -> the number of that name
        if isinstance(value, dict) and value.get("!") == "ref":
            return data.get(str(value["value"]).strip("<> "))
        return value

    def same(found: dict, wanted: dict[str, Any], what: str) -> None:
        other = {
            key: plain(found[key]) for key in found if key != "!" and plain(found[key]) != wanted.get(key)
        }
        if other:
            raise UserError(f"{what} with {other}", path=path, expected=str(wanted))

    bands = plain(front.get("n_mels", 40))
    same(
        front,
        {"n_mels": bands, "sample_rate": 16000, "n_fft": 400, "win_length": 25, "hop_length": 10},
        "features",
    )
    same(norm, {"norm_type": "sentence", "std_norm": False}, "normalisation")
    sizes = {key: plain(value) for key, value in embedding.items() if key != "!"}
    if tag == "ECAPA_TDNN":
        channels = sizes.pop("channels", [512, 512, 512, 512, 1536])
        config = NetConfig(
            "ecapa", bands, channels[0], channels[-1], sizes.pop("attention_channels", 128),
            sizes.pop("se_channels", 128), sizes.pop("res2net_scale", 8), sizes.pop("lin_neurons", 192),
        )  # fmt: skip
        shape = {"input_size": bands, "kernel_sizes": [5, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1]}
    elif tag == "Xvector":
        channels = sizes.pop("tdnn_channels", [512, 512, 512, 512, 1500])
        config = NetConfig(
            "xvector", bands, channels[0], channels[-1], embedding_dim=sizes.pop("lin_neurons", 512)
        )
        shape = {"in_channels": bands, "tdnn_blocks": 5}
        shape |= {"tdnn_kernel_sizes": [5, 3, 3, 1, 1], "tdnn_dilations": [1, 2, 3, 1, 1]}
        sizes.pop("activation", None)  # a class by name; the published one is the default, LeakyReLU
    else:
        raise UserError(f"model '{tag}'", path=path, expected="ECAPA_TDNN or Xvector")
    same(sizes, shape, tag)
    same({"channels": channels}, {"channels": [config.channels] * 4 + [config.pooled_channels]}, tag)
    return config

"""Neural speaker encoders: sizes of ECAPA-TDNN and x-vector (`tdnn` computes them), and their checkpoints."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from ..config import load
from ..errors import UserError, suggest
from .tdnn import EcapaTdnn, XVector

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


def build(config: NetConfig) -> EcapaTdnn | XVector:
    """The untrained network; forward: (B, F, mel_bands) and lengths (B,) in frames or None -> (B, 1, D)."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.lobes.models.Xvector import Xvector

    channels = [config.channels] * 4 + [config.pooled_channels]
    if config.kind == "xvector":
        net = Xvector(in_channels=config.mel_bands, tdnn_channels=channels, lin_neurons=config.embedding_dim)
        return XVector(net)
    net = ECAPA_TDNN(
        config.mel_bands,
        lin_neurons=config.embedding_dim,
        channels=channels,
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=config.attention_channels,
        res2net_scale=config.res2net_scale,
        se_channels=config.se_channels,
    )
    return EcapaTdnn(net)


# ----------------------------------------------------------------------------------------------------------
# Checkpoints

OURS = ("config.yaml", "model.safetensors")
SPEECHBRAIN = ("hyperparams.yaml", "embedding_model.ckpt")


def load_net(model_dir: Path) -> tuple[NetConfig, EcapaTdnn | XVector, str]:
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

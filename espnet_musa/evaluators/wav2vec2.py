"""wav2vec 2.0 encoders from the weights of published checkpoints, as torchaudio's modules.

Baevski et al., "wav2vec 2.0: a framework for self-supervised learning of speech representations", NeurIPS 2020. Two
spellings of the same weights are read: that of Hugging Face (and SpeechBrain around it) and that of fairseq. All sizes
but the strides and the width of an attention head, which are the same in all published models, are read from the
weights themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import UserError

HEAD = 64  # features of an attention head
SHORTEST = 400  # samples of 16 kHz: what one frame sees
LONGEST = 60 * 16000  # samples at a time: the memory of attention grows with the square
_LAYER = "encoder.transformer.layers."
# Applied in this order, so that no rule meets a name that an earlier one has made.
_HUGGING_FACE = (
    (r"^encoder\.", "encoder.transformer."),
    (r"^feature_projection\.", "encoder.feature_projection."),
)
_FAIRSEQ = (
    (r"^encoder\.", "encoder.transformer."),
    (r"\.pos_conv\.0\.", ".pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.", r"\1.layer_norm."),
)
_PRETRAINING_ONLY = ("mask_emb", "masked_spec_embed")


def read_weights(path: Path, hint: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint; no pickled code runs.

    Raises:
        UserError: if the file is missing (`hint`: what to fetch and where to put it) or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError("not found", path=path, hint=hint)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged files
        said = next(iter(str(error).splitlines()), "the file is empty or cut")
        raise UserError(f"not a checkpoint: {said}", path=path, hint=hint) from error
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise UserError("not a checkpoint of weights alone", path=path, expected="names and tensors")
    return state


def below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def build(state: dict[str, torch.Tensor], path: Path) -> nn.Module:
    """The encoder that the weights belong to, in evaluation mode.

    Args:
        state: weights in the spelling of Hugging Face or of fairseq.
        path: the file to name in errors.

    Returns:
        a module; called with (B, T) waveforms it gives (B, F, D) first, a frame each 20 ms.

    Raises:
        UserError: if the weights are not those of a wav2vec 2.0 encoder.
    """
    from torchaudio.models import wav2vec2_model

    state = _renamed(state)
    try:
        model = wav2vec2_model(**_sizes(state), aux_num_out=None)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, ZeroDivisionError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"not the weights of a wav2vec 2.0 encoder: {text}", path=path) from error
    return model.eval()


def parts(wav: np.ndarray) -> tuple[torch.Tensor, ...]:
    """A waveform (T,) of 16 kHz as equal parts (1, T') that an encoder can take: the whole, up to a minute.

    Raises:
        UserError: if it is shorter than one frame.
    """
    if len(wav) < SHORTEST:
        raise UserError(f"{len(wav)} samples are too short for wav2vec 2.0", expected=f"at least {SHORTEST}")
    return torch.from_numpy(wav)[None].tensor_split(-(-len(wav) // LONGEST), dim=1)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    rules = _FAIRSEQ if any(name.startswith("post_extract_proj.") for name in state) else _HUGGING_FACE
    renamed = {}
    for name, value in state.items():
        if name in _PRETRAINING_ONLY:
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        # The two spellings of weight normalisation: torch reads the older into the newer, so that one look suffices.
        name = name.replace("parametrizations.weight.original0", "weight_g")
        renamed[name.replace("parametrizations.weight.original1", "weight_v")] = value
    return renamed


def _sizes(state: dict[str, torch.Tensor]) -> dict:
    """Arguments of `torchaudio.models.wav2vec2_model`."""
    convolutions = []
    while (name := f"feature_extractor.conv_layers.{len(convolutions)}.conv.weight") in state:
        out, _, kernel = state[name].shape
        convolutions.append((out, kernel, 2 if convolutions else 5))
    # The large models normalise every convolution by layer, and before a transformer's layer instead of after it.
    large = "feature_extractor.conv_layers.1.layer_norm.weight" in state
    width, per_group, kernel = state["encoder.transformer.pos_conv_embed.conv.weight_v"].shape
    layers = {name[len(_LAYER) :].split(".")[0] for name in state if name.startswith(_LAYER)}
    return {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": convolutions,
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in state,
        "encoder_embed_dim": width,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": kernel,
        "encoder_pos_conv_groups": width // per_group,
        "encoder_num_layers": len(layers),
        "encoder_num_heads": width // HEAD,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": len(state[f"{_LAYER}0.feed_forward.intermediate_dense.weight"]),
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.0,
    }

"""A small wav2vec 2.0 in the spellings of fairseq and Hugging Face, and what it computes, written out once more."""

from __future__ import annotations

import re

import torch
from torch.nn import functional

WIDTH, CHANNELS, LAYERS, INNER, KERNEL, GROUPS = 64, 16, 2, 48, 16, 16
CONVOLUTIONS = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2  # kernel, stride

State = dict[str, torch.Tensor]


def fairseq_state(seed: int = 0) -> State:
    """Random weights with the names of fairseq's base model."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) / max(1, shape[-1]) ** 0.5

    def linear(name: str, inputs: int, outputs: int) -> State:
        return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}

    def norm(name: str, size: int) -> State:
        return {f"{name}.weight": 1 + 0.1 * draw(size), f"{name}.bias": 0.1 * draw(size)}

    state = {"mask_emb": draw(WIDTH)}
    for i, (kernel, _) in enumerate(CONVOLUTIONS):
        state[f"feature_extractor.conv_layers.{i}.0.weight"] = draw(CHANNELS, CHANNELS if i else 1, kernel)
    state |= norm("feature_extractor.conv_layers.0.2", CHANNELS)
    state |= norm("layer_norm", CHANNELS) | linear("post_extract_proj", CHANNELS, WIDTH)
    state |= {
        "encoder.pos_conv.0.weight_g": 1 + draw(1, 1, KERNEL).abs(),
        "encoder.pos_conv.0.weight_v": draw(WIDTH, WIDTH // GROUPS, KERNEL),
        "encoder.pos_conv.0.bias": draw(WIDTH),
    }
    state |= norm("encoder.layer_norm", WIDTH)
    for i in range(LAYERS):
        at = f"encoder.layers.{i}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            state |= linear(f"{at}.self_attn.{name}", WIDTH, WIDTH)
        state |= norm(f"{at}.self_attn_layer_norm", WIDTH) | norm(f"{at}.final_layer_norm", WIDTH)
        state |= linear(f"{at}.fc1", WIDTH, INNER) | linear(f"{at}.fc2", INNER, WIDTH)
    return state


def hugging_face_state(state: State, parametrized: bool = False) -> State:
    """The same weights with the names of Hugging Face's `Wav2Vec2Model`."""
    changes = [
        (r"(conv_layers\.\d)\.0\.", r"\1.conv."),
        (r"(conv_layers\.\d)\.2\.", r"\1.layer_norm."),
        (r"^layer_norm", "feature_projection.layer_norm"),
        (r"^post_extract_proj", "feature_projection.projection"),
        (r"pos_conv\.0", "pos_conv_embed.conv"),
        (r"self_attn_layer_norm", "layer_norm"),
        (r"self_attn", "attention"),
        (r"fc1", "feed_forward.intermediate_dense"),
        (r"fc2", "feed_forward.output_dense"),
        (r"mask_emb", "masked_spec_embed"),
    ]
    if parametrized:
        changes += [(r"weight_([gv])$", lambda m: f"parametrizations.weight.original{'gv'.index(m[1])}")]
    renamed = {}
    for name, value in state.items():
        for old, new in changes:
            name = re.sub(old, new, name)
        renamed[name] = value
    return renamed


def forward(state: State, wav: torch.Tensor) -> torch.Tensor:
    """(T,) waveform -> (F, 64), from the paper and in fairseq's names."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = wav[None, None]
    for i, (_, stride) in enumerate(CONVOLUTIONS):
        x = functional.conv1d(x, state[f"feature_extractor.conv_layers.{i}.0.weight"], stride=stride)
        if i == 0:
            mean, var = x.mean(2, keepdim=True), x.var(2, keepdim=True, unbiased=False)
            scale, shift = (state[f"feature_extractor.conv_layers.0.2.{k}"] for k in ("weight", "bias"))
            x = (x - mean) / torch.sqrt(var + 1e-5) * scale[:, None] + shift[:, None]
        x = functional.gelu(x)
    x = linear("post_extract_proj", norm("layer_norm", x[0].T))
    g, v = state["encoder.pos_conv.0.weight_g"], state["encoder.pos_conv.0.weight_v"]
    weight = g * v / v.pow(2).sum((0, 1), keepdim=True).sqrt()
    place = functional.conv1d(
        x.T[None], weight, state["encoder.pos_conv.0.bias"], padding=KERNEL // 2, groups=GROUPS
    )
    x = norm("encoder.layer_norm", x + functional.gelu(place[0, :, :-1]).T)
    for i in range(LAYERS):
        at = f"encoder.layers.{i}"
        q, k, v = (linear(f"{at}.self_attn.{n}", x) for n in ("q_proj", "k_proj", "v_proj"))
        mixed = torch.softmax(q @ k.T / WIDTH**0.5, dim=-1) @ v
        x = norm(f"{at}.self_attn_layer_norm", x + linear(f"{at}.self_attn.out_proj", mixed))
        x = norm(f"{at}.final_layer_norm", x + linear(f"{at}.fc2", functional.gelu(linear(f"{at}.fc1", x))))
    return x

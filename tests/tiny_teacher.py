"""Small models of the wav2vec 2.0 family with random weights, saved as published ones are."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def save_teacher(
    place: Path, kind: str = "wav2vec2", norm: str = "layer", seed: int = 0, **changes: object
) -> Path:
    """Write a checkpoint.

    Args:
        place: directory to make.
        kind: wav2vec2 | hubert | wavlm.
        norm: `feat_extract_norm`; layer goes with stable layer norm (large models), group without (base models).
        changes: to the configuration.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    names = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}
    config = getattr(transformers, f"{names[kind]}Config")(
        **(SIZES | {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"} | changes)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{names[kind]}Model")(config)
        for name, parameter in model.named_parameters():
            if "bias" in name or "layer_norm" in name:  # as trained ones, not 0 and 1
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(place)
    front = {
        "do_normalize": True,
        "feature_size": 1,
        "sampling_rate": 16000,
        "return_attention_mask": norm == "layer",
    }
    (place / "preprocessor_config.json").write_text(json.dumps(front))
    return place

"""MUSA generators of random weights, small enough to be made within a test, and archives of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from espnet_musa.codec import archive
from espnet_musa.codec.generator import MusaGenerator
from espnet_musa.codec.speaker_table import SpeakerTable

BACKBONES = {
    "spectral": {
        "encoder_conf": {"channels": 24, "layers": 2, "expansion": 2, "n_mels": 40},
        "decoder_conf": {"channels": 24, "layers": 2, "expansion": 2},
    },
    "seanet": {"encoder_conf": {"channels": 4}, "decoder_conf": {"channels": 4}},
}


def tiny_conf(backbone: str = "spectral", **more) -> dict:
    """Keyword arguments of a small `MusaGenerator`."""
    return {
        "backbone": backbone, **BACKBONES[backbone], "dimension": 32, "n_speakers": 3, "n_tokens": 7,
        "quantizer_conf": {"n_quantizers": 4, "codebook_size": 16},
        "speaker_conf": {"hidden": 16, "n_mels": 20}, **more,
    }  # fmt: skip


def tiny_generator(backbone: str = "spectral", seed: int = 0, **more) -> MusaGenerator:
    """A generator whose codebooks and last layers are such that its output is audible and depends on its input."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        generator = MusaGenerator(**tiny_conf(backbone, **more)).eval()
        wav = 0.1 * torch.randn(1, 64000) * torch.linspace(0, 3, 64000).sin()
        left = generator.without_speaker(generator.frames(wav), generator.speaker(wav))[0].T
        for layer in generator.quantizer.layers:  # frames as codes, what they leave over as the next ones
            layer.embed.copy_(left[torch.randperm(len(left))[: len(layer.embed)]])
            left = left - layer.embed[torch.cdist(left, layer.embed).argmin(1)]
        if backbone == "spectral":
            out = generator.decoder.backbone.out
            out.weight.mul_(20)  # a phase that moves
        level = generator.decode(*generator.encode(wav)).std()
        if backbone == "spectral":
            out.bias[: len(out.bias) // 2] += (0.05 / level).log()
        else:
            generator.decoder.last.conv.parametrizations.weight.original0.mul_(0.05 / level)
    return generator


def tiny_archive(
    place: Path, backbone: str = "spectral", speakers: bool = True, seed: int = 0, **more
) -> Path:
    """An archive directory of a tiny generator, with four speakers."""
    archive.save(
        place,
        generator_conf=tiny_conf(backbone, **more),
        state=tiny_generator(backbone, seed, **more).state_dict(),
        facts={"sample_rate": 16000, "train": "tiny", "tokens": None, "seed": seed, "steps": 0},
    )
    if speakers:
        table = np.random.default_rng(seed).standard_normal((4, 32)).astype(np.float32)
        archive.save_speakers(place, SpeakerTable(table, ("f", "m", "f", "m")))
    return place

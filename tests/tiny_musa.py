"""A recipe after stage 3, with a MUSA small enough to be trained within a test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import yaml
from conftest import voice
from tiny_sets import make_set

from espnet_musa import config, stamp
from espnet_musa.tokenizer.store import Facts

HOP, N_TOKENS = 320, 11
GENERATOR = {
    "backbone": "spectral",
    "dimension": 32,
    "encoder_conf": {"channels": 32, "layers": 1},
    "decoder_conf": {"channels": 32, "layers": 1},
    "quantizer_conf": {"n_quantizers": 2, "codebook_size": 16, "decay": 0.5},  # a few steps must do
    "speaker_conf": {"hidden": 16},
}
DISCRIMINATOR = {
    "stft_n_ffts": [256],
    "stft_channels": 2,
    "periods": [3],
    "period_channels": 2,
    "scales": 1,
    "scale_channels": 16,
}
OPTIMIZER = {"optim_conf": {"lr": 2e-3}, "scheduler": "exponentiallr", "scheduler_conf": {"gamma": 0.9}}
SETTINGS: dict[str, Any] = {
    "codec_conf": {"generator_conf": GENERATOR, "discriminator_conf": DISCRIMINATOR},
    "segment_length": 6400,
    "batch_size": 4,
    "num_iters_per_epoch": 8,
    "max_epoch": 4,
    "num_workers": 0,
    "log_interval": 4,
    **OPTIMIZER,
    **{key.replace("_conf", "2_conf") if "_conf" in key else f"{key}2": v for key, v in OPTIMIZER.items()},
}
SYSTEM = {"description": "-", "reference": "-", "anonymizer": "musa", "train": "tiny", "tokens": "tiny"}


def write(path: Path, data: dict) -> None:
    """YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))


def make_train_set(root: Path, name: str, speakers: str, utterances: int = 4) -> dict[str, np.ndarray]:
    """dump/<name> with role `train`; returns its waveforms."""
    wavs = {
        f"{speaker}-{name}-{i}": voice(ord(speaker) + i, 0.5 + 0.13 * i, 90 + 12 * (ord(speaker) - 97))
        for speaker in speakers
        for i in range(utterances)
    }
    make_set(root / "dump" / name, wavs, dict.fromkeys(speakers, "f"), {"role": "train", "split": "train"})
    return wavs


def make_tokens(root: Path, name: str, tokens: dict[str, np.ndarray]) -> None:
    """exp/tokens/tiny/<name>, as stage 3 publishes it."""
    place = root / "exp/tokens/tiny" / name
    shutil.rmtree(place, ignore_errors=True)
    partial = stamp.begin(place, "tokenize", {"tokens": name})
    with kaldiio.WriteHelper(f"ark,scp:{partial}/tokens.ark,{partial}/tokens.scp") as writer:
        for utt, values in sorted(tokens.items()):
            writer(utt, values.astype(np.int32))
    stamp.finish(place, "tokenize", counts={}, seconds=0.0)
    model = root / "exp/tokens/tiny/model"
    if partial := stamp.begin(model, "tokenize", {"tokens": "tiny"}):
        facts = Facts(n_tokens=N_TOKENS, dimension=1, tokenizer="kmeans", params={}, teacher="loudness")
        config.save(facts, partial / "config.yaml")
        stamp.finish(model, "tokenize", counts={}, seconds=0.0)


def pretended(wavs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a teacher might say: one token a frame, one frame fewer than the codec has, loudness in N_TOKENS steps."""
    out = {}
    for utt, wav in wavs.items():
        frames = -(-len(wav) // HOP) - 1
        level = np.abs(wav[: frames * HOP]).reshape(frames, HOP).mean(axis=1)
        out[utt] = np.minimum(N_TOKENS * level / (level.max() + 1e-9), N_TOKENS - 1)
    return out


def make_recipe(root: Path, **settings: Any) -> Path:
    """Two sets to train on with their tokens, the training `tiny` and a system that uses it."""
    for name, speakers in (("one", "abc"), ("two", "cd")):
        make_tokens(root, name, pretended(make_train_set(root, name, speakers)))
    write(root / "conf/train/tiny.yaml", SETTINGS | settings)
    write(root / "conf/systems/tiny.yaml", SYSTEM)
    return root

"""Voices and data directories small enough to be made within a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import write_datadir
from espnet_musa.evaluators.speaker_nets import NetConfig

RATE = 16000
GENDERS = {"a": "f", "b": "f", "c": "m", "d": "m"}
SMALL = NetConfig(
    mel_bands=40,
    channels=16,
    pooled_channels=24,
    attention_channels=8,
    se_channels=8,
    res2net_scale=4,
    embedding_dim=12,
)


def tone(seconds: float, pitch: float, seed: int = 0) -> np.ndarray:
    """A buzz of 12 harmonics in a little noise with a slow amplitude: something that a VAD takes for speech."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 6)) / k for k in range(1, 13))
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)) + 0.05 * rng.standard_normal(len(time))
    return (0.2 * wave / np.abs(wave).max()).astype(np.float32)


def make_set(path: Path, wavs: dict[str, np.ndarray], genders: dict[str, str], meta: dict, **tables) -> Path:
    """Write a data directory; an utterance's speaker is what stands before its first hyphen."""
    speakers = {utt: utt.split("-")[0] for utt in wavs}
    for utt, wav in wavs.items():
        (path / "wav").mkdir(parents=True, exist_ok=True)
        write_wav(path / "wav" / f"{utt}.wav", wav, RATE)
    core = {
        "wav.scp": {utt: str(path / "wav" / f"{utt}.wav") for utt in wavs},
        "utt2spk": speakers,
        "utt2dur": {utt: len(wav) / RATE for utt, wav in wavs.items()},
        "spk2gender": {spk: genders[spk] for spk in speakers.values()},
    }
    write_datadir(path, core | tables, meta)
    return path

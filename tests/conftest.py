"""Fixtures shared by all tests: real speech where it is, and small made-up recordings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import DataDir, write_datadir

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hypothesis looks at every imported module; SpeechBrain's lazy ones raise when they are looked at."""
    if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
        for name, module in list(sys.modules.items()):
            if type(module).__module__ == "speechbrain.utils.importutils":
                del sys.modules[name]


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """Real speech with licences, beside the checkout; skipped where it is absent."""
    place = Path(os.environ.get("ESPNET_MUSA_REAL_SPEECH", REPOSITORY.parent / "shared" / "data"))
    if not (place / "librispeech").is_dir():
        pytest.skip("no real speech here; set ESPNET_MUSA_REAL_SPEECH")
    return place


def voice(seed: int = 0, seconds: float = 1.0, f0: float = 120.0, rate: int = 16000) -> np.ndarray:
    """A speech-like sound: a pulse train with a drifting F0 through three resonances, syllables and soft noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    track = f0 * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = np.cumsum(track) / rate
    wav = np.zeros_like(time)
    formants = rng.uniform([400, 1100, 2300], [800, 1900, 3100])
    for harmonic in range(1, int(3800 / f0)):
        gain = sum(1 / (1 + ((harmonic * f0 - f) / 90) ** 2) for f in formants)
        wav += gain * np.sin(2 * np.pi * harmonic * phase)
    wav *= 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time + rng.uniform(0, 6))
    wav = 0.3 * wav / np.abs(wav).max() + 1e-3 * rng.standard_normal(len(wav))
    return wav.astype(np.float32)


def vowel(f0: float | np.ndarray, seconds: float, rate: int = 16000) -> np.ndarray:
    """A steady vowel whose pitch in Hz is known at each sample: harmonics up to 3.5 kHz under three resonances."""
    track = np.broadcast_to(f0, round(seconds * rate))
    phase = np.cumsum(track) / rate
    wav = np.zeros(len(track))
    for harmonic in range(1, int(3500 / np.max(f0)) + 1):
        gain = sum(1 / (1 + ((harmonic * track - f) / 90) ** 2) for f in (500, 1500, 2500))
        wav += (0.02 + gain) * np.sin(2 * np.pi * harmonic * phase)
    return (0.1 * wav).astype(np.float32)


def make_source(
    place: Path,
    *,
    speakers: tuple[str, ...] = ("a", "b"),
    utterances: int = 2,
    seconds: float = 1.0,
    rate: int = 16000,
    **tables: dict,
) -> DataDir:
    """A source data directory `place` with its WAV files in `place`-audio."""
    audio = place.with_name(place.name + "-audio")
    audio.mkdir(parents=True, exist_ok=True)
    scp, utt2spk = {}, {}
    for number, speaker in enumerate(speakers):
        for index in range(utterances):
            utt = f"{speaker}-{index}"
            scp[utt], utt2spk[utt] = str(audio / f"{utt}.wav"), speaker
            write_wav(scp[utt], voice(10 * number + index, seconds, 100 + 30 * number, rate), rate)
    gender = {speaker: "fm"[i % 2] for i, speaker in enumerate(speakers)}
    write_datadir(
        place, {"wav.scp": scp, "utt2spk": utt2spk, "spk2gender": gender, **tables}, {"corpus": "made-up"}
    )
    return DataDir.read(place)

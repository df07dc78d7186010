"""F0 of what a vocoder is trained on: found once, by all CPUs, kept in arks beside the training."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ..codec.config import F0Config
from ..codec.frames import HOP_MS, frames_of
from ..data.audio import AudioFile
from ..data.datadir import DataDir
from ..errors import UserError
from ..f0 import extract, transforms
from ..log import get_logger, progress
from ..tokenizer.store import Ark, write_ark

log = get_logger(__name__)
VOICES = "voices.safetensors"  # F0 of the speakers, for the time of a training
ALONE = 32  # utterances up to which another process would take longer to start than to help


def f0_of(path: Path, conf: F0Config, *, normalize: bool) -> np.ndarray:
    """(F,) float32 of a recording, F = ceil(T / 320): z-scores over its voiced frames, or Hz; 0 where unvoiced."""
    with AudioFile(path) as source:
        f0 = extract.extract_stream(source, hop_ms=HOP_MS, **vars(conf))[: frames_of(source.frames)]
    if normalize:
        f0 = transforms.apply([{"normalize": {}}], f0, np.random.default_rng(0), hop_ms=HOP_MS)
    return f0.astype(np.float32)


def track(sets: Sequence[DataDir], place: Path, conf: F0Config, *, normalize: bool) -> dict[str, str]:
    """F0 of all utterances; a set that is there already, whole, is not tracked again.

    Args:
        sets: formatted sets.
        place: directory for an ark a set.
        conf: how.
        normalize: z-scores over the utterance instead of Hz.

    Returns:
        utterance -> <ark>:<offset>.

    Raises:
        UserError: naming the utterance that cannot be tracked.
    """
    place.mkdir(exist_ok=True)
    places: dict[str, str] = {}
    for data in sets:
        path = place / data.name
        if not path.with_suffix(".scp").exists():
            log.info("train: F0 of %s (%s)", data.path, conf.tracker)
            make = partial(_one, conf=conf, normalize=normalize)
            todo = {utt: data.audio_path(utt) for utt in data.utts}
            jobs = 1 if len(todo) <= ALONE else len(os.sched_getaffinity(0))
            write_ark(path, dict(_mapped(make, todo, jobs)), path)
        places |= Ark(path.with_suffix(".scp")).places
    return places


def save_voices(sets: Sequence[DataDir], place: Path) -> None:
    """Mean of F0 over the voiced frames of each speaker, and deviation within an utterance, by speaker's name, in Hz.

    Made from what `track` has left in `place`, not normalised; written to `VOICES` beside it. The deviation is that
    within an utterance, since the z-scores that are rendered are of one. Where a speaker has not two voiced frames, or
    a deviation below 1 Hz, those of all speakers together stand in.

    Raises:
        UserError: if nothing is voiced.
    """
    values: dict[str, list[np.ndarray]] = {}
    for data in sets:
        ark = Ark((place / data.name).with_suffix(".scp"))
        for utt, speaker in data.table("utt2spk").items():
            f0 = ark[utt].astype(np.float64)
            values.setdefault(speaker, []).append(f0[f0 > 0])
    everyone = _moments([voiced for own in values.values() for voiced in own])
    if not everyone[1] >= 1:
        raise UserError("no voiced speech in the training data", expected="speech")
    found = [_moments(values[speaker]) for speaker in sorted(values)]
    used = np.array([own if own[1] >= 1 else everyone for own in found], np.float32)
    save_file({"f0_mean": used[:, 0].copy(), "f0_sd": used[:, 1].copy()}, place.with_name(VOICES))


def _moments(tracks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean of all values, and the deviation from the mean of their track (nan if there is none)."""
    tracks = [track for track in tracks if len(track) > 1]
    freedom = sum(len(track) - 1 for track in tracks)
    if not freedom:
        return np.nan, np.nan
    squares = sum(float(((track - track.mean()) ** 2).sum()) for track in tracks)
    return float(np.concatenate(tracks).mean()), float(np.sqrt(squares / freedom))


def _one(item: tuple[str, Path], conf: F0Config, normalize: bool) -> tuple[str, np.ndarray]:
    utt, path = item
    try:
        return utt, f0_of(path, conf, normalize=normalize)
    except UserError as error:
        raise UserError(str(error), utt=utt) from None


def _mapped(make: partial, todo: dict[str, Path], jobs: int) -> Iterable[tuple[str, np.ndarray]]:
    if jobs == 1:
        return progress(map(make, todo.items()), total=len(todo), desc="f0")
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(progress(pool.map(make, todo.items(), chunksize=8), total=len(todo), desc="f0"))

"""B5 and B6: content codes of an acoustic model, F0 without its level, and the voice of a training speaker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config, models
from ..codec.config import F0Config
from ..codec.frames import HOP, HOP_MS, fit_frames, frames_of
from ..data.audio import SILENCE
from ..errors import UserError, suggest
from ..f0 import transforms as f0_transforms
from ..f0.extract import check_tracker, extract_stream
from ..log import get_logger
from .base import Analysis, F0Anonymizer, Source
from .musa import checked

if TYPE_CHECKING:
    from torch import Tensor

    from ..codec.vocoder import Vocoder
    from ..codec.vocoder_archive import Facts
    from ..tokenizer.teachers import Teacher
    from ..tokenizer.vq_bottleneck import VqBottleneck

log = get_logger(__name__)
SHORTEST = 400  # samples: the window of the acoustic model's features
CHUNK = 1500  # frames (30 s) that pass the acoustic model at once, and the vocoder
CONTEXT = 50  # frames on either side of such a chunk that the acoustic model hears, too
TARGET = ("speaker", "gender")  # keys of a target
LEVELS = ("source", "model")
PUBLISHED = "final.pt"  # a file that only the published models have


class VqBn(F0Anonymizer):
    """Say the content codes of an utterance, with its intonation, in the voice of a speaker of the training set.

    Champion, "Anonymizing speech: evaluating and designing speaker anonymization techniques", 2023; baselines B5 and B6
    of VoicePrivacy 2024; with `transforms` systems 3 and 4 of Kuzmin et al., "NTU-NPU System for Voice Privacy 2024",
    SPSC 2024. An acoustic model gives one of a few codes every 20 ms, a vocoder (`codec.vocoder`) makes speech of the
    codes, the F0 as z-scores over the voiced frames of the utterance, and a one-hot speaker.

    `transforms` must hold `normalize`. What stands before acts in Hz, and mostly in vain: whatever maps the F0 of an
    utterance to a F0 + b, be it its mean reversion, is taken back exactly by the normalisation. What stands behind acts
    on z-scores, and the vocoder hears it. Runs of equal codes are the segments of `multiply` with `per: phone`.

    A target is `{speaker: place or id, gender: f or m}`, a place or an id alone, or None (the parameter `speaker`); see
    `targets.speakers`. The generator gives the noise of the transforms, then that of the vocoder's source.

    The output is as long as the input; with `level: source` a peak of the model's training becomes the peak of the
    input. Silence gives silence; without a voiced frame all is said unvoiced. Recordings of more than 30 s pass the
    acoustic model in chunks of 30 s with a second on either side, and the vocoder in chunks that overlap by all that it
    sees, so memory hardly grows with the recording.

    Differs from the published program, unless `compat`: there statistics of F0 and the model's inputs are those of the
    whole batch with its padding, so the output of an utterance depends on what else is in the batch.
    """

    @dataclass(frozen=True)
    class Params:
        """Which model, which voice, and what happens to F0."""

        model: str = ""  # directory, or a model of conf/models.yaml; empty: what the system's training made
        transforms: tuple[dict, ...] = ({"normalize": {}},)  # {name: {parameter: value}}, see `f0.transforms`
        speaker: str | None = None  # id of the voice where the target names none
        tracker: str | None = None  # of F0, see `f0.extract`; null: that of the model's training
        level: str = "source"  # source: the input's peak | model: about the one that the vocoder learnt from
        compat: bool = False  # F0 statistics over the batch, and padding that is heard, as published
        batch_seconds: float | None = None  # of audio at once; null: 8 on a CPU (caches), 120 on a GPU

        def __post_init__(self) -> None:
            if self.level not in LEVELS:
                raise UserError(f"unknown level '{self.level}'{suggest(self.level, LEVELS)}")
            if not 0 <= (self.batch_seconds or 0) < np.inf:
                raise UserError(f"batch_seconds is {self.batch_seconds}", expected="0 or more")
            if self.tracker is not None:
                check_tracker(hop_ms=HOP_MS, **vars(F0Config(tracker=self.tracker)))
            f0_transforms.parse(self.transforms)
            if f0_transforms.domain(self.transforms) != "z":
                raise UserError(
                    "the F0 transforms lack 'normalize', but the vocoder was trained on z-scores",
                    expected="[normalize: {}, ...]; steps behind it act on z-scores, while affine ones before it, "
                    "mean_reversion among them, are cancelled by it",
                )

    def __init__(self, **params: Any) -> None:
        """Check the parameters; see `Anonymizer`."""
        super().__init__(**params)
        self._batches_for("cpu")

    def prepare(self, device: str = "cpu") -> None:
        """Load the acoustic model and the vocoder; the last ones loaded are shared by all anonymizers of a process.

        Raises:
            UserError: if they are not there, damaged, or the voice of `speaker` is not among the model's.
        """
        place = self._place()
        self._device = device
        self._batches_for(device)
        self._vocoder, self._facts, self._teacher, self._tokenizer = _load(place, device, _state(place))
        if self.params.speaker is not None:
            self._facts.number(self.params.speaker)

    def fingerprint(self) -> str:
        """Hash of the model; see `Anonymizer`."""
        from ..codec import vocoder_archive

        place = self._place()
        return (models if self._published(place) else vocoder_archive).fingerprint(str(place))

    def analysis_params(self) -> dict[str, Any]:
        """See `F0Anonymizer`; `compat` since the reference's acoustic model hears the padding of a batch."""
        return {"tracker": self.params.tracker, "compat": self.params.compat}

    def analyze(self, source: Source) -> Analysis:
        """`codes` (F,) int16 and `f0` (F,) float32 Hz, F = ceil(T / 320).

        Raises:
            UserError: for another rate, less than 25 ms, or a sample that is not finite.
        """
        if source.sample_rate != self.sample_rate:
            raise UserError(f"audio of {source.sample_rate} Hz", expected=f"{self.sample_rate} Hz")
        frames, codes = frames_of(source.frames), []
        for first in range(0, max(frames, 1), CHUNK):
            start, end = max(0, first - CONTEXT), min(frames, first + CHUNK)
            stop = min(frames, end + CONTEXT)
            wav = source.read(start * HOP, min(source.frames, stop * HOP))
            codes.append(self._encode([wav])[0][first - start : end - start])
        return {"codes": np.concatenate(codes), "f0": self._f0(source)}

    def analyze_batch(self, wavs: Sequence[np.ndarray]) -> list[Analysis]:
        """See `analyze`."""
        from ..data.audio import ArraySource

        return [
            {"codes": codes, "f0": self._f0(ArraySource(wav, self.sample_rate))}
            for wav, codes in zip(wavs, self._encode(wavs), strict=True)
        ]

    def synthesize(
        self, source: Source, analysis: Analysis, target: Any, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Blocks of up to 30 s that join to `source.frames` samples.

        Raises:
            UserError: for a target that names no voice of the model's, or an analysis of another recording.
        """
        import torch

        if frames_of(source.frames) <= CHUNK:
            yield self.synthesize_batch([source.read(0, source.frames)], [analysis], [target], [rng])[0]
            return
        codes, z = self._fitting(source.frames, analysis), self._z([analysis], [rng])[0]
        voice = torch.tensor([self._voice(target)], device=self._device)
        pitch = self._vocoder.pitch(self._tensor(z)[None], voice) if self._vocoder.sourced else None
        gain = self._gain(max(np.abs(block).max() for block in _blocks(source)))
        stream, left = self._vocoder.decoder.stream(), source.frames

        @torch.inference_mode()  # not around the loop: between two blocks the mode would be the caller's, too
        def step(part: slice, last: bool) -> np.ndarray:
            block = self._vocoder.frames(self._tensor(codes[part])[None], self._tensor(z[part])[None], voice)
            if pitch is not None:
                noise = self._vocoder.by_frame(self._tensor(_noise(len(codes[part]), rng))[None])
                block = torch.cat([block, pitch[:, :, part], noise], dim=1)
            return stream.push(block, last).flatten().float().cpu().numpy()

        for first in range(0, len(codes), CHUNK):
            made = gain * step(slice(first, first + CHUNK), first + CHUNK >= len(codes))[:left]
            left -= len(made)
            yield made

    def synthesize_batch(
        self,
        wavs: Sequence[np.ndarray],
        analyses: Sequence[Analysis],
        targets: Sequence[Any],
        rngs: Sequence[np.random.Generator],
    ) -> list[np.ndarray]:
        """See `synthesize`."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        codes = [self._tensor(self._fitting(len(wav), own)) for wav, own in zip(wavs, analyses, strict=True)]
        z = [self._tensor(own) for own in self._z(analyses, rngs)]
        voices = torch.tensor([self._voice(target) for target in targets], device=self._device)
        lengths = torch.tensor([len(own) for own in codes], device=self._device)
        alike = self.params.compat or len(lengths.unique()) == 1
        noise = None
        if self._vocoder.sourced:
            drawn = [self._tensor(_noise(len(own), rng)) for own, rng in zip(codes, rngs, strict=True)]
            noise = pad_sequence(drawn, batch_first=True)
        with torch.inference_mode():
            made = self._vocoder(
                pad_sequence(codes, batch_first=True),
                pad_sequence(z, batch_first=True),
                voices,
                None if alike else lengths,
                noise,
            )
        rows = made.float().cpu().numpy()
        return [self._gain(np.abs(wav).max()) * row[: len(wav)] for wav, row in zip(wavs, rows, strict=True)]

    def _encode(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Codes (F_i,) int16, F_i = ceil(T_i / 320), of waveforms (T_i,)."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        for wav in wavs:
            if len(checked(wav)) < SHORTEST:
                raise UserError(
                    f"too short: {len(wav)} samples",
                    expected=f"{SHORTEST} or more (25 ms): one frame of content",
                )
        with torch.inference_mode():
            features = [own.to(self._device) for own in self._teacher.features(wavs)]
            lengths = torch.tensor([len(own) for own in features], device=self._device)
            padded = pad_sequence(features, batch_first=True).transpose(1, 2)
            rows = self._tokenizer.encode(padded, None if self.params.compat else lengths).cpu().numpy()
        return [
            fit_frames(row[: len(own)], frames_of(len(wav))).astype(np.int16)
            for row, own, wav in zip(rows, features, wavs, strict=True)
        ]

    def _f0(self, source: Source) -> np.ndarray:
        """(F,) float32 Hz."""
        conf = vars(self._facts.f0) | ({"tracker": self.params.tracker} if self.params.tracker else {})
        return extract_stream(source, hop_ms=HOP_MS, **conf)[: frames_of(source.frames)].astype(np.float32)

    def _z(self, analyses: Sequence[Analysis], rngs: Sequence[np.random.Generator]) -> list[np.ndarray]:
        """What the vocoder hears of F0: (F_i,) float32 z-scores, 0 where unvoiced."""
        steps = list(self.params.transforms)
        if self.params.compat:
            steps = _with_statistics(steps, np.concatenate([own["f0"] for own in analyses]))
        out = []
        for own, rng in zip(analyses, rngs, strict=True):
            if not (own["f0"] > 0).any():
                log.warning("no voiced frame in an utterance; all of it is said unvoiced")
            z = f0_transforms.apply(
                steps, own["f0"].astype(np.float64), rng, hop_ms=HOP_MS, phones=own["codes"].astype(np.int64)
            )
            out.append(z.astype(np.float32))
        return out

    def _voice(self, target: Any) -> int:
        """Number of the voice."""
        target = target if isinstance(target, dict) else {} if target is None else {"speaker": target}
        if unknown := [key for key in target if key not in TARGET]:
            raise UserError(f"target has a key '{unknown[0]}'{suggest(unknown[0], TARGET)}")
        speaker = target.get("speaker", self.params.speaker)
        if speaker is None:
            raise UserError(
                "neither the target nor the parameter `speaker` names a voice",
                expected="target: {policy: speaker, ...} or params: {speaker: <id>}",
            )
        return self._facts.number(speaker, target.get("gender"))

    def _gain(self, peak: float) -> np.float32:
        """Factor of the vocoder's output for an input of this absolute peak."""
        if peak < SILENCE:
            return np.float32(0)
        matched = self.params.level == "source" and self._facts.peak > 0
        return np.float32(peak / self._facts.peak if matched else 1.0)

    @staticmethod
    def _fitting(samples: int, analysis: Analysis) -> np.ndarray:
        """Codes of an analysis as (F,) int64."""
        frames = frames_of(samples)
        if len(analysis["codes"]) != frames or len(analysis["f0"]) != frames:
            raise UserError(
                f"an analysis of {len(analysis['codes'])} codes and {len(analysis['f0'])} values of F0",
                expected=f"{frames} of each, one each {HOP} samples of the recording",
            )
        return analysis["codes"].astype(np.int64)

    def _tensor(self, x: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(x).to(self._device)

    def _batches_for(self, device: str) -> None:
        own = self.params.batch_seconds
        self.batch_seconds = own if own is not None else 8.0 if device == "cpu" else 120.0

    def _place(self) -> Path:
        """Where the model is."""
        name = self.params.model
        if not name:
            raise UserError(
                "the system names no model, and no training that makes one",
                expected="params.model: a directory or a model of conf/models.yaml, or train: <training>",
            )
        if Path(name).is_dir():
            return Path(name)
        return models.find(name)

    @staticmethod
    def _published(place: Path) -> bool:
        return (place / PUBLISHED).is_file()


def _state(place: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes if a file of a model does: names, times, sizes."""
    found = [(str(path), path.stat()) for path in sorted(place.rglob("*")) if path.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@lru_cache(maxsize=1)  # the variants of a system, made by one process, differ in F0 alone
def _load(place: Path, device: str, state: tuple) -> tuple[Vocoder, Facts, Teacher, VqBottleneck]:
    """Vocoder, its facts, and the two halves of the acoustic model, all in eval mode; `state` as `_state` gives it."""
    from ..codec import vocoder_archive
    from ..tokenizer import store

    if (place / PUBLISHED).is_file():
        from ..codec import vocoder_published

        return vocoder_published.load(place, device)
    vocoder, facts = vocoder_archive.load(place, device)
    acoustic = place / vocoder_archive.ACOUSTIC
    tokenizer = store.load(acoustic, device).eval()
    teacher = store.load_teacher(acoustic, config.load(store.Facts, acoustic / store.CONFIG), device)
    return vocoder, facts, teacher, tokenizer


def _noise(frames: int, rng: np.random.Generator) -> np.ndarray:
    """(frames * 320,) float32 of variance 1; drawing it in parts makes no difference."""
    return rng.standard_normal(frames * HOP, np.float32)


def _with_statistics(steps: list[dict], f0: np.ndarray) -> list[dict]:
    """`normalize` with the statistics of all voiced frames of a batch, as the reference has them (`vocoder.pooled`)."""
    voiced = f0[f0 > 0].astype(np.float64)
    if len(voiced) < 2:
        return steps
    fixed = {"mean": float(voiced.mean()), "sd": float(np.sqrt(voiced.var(ddof=1) + 1e-6))}
    return [{"normalize": fixed} if "normalize" in step else step for step in steps]


def _blocks(source: Source) -> Iterator[np.ndarray]:
    for start in range(0, source.frames, CHUNK * HOP):
        yield source.read(start, min(source.frames, start + CHUNK * HOP))

"""WORLD analysis and synthesis with a changed pitch track."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError
from ..f0 import transforms as f0_transforms
from ..f0.extract import CHUNK, check_tracker, extract_stream, pyworld
from .base import Analysis, F0Anonymizer, Source

_HOP_MS = 5.0
_UNVOICED = 500.0  # Hz; where WORLD puts pulses in unvoiced frames
_BEFORE = 60  # frames synthesised before a chunk, to be thrown away;
_STEER = 40  # the first of them change the pitch so that the pulses fall in step
_AFTER = 50  # frames synthesised after a chunk, for its last pulses
_FADE = 160  # samples of cross-fade from chunk to chunk


@dataclass(frozen=True)
class Tracker:
    """How F0 is found, see `f0.extract`."""

    tracker: str = "harvest"  # harvest | dio | yaapt | praat
    floor: float = 71.0  # Hz
    ceiling: float = 800.0  # Hz


class DspF0(F0Anonymizer):
    """Replace the pitch of speech; spectral envelope and aperiodicity stay.

    The utterance is taken apart and put together by WORLD (Morise et al., "WORLD: a vocoder-based high-quality speech
    synthesis system for real-time applications", IEICE Trans. E99-D, 2016); its F0 goes through `f0.transforms`, then
    times the target. Timbre is untouched, so this hides little of a voice by itself.

    The pitch track of the whole utterance is found and changed first: its mean and its noise are those of the
    utterance. Synthesis then runs in chunks of 30 s. The pulses of a chunk are put in step with those of the chunk
    before (see `_steer`), so that no phase jumps; utterances up to 30 s are one chunk. Any length from one sample on
    gives as many samples; silence gives silence.
    """

    @dataclass(frozen=True)
    class Params:
        """How F0 is found and what is done to it."""

        f0: Tracker = field(default_factory=Tracker)
        transforms: tuple[dict, ...] = ()  # {name: {parameter: value}}, see `f0.transforms`

    def __init__(self, **params: Any) -> None:
        """Check the parameters.

        Raises:
            UserError: for an unknown parameter, tracker or transform, a wrong type or a value out of range.
        """
        super().__init__(**params)
        check_tracker(**self.analysis_params())
        if f0_transforms.domain(self.params.transforms) != "hz":
            raise UserError(
                "the transforms end in z-scores", expected="Hz: WORLD needs a pitch; leave `normalize` out"
            )
        f0_transforms.parse(self.params.transforms)

    def analysis_params(self) -> dict[str, Any]:
        """How F0 is found."""
        return {"hop_ms": _HOP_MS, **asdict(self.params.f0)}

    def analyze(self, source: Source) -> Analysis:
        """The pitch track, (F,) Hz every 5 ms; see `F0Anonymizer.analyze`.

        Raises:
            UserError: for another rate or an empty input.
        """
        if source.sample_rate != self.sample_rate:
            raise UserError(f"audio of {source.sample_rate} Hz", expected=f"{self.sample_rate} Hz")
        return {"f0": extract_stream(source, **self.analysis_params())}

    def synthesize(
        self,
        source: Source,
        analysis: Analysis,
        target: dict[str, float] | float | None,
        rng: np.random.Generator,
    ) -> Iterator[np.ndarray]:
        """Blocks of at most 30 s that join to exactly `source.frames` samples.

        Args:
            source: 16 kHz mono.
            analysis: of it.
            target: another factor of F0, 1.2 or {"scale": 1.2}; None: no change.
            rng: of the utterance, for noise.

        Yields:
            (T',) float32 at the level of the input; a peak may exceed 1.

        Raises:
            UserError: for a target that is no factor.
        """
        steps = [*self.params.transforms, *_target_transform(target)]
        changed = f0_transforms.apply(steps, analysis["f0"], rng, hop_ms=_HOP_MS)
        timbre = analysis.setdefault("_timbre", {}) if source.frames <= CHUNK * source.sample_rate else None
        return _synthesize(source, analysis["f0"], changed, timbre)


def _target_transform(target: Any) -> list[dict[str, dict[str, float]]]:
    """The target as a list of one or no transform."""
    if isinstance(target, dict):
        if set(target) != {"scale"}:
            raise UserError(f"target is {target}", expected="a factor of F0, {scale: factor} or none")
        target = target["scale"]
    return [] if target is None else [{"scale": {"factor": target}}]


@dataclass(frozen=True)
class _Piece:
    """Synthesised audio of a chunk with its surroundings."""

    wav: np.ndarray  # (T',) float64
    start: int  # sample of the utterance where it begins
    cycles: np.ndarray  # (T',) pitch periods since its begin

    def samples(self, start: int, stop: int) -> np.ndarray:
        """Its audio between two samples of the utterance."""
        return self.wav[start - self.start : stop - self.start]


def _cycles(f0: np.ndarray, rate: int, hop: int) -> np.ndarray:
    """Pitch periods passed at the end of each sample (F * hop,), counted exactly as WORLD's synthesis does.

    WORLD interpolates F0 and voicing linearly and takes 500 Hz where voicing is at most one half; pulses lie where the
    count passes a whole number. The order of operations matters half-way between a voiced and an unvoiced frame.
    """
    nodes = np.arange(f0.size + 1) * (_HOP_MS / 1000)
    time = np.arange(f0.size * hop) / rate
    left = np.searchsorted(nodes, time, side="right") - 1
    part = (time - nodes[left]) / (nodes[left + 1] - nodes[left])

    def upsample(x: np.ndarray) -> np.ndarray:
        x = np.append(x, 2 * x[-1] - x[-2] if x.size > 1 else x[-1])
        return x[left] + part * (x[left + 1] - x[left])

    voiced = upsample((f0 > 0).astype(np.float64)) > 0.5
    return np.cumsum(np.where(voiced, upsample(f0), _UNVOICED) / rate)


def _steer(f0: np.ndarray, phase: float, rate: int, hop: int) -> np.ndarray:
    """Change the first frames of a chunk's track so that its pulses fall where the chunk before has them.

    Those frames are synthesised but never heard. With a constant pitch g there, the count of periods at their end is
    linear in g; of its solutions the one near 200 Hz is taken.

    Args:
        f0: (F,) Hz, F > _STEER.
        phase: periods that the chunk before has counted at the sample where frame `_STEER` begins.
        rate: Hz.
        hop: samples per frame.
    """

    def steered(pitch: float) -> np.ndarray:
        return np.concatenate([np.full(_STEER, pitch), f0[_STEER:]])

    def count(pitch: float) -> float:
        return _cycles(steered(pitch)[: _STEER + 1], rate, hop)[_STEER * hop - 1]

    base, slope = count(200.0), count(201.0) - count(200.0)
    missing = (phase - base + 0.5) % 1.0 - 0.5
    return steered(200.0 + missing / slope)


def _synthesize(
    source: Source, f0: np.ndarray, changed: np.ndarray, timbre: dict[str, np.ndarray] | None
) -> Iterator[np.ndarray]:
    """Put an utterance together with another pitch track, chunk by chunk.

    Args:
        source: T samples.
        f0: (F,) Hz, of the analysis.
        changed: (F,) Hz, of the synthesis.
        timbre: of a source of one chunk: what an earlier call has left, or room for it.
    """
    rate = source.sample_rate
    hop, size = round(rate * _HOP_MS / 1000), round(CHUNK * 1000 / _HOP_MS)
    last: _Piece | None = None
    for first in range(0, -(-source.frames // hop), size):
        begin, end = max(0, first - _BEFORE), min(f0.size, first + size + _AFTER)
        pitch = changed[begin:end]
        if last is not None:
            anchor = (begin + _STEER) * hop - last.start
            pitch = _steer(pitch, last.cycles[anchor - 1], rate, hop)
        wav = source.read(begin * hop, min(source.frames, end * hop)).astype(np.float64)
        piece = _Piece(
            _world(wav, f0[begin:end], pitch, rate, {} if timbre is None else timbre),
            begin * hop,
            _cycles(pitch, rate, hop),
        )
        start, stop = first * hop, min(source.frames, (first + size) * hop)
        block = piece.samples(start, stop).copy()
        if last is not None:
            fade = min(_FADE, stop - start)
            gain = (np.arange(_FADE) + 0.5)[:fade] / _FADE
            block[:fade] = gain * block[:fade] + (1 - gain) * last.samples(start, start + fade)
        yield block.astype(np.float32)
        last = piece


def _world(
    wav: np.ndarray, f0: np.ndarray, changed: np.ndarray, rate: int, timbre: dict[str, np.ndarray]
) -> np.ndarray:
    """(F * hop,) samples with `changed` Hz and the timbre of (T,) samples with `f0` Hz, found if `timbre` is empty."""
    if not timbre:
        time, f0 = np.arange(f0.size) * (_HOP_MS / 1000), np.ascontiguousarray(f0)
        timbre["envelope"] = pyworld.cheaptrick(wav, f0, time, rate)
        timbre["aperiodicity"] = pyworld.d4c(wav, f0, time, rate)
    changed = np.ascontiguousarray(changed)
    return pyworld.synthesize(changed, timbre["envelope"], timbre["aperiodicity"], rate, _HOP_MS)

"""What an anonymizer is: a waveform, a target and a generator in; a waveform out.

An anonymizer sees no path, no utterance id and no set name: loops, resume, progress and writing are the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from .. import config
from ..data.audio import SILENCE, ArraySource

__all__ = ["PEAK", "Analysis", "Anonymizer", "ArraySource", "F0Anonymizer", "Source", "to_peak"]

# What an F0Anonymizer keeps of an utterance; "f0": (F,) Hz, 0 = unvoiced. What begins with _ stays in memory.
Analysis = dict[str, Any]
PEAK = 32766 / 32768  # absolute peak of a peak-normalised output, as the VoicePrivacy baselines write it


class Source(Protocol):
    """A recording that can be read in parts: `data.audio.AudioFile`, `ArraySource`, ...

    Attributes:
        frames: number of samples.
        sample_rate: Hz.
    """

    frames: int
    sample_rate: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) as (stop - start,) float32."""
        ...


def to_peak(wav: np.ndarray) -> np.ndarray:
    """Scale (T,) samples so that their absolute peak is `PEAK`; a silent signal stays as it is.

    Differs from [vpc24], which divides by any peak and so turns a silent file into full-scale noise.
    """
    peak = float(np.abs(wav).max(initial=0.0))
    return wav if peak < SILENCE else (wav * (PEAK / peak)).astype(np.float32)


class Anonymizer:
    """Base class. A subclass declares `Params` and implements `convert_stream`, or `convert` alone.

    Attributes:
        sample_rate: Hz, of a waveform given to `convert`; a source brings its own rate.
        peak_normalize: whether the whole output is scaled to the absolute peak `PEAK` and cut (not rounded) to 16
            bit when it is written, as the VoicePrivacy baselines do. Otherwise the level stays as converted.
        batch_seconds: audio, padding included, that `convert_batch` takes at once; 0: it is not used.
        params: the checked parameters.
    """

    sample_rate: ClassVar[int] = 16000
    peak_normalize: ClassVar[bool] = False
    batch_seconds: float = 0.0

    @dataclass(frozen=True)
    class Params:
        """Keyword parameters of the system's YAML, each with a type, a default and a unit."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.convert is Anonymizer.convert and cls.convert_stream is Anonymizer.convert_stream:
            raise TypeError(f"{cls.__name__} implements neither convert_stream() nor convert()")

    def __init__(self, **params: Any) -> None:
        """Check the parameters of the system's YAML.

        Raises:
            UserError: for an unknown parameter (with the nearest known one), a wrong type or a value out of range.
        """
        self.params = config.from_dict(self.Params, params, Path(f"params of {type(self).__name__}"), {})

    def prepare(self, device: str = "cpu") -> None:
        """Load what conversion needs (models) onto a device; called once a process, before any conversion."""

    def fingerprint(self) -> str | None:
        """Hash of what the output depends on besides the parameters (the content of a model); None: nothing else.

        Raises:
            UserError: if it is not there.
        """
        return None

    def convert(self, wav: np.ndarray, target: Any, rng: np.random.Generator) -> np.ndarray:
        """Anonymize a whole utterance.

        Args:
            wav: (T,) float32 in [-1, 1), at `sample_rate`.
            target: what the policy planned for the utterance.
            rng: the only source of randomness.

        Returns:
            (T',) float32, at the level that is written.

        Raises:
            UserError: if the utterance cannot be converted.
        """
        blocks = list(self.convert_stream(ArraySource(wav, self.sample_rate), target, rng))
        out = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return to_peak(out) if self.peak_normalize else out

    def convert_stream(self, source: Source, target: Any, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Anonymize a recording of any length, block by block.

        This default reads the whole recording at once; a subclass whose memory shall not grow with it overrides it.

        Args:
            source: the recording.
            target: what the policy planned for the utterance.
            rng: the only source of randomness.

        Yields:
            (B,) float32 blocks, before peak normalisation.

        Raises:
            UserError: if the utterance cannot be converted.
        """
        yield self.convert(source.read(0, source.frames), target, rng)

    def convert_batch(
        self, wavs: Sequence[np.ndarray], targets: Sequence[Any], rngs: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """Anonymize utterances of like length; a subclass that gains by doing so at once sets `batch_seconds`.

        Args:
            wavs: N of (T,) float32.
            targets: theirs.
            rngs: theirs.

        Returns:
            what `convert` makes of each, up to rounding errors.

        Raises:
            Exception: if any of them cannot be converted; the pipeline then converts them one by one.
        """
        return [self.convert(*one) for one in zip(wavs, targets, rngs, strict=True)]


class F0Anonymizer(Anonymizer):
    """An anonymizer that takes speech apart into F0 and a rest, and puts it together with another F0 and voice.

    What it takes speech apart into depends neither on target nor on generator nor on what is done to F0. So the
    pipeline may keep it for other systems that differ in these alone (variants, stage 6). A subclass implements
    `analysis_params`, `analyze` and `synthesize`; one that sets `batch_seconds` implements both for batches, too.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        for name in ("analysis_params", "analyze", "synthesize"):
            if getattr(cls, name) is getattr(F0Anonymizer, name):
                raise TypeError(f"{cls.__name__} does not implement {name}()")
        super().__init_subclass__(**kwargs)

    def analysis_params(self) -> dict[str, Any]:
        """Those parameters that `analyze` depends on, as plain data; a model counts by `fingerprint`."""
        raise NotImplementedError

    def analyze(self, source: Source) -> Analysis:
        """Take a recording apart.

        Args:
            source: the recording.

        Returns:
            a few numbers a frame, F0 among them, no audio: it is kept on disk.

        Raises:
            UserError: if the recording cannot be analysed.
        """
        raise NotImplementedError

    def synthesize(
        self, source: Source, analysis: Analysis, target: Any, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Change F0 and put the recording together.

        Args:
            source: the recording.
            analysis: of it. What the next synthesis of the same recording can use may be left here, under a name that
                begins with _, if it does not grow with the recording.
            target: what the policy planned for the utterance.
            rng: the only source of randomness.

        Yields:
            (B,) float32 blocks, before peak normalisation.

        Raises:
            UserError: if the utterance cannot be converted.
        """
        raise NotImplementedError

    def analyze_batch(self, wavs: Sequence[np.ndarray]) -> list[Analysis]:
        """What `analyze` makes of N waveforms (T,) of like length."""
        return [self.analyze(ArraySource(wav, self.sample_rate)) for wav in wavs]

    def synthesize_batch(
        self,
        wavs: Sequence[np.ndarray],
        analyses: Sequence[Analysis],
        targets: Sequence[Any],
        rngs: Sequence[np.random.Generator],
    ) -> list[np.ndarray]:
        """What `synthesize` makes of N waveforms (T,) of like length, up to rounding errors."""
        return [
            np.concatenate(list(self.synthesize(ArraySource(wav, self.sample_rate), *rest)))
            for wav, *rest in zip(wavs, analyses, targets, rngs, strict=True)
        ]

    def convert_stream(self, source: Source, target: Any, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Analysis and synthesis; see `Anonymizer.convert_stream`."""
        return self.synthesize(source, self.analyze(source), target, rng)

    def convert_batch(
        self, wavs: Sequence[np.ndarray], targets: Sequence[Any], rngs: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """Analysis and synthesis; see `Anonymizer.convert_batch`."""
        return self.synthesize_batch(wavs, self.analyze_batch(wavs), targets, rngs)

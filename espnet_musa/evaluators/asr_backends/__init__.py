"""Speech recognizers behind one interface, `transcribe(wavs, languages) -> texts`, by name.

A batch never changes a text: a recognizer hears an utterance alone, whatever it is batched with. Where published code
lets padding leak into an utterance, ours does not; the module says so. Each is loaded once and imported when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import UserError, suggest

SAMPLE_RATE = 16000
BACKENDS = ("pocketsphinx", "wav2vec2", "whisper", "recipe")


class Recognizer(Protocol):
    """Waveforms in, raw texts out; normalising them is the evaluator's."""

    languages: frozenset[str]  # ISO 639 codes as in `utt2lang`
    about: str  # for the notes of a metric
    batch_s: float  # padded seconds that one call of `transcribe` should get

    def transcribe(self, wavs: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
        """Recognize (T_i,) float32 waveforms of 16 kHz, each in its language, one of `languages`."""
        ...


def load(backend: str, model: str | None, trained: Path | None, device: str, jobs: int) -> Recognizer:
    """A recognizer, ready to transcribe.

    Args:
        backend: one of `BACKENDS`.
        model: of wav2vec2 and whisper: a name of `conf/models.yaml` or a directory.
        trained: of recipe: the directory that stage 7 made.
        device: torch device.
        jobs: processes of pocketsphinx.

    Raises:
        UserError: for an unknown backend or a missing or damaged model, with what to do.
    """
    if backend == "pocketsphinx":
        from .sphinx import Pocketsphinx

        return Pocketsphinx(jobs)
    if backend == "wav2vec2":
        from .wav2vec2_ctc import Wav2vec2Ctc

        return Wav2vec2Ctc(model or "asr_wav2vec2_librispeech", device)
    if backend == "whisper":
        from .whisper import Whisper

        return Whisper(model or "whisper_large_v3", device)
    if backend == "recipe":
        from .recipe import RecipeCtc

        if trained is None:
            raise UserError(
                "the backend 'recipe' needs a trained model", hint="give the evaluator a `train:` entry"
            )
        return RecipeCtc(trained, device)
    raise UserError(f"unknown recognizer '{backend}'{suggest(backend, BACKENDS)}")


def length_batches(seconds: Sequence[float], limit: float) -> Iterator[list[int]]:
    """Indices in runs of similar duration, longest first, whose padded duration stays within `limit` seconds.

    A single longer item is a run of its own. The longest come first, so that lack of memory shows at once.
    """
    order = sorted(range(len(seconds)), key=lambda i: (-seconds[i], i))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * seconds[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def collapse(frames: Iterable[int], blank: int = 0) -> list[int]:
    """The labels of a CTC path: repetitions made one, blanks dropped (Graves et al., ICML 2006)."""
    labels, previous = [], blank
    for label in frames:
        if label not in (previous, blank):
            labels.append(int(label))
        previous = label
    return labels

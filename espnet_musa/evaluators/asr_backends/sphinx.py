"""PocketSphinx: English, on a CPU, with the models of its package; for real speech without any download."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np


class Pocketsphinx:
    """HMM recognizer with the wide-band US English models and the trigram language model of the package.

    Huggins-Daines et al., "PocketSphinx: a free, real-time continuous speech recognition system for hand-held devices",
    ICASSP 2006. Far behind neural recognizers: its error rates compare systems, they do not measure intelligibility.

    Differs from its defaults: cepstral means are those of the utterance (`cmn: batch`), and noise is estimated anew for
    each, so that what was decoded before does not matter.

    Args:
        jobs: processes, over utterances.
    """

    languages = frozenset({"en"})
    batch_s = 600.0

    def __init__(self, jobs: int = 1) -> None:
        self.about = f"PocketSphinx {version('pocketsphinx')} with its US English models"
        self._pool = None
        if jobs > 1:  # spawned, since forking a process that runs torch can hang
            self._pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))

    def transcribe(self, wavs: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
        """See `Recognizer`."""
        audio = [np.clip(np.round(wav * 32768), -32768, 32767).astype("<i2").tobytes() for wav in wavs]
        return list(map(_decode, audio) if self._pool is None else self._pool.map(_decode, audio))


@cache
def _decoder() -> Any:
    import pocketsphinx

    return pocketsphinx.Decoder(loglevel="FATAL", cmn="batch")


def _decode(audio: bytes) -> str:
    """The text of 16-bit samples; empty if nothing was recognized."""
    decoder = _decoder()
    decoder.reinit_feat()  # forgets the noise of the recording before
    decoder.start_utt()
    decoder.process_raw(audio, full_utt=True)
    decoder.end_utt()
    best = decoder.hyp()
    return "" if best is None else best.hypstr

"""The teacher that heard real speech and needs no download: PocketSphinx's phone recognizer, English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .teachers import SAMPLE_RATE, Teacher, n_frames, runs

if TYPE_CHECKING:
    import torch

GROUP = 600 * SAMPLE_RATE  # samples of a group; each utterance is recognized for itself
SILENCES = ("SIL", "+SPN+", "+NSN+")  # one class together
PHONES = (
    "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
).split()  # ARPAbet of CMU's dictionary
PER_FRAME = 2  # recognizer's frames of 10 ms in one of ours


class Phones(Teacher):
    """Phones as a loop of HMMs hears them, one-hot, smoothed over time.

    Huggins-Daines et al., "PocketSphinx", ICASSP 2006, with the package's acoustic model and phone trigrams
    (`allphone`): trained on many real speakers, so a phone is the same whoever says it. Smoothed, a frame tells what
    comes next to it, too, and clusters of frames are parts of phones in context. Speech of another language is heard in
    the nearest English phones.

    Args:
        spread: frames of 10 ms on either side of a frame's middle that it is averaged over, weighted by a triangle.
        weight: of the phone trigrams (`lw`); their model is English.
    """

    dimension = len(PHONES)

    def __init__(self, spread: int = 4, weight: float = 2.0) -> None:
        if spread < 1 or weight <= 0:
            raise UserError(f"spread {spread}, weight {weight}", expected="1 or more; above 0")
        self._weight = weight
        triangle = np.concatenate([np.arange(1, spread + 1), np.arange(spread - 1, 0, -1)])
        self._kernel = (triangle / triangle.sum()).astype(np.float32)

    def fingerprint(self) -> str:
        """The version of the package, whose models are used."""
        from importlib.metadata import version

        return f"pocketsphinx {version('pocketsphinx')}"

    def groups(self, samples: Mapping[str, int], speakers: Mapping[str, str]) -> list[list[str]]:
        """Ten minutes of anyone's."""
        utts = sorted(samples)
        return [[utts[i] for i in run] for run in runs([samples[utt] for utt in utts], GROUP)]

    def features(self, wavs: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher`; (F_i, 40), each row with the sum 1."""
        import torch

        return [torch.from_numpy(self._smoothed(self.recognize(wav), n_frames(len(wav)))) for wav in wavs]

    def recognize(self, wav: np.ndarray) -> list[tuple[str, int, int]]:
        """Phones of (T,) samples with their first frame of 10 ms and the one behind their last; may be empty."""
        decoder = self._decoder
        decoder.reinit_feat()  # forgets the noise of the recording before
        decoder.start_utt()
        samples = np.clip(np.round(wav * 32768), -32768, 32767).astype("<i2")
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        return [(part.word, part.start_frame, part.end_frame + 1) for part in decoder.seg() or ()]

    def _smoothed(self, phones: list[tuple[str, int, int]], frames: int) -> np.ndarray:
        hot = np.zeros((PER_FRAME * frames, self.dimension), np.float32)
        for name, start, stop in phones:
            hot[start:stop, 0 if name in SILENCES else PHONES.index(name)] = 1
        hot[hot.sum(axis=1) == 0, 0] = 1  # frames that the recognizer left out
        reach = len(self._kernel) // 2
        padded = np.pad(hot, ((reach, reach), (0, 0)), mode="edge")
        # Middle of our frame i: sample 320 i + 200, in the recognizer's frame 2 i + 1.
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(self._kernel), axis=0)[1::PER_FRAME]
        return np.ascontiguousarray(windows @ self._kernel)

    @cached_property
    def _decoder(self) -> Any:
        from pocketsphinx import Decoder, get_model_path

        models = Path(get_model_path()) / "en-us"
        return Decoder(
            hmm=str(models / "en-us"), allphone=str(models / "en-us-phone.lm.bin"), lm=None, dict=None, lw=self._weight,
            beam=1e-10, pbeam=1e-10, cmn="batch", loglevel="FATAL",
        )  # fmt: skip

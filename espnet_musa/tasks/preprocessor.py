"""What an utterance becomes before it enters a batch: crops of its audio, tokens and F0."""

from __future__ import annotations

import numpy as np
from espnet2.train.preprocessor import AbsPreprocessor

from ..codec.frames import HOP, fit_frames, frames_of
from ..data.audio import SILENCE
from ..errors import UserError
from ..seed import generator

IGNORED = -1  # label of a frame without a teacher token


def check_length(segment_length: int, hop: int) -> None:
    """Refuse crops that do not hold whole frames."""
    if segment_length < hop or segment_length % hop:
        raise UserError(f"segment_length {segment_length}", expected=f"a multiple of {hop} samples")


def check_speaker(uid: str, number: int, n_speakers: int) -> None:
    """Refuse a speaker without a number below `n_speakers`; 0: do not check."""
    if n_speakers and number >= n_speakers:
        raise UserError(
            f"speaker {number} was not there in training", utt=uid,
            expected=f"0 to {n_speakers - 1}, or -1 for speakers that the losses leave out",
        )  # fmt: skip


def crop_generator(uid: str, train: bool) -> np.random.Generator:
    """Where the crops of an utterance are drawn from; see `MusaPreprocessor`."""
    if train:
        return np.random.default_rng(np.random.randint(2**31, size=4))
    return generator(0, "musa", uid, "validation crop")


class MusaPreprocessor(AbsPreprocessor):
    """Crops at multiples of the hop, so that frame i of a crop is a frame of the teacher's.

    The first crop is encoded and reconstructed, the second only gives s_2 of the consistency loss; they are drawn
    independently (O16). ESPnet's chunk iterator is not used: it cannot cut audio and tokens alike.

    In training the draws come from numpy's global generator, which ESPnet seeds for every epoch and every worker: a
    resumed training draws what an uninterrupted one would. In validation they are a function of the utterance, so that
    all epochs are measured on the same crops.

    Args:
        train: random crops.
        segment_length: samples of a crop, a multiple of `hop`; a shorter utterance is taken whole.
        n_speakers: of the model; 0: do not check.
        hop: samples from frame to frame.

    Raises:
        UserError: for a length that is no multiple of the hop, and for an utterance of a speaker without a number below
            `n_speakers`.
    """

    def __init__(self, train: bool, segment_length: int, n_speakers: int = 0, hop: int = 320) -> None:
        super().__init__(train)
        check_length(segment_length, hop)
        self.segment_length, self.n_speakers, self.hop = segment_length, n_speakers, hop

    def __call__(self, uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See the class.

        Args:
            uid: utterance.
            data: `audio` (T,), `sids` (1,), with a teacher `semantic` (F,), for a decoder that renders it `f0` (F,).

        Returns:
            `audio` and `audio2` (T',), T' = min(T, segment_length), `sids` (1,), `f0` (ceil(T' / hop),) and `semantic`
            of that length, where frames without a token (the teacher has one frame fewer than the codec) are `IGNORED`.
        """
        check_speaker(uid, data["sids"][0], self.n_speakers)
        wav = data["audio"]
        rng = crop_generator(uid, self.train)
        last = max(0, len(wav) - self.segment_length) // self.hop
        first, second = rng.integers(0, last, size=2, endpoint=True)
        out = {"audio": self._crop(wav, first), "audio2": self._crop(wav, second), "sids": data["sids"]}
        frames = -(-len(out["audio"]) // self.hop)
        if "f0" in data:
            out["f0"] = np.asarray(data["f0"], np.float32)[first : first + frames]
        if "semantic" in data:
            tokens = np.asarray(data["semantic"][first : first + frames], np.int64)
            out["semantic"] = np.pad(tokens, (0, frames - len(tokens)), constant_values=IGNORED)
        return out

    def _crop(self, wav: np.ndarray, frame: int) -> np.ndarray:
        return wav[frame * self.hop :][: self.segment_length]


class VocoderPreprocessor(AbsPreprocessor):
    """One crop of audio with its codes and its F0, which was normalised over the whole utterance before.

    Randomness is that of `MusaPreprocessor`.

    Args:
        train: random crops.
        segment_length: samples of a crop, a multiple of 320; a shorter utterance is taken whole.
        n_speakers: of the model; 0: do not check.
        peak: that each utterance is scaled to before it is cropped; 0: its level stays. Codes and F0 do not tell the
            level, so a vocoder that learns from many levels learns their mean.

    Raises:
        UserError: for a length that is no multiple of 320, and for an utterance of a speaker without a number below
            `n_speakers`.
    """

    def __init__(self, train: bool, segment_length: int, n_speakers: int = 0, peak: float = 0.0) -> None:
        super().__init__(train)
        check_length(segment_length, HOP)
        self.segment_length, self.n_speakers, self.peak = segment_length, n_speakers, peak

    def __call__(self, uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See the class.

        Args:
            uid: utterance.
            data: `audio` (T,), `sids` (1,), `tokens` (F,) and `f0` (F,), F = ceil(T / 320), tokens up to two less.

        Returns:
            `audio` (T',), T' = min(T, segment_length), `sids`, `tokens` and `f0` (ceil(T' / 320),).
        """
        check_speaker(uid, data["sids"][0], self.n_speakers)
        wav, frames = data["audio"], frames_of(len(data["audio"]))
        highest = float(np.abs(wav).max(initial=0.0))
        if self.peak and highest > SILENCE:
            wav = wav * np.float32(self.peak / highest)
        last = max(0, len(wav) - self.segment_length) // HOP
        first = int(crop_generator(uid, self.train).integers(0, last, endpoint=True))
        wav = wav[first * HOP :][: self.segment_length]
        part = slice(first, first + frames_of(len(wav)))
        return {
            "audio": wav,
            "sids": data["sids"],
            "tokens": fit_frames(np.asarray(data["tokens"], np.int64), frames)[part],
            "f0": np.asarray(data["f0"], np.float32)[part],
        }

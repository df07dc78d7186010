"""What an utterance becomes before it enters a batch: two crops, and the teacher tokens of the first."""

from __future__ import annotations

import numpy as np
from espnet2.train.preprocessor import AbsPreprocessor

from ..errors import UserError
from ..seed import generator

IGNORED = -1  # label of a frame without a teacher token


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
        if segment_length < hop or segment_length % hop:
            raise UserError(f"segment_length {segment_length}", expected=f"a multiple of {hop} samples")
        self.segment_length, self.n_speakers, self.hop = segment_length, n_speakers, hop

    def __call__(self, uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See the class.

        Args:
            uid: utterance.
            data: `audio` (T,), `sids` (1,) and, with a teacher, `semantic` (F,).

        Returns:
            `audio` and `audio2` (T',), T' = min(T, segment_length), `sids` (1,) and `semantic` (ceil(T' / hop),), where
            frames without a token (the teacher has one frame fewer than the codec) are `IGNORED`.
        """
        if self.n_speakers and data["sids"][0] >= self.n_speakers:
            raise UserError(
                f"speaker {data['sids'][0]} was not there in training", utt=uid,
                expected=f"0 to {self.n_speakers - 1}, or -1 for speakers that the losses leave out",
            )  # fmt: skip
        wav = data["audio"]
        if self.train:
            rng = np.random.default_rng(np.random.randint(2**31, size=4))
        else:
            rng = generator(0, "musa", uid, "validation crop")
        last = max(0, len(wav) - self.segment_length) // self.hop
        first, second = rng.integers(0, last, size=2, endpoint=True)
        out = {"audio": self._crop(wav, first), "audio2": self._crop(wav, second), "sids": data["sids"]}
        if "semantic" in data:
            frames = -(-len(out["audio"]) // self.hop)
            tokens = np.asarray(data["semantic"][first : first + frames], np.int64)
            out["semantic"] = np.pad(tokens, (0, frames - len(tokens)), constant_values=IGNORED)
        return out

    def _crop(self, wav: np.ndarray, frame: int) -> np.ndarray:
        return wav[frame * self.hop :][: self.segment_length]

"""The teacher that needs no download: cepstra with the speaker's vocal tract, mean and variance taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError, suggest
from ..seed import key
from .teachers import HOP, SAMPLE_RATE, WINDOW, Teacher, n_frames, runs

if TYPE_CHECKING:
    import torch

WARPS = tuple(
    round(0.80 + 0.04 * i, 2) for i in range(11)
)  # of the frequency axis; 1 leaves a voice as it is
NONE = WARPS.index(1.0)
SOUNDS = 64  # averages that warped voices are compared with
SPEAKERS = 100  # that they are learnt from
FRAMES = 1000  # of a speaker, by which its warp is chosen (20 s)
ROUNDS, ITERATIONS = 8, 30  # of choosing warps and averaging anew; of k-means within a round: at most
GROUP = 600 * SAMPLE_RATE  # samples of a group where speakers play no part
PER = ("speaker", "utterance")
_FFT = 512


class Mfcc(Teacher):
    """Cepstra with first and second differences, normalised for the speaker.

    HuBERT's first iteration (Hsu et al., 2021) clusters 13 cepstra and their differences as they are, and the clusters
    tell the speaker about as well as the sound. Here mean and variance of each dimension are the speaker's, and, what
    helps far more, the frequency axis is warped by a factor per speaker (vocal tract length normalisation; Lee and
    Rose, IEEE Transactions on Speech and Audio Processing 6(1), 1998): the one under which the voice comes nearest to
    sounds averaged over many voices. No transcript is needed; averages and warps are found in turn, as in k-means.
    docs/tokens.md has what each step does to the tokens.

    Args:
        coefficients: cepstra, the zeroth (loudness) included.
        mel_bands: of the filter bank.
        deltas: orders of differences over +-2 frames that are appended.
        per: speaker | utterance: whose mean, variance and warp it is. Of unlabelled speech, take the utterance's.
        vtln: whether to warp.
    """

    def __init__(
        self,
        coefficients: int = 13,
        mel_bands: int = 40,
        deltas: int = 2,
        per: str = "speaker",
        vtln: bool = True,
    ) -> None:
        if per not in PER:
            raise UserError(f"unknown per '{per}'{suggest(per, PER)}")
        if not 1 <= coefficients <= mel_bands or deltas < 0:
            raise UserError(
                f"coefficients {coefficients}, mel_bands {mel_bands}, deltas {deltas}",
                expected="1 to mel_bands coefficients, deltas from 0",
            )
        self._coefficients, self._bands, self._deltas = coefficients, mel_bands, deltas
        self._per_speaker, self._vtln, self.learns = per == "speaker", vtln, vtln
        self.dimension = coefficients * (deltas + 1)
        self._sounds: torch.Tensor | None = None  # (SOUNDS, D)

    def prepare(self, device: str) -> None:
        """Make the tables; all is computed on the CPU, faster than it is read."""
        import torch
        from torchaudio.compliance.kaldi import get_mel_banks

        self._window = torch.hann_window(WINDOW, periodic=False) ** 0.85  # Kaldi's "povey"
        place = torch.arange(self._bands) + 0.5
        order = torch.arange(self._coefficients)[:, None]
        dct = (2 / self._bands) ** 0.5 * torch.cos(torch.pi / self._bands * order * place)
        # Kaldi's filters and its warp, which is linear between 100 Hz and 7.5 kHz: (len(WARPS), 257, mel_bands).
        banks = [
            get_mel_banks(self._bands, _FFT, float(SAMPLE_RATE), 20.0, 0.0, 100.0, -500.0, warp)[0]
            for warp in WARPS
        ]
        self._banks = torch.nn.functional.pad(torch.stack(banks), (0, 1)).transpose(1, 2)
        self._dct = dct.T

    def groups(self, samples: Mapping[str, int], speakers: Mapping[str, str]) -> list[list[str]]:
        """All utterances of a speaker, or ten minutes of anyone's."""
        utts = sorted(samples)
        if not self._per_speaker:
            return [[utts[i] for i in run] for run in runs([samples[utt] for utt in utts], GROUP)]
        by_speaker: dict[str, list[str]] = {}
        for utt in utts:
            by_speaker.setdefault(speakers[utt], []).append(utt)
        return [by_speaker[speaker] for speaker in sorted(by_speaker)]

    def fit(self, groups: Iterable[Sequence[np.ndarray]], seed: int) -> None:
        """Average sounds and choose warps in turn until no warp changes."""
        if not self._vtln:
            return
        import torch

        from ..codec.quantizer import kmeans

        units = (unit for wavs in groups for unit in self._units(wavs))
        with _one_thread(), torch.random.fork_rng(devices=[]):
            voices = [self._warped(unit) for unit in islice(units, SPEAKERS)]
            chosen = [NONE] * len(voices)
            for _ in range(ROUNDS):
                frames = torch.cat([voice[i] for voice, i in zip(voices, chosen, strict=True)])
                torch.manual_seed(key(seed, "tokens", "mfcc", "sounds") % 2**63)
                self._sounds, _ = kmeans(frames, SOUNDS, ITERATIONS)
                before, chosen = chosen, [self._nearest(voice) for voice in voices]
                if chosen == before:
                    break

    def state(self) -> dict[str, torch.Tensor]:
        """The average sounds."""
        return {} if self._sounds is None else {"sounds": self._sounds}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """See `Teacher`."""
        self._sounds = state.get("sounds")

    def features(self, wavs: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher`; all of a call are of one speaker, unless each utterance is for itself."""
        out = []
        with _one_thread():
            for unit in self._units(wavs):
                warp = self._nearest(self._warped(unit)) if self._vtln else NONE
                bank = self._banks[warp : warp + 1]
                out += _normalised([self._cepstra(self._power(wav), bank) for wav in unit])
        return [features[0] for features in out]

    def _units(self, wavs: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        """The waveforms that share mean, variance and warp."""
        return [wavs] if self._per_speaker else [[wav] for wav in wavs]

    def _warped(self, wavs: Sequence[np.ndarray]) -> torch.Tensor:
        """The beginning of what a speaker says under every warp: (len(WARPS), F, D), F up to `FRAMES`."""
        import torch

        powers, count = [], 0
        for wav in wavs:
            powers.append(self._power(wav[: WINDOW + HOP * FRAMES]))
            count += len(powers[-1])
            if count >= FRAMES:
                break
        cepstra = _normalised([self._cepstra(power, self._banks) for power in powers])
        return torch.cat(cepstra, dim=1)[:, :FRAMES]

    def _nearest(self, voice: torch.Tensor) -> int:
        """Index of the warp under which frames (len(WARPS), F, D) lie nearest to the average sounds."""
        distances = [_squared(frames, self._sounds).min(dim=1).values.mean() for frames in voice]
        return int(np.argmin([float(distance) for distance in distances]))

    def _power(self, wav: np.ndarray) -> torch.Tensor:
        """Power spectra (F, 257) of (T,) samples, framed as the other teachers frame."""
        import torch

        frames = torch.from_numpy(wav[: HOP * (n_frames(len(wav)) - 1) + WINDOW]).unfold(0, WINDOW, HOP)
        frames = frames - frames.mean(dim=1, keepdim=True)
        frames = torch.cat([0.03 * frames[:, :1], frames[:, 1:] - 0.97 * frames[:, :-1]], dim=1)
        return torch.fft.rfft(frames * self._window, _FFT).abs().square()

    def _cepstra(self, power: torch.Tensor, banks: torch.Tensor) -> torch.Tensor:
        """Power spectra (F, 257) through filter banks (W, 257, mel_bands): cepstra and differences (W, F, D)."""
        import torch
        from torchaudio.functional import compute_deltas

        orders = [((power @ banks).clamp(min=1e-10).log() @ self._dct).transpose(1, 2)]
        for _ in range(self._deltas):
            orders.append(compute_deltas(orders[-1], win_length=5))
        return torch.cat(orders, dim=1).transpose(1, 2).contiguous()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Many small sums: more threads would wait for each other, and their number change the last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _normalised(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Parts (W, F_i, D) with the mean and the variance over all their frames taken out."""
    import torch

    together = torch.cat(parts, dim=1)
    mean, deviation = together.mean(dim=1, keepdim=True), together.std(dim=1, unbiased=False, keepdim=True)
    return [(part - mean) / (deviation + 1e-5) for part in parts]


def _squared(frames: torch.Tensor, sounds: torch.Tensor) -> torch.Tensor:
    """Squared distances (F, K) between (F, D) and (K, D)."""
    return frames.square().sum(1, keepdim=True) - 2 * frames @ sounds.T + sounds.square().sum(1)

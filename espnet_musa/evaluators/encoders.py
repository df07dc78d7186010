"""Speaker encoders behind one interface, `embed(wavs) -> (B, D)`, and the embeddings of a data directory.

A batch never changes an embedding: every encoder gives the same vector (to float32 rounding) whether an utterance is
embedded alone or among others of any length. Memory is bounded by the batch, not by the corpus or the utterance.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from ..config import digest
from ..errors import UserError
from ..log import progress
from .speaker_nets import file_digest, load_net
from .tdnn import MARGIN

if TYPE_CHECKING:
    from ..data.datadir import DataDir

SAMPLE_RATE = 16000


class SpeakerEncoder(Protocol):
    """Waveforms in, one fixed-length vector each out."""

    dimension: int
    identity: str  # changes whenever the embeddings may change: kind, weights, settings

    def embed(self, wavs: Sequence[np.ndarray]) -> np.ndarray:
        """Embed (T_i,) float32 waveforms of 16 kHz; returns (B, D) float32."""
        ...


class Resemblyzer:
    """The GE2E speaker encoder that comes with its weights inside the `resemblyzer` package: no download.

    Wan et al., "Generalized end-to-end loss for speaker verification", ICASSP 2018: three LSTM layers over windows of
    1.6 s, the L2-normalised mean of the windows' embeddings (D = 256). Equal to the package's `preprocess_wav` followed
    by `embed_utterance`, but the windows of many utterances go through the LSTM together.

    Differs from `preprocess_wav` in one case it cannot handle (it divides by zero): digital silence is left as it is.
    """

    dimension = 256

    def __init__(self, device: str = "cpu") -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # webrtcvad and scipy.ndimage: deprecations of their own
            import resemblyzer

        # Reads its weights with torch's default since 2.6, `weights_only`: no pickled code runs.
        self._model = resemblyzer.VoiceEncoder(device, verbose=False).eval()
        self._package = resemblyzer
        self._at_once = 32 if device == "cpu" else 1024  # windows in one call; more only spoils a CPU's cache
        weights = Path(resemblyzer.__file__).with_name("pretrained.pt")
        self.identity = f"resemblyzer {file_digest(weights)}"

    def _windows(self, wav: np.ndarray) -> np.ndarray:
        """(T,) waveform -> (W, 160, 40) mel windows, exactly those of `embed_utterance`."""
        if np.any(wav):
            wav = self._package.preprocess_wav(wav)
        samples, frames = self._model.compute_partial_slices(len(wav), rate=1.3, min_coverage=0.75)
        missing = samples[-1].stop - len(wav)
        if missing >= 0:
            wav = np.pad(wav, (0, missing))
        mel = self._package.wav_to_mel_spectrogram(wav)
        return np.stack([mel[part] for part in frames])

    @torch.inference_mode()
    def embed(self, wavs: Sequence[np.ndarray]) -> np.ndarray:
        """Embed (T_i,) float32 waveforms of 16 kHz; returns (B, 256) float32 of unit length."""
        windows = [self._windows(wav) for wav in wavs]
        starts = np.cumsum([0, *map(len, windows)])[:-1]
        parts = torch.from_numpy(np.concatenate(windows)).split(self._at_once)
        partial = torch.cat([self._model(part.to(self._model.device)).cpu() for part in parts]).numpy()
        total = np.add.reduceat(partial, starts, axis=0)
        return total / np.linalg.norm(total, axis=1, keepdims=True)


class LogMel:
    """SpeechBrain's Fbank: 25 ms Hamming window, 10 ms hop, 10 log10 of mel powers, floor 80 dB below the maximum.

    Leading and trailing digital silence is cut and the peak set to 1, as [vpc24] (the VoicePrivacy Challenge 2024)
    does at test time. Differs from [vpc24]: training does the same, so that the level that an anonymizer writes is
    neither a cue nor a handicap.
    """

    shortest = SAMPLE_RATE // 10  # samples; a shorter utterance is repeated up to this

    def __init__(self, mel_bands: int, device: str = "cpu") -> None:
        from speechbrain.lobes.features import Fbank

        self._fbank = Fbank(sample_rate=SAMPLE_RATE, n_fft=400, n_mels=mel_bands).to(device)
        self._device = device

    def condition(self, wav: np.ndarray) -> np.ndarray:
        """(T,) waveform -> (T',) float32 with peak 1, without silent ends, at least 0.1 s long."""
        sounding = np.flatnonzero(wav)
        if not len(sounding):
            return np.zeros(max(len(wav), self.shortest), np.float32)
        wav = wav[sounding[0] : sounding[-1] + 1]
        wav = (wav / np.abs(wav).max()).astype(np.float32)
        return wav if len(wav) >= self.shortest else np.resize(wav, self.shortest)

    @torch.inference_mode()
    def __call__(self, wavs: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """(T_i,) conditioned waveforms -> their (F_i, mel_bands) features in dB, F_i = 1 + T_i // 160."""
        padded = torch.zeros(len(wavs), max(map(len, wavs)))
        for row, wav in zip(padded, wavs, strict=True):
            row[: len(wav)] = torch.from_numpy(wav)
        # Zeros after the end are what the STFT itself pads with, and never raise the maximum: padding is exact.
        features = self._fbank(padded.to(self._device))
        return [part[: 1 + len(wav) // 160] for part, wav in zip(features, wavs, strict=True)]


class NetEncoder:
    """ECAPA-TDNN or x-vector on mean-normalised log-mel features.

    Differs from [vpc24] only beyond `window_s`, the longest trial of its sets being 35 s: a longer utterance is cut
    into equal windows of at most `window_s` and their embeddings are averaged, so that memory stays flat.

    Args:
        model_dir: written by stage 7, or a model that SpeechBrain publishes (see `speaker_nets.load_net`).
        device: torch device.
        window_s: longest window in seconds.
        kind: what the model must be, "ecapa" or "xvector"; None: whatever it is.
    """

    def __init__(
        self, model_dir: Path, device: str = "cpu", window_s: float = 60.0, kind: str | None = None
    ) -> None:
        config, net, weights = load_net(model_dir)
        if kind not in (None, config.kind):
            raise UserError(
                f"a speaker model of kind '{config.kind}'", path=Path(model_dir), expected=f"'{kind}'"
            )
        self.dimension = config.embedding_dim
        self.identity = f"{config.kind} {weights} {window_s}"
        self._device = device
        self._window = max(round(window_s * SAMPLE_RATE), LogMel.shortest)
        self._batch_frames = 1500 if device == "cpu" else 24000  # padded; more only spoils a CPU's cache
        self._features = LogMel(config.mel_bands, device)
        self._net = net.to(device)

    @torch.inference_mode()
    def embed(self, wavs: Sequence[np.ndarray]) -> np.ndarray:
        """Embed (T_i,) float32 waveforms of 16 kHz; returns (B, D) float32, not length-normalised ([vpc24])."""
        total = np.zeros((len(wavs), self.dimension), np.float32)
        for batch in self._batches(self._windows(wavs)):
            owners, parts, weights = zip(*batch, strict=True)
            np.add.at(total, list(owners), self._forward(parts) * np.array(weights, np.float32)[:, None])
        return total

    def _windows(self, wavs: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray, float]]:
        """The windows of all utterances: (index of the utterance, samples, weight in its mean)."""
        for index, wav in enumerate(wavs):
            wav = self._features.condition(wav)
            parts = np.array_split(wav, -(-len(wav) // self._window))
            yield from ((index, part, 1 / len(parts)) for part in parts)

    def _batches(self, windows: Iterable[tuple]) -> Iterator[list[tuple]]:
        """Group consecutive windows so that their padded frames stay within the limit."""
        batch: list[tuple] = []
        longest = 0
        for window in windows:
            frames = 1 + len(window[1]) // 160
            if batch and (len(batch) + 1) * max(longest, frames) > self._batch_frames:
                yield batch
                batch, longest = [], 0
            batch.append(window)
            longest = max(longest, frames)
        if batch:
            yield batch

    def _forward(self, wavs: Sequence[np.ndarray]) -> np.ndarray:
        features = [part - part.mean(dim=0) for part in self._features(wavs)]
        lengths = torch.tensor([len(part) for part in features], device=self._device)
        padded = torch.zeros(
            len(features), int(lengths.max()) + MARGIN, features[0].shape[1], device=self._device
        )
        for row, part in zip(padded, features, strict=True):
            row[: len(part)] = part
        output = self._net(padded, lengths)
        return output[:, 0].float().cpu().numpy()


def embed_datadir(
    encoder: SpeakerEncoder,
    data: DataDir,
    cache: Path,
    utts: Sequence[str] | None = None,
    batch_s: float = 120.0,
) -> np.ndarray:
    """Embed utterances of a data directory, or read them back if nothing that they depend on has changed.

    Args:
        encoder: the speaker encoder.
        data: a data directory of contract "audio" or better.
        cache: the embeddings lie in `cache/<fingerprint>/embeddings.{ark,scp}`, the fingerprint being that of
            encoder, directory and utterances: they are never out of date.
        utts: which utterances; all of them by default.
        batch_s: padded seconds of audio held at a time (a single longer utterance excepted).

    Returns:
        (N, D) float32, rows in the order of `utts`.
    """
    import kaldiio

    utts = list(data.utts if utts is None else utts)
    place = cache / digest([encoder.identity, data.fingerprint, utts])
    if place.is_dir():
        stored = dict(kaldiio.load_ark(str(place / "embeddings.ark")))
        return np.stack([stored[utt] for utt in utts])
    seconds = data.table("utt2dur")
    order = sorted(range(len(utts)), key=lambda i: (seconds[utts[i]], utts[i]))
    matrix = np.empty((len(utts), encoder.dimension), np.float32)
    batches = list(_length_batches(order, [seconds[utt] for utt in utts], batch_s))
    for batch in progress(batches, total=len(batches), desc=f"embed {data.name}"):
        matrix[batch] = encoder.embed([data.load(utts[i]) for i in batch])
    _write_ark(place, utts, matrix)
    return matrix


def _length_batches(order: Sequence[int], seconds: Sequence[float], limit: float) -> Iterator[list[int]]:
    """Cut indices sorted by duration into runs whose padded duration stays within `limit` seconds."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * seconds[index] > limit:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _write_ark(place: Path, utts: Sequence[str], matrix: np.ndarray) -> None:
    """Publish `place/embeddings.{ark,scp}` in one rename; a half-written directory is never seen."""
    import kaldiio

    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    rows = dict(zip(utts, matrix, strict=True))
    kaldiio.save_ark(str(partial / "embeddings.ark"), rows, scp=str(partial / "embeddings.scp"))
    scp = (partial / "embeddings.scp").read_text(encoding="utf-8")
    (partial / "embeddings.scp").write_text(scp.replace(str(partial), str(place)), encoding="utf-8")
    try:
        partial.rename(place)
    except OSError:  # another process published the same embeddings first
        shutil.rmtree(partial)

"""MUSA: speech through a codec whose frames were freed of the speaker, put together without that speaker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.audio import SILENCE
from ..errors import UserError, suggest
from .base import Anonymizer, Source

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = 20.0  # seconds up to which a recording passes the networks as a whole
BLOCK = 8.0  # seconds of a longer one that pass at once
TARGET = ("speaker", "gender", "blend")  # keys of a target


class Musa(Anonymizer):
    """Anonymize by a zero vector in place of the speaker embedding.

    Yao et al., "MUSA: Multi-lingual speaker anonymization via serial disentanglement", sections III-A and III-D. The
    speech encoder's frames x, minus the embedding s of the whole recording, are quantized; the decoder gets the codes
    and, instead of s, a zero vector. In general it gets

        blend * s + (1 - blend) * v,    v = 0, or the mean embedding of a training speaker (voice conversion).

    A target is None (the parameter `blend`), a number (the utterance's own blend) or `{speaker: place in the
    model's table, gender: f or m, blend: ...}`, all but `speaker` optional; see `targets.speakers`.

    The input is continued with zeros to whole frames and the output cut to the input's length; its level stays as
    decoded, no randomness is involved, and silence gives silence. A recording of more than 20 s passes in blocks of
    8 s: convolutions overlap by all they see, LSTMs carry their state, s is the mean over windows of 30 s. The output
    is that of one pass within 1e-3 of full scale (rounding errors; in principle a rounding error can change a code).

    In Python, on arrays:

        >>> anonymizer = Musa.from_pretrained("musa_small", quantizers=1)  # or a directory, a zip, an id of the hub
        >>> anonymized = anonymizer(wav, 16000)                            # (T,) float32 -> (T,) float32
    """

    @dataclass(frozen=True)
    class Params:
        """Which model, and what of a recording the decoder gets."""

        model: str = ""  # see `archive.find`; empty: what the system's training made
        quantizers: int = 0  # keep so many, from the first; the others count as zero; 0: keep all
        blend: float = 0.0  # share of the own embedding, 0 (zero vector) to 1, if the target says none
        batch_seconds: float | None = None  # of audio at once; null: 8 on a CPU (caches), 120 on a GPU

        def __post_init__(self) -> None:
            if self.quantizers < 0:
                raise UserError(f"quantizers is {self.quantizers}", expected="a number from 1, or 0 for all")
            _check_blend(self.blend)
            if not 0 <= (self.batch_seconds or 0) < np.inf:
                raise UserError(f"batch_seconds is {self.batch_seconds}", expected="0 or more")

    def __init__(self, **params: Any) -> None:
        """Check the parameters; see `Anonymizer`."""
        super().__init__(**params)
        self._batches_for("cpu")

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", **params: Any) -> Musa:
        """A ready anonymizer.

        Args:
            model: one that comes with the repository, an archive (directory or zip), or an id of Hugging Face's hub,
                fetched if need be.
            device: cpu, cuda, cuda:1, ...
            params: further `Params`.

        Raises:
            UserError: if the model is not there or damaged, or a parameter is wrong.
        """
        from ..codec import archive

        anonymizer = cls(model=str(archive.find(model, download=True)), **params)
        anonymizer.prepare(device)
        return anonymizer

    def __call__(self, wav: np.ndarray, sample_rate: int = 16000, target: Any = None) -> np.ndarray:
        """Anonymize a waveform of any rate.

        Args:
            wav: (T,) floating point in [-1, 1].
            sample_rate: Hz; what is not 16 kHz is resampled there and back, so that nothing above 8 kHz remains.
            target: see the class; None: the parameter `blend`.

        Returns:
            (T,) float32 at the rate and about the level of the input.

        Raises:
            UserError: for an input of another shape or type, without samples, or with NaN in it.
        """
        wav = np.asarray(wav)
        if wav.ndim != 1 or wav.dtype.kind != "f":
            raise UserError(f"a waveform of shape {wav.shape}, {wav.dtype}", expected="(T,) floating point")
        wav = checked(wav.astype(np.float32))
        if sample_rate == self.sample_rate:
            return self.convert(wav, target, np.random.default_rng(0))
        import soxr

        own_rate = soxr.resample(wav, sample_rate, self.sample_rate)
        made = self.convert(own_rate, target, np.random.default_rng(0))
        made = soxr.resample(made, self.sample_rate, sample_rate)[: len(wav)]
        return np.pad(made, (0, len(wav) - len(made)))

    def prepare(self, device: str = "cpu") -> None:
        """Load the model.

        Raises:
            UserError: if there is none, it is damaged, or has fewer quantizers or another rate than asked for.
        """
        from ..codec import archive

        place = self._place()
        self._device = device
        self._batches_for(device)
        self._generator, self._speakers = archive.load(place, device), archive.load_speakers(place)
        if self._generator.sample_rate != self.sample_rate:
            rate = self._generator.sample_rate
            raise UserError(f"a model of {rate} Hz", path=place, expected=f"{self.sample_rate} Hz")
        held = self._generator.quantizer.n_quantizers
        if self.params.quantizers > held:
            asked = self.params.quantizers
            raise UserError(f"{asked} quantizers asked for", path=place, expected=f"at most {held}")

    def fingerprint(self) -> str:
        """Hash of the model; see `Anonymizer`."""
        from ..codec import archive

        return archive.fingerprint(self._place())

    def convert_stream(self, source: Source, target: Any, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One block for up to 20 s, else blocks of about 8 s, that join to `source.frames` samples.

        Raises:
            UserError: for another rate, an input without samples or with NaN, a target that is none.
        """
        if source.sample_rate != self.sample_rate:
            raise UserError(f"audio of {source.sample_rate} Hz", expected=f"{self.sample_rate} Hz")
        if source.frames > WHOLE * self.sample_rate:
            yield from self._blocks(source, target)
        else:
            yield self.convert_batch([source.read(0, source.frames)], [target], [rng])[0]

    def convert_batch(
        self, wavs: Sequence[np.ndarray], targets: Sequence[Any], rngs: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """Anonymize utterances at once, each as if it were alone; see `Anonymizer`."""
        import torch

        lengths = [len(checked(wav)) for wav in wavs]
        batch = np.zeros((len(wavs), max(lengths)), np.float32)
        for row, wav in zip(batch, wavs, strict=True):
            row[: len(wav)] = wav
        equal = None if len(set(lengths)) == 1 else torch.tensor(lengths, device=self._device)
        with torch.inference_mode():
            codes, s = self._generator.encode(
                torch.from_numpy(batch).to(self._device), equal, n_quantizers=self.params.quantizers or None
            )
            given = torch.stack([self._speaker(own, target) for own, target in zip(s, targets, strict=True)])
            made = self._generator.decode(codes, given, self._generator.frame_lengths(equal)).cpu().numpy()
        return [
            row[:length].copy() if np.abs(wav).max() >= SILENCE else np.zeros(length, np.float32)
            for row, length, wav in zip(made, lengths, wavs, strict=True)
        ]

    def _batches_for(self, device: str) -> None:
        own = self.params.batch_seconds
        self.batch_seconds = own if own is not None else 8.0 if device == "cpu" else 120.0

    def _place(self) -> Path:
        """Where the model is."""
        from ..codec import archive

        if not self.params.model:
            raise UserError(
                "the system names no model, and no training that makes one",
                expected="params.model: a name, directory, zip or id of Hugging Face's hub, or train: <training>",
            )
        return archive.find(self.params.model)

    def _speaker(self, own: Tensor, target: Any) -> Tensor:
        """What the decoder gets in place of s (D,)."""
        import torch

        blend, other = self.params.blend, torch.zeros_like(own)
        if isinstance(target, dict):
            if near := [key for key in target if key not in TARGET]:
                raise UserError(f"target has a key '{near[0]}'{suggest(near[0], TARGET)}")
            blend = target.get("blend", blend)
            if "speaker" in target:
                other = torch.from_numpy(self._other(target)).to(own)
        elif target is not None:
            blend = target
        _check_blend(blend)
        return blend * own + (1 - blend) * other

    def _other(self, target: dict[str, Any]) -> np.ndarray:
        if self._speakers is None:
            raise UserError(
                "another speaker is asked for, and the model holds none",
                expected=f"{self._place()}/speakers.safetensors",
            )
        return self._speakers.pick(target["speaker"], target.get("gender"))

    def _blocks(self, source: Source, target: Any) -> Iterator[np.ndarray]:
        """A long recording in memory that does not grow with it: one pass for s, one to encode and decode."""
        import torch

        generator = self._generator
        s, statistics, silent = self._first_pass(source)
        given = self._speaker(s[0], target)[None]
        encoder, decoder = generator.encoder.stream(), generator.decoder.stream()

        @torch.inference_mode()  # not around the loop: between two blocks the mode would be the caller's, too
        def step(block: Tensor, last: bool) -> np.ndarray:
            x = encoder.push(block[:, None], last)
            if not x.shape[2]:
                return np.zeros(0, np.float32)
            x = generator.without_speaker(x, s, statistics=statistics)
            q = generator.quantizer.decode(generator.quantizer.encode(x, self.params.quantizers or None))
            return decoder.push(generator.fuse(q, given), last).flatten().cpu().numpy()

        left = source.frames
        for block, last in self._read(source, round(BLOCK * self.sample_rate)):
            made = step(block, last)[:left]
            left -= len(made)
            yield np.zeros_like(made) if silent else made

    def _first_pass(self, source: Source) -> tuple[Tensor, tuple[Tensor, Tensor] | None, bool]:
        """s (1, D) of a recording, the statistics of its frames if they are normalised, and whether it is silent."""
        import torch

        from ..codec.remedies import FrameStatistics

        generator, rate = self._generator, self.sample_rate
        window = generator.speaker_encoder.window if generator.speaker_encoder else round(WHOLE * rate)
        statistics, encoder = FrameStatistics(), generator.encoder.stream()
        total, peak = 0.0, 0.0
        with torch.inference_mode():
            for block, last in self._read(source, window):
                total = total + block.shape[1] * generator.speaker(block)
                peak = max(peak, float(block.abs().max()))
                if generator.instance_norm is not None:
                    statistics.add(encoder.push(block[:, None], last))
            normed = None if generator.instance_norm is None else statistics.result()
            return total / source.frames, normed, peak < SILENCE

    def _read(self, source: Source, step: int) -> Iterator[tuple[Tensor, bool]]:
        """Blocks (1, n) of a recording and whether each is the last."""
        import torch

        for start in range(0, source.frames, step):
            stop = min(start + step, source.frames)
            block = torch.from_numpy(checked(source.read(start, stop)))
            yield block[None].to(self._device), stop == source.frames


def _check_blend(blend: Any) -> None:
    if isinstance(blend, bool) or not isinstance(blend, int | float) or not 0 <= blend <= 1:
        raise UserError(f"blend is {blend!r}", expected="a number from 0 (zero vector) to 1 (the own one)")


def checked(wav: np.ndarray) -> np.ndarray:
    """The (T,) samples themselves.

    Raises:
        UserError: if there are none, or one is NaN or infinite.
    """
    if not len(wav):
        raise UserError("no samples", expected="at least one")
    if not np.isfinite(wav).all():
        raise UserError(f"sample {int(np.flatnonzero(~np.isfinite(wav))[0])} is NaN or infinite")
    return wav

"""Reading and writing waveforms: float32 in [-1, 1), mono, with errors that name the file and the remedy.

Nothing here reads a whole recording unless asked to: `AudioFile` reads parts, `WavWriter` takes blocks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile as sf

from ..errors import UserError

FULL_SCALE = 32768.0  # int16 = round(x * FULL_SCALE), limited to [-32768, 32767]
# A chunk of samples that is shorter than its header says, as libsndfile tells of WAV, AIFF and AU.
_SHORTER = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SLACK = 4096  # bytes that may be missing: headers are also wrong by little
_ENDLESS = 0x7FFF0000  # bytes announced by a program that writes into a pipe and cannot know
SILENCE = 1e-4  # absolute peak below which a whole recording counts as silent (-80 dB; 3 steps of 16 bit)


class AudioFile:
    """Random access to a mono recording in a file (a `Source`).

    Attributes:
        frames: number of samples.
        sample_rate: Hz.
        channels: of the file; what is read has one.
    """

    def __init__(self, path: str | Path, *, channels: str = "error") -> None:
        """Open `path`.

        Args:
            path: any file that libsndfile reads (WAV, FLAC, OGG, MP3, ...).
            channels: several channels: `error`, `first` or `mean`.

        Raises:
            UserError: if the file is missing, not audio, empty, shorter than its header says, or has several channels
                and that is an error.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError("no such audio file", path=path)
        try:
            self._file = sf.SoundFile(str(path))
        except sf.LibsndfileError as error:
            raise UserError(
                f"cannot be read as audio ({error.error_string.strip()})",
                path=path,
                expected="WAV, FLAC, OGG, MP3, ...",
                hint="convert it to WAV first, if another program plays it",
            ) from None
        self.frames, self.sample_rate = self._file.frames, self._file.samplerate
        self.channels = self._file.channels
        self._mix = channels
        if self.frames == 0:
            raise UserError("holds no samples", path=path, hint="remove the utterance or restore the file")
        if self.channels > 1 and channels == "error":
            raise UserError(
                f"has {self.channels} channels", path=path, expected="mono",
                hint="in a recipe --set format.channels=first or mean, for files --channels",
            )  # fmt: skip
        # libsndfile reads what is there, in silence
        for announced, there in _SHORTER.findall(self._file.extra_info):
            if _SLACK < int(announced) - int(there) and int(announced) < _ENDLESS:
                raise UserError(
                    f"holds {there} bytes of sound, {announced} announced", path=path,
                    hint="restore the file: it is truncated",
                )  # fmt: skip

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) as (stop - start,) float32.

        Raises:
            UserError: if the file ends early (truncated) or holds NaN or infinite samples.
        """
        stop = self.frames if stop is None else stop
        try:
            self._file.seek(start)
            block = self._file.read(stop - start, dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            raise UserError(
                f"broken near sample {start} ({error.error_string.strip()})", path=self.path,
                hint="restore the file: it is damaged or truncated",
            ) from None  # fmt: skip
        if len(block) < stop - start:
            raise UserError(
                f"ends at sample {start + len(block)} of {self.frames} announced", path=self.path,
                hint="restore the file: it is truncated",
            )  # fmt: skip
        wav = block.mean(axis=1) if self._mix == "mean" and block.shape[1] > 1 else block[:, 0]
        if not np.isfinite(wav).all():
            bad = start + int(np.flatnonzero(~np.isfinite(wav))[0])
            raise UserError(f"sample {bad} is NaN or infinite", path=self.path, hint="restore the file")
        return np.ascontiguousarray(wav)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ArraySource:
    """A waveform in memory with the interface of `AudioFile`.

    Attributes:
        frames: number of samples.
        sample_rate: Hz.
    """

    def __init__(self, wav: np.ndarray, sample_rate: int) -> None:
        self._wav, self.frames, self.sample_rate = wav, len(wav), sample_rate

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples [start, stop) as (stop - start,) float32."""
        return self._wav[start:stop].astype(np.float32, copy=False)


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """A whole mono recording as (T,) float32 and its rate in Hz.

    Raises:
        UserError: see `AudioFile`.
    """
    with AudioFile(path) as file:
        return file.read(), file.sample_rate


def to_int16(wav: np.ndarray, *, truncate: bool = False) -> np.ndarray:
    """Float samples as 16-bit integers, limited to their range.

    Args:
        wav: (T,) samples in [-1, 1).
        truncate: cut the fraction off towards zero (what VoicePrivacy's B2 does) instead of rounding.
    """
    scaled = wav.astype(np.float64) * FULL_SCALE
    scaled = np.trunc(scaled) if truncate else np.rint(scaled)
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def write_wav(path: str | Path, wav: np.ndarray, sample_rate: int) -> None:
    """Write (T,) float samples as a 16-bit mono WAV file, atomically."""
    write_pcm(path, [to_int16(wav)], sample_rate)


def write_pcm(path: str | Path, blocks: Iterable[np.ndarray], sample_rate: int) -> int:
    """Write blocks of int16 samples as a mono WAV file under a temporary name, then rename it.

    Returns:
        the number of samples written.

    Raises:
        OSError: if the disk is full or the place not writable; nothing is left under `path` then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    frames = 0
    try:
        with sf.SoundFile(
            temporary, "w", samplerate=sample_rate, channels=1, subtype="PCM_16", format="WAV"
        ) as file:
            for block in blocks:
                file.write(block)
                frames += len(block)
        expected = 44 + 2 * frames
        if temporary.stat().st_size != expected:  # libsndfile does not report a full disk at close
            raise OSError(28, "No space left on device", str(path))
        temporary.replace(path)
    except sf.LibsndfileError as error:
        raise OSError(28, f"cannot write ({error.error_string.strip()})", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return frames


def check_level(peak: float, clipped: int, frames: int, max_clipped: float, path: str | Path) -> None:
    """Refuse a recording that holds nothing, or that is clipped.

    Args:
        peak: largest absolute sample.
        clipped: number of samples at full scale.
        frames: number of samples.
        max_clipped: largest share of clipped samples allowed.
        path: for the message.

    Raises:
        UserError: if it is silent or clipped.
    """
    if peak < SILENCE:
        raise UserError(
            f"silent (peak {peak:.1e})", path=path, hint="remove the utterance or restore the file"
        )
    if clipped > max_clipped * frames:
        raise UserError(
            f"clipped: {100 * clipped / frames:.1f} % of the samples at full scale", path=path,
            expected=f"at most {100 * max_clipped:g} %", hint="--set format.max_clipped=1 accepts it",
        )  # fmt: skip

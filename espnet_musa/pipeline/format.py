"""Stage 2, format: any source data directory -> 16 kHz mono 16-bit WAV files and `utt2dur`.

Pipes, ark offsets and segments are resolved here and nowhere else; recordings of any length pass in blocks.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import kaldiio
import numpy as np
import soundfile as sf
import soxr

from .. import stamp
from ..config import FormatConfig, Recipe, formatted_roles, to_dict
from ..data.audio import ArraySource, AudioFile, check_level, to_int16, write_pcm
from ..data.datadir import DataDir, write_datadir
from ..errors import UserError
from ..log import get_logger
from .sharding import begun, choose_sets, missing, share, work

log = get_logger(__name__)
BLOCK = 10.0  # seconds read at once
_ARK = re.compile(r".+\.ark:\d+")
_NOT_KEPT = {
    "wav.scp",
    "segments",
    "spk2utt",
    "utt2dur",
    "utt2num_frames",
    "feats.scp",
    "vad.scp",
    "cmvn.scp",
}


@contextlib.contextmanager
def open_recording(value: str, config: FormatConfig) -> Iterator[AudioFile | ArraySource]:
    """Open what a `wav.scp` line names: a file, an ark offset (kaldiio), or a command that ends in `|`.

    Raises:
        UserError: if it cannot be opened, or is a pipe and pipes are not allowed.
    """
    if value.endswith("|"):
        if not config.allow_pipes:
            raise UserError(
                f"wav.scp runs a command: {value}",
                hint="--set format.allow_pipes=true, if you trust the file",
            )
        with tempfile.NamedTemporaryFile(suffix=".wav") as spool:
            done = subprocess.run(
                ["bash", "-c", value[:-1]], stdout=spool, stderr=subprocess.PIPE, check=False
            )
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip()[-300:]
                raise UserError(f"command failed with code {done.returncode}: {value}: {said}")
            with AudioFile(spool.name, channels=config.channels) as file:
                yield file
    elif _ARK.fullmatch(value):
        try:
            rate, wav = kaldiio.load_mat(value)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"cannot be read as a waveform in an ark ({error})", path=value) from None
        if wav.ndim != 1:
            raise UserError(f"has shape {wav.shape}", path=value, expected="one channel")
        yield ArraySource(wav.astype(np.float32) / (32768 if wav.dtype == np.int16 else 1), rate)
    else:
        with AudioFile(value, channels=config.channels) as file:
            yield file


def blocks(
    source: AudioFile | ArraySource, start: int, stop: int, config: FormatConfig, name: str
) -> Iterator:
    """Samples [start, stop) of a recording as int16 blocks at the target rate.

    Args:
        source: the recording.
        start, stop: in samples of the recording.
        config: target rate and what is refused.
        name: for messages.

    Yields:
        (n,) int16.

    Raises:
        UserError: if the rate is too low, or the speech is silent or clipped (after the last block).
    """
    rate, target = source.sample_rate, config.sample_rate
    if rate < config.min_rate:
        raise UserError(
            f"sampled at {rate} Hz", path=name, expected=f"at least {config.min_rate} Hz",
            hint=f"--set format.min_rate={rate} upsamples (the band above {rate // 2} Hz stays empty)",
        )  # fmt: skip
    resample = (
        soxr.ResampleStream(rate, target, 1, dtype="float32", quality="VHQ") if rate != target else None
    )
    step, peak, clipped = int(BLOCK * rate), 0.0, 0
    for begin in range(start, stop, step):
        end = min(begin + step, stop)
        wav = source.read(begin, end)
        level = np.abs(wav)
        peak, clipped = max(peak, float(level.max())), clipped + int((level >= 32767 / 32768).sum())
        yield to_int16(wav if resample is None else resample.resample_chunk(wav, last=end == stop))
    check_level(peak, clipped, stop - start, config.max_clipped, name)


def convert(
    source: AudioFile | ArraySource,
    out: Path,
    config: FormatConfig,
    span: tuple[float, float] | None,
    name: str,
):
    """Write one utterance in the target format, atomically.

    Args:
        source: the recording.
        out: the WAV file to make.
        config: the target format.
        span: start and end in seconds, None for the whole recording.
        name: for messages.

    Raises:
        UserError: if the segment lies outside the recording, or see `blocks`.
    """
    start, stop = 0, source.frames
    if span is not None:
        start, stop = (round(t * source.sample_rate) for t in span)
        if stop > source.frames + 0.01 * source.sample_rate:
            raise UserError(
                f"segment ends at {span[1]:g} s, the recording at {source.frames / source.sample_rate:g} s",
                path=name,
            )
        stop = min(stop, source.frames)
    write_pcm(out, blocks(source, start, stop, config, name), config.sample_rate)


def _sets(recipe: Recipe, root: Path, names: str) -> list[tuple[DataDir, Path]]:
    chosen = choose_sets(root / "data", formatted_roles(recipe, root), names, "data")
    return [(DataDir.read(path), root / "dump" / path.name) for path in chosen]


def plan(recipe: Recipe, root: Path, names: str, *, force: bool) -> None:
    """Begin every set that is not up to date."""
    settings = to_dict(replace(recipe.format, roles=()))
    for data, out in _sets(recipe, root, names):
        partial = stamp.begin(out, "format", {"format": settings, "input": data.fingerprint}, force=force)
        if partial is None:
            log.info("format: %s is up to date", data.name)
            continue
        (partial / "wav").mkdir(exist_ok=True)
        (partial / ".begun").touch()
        log.info("format: %s, %d utterances", data.name, len(data.utts))


def shard(recipe: Recipe, root: Path, names: str, part: tuple[int, int]) -> None:
    """Convert this job's share of the recordings."""
    sets = [(data, out) for data, out in _sets(recipe, root, names) if begun([out])]
    jobs = []
    for data, out in sets:
        scp, segments = data.table("wav.scp"), data.tables.get("segments", {})
        for utt in data.utts:
            recording, *span = segments.get(utt, (utt,))
            file = stamp.partial_of(out) / "wav" / f"{utt}.wav"
            jobs.append((file, utt, _job(scp[recording], file, recipe.format, tuple(span) or None)))
    work(share(jobs, part), "format")


def _job(value: str, file: Path, config: FormatConfig, span: tuple | None) -> Callable[[], None]:
    def make() -> None:
        with open_recording(value, config) as source:
            convert(source, file, config, span, value)

    return make


def finish(recipe: Recipe, root: Path, names: str) -> None:
    """Check and publish every set that was begun."""
    for data, out in _sets(recipe, root, names):
        if not begun([out]):
            continue
        partial = stamp.partial_of(out)
        missing(partial, data.utts)
        tables = {k: v for k, v in data.tables.items() if k not in _NOT_KEPT}
        publish(partial, out, tables, data, started=partial / ".begun", stage="format")


def publish(partial: Path, out: Path, tables: dict, parent: DataDir, *, started: Path, stage: str) -> None:
    """Write the tables of a directory of WAV files, check its contract and publish it.

    Args:
        partial: the directory with `wav/`.
        out: its final place.
        tables: what else it holds; `wav.scp` and `utt2dur` are made here.
        parent: the directory it came from (trials, meta data).
        started: file whose time is the start of the work; removed.
        stage: for the stamp.
    """
    frames = {utt: sf.info(str(partial / "wav" / f"{utt}.wav")) for utt in parent.utts}
    tables = {
        **tables,
        "wav.scp": {utt: f"{out.as_posix()}/wav/{utt}.wav" for utt in parent.utts},
        "utt2dur": {utt: info.frames / info.samplerate for utt, info in frames.items()},
    }
    write_datadir(partial, tables, parent.meta)
    if parent.has("trials"):
        shutil.copyfile(parent.path / "trials", partial / "trials")
    DataDir.read(partial, "audio")
    seconds = time.time() - started.stat().st_mtime
    started.unlink()
    stamp.finish(out, stage, counts={"utterances": len(parent.utts)}, seconds=seconds)
    log.info("%s: %s published, %d utterances", stage, out.name, len(parent.utts))

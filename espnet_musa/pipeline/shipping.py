"""Models that come with the repository: made from trained ones, and compared with them before they are put there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import stamp
from ..codec import archive
from ..data.audio import AudioFile
from ..errors import UserError, suggest
from ..log import get_logger

if TYPE_CHECKING:
    from torch import Tensor

    from ..codec.generator import MusaGenerator

log = get_logger(__name__)
CARD, COMPARED = "README.md", "compared.json"
MOST = 40e6  # bytes of a model in the repository
MOVED = 0.01  # largest share of codes that are others than the trained model's
NEAR = -20.0  # dB: largest difference of speech decoded from the same codes, relative to the trained model's
PRECISIONS = ("float16", "float32")


@dataclass(frozen=True)
class Facts:
    """What is known of a shipped model when its card is written.

    Attributes:
        config: its config.json.
        parts: names of encoder and decoder.
        dimension: of frames, codes and speaker embeddings.
        codebooks: sizes.
        hop: samples a frame.
        parameters: number of weights, codebooks included.
        precision: of the weights.
        moved: share of its codes that are others than the trained model's.
        difference: (dB) of speech decoded from the same codes, relative to the trained model's.
        voices: training speakers whose mean embeddings it holds.
    """

    config: dict[str, Any]
    parts: tuple[str, str]
    dimension: int
    codebooks: tuple[int, ...]
    hop: int
    parameters: int
    precision: str
    moved: float
    difference: float
    voices: int


def ship(
    model: Path, name: str, sample: Path, card: Callable[[Facts], str], *, precision: str = "float16"
) -> Path:
    """Make a trained model one that comes with the repository; it appears whole and checked, or not at all.

    Args:
        model: its archive, a directory that stage 4 made.
        name: by which it will be loaded.
        sample: a recording, 16 kHz mono, on which it is compared with the trained one.
        card: text of its card.
        precision: of its weights, one of `PRECISIONS`.

    Returns:
        its directory, below `archive.SHIPPED`.

    Raises:
        UserError: if it does not fit: weights beyond its precision, an output that differs, more than `MOST` bytes.
    """
    if not name.isidentifier():
        raise UserError(f"'{name}' is no name of a model", expected="letters, digits and underscores")
    model, out = archive.find(str(model)), archive.SHIPPED / name
    partial = stamp.partial_of(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(model, partial, precision)
        moved, difference = _compare(archive.load(model), archive.load(partial), sample)
        stamp.write_json(
            partial / COMPARED, {"precision": precision, "moved": moved, "difference": difference}
        )
        facts = facts_of(partial)
        if facts.moved > MOVED or facts.difference > NEAR:
            raise UserError(
                f"as {precision} it is another model: {compared(facts)}", path=model,
                expected=f"at most {MOVED:.0%} and {NEAR:g} dB",
            )  # fmt: skip
        (partial / CARD).write_text(card(facts), encoding="utf-8")
        size = sum(path.stat().st_size for path in partial.iterdir())
        if size > MOST:
            raise UserError(f"{size / 1e6:.1f} MB", path=model, expected=f"at most {MOST / 1e6:g} MB")
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("ship: %s, %.1f MB; %s", out, size / 1e6, compared(facts))
    return out


def write_card(name: str, card: Callable[[Facts], str]) -> Path:
    """The card of a shipped model again, once there are numbers.

    Args:
        name: of the model.
        card: its text.

    Returns:
        the card.

    Raises:
        UserError: if there is no such model.
    """
    if name not in archive.shipped():
        raise UserError(
            f"no model '{name}' to write a card of{suggest(name, archive.shipped())}",
            hint="--model, --sample",
        )
    path = archive.SHIPPED / name / CARD
    path.write_text(card(facts_of(path.parent)), encoding="utf-8")
    log.info("ship: %s", path)
    return path


def _write(model: Path, out: Path, precision: str) -> None:
    """The archive in that precision."""
    config = json.loads((model / archive.CONFIG).read_text(encoding="utf-8"))
    trained = stamp.read(model)
    if trained is not None and "commit" in trained:
        config["commit"] = trained["commit"]
    archive.write(out, config, converted(archive.for_inference(archive.read_state(model)), precision, model))
    speakers = archive.load_speakers(model)
    if speakers is not None:
        archive.save_speakers(out, replace(speakers, embeddings=speakers.embeddings.astype(precision)))


def converted(state: dict[str, Tensor], precision: str, path: Path) -> dict[str, Tensor]:
    """Weights in another precision; integers stay.

    Args:
        state: by name.
        precision: one of `PRECISIONS`.
        path: of the model, for messages.

    Raises:
        UserError: for a weight that is not finite, or too large.
    """
    import torch

    made = {}
    for name, value in state.items():
        if not value.isfinite().all():
            raise UserError(f"'{name}' is not finite", path=path, expected="a training that went well")
        made[name] = value.to(getattr(torch, precision)) if value.is_floating_point() else value
        if not made[name].isfinite().all():
            largest = torch.finfo(made[name].dtype).max
            raise UserError(
                f"'{name}' reaches {float(value.abs().max()):g}", path=path,
                expected=f"at most {largest:g}, as {precision} holds", hint="--precision float32",
            )  # fmt: skip
    return made


def compared(facts: Facts) -> str:
    """What the precision changes, in words."""
    return (
        f"{facts.moved:.1%} of its codes are others than the trained model's, and speech decoded from the same codes "
        f"differs by {facts.difference:.0f} dB"
    )


def _compare(whole: MusaGenerator, other: MusaGenerator, sample: Path) -> tuple[float, float]:
    """`moved` and `difference` of `Facts`, for a recording.

    Codes apart from speech: a single one that falls the other way moves the phase of all pulses behind it, which is
    another waveform and the same speech.
    """
    import torch

    with AudioFile(sample) as recording:
        if recording.sample_rate != whole.sample_rate:
            rate = recording.sample_rate
            raise UserError(f"audio of {rate} Hz", path=sample, expected=f"{whole.sample_rate} Hz")
        wav = torch.from_numpy(recording.read(0, recording.frames))[None]
    with torch.inference_mode():
        codes, _ = whole.encode(wav)
        moved = float((other.encode(wav)[0] != codes).float().mean())
        ours, theirs = (levels(one.decode(codes)[0].numpy()) for one in (whole, other))
    if not ours.any():
        raise UserError("the model makes silence of it", path=sample, expected="speech")
    return moved, float(10 * np.log10(max(((ours - theirs) ** 2).sum() / (ours**2).sum(), 1e-10)))


def levels(wav: np.ndarray) -> np.ndarray:
    """Magnitudes (W, 257) of windows of 32 ms at 16 kHz."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(wav, (0, 512)), 512)[::256]
    return np.abs(np.fft.rfft(windows * np.hanning(512)))


def facts_of(place: Path) -> Facts:
    """What is known of a shipped model.

    Args:
        place: its directory.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    generator, speakers = archive.load(place), archive.load_speakers(place)
    return Facts(
        config=json.loads((place / archive.CONFIG).read_text(encoding="utf-8")),
        parts=(type(generator.encoder).__name__, type(generator.decoder).__name__),
        dimension=generator.dimension,
        codebooks=generator.quantizer.codebook_sizes,
        hop=generator.hop,
        parameters=sum(value.numel() for value in archive.read_state(place).values()),
        voices=0 if speakers is None else len(speakers.genders),
        **stamp.read_json(place / COMPARED),
    )

"""Mean embeddings of the training speakers: other voices to decode with, without anybody's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.datadir import DataDir, spk2utt
from ..errors import UserError

if TYPE_CHECKING:
    from .generator import MusaGenerator

GENDERS = ("f", "m")


@dataclass(frozen=True)
class SpeakerTable:
    """Mean speaker embeddings of N training speakers; who they are is not kept.

    Attributes:
        embeddings: (N, D) float32.
        genders: N of `f`, `m` or `` (unknown).
    """

    embeddings: np.ndarray
    genders: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.genders):
            raise ValueError(f"embeddings {self.embeddings.shape} for {len(self.genders)} genders")

    def pick(self, place: float, gender: str | None = None) -> np.ndarray:
        """The speaker at a place of the table: what a target `{speaker: place, gender: ...}` means.

        Args:
            place: in [0, 1); places are spread evenly over the speakers of that gender.
            gender: `f` or `m`; None: any.

        Returns:
            (D,) float32.

        Raises:
            UserError: if there is none of that gender, or the place is none.
        """
        return self.embeddings[choose(self.genders, place, gender)]


def choose(genders: tuple[str, ...], place: float, gender: str | None = None) -> int:
    """Number of the speaker at a place; see `SpeakerTable.pick`.

    Raises:
        UserError: if there is none of that gender, or the place is none.
    """
    if isinstance(place, bool) or not isinstance(place, int | float) or not 0 <= place < 1:
        raise UserError(f"speaker is {place!r}", expected="a place in [0, 1)")
    among = [i for i, own in enumerate(genders) if gender in (None, own)]
    if not among:
        held = ", ".join(sorted({g or "unknown" for g in genders})) or "none"
        raise UserError(f"the model holds no speaker of gender '{gender}'", expected=f"one of {held}")
    return among[int(place * len(among))]


def embed_speakers(
    generator: MusaGenerator, sets: Iterable[DataDir], *, utterances: int = 10, seconds: float = 10.0
) -> SpeakerTable:
    """Mean embeddings of the speakers of formatted sets, in the order of the sets and of the speakers' ids.

    Args:
        generator: in eval mode, on the device to work on.
        sets: formatted sets (stage 4: those with role `train`); a speaker of two sets counts once.
        utterances: of a speaker at most, spread evenly over its sorted list, so that two runs choose alike.
        seconds: of an utterance at most, from its start.
    """
    import torch

    chosen: dict[str, tuple[DataDir, str, list[str]]] = {}
    for data in sets:
        genders = data.tables.get("spk2gender", {})
        for speaker, utts in spk2utt(data.table("utt2spk")).items():
            step = max(1, -(-len(utts) // utterances))
            chosen.setdefault(speaker, (data, genders.get(speaker, ""), utts[::step]))
    device = next(generator.parameters()).device
    means = []
    for data, _, utts in chosen.values():
        own = []
        for utt in utts:
            wav = data.load(utt)[: round(seconds * 16000)]
            with torch.inference_mode():
                own.append(generator.speaker(torch.from_numpy(wav)[None].to(device))[0].float().cpu().numpy())
        means.append(np.mean(own, axis=0, dtype=np.float64))
    table = np.asarray(means, dtype=np.float32).reshape(len(means), -1)
    return SpeakerTable(table, tuple(gender for _, gender, _ in chosen.values()))

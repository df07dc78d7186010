"""Policies without a pool of speakers: no target, one number, or a number drawn per utterance or speaker."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import UserError, suggest
from ..seed import generator
from .base import LEVELS, TargetPolicy

if TYPE_CHECKING:
    from ..data.datadir import DataDir

SCOPES = ("all", "set")


@dataclass(frozen=True)
class Range:
    """An interval to draw from; a policy adds its level."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise UserError(f"low is {self.low}, high {self.high}", expected="finite numbers, low <= high")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"unknown {name} '{value}'{suggest(value, known)}")


class NoTarget(TargetPolicy):
    """No target, for anonymizers that need none."""

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, None]]:
        """None for every utterance; see `TargetPolicy.plan`."""
        return {data.name: dict.fromkeys(data.utts) for data in sets}


class Constant(TargetPolicy):
    """The same number for every utterance, as in the first McAdams baseline (0.8)."""

    @dataclass(frozen=True)
    class Params:
        """Parameters of the policy."""

        value: float  # the target, e.g. a McAdams coefficient

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, float]]:
        """`value` for every utterance; see `TargetPolicy.plan`."""
        return {data.name: dict.fromkeys(data.utts, self.params.value) for data in sets}


class Uniform(TargetPolicy):
    """A number drawn uniformly for each utterance, each speaker, or once.

    A draw is a function of seed, system and id alone: it does not change with the order of the utterances or with
    which other utterances and sets are processed. Without the seed it cannot be predicted.
    """

    @dataclass(frozen=True)
    class Params(Range):
        """Parameters of the policy."""

        level: str = "utt"  # utt | spk | constant: what shares a draw
        # all: the same id draws the same number in every set. set: a new number in each, as VoicePrivacy 2022 does
        # for speakers, so that an enrolment model and the trials of its speaker do not share a pseudo-speaker.
        scope: str = "all"

        def __post_init__(self) -> None:
            super().__post_init__()
            _one_of("level", self.level, LEVELS)
            _one_of("scope", self.scope, SCOPES)

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, float]]:
        """Draw; see `TargetPolicy.plan`."""
        return {data.name: self._plan_set(data, seed, system) for data in sets}

    def _plan_set(self, data: DataDir, seed: int, system: str) -> dict[str, float]:
        level, low, high = self.params.level, self.params.low, self.params.high
        prefix = f"{data.name}/" if self.params.scope == "set" else ""  # a set's name holds no slash
        utt2spk = data.table("utt2spk")
        ids = {utt: {"utt": utt, "spk": utt2spk[utt], "constant": ""}[level] for utt in data.utts}
        drawn = {
            key: float(generator(seed, system, prefix + key, "target").uniform(low, high))
            for key in set(ids.values())
        }
        return {utt: drawn[key] for utt, key in ids.items()}


def published_seed(text: str) -> int:
    """First eight hexadecimal digits of a text's SHA-256, as VoicePrivacy 2024 seeds its generators."""
    return int(hashlib.sha256(text.encode("utf-8")).hexdigest()[:8], 16)


class Vpc2024Uniform(TargetPolicy):
    """The published draw of VoicePrivacy 2024's B2, to compare with its results. Not for protecting anybody.

    Level utt: PCG64 seeded by the hash of "VPC2024" (4284258105) draws one vector, one number for each line of
    `wav.scp`. The generator starts anew in each set: the n-th utterances of all sets share their number. A subset of
    a set therefore gets other numbers than the whole set gives it; other sets, jobs and restarts change nothing.
    Level spk: a generator seeded by the hash of the speaker id draws one number, the same in every set.

    Weakness: nothing is secret. Whoever knows the place of an utterance in its list, or the speaker's id, knows the
    target and can undo it. The recipe's seed and the system's name have no influence. Use `uniform` instead.
    """

    public: ClassVar[bool] = True
    SEED_TEXT: ClassVar[str] = "VPC2024"

    @dataclass(frozen=True)
    class Params(Range):
        """Parameters of the policy."""

        level: str = "utt"  # utt | spk

        def __post_init__(self) -> None:
            super().__post_init__()
            _one_of("level", self.level, ("utt", "spk"))

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, Any]]:
        """Draw as published; see `TargetPolicy.plan`."""
        return {data.name: self._plan_set(data) for data in sets}

    def _plan_set(self, data: DataDir) -> dict[str, float]:
        if self.params.level == "spk":
            return {utt: self._draw(spk, 1)[0] for utt, spk in data.table("utt2spk").items()}
        order = list(data.table("wav.scp"))
        return dict(zip(order, self._draw(self.SEED_TEXT, len(order)), strict=True))

    def _draw(self, text: str, count: int) -> list[float]:
        rng = np.random.default_rng(published_seed(text))
        return rng.uniform(self.params.low, self.params.high, count).tolist()

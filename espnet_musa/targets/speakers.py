"""Policies for anonymizers that hold a speaker's embedding: how much of it stays, or whose voice stands in for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError, suggest
from ..seed import generator
from .base import LEVELS, TargetPolicy
from .policies import SCOPES, Range, Uniform

if TYPE_CHECKING:
    from ..data.datadir import DataDir

GENDERS = ("any", "same", "cross")
_OTHER = {"f": "m", "m": "f"}


class Blend(TargetPolicy):
    """How much of the speaker's own embedding stays: 0 nothing (the zero vector), 1 all of it (plain resynthesis).

    One number for all, or drawn uniformly between two for each utterance or speaker. MUSA, section III-D: a linear
    blend trades privacy for likeness.
    """

    @dataclass(frozen=True)
    class Params(Range):
        """Parameters of the policy; the same `low` and `high` are a constant."""

        low: float = 0.0
        high: float = 0.0
        level: str = "utt"  # utt | spk | constant: what shares a draw
        scope: str = "all"  # all | set: whether an id draws the same in every set

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.low <= self.high <= 1:
                raise UserError(f"low is {self.low}, high {self.high}", expected="0 <= low <= high <= 1")

    def __init__(self, **params: Any) -> None:
        """Check the parameters; see `TargetPolicy`."""
        super().__init__(**params)
        self._draw = Uniform(**vars(self.params))

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, float]]:
        """Draw; see `TargetPolicy.plan`."""
        return self._draw.plan(sets, seed, system)


class Speaker(TargetPolicy):
    """Another speaker's voice: one of the training speakers whose mean embeddings the model holds.

    The training speakers are public and none of them is evaluated, so nobody who is to be protected is imitated. A
    target is a place in the model's table, `{speaker: 0.37, gender: f}`: a number in [0, 1), spread evenly over the
    speakers of that gender. The policy needs no model for this, and the anonymizer learns no name.
    """

    @dataclass(frozen=True)
    class Params:
        """Parameters of the policy."""

        gender: str = "any"  # any | same | cross: of the voice, against the speaker's
        level: str = "spk"  # utt | spk | constant: what shares a voice
        scope: str = "all"  # all | set: whether an id draws the same in every set
        unique: bool = False  # level spk: each speaker another voice

        def __post_init__(self) -> None:
            if self.unique and self.level != "spk":
                raise UserError(f"unique voices at level '{self.level}'", expected="level: spk")
            for name, known in (("gender", GENDERS), ("level", LEVELS), ("scope", SCOPES)):
                value = getattr(self, name)
                if value not in known:
                    raise UserError(f"unknown {name} '{value}'{suggest(value, known)}")

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Draw a voice for each utterance, speaker or once; see `TargetPolicy.plan`.

        Raises:
            UserError: if the gender matters and a set does not tell it.
        """
        places = self._unique(sets, seed, system) if self.params.unique else {}
        return {data.name: self._plan_set(data, seed, system, places) for data in sets}

    def _key(self, data: DataDir, name: str) -> str:
        """What draws for a speaker or an utterance of a set."""
        return f"{data.name}/{name}" if self.params.scope == "set" else name

    def _wanted(self, data: DataDir, speaker: str) -> str | None:
        """Gender of a speaker's voice; None: any."""
        if self.params.gender == "any":
            return None
        own = data.table("spk2gender")[speaker]
        return own if self.params.gender == "same" else _OTHER[own]

    def _unique(self, sets: list[DataDir], seed: int, system: str) -> dict[str, float]:
        """Places that lie as far from each other as they can, for all speakers whose voice is of one gender."""
        groups: dict[str | None, set[str]] = {}
        for data in sets:
            for speaker in set(data.table("utt2spk").values()):
                groups.setdefault(self._wanted(data, speaker), set()).add(self._key(data, speaker))
        places = {}
        for gender, keys in groups.items():
            order = generator(seed, system, str(gender), "unique targets").permutation(len(keys))
            places |= {key: (int(i) + 0.5) / len(keys) for key, i in zip(sorted(keys), order, strict=True)}
        return places

    def _plan_set(
        self, data: DataDir, seed: int, system: str, places: dict[str, float]
    ) -> dict[str, dict[str, Any]]:
        params, utt2spk = self.params, data.table("utt2spk")
        targets = {}
        for utt in data.utts:
            key = self._key(data, {"utt": utt, "spk": utt2spk[utt], "constant": ""}[params.level])
            place = places.get(key)
            if place is None:
                place = float(generator(seed, system, key, "target").random())
            target: dict[str, Any] = {"speaker": place}
            if (gender := self._wanted(data, utt2spk[utt])) is not None:
                target["gender"] = gender
            targets[utt] = target
        return targets

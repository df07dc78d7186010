"""What a target policy is: it gives every utterance of every set its target before any audio is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import config

if TYPE_CHECKING:
    from ..data.datadir import DataDir

LEVELS = ("utt", "spk", "constant")  # what shares a target: nothing, a speaker, everything


class TargetPolicy:
    """Base class. A subclass declares `Params` and implements `plan`.

    Attributes:
        level: one of `LEVELS`.
        public: whether the targets are known to everybody, whatever the seed: good for comparing, not for protecting.
        params: the checked parameters.
    """

    level: str = "constant"
    public: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Params:
        """Keyword parameters of `target.params` in the system's YAML, each with a type and a unit."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.plan is TargetPolicy.plan:
            raise TypeError(f"{cls.__name__} does not implement plan()")

    def __init__(self, **params: Any) -> None:
        """Check the parameters of the system's YAML.

        Raises:
            UserError: for an unknown or missing parameter, a wrong type or a value out of range.
        """
        self.params = config.from_dict(
            self.Params, params, Path(f"params of target policy {type(self).__name__}"), {}
        )
        self.level = getattr(self.params, "level", type(self).level)

    def plan(self, sets: list[DataDir], seed: int, system: str) -> dict[str, dict[str, Any]]:
        """Targets of all utterances.

        Args:
            sets: the sets that will be anonymized.
            seed: the recipe's seed.
            system: name of the system.

        Returns:
            set name -> utterance -> target: a number, a text, a dict of these, or None.
        """
        raise TypeError(f"{type(self).__name__} does not implement plan()")

"""What an evaluator is: data directories in, a list of metrics and a few files out.

An evaluator is constructed from the `params` of its YAML and decides nothing from the names of files, sets or
systems. Its `kind` says what it compares; the pipeline calls `score` with exactly that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ..data.datadir import DataDir


@dataclass(frozen=True)
class Metric:
    """One number of one system, with everything needed to print, compare or plot it.

    Args:
        name: what was measured, e.g. "eer".
        value: the number, in `unit`.
        unit: "%", "" for a ratio, "bit", ...
        set: label of the scored set (the trial set of a verification).
        split: "dev", "test", ... from the set's `meta.yaml`.
        group: "f", "m", "avg" (plain mean of f and m) or "all" (pooled).
        condition: "oo", "oa", "aa" (original or anonymized enrolment and trial), "" where there is none.
        n: the counts behind the number, e.g. {"target": 704, "nontarget": 14566}.
        low, high: confidence interval in `unit`, or None where none can be given.
        notes: what a reader of a table must know.
    """

    name: str
    value: float
    unit: str
    set: str
    split: str
    group: str = "all"
    condition: str = ""
    n: dict[str, int] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    notes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, for JSON or YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Metric:
        """The inverse of `to_dict`; an unknown key is an error (TypeError)."""
        return cls(**values)


@dataclass(frozen=True)
class Resources:
    """What a pipeline lends to an evaluator; none may change a result, but for `model_dir`, `train` and `seed`.

    Args:
        model_dir: the attacker trained by this recipe, for evaluators configured with `model: recipe`.
        cache: where embeddings that other systems need again may be kept (content-addressed); None: nowhere.
        device: torch device of neural evaluators.
        jobs: processes for work that is split over utterances.
        seed: the recipe's seed, for bootstrap intervals.
        train: the attacker's training set, for back-ends that are trained on its embeddings; None: there is none.
    """

    model_dir: Path | None = None
    cache: Path | None = None
    device: str = "cpu"
    jobs: int = 1
    seed: int = 0
    train: DataDir | None = None


@dataclass(frozen=True)
class Training:
    """How stage 7 trains the model of an evaluator; returned by the static method `training` of its class.

    Args:
        config: the dataclass of its configuration (`conf/train/*.yaml`).
        check: (data, configuration); raises UserError for what cannot be trained on, before anything is trained.
        train: (data, out, configuration, seed, device, start); makes the model in `out`, from the one in `start` if
            that is not None; called again after a kill, it goes on.
    """

    config: type
    check: Callable[[DataDir, Any], object]
    train: Callable[[DataDir, Path, Any, int, str, Path | None], None]


class VerificationEvaluator:
    """Scores speaker verification: how well does an attacker link enrolment and trial speech?

    Attributes:
        trained: whether the result depends on `Resources.train`.
    """

    kind: ClassVar[str] = "verification"
    trained: bool = False

    def score(
        self,
        enroll_orig: DataDir,
        trial_orig: DataDir,
        enroll_anon: DataDir | None,
        trial_anon: DataDir | None,
        out: Path,
        resources: Resources,
    ) -> list[Metric]:
        """Score one pair of sets in every condition that the given directories allow.

        Args:
            enroll_orig, trial_orig: the original sets; the trial list is always the original set's.
            enroll_anon, trial_anon: their anonymized copies, both None for the system `orig`.
            out: an existing directory for the evaluator's files.
        """
        raise TypeError(f"{type(self).__name__} does not define score()")


class PairedEvaluator:
    """Compares each anonymized utterance with its original."""

    kind: ClassVar[str] = "paired"

    def score(self, original: DataDir, anonymized: DataDir, out: Path, resources: Resources) -> list[Metric]:
        """Score one set against its anonymized copy; files go into the existing directory `out`."""
        raise TypeError(f"{type(self).__name__} does not define score()")


class SingleEvaluator:
    """Measures something of one set by itself, of the originals as of anonymized speech."""

    kind: ClassVar[str] = "single"

    def score(
        self, original: DataDir, anonymized: DataDir | None, out: Path, resources: Resources
    ) -> list[Metric]:
        """Score the anonymized copy, or the original for the system `orig`, where `anonymized` is None.

        Facts (text, language, emotion, ...) are always the original set's; files go into the existing directory `out`.
        """
        raise TypeError(f"{type(self).__name__} does not define score()")

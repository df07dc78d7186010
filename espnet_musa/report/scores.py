"""Score files, reduced to what a figure shows; files of millions of trials are read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.datadir import DataDir
from ..data.trials import read_scores, read_trials
from ..errors import UserError
from ..metrics.eer import det_curve
from . import tables

_BINS = (12, 60)  # of a histogram: twice the root of the number of target trials, within these limits
_TAIL = 0.001  # share of the trials at each end that the outermost bins may hold together


@dataclass(frozen=True)
class Scores:
    """What is drawn of one score file: a histogram and a DET curve, never the scores.

    Attributes:
        evaluator, set, system, attacker: which; `attacker` is a key of `tables.ATTACKERS`.
        edges: (K + 1,) of the histogram's bins.
        target, nontarget: (K,) share of the trials of that kind in each bin.
        far, frr: (P,) DET curve, each in [0, 1].
        text: the error rate as the tables write it.
    """

    evaluator: str
    set: str
    system: str
    attacker: str
    edges: np.ndarray
    target: np.ndarray
    nontarget: np.ndarray
    far: np.ndarray
    frr: np.ndarray
    text: str


def load(results: dict[str, Any], recipe_dir: Path) -> list[Scores]:
    """Every score file behind the error rates of the tables: by evaluator, set, system and attacker.

    Raises:
        UserError: if a score file is missing, damaged, or not about the set's trials.
    """
    found = [metric for metric in tables.per_set(results, privacy=True) if metric["name"] == "eer"]
    evaluators = [evaluator["name"] for evaluator in results["evaluators"]]
    found.sort(
        key=lambda metric: evaluators.index(metric["evaluator"])
    )  # stable: sets and systems stay in order
    trials = {name: _trials(recipe_dir / "dump", name) for name in {metric["set"] for metric in found}}
    return [_reduce(recipe_dir, *trials[metric["set"]], metric) for metric in found]


def _trials(dump: Path, name: str) -> tuple[list[str], list[str], Any]:
    """Enrolled speakers, trial utterances and trials of a set."""
    data = DataDir.read(dump / name, required=("utt2spk",))
    enroll = DataDir.read(dump / str(data.meta.enroll), required=("utt2spk",))
    speakers = sorted(set(enroll.table("utt2spk").values()))
    return speakers, data.utts, read_trials(data.path / "trials", speakers, data.utts)


def _reduce(
    recipe_dir: Path, speakers: list[str], utts: list[str], trials: Any, metric: dict[str, Any]
) -> Scores:
    place = recipe_dir / "exp" / metric["system"] / "score" / metric["evaluator"] / metric["set"]
    path = place / metric["condition"] / "scores"
    enroll, trial, scores = read_scores(path, speakers, utts)
    if not (np.array_equal(enroll, trials.enroll) and np.array_equal(trial, trials.trial)):
        raise UserError(
            f"holds other trials than those of '{metric['set']}'", path=path,
            hint="run stage 'score' again with --force true",
        )  # fmt: skip
    low, high = np.quantile(scores, [_TAIL, 1 - _TAIL])
    bins = int(np.clip(2 * np.sqrt(trials.target.sum()), *_BINS))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    kinds = [np.clip(scores[chosen], edges[0], edges[-1]) for chosen in (trials.target, ~trials.target)]
    target, nontarget = (np.histogram(values, edges)[0] / values.size for values in kinds)
    far, frr = det_curve(scores[trials.target], scores[~trials.target], points=200)
    names = (metric["evaluator"], metric["set"], metric["system"], metric["attacker"])
    return Scores(*names, edges, target, nontarget, far, frr, tables.show(metric))

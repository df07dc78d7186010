"""Metrics that are means over utterances: the loop over files, and the means with their intervals."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..seed import generator
from .base import Metric

if TYPE_CHECKING:
    from ..data.datadir import DataDir

Item = TypeVar("Item")
Result = TypeVar("Result")
_MIN_SPEAKERS = 3
_LEVEL = 0.95


def in_order(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """Results of `function` in the order of the items.

    Processes are spawned, since forking a process that runs torch can hang; so `function` must be importable. They
    stay for the sets that follow: to start them takes as long as a small set does.
    """
    yield from map(function, items) if jobs == 1 else _pool(jobs).map(function, items, chunksize=8)


@cache
def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def means(
    name: str, data: DataDir, values: Sequence[float], *, seed: int, bootstrap: int = 1000, notes: str = ""
) -> list[Metric]:
    """Means over utterances: of all, of each gender, and the plain mean of the genders.

    Args:
        name: of the metric.
        data: the scored set.
        values: (N,) one for each of `data.utts`.
        seed: of the bootstrap over speakers that gives the 95 % intervals.
        bootstrap: its draws; 0: no intervals.
        notes: what a reader must know.
    """
    from .asv import mean_of  # numba: the processes of `in_order` need not wait for it

    values = np.asarray(values, float)
    utt2spk = data.table("utt2spk")
    speaker = np.array([utt2spk[utt] for utt in data.utts])
    rows = {"all": np.ones(len(values), bool)}
    if data.has("spk2gender"):
        genders = data.table("spk2gender")
        gender = np.array([genders[spk] for spk in speaker])
        rows |= {g: gender == g for g in ("f", "m") if (gender == g).any()}
    metrics = {}
    for group, row in rows.items():
        rng = generator(seed, name, group, "bootstrap")
        low, high = _interval(values[row], speaker[row], bootstrap, rng)
        counts = {"utterances": int(row.sum()), "speakers": len(np.unique(speaker[row]))}
        value = float(values[row].mean())
        metrics[group] = Metric(
            name, value, "", data.name, data.meta.split, group, "", counts, low, high, notes
        )
    if "f" in metrics and "m" in metrics:
        both = mean_of(metrics["f"], metrics["m"]).to_dict()
        metrics["avg"] = Metric.from_dict(both | {"notes": notes})
    return list(metrics.values())


def _interval(
    values: np.ndarray, speaker: np.ndarray, repeats: int, rng: np.random.Generator
) -> tuple[float, float] | tuple[None, None]:
    """Percentile bootstrap over speakers of the mean of (N,) values; none with fewer than three speakers."""
    _, index = np.unique(speaker, return_inverse=True)
    total, count = np.bincount(index, values), np.bincount(index)
    if not repeats or len(count) < _MIN_SPEAKERS:
        return None, None
    draws = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), size=repeats)
    low, high = np.quantile((draws @ total) / (draws @ count), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)

"""`At a glance`: the numbers that matter most in one table, those in bold that are better than a baseline's."""

from __future__ import annotations

import dataclasses
from typing import Any

from . import languages, tables
from .tables import Metrics, Table

TITLE = "At a glance"
BETTER = {  # the metrics of the table, and whether more is better
    "eer": True,
    "wer": False,
    "uar": True,
    "pitch_correlation": True,
    "gvd": True,
    "dnsmos_ovrl": True,
    "utmos": True,
}
_PLACE = ("split", "set", "system", "evaluator", "name", "attacker")


def about(results: dict[str, Any]) -> str:
    """How to read the table."""
    baseline = results["baseline"]
    measured = baseline in [s["name"] for s in results["systems"]]
    bold = f"Bold: better than {baseline} in the digits shown, be it by chance; the tables below have the intervals. "
    return (
        (bold if measured else "")
        + "A number of a corpus is that of its trials where they have it, else that of its other sets; of several the "
        "plain mean. An EER above 50 % counts as far below: who turns the decision round gets the rest."
    )


def table(results: dict[str, Any]) -> Table:
    """A row for each corpus and system, a column for each metric (and attacker); no rows without a baseline."""
    if not results.get("baseline"):
        return Table((), [], [])
    found = _of_corpora(results)
    base = {_key(m): m for m in found if m["system"] == results["baseline"]}
    bound = {s["name"] for s in results["systems"] if s["lower_bound"]}
    marked = []
    for m in found:
        other = base.get(_key({**m, "system": results["baseline"]}))
        marked.append(
            {**m, "bold": m["system"] not in bound and other is not None and _gain(m) > _gain(other)}
        )
    made = tables.pivot(results, marked, tables.ROWS, (("evaluator", "name"), ("attacker",)))
    return dataclasses.replace(made, keys=tuple("corpus" if key == "set" else key for key in made.keys))


def _key(m: dict[str, Any]) -> tuple[str, ...]:
    return tuple(m[name] for name in _PLACE)


def _of_corpora(results: dict[str, Any]) -> Metrics:
    """One metric for each corpus, split, system, evaluator and attacker, without interval; its `set` is the corpus."""
    attacked = tables.under_attack(results, tables.headline(results, True))
    roles = {s["name"]: s["role"] for s in results["sets"]}
    groups: dict[tuple[str, ...], Metrics] = {}
    for m in [*attacked, *tables.headline(results, False)]:
        if m["name"] in BETTER:
            one = {**m, "set": languages.corpus_of(results, m), "low": None, "high": None}
            one["trial"] = all(roles[name] == "trial" for name in m["parts"] or [m["set"]])
            groups.setdefault(_key(one), []).append(one)
    return [_mean([m for m in found if m["trial"]] or found) for found in groups.values()]


def _mean(found: Metrics) -> dict[str, Any]:
    value = sum(m["value"] for m in found) / len(found)
    return {**found[0], "value": value, "few": any(m["few"] for m in found)}


def _gain(m: dict[str, Any]) -> float:
    """The number as it is written, turned so that more is better."""
    value = round(m["value"], tables.kind(m["name"]).decimals)
    if m["name"] == "eer":
        return min(value, 100 - value)
    return value if BETTER[m["name"]] else -value

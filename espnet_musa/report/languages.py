"""Results by language: a table for each metric, and a summary of the seen and the unseen languages.

A language is seen if a set of role `train` holds it: systems learn from those. Pure functions of `results.json`.

A set counts for the language that all its utterances are in; several sets of a language, corpus and split count alike.
Where a language is in several corpora, the one with most languages stands for it; others have columns of their own,
beside the mean. Of a set in several languages, those metrics count that its evaluator gives by language (error rates of
recognizers). The mean is that of the languages (Table IV of MUSA; VoicePrivacy 2026), not of utterances; an unseen
language is never part of it.
"""

from __future__ import annotations

import math
from typing import Any

from . import tables
from .tables import NONE, Metrics, Row, Table

MEAN = "mean"
UNSEEN = "unseen"
TITLE = "Languages"
ABOUT = (
    "One column a language, of the sets that are in it alone; the mean is the plain mean of the languages, an unseen "
    "one apart."
)
_TOLD = ("attacker", "evaluator", "name")
_GENDERS = {"f", "m", "x"}


def unseen(results: dict[str, Any]) -> set[str]:
    """Languages that are evaluated but in no training set; none where no set is there to train systems with."""
    seen = {code for s in results["sets"] if s["role"] == "train" for code in s["languages"]}
    return set().union(*_scored(results).values()) - seen if seen else set()


def measured(results: dict[str, Any], privacy: bool, group: str | None = None) -> Metrics:
    """Metrics of languages and of their mean, each with its `language` (a code, or `mean`) and its `parts`.

    Args:
        results: as `results.json`.
        privacy: metrics of privacy, else of utility.
        group: of these speakers (`all`, ...); None: the mean of the genders where there is one.

    Returns:
        for every system, evaluator, metric, split and attacker, those of all languages it is measured in; nothing where
        that is a single one, or no corpus has several: a mean over corpora would be one of nothing.
    """
    if max(map(len, _scored(results).values()), default=0) < 2:
        return []
    spoken = {s["name"]: s["languages"] for s in results["sets"]}
    label = _labels(results)
    found: dict[tuple[str, ...], dict[str, Metrics]] = {}
    for m in _candidates(results, privacy, group):
        codes = {code for name in m["parts"] or [m["set"]] for code in spoken[name]}
        language = m["group"] if m["group"] in codes else None
        if len(codes) == 1:
            (language,) = codes
        if language is not None:
            language = label[language, corpus_of(results, m)]
            key = tuple(m[k] for k in ("system", "evaluator", "name", "split", "condition"))
            found.setdefault(key, {}).setdefault(language, []).append(m)
    apart, out = unseen(results), []
    apart |= {one for (code, _), one in label.items() if one != code}
    for by_language in found.values():
        if len(by_language) > 1:
            own = {code: _mean(some, code) for code, some in sorted(by_language.items())}
            together = [m for code, m in own.items() if code not in apart]
            out += own.values()
            out += [_mean(together, MEAN)] if len(together) > 1 else []
    return out


def corpus_of(results: dict[str, Any], metric: dict[str, Any]) -> str:
    """The corpus of a metric's set, or of the sets that it is a mean of."""
    first = (metric["parts"] or [metric["set"]])[0]
    return next(s["corpus"] for s in results["sets"] if s["name"] == first)


def _scored(results: dict[str, Any]) -> dict[str, set[str]]:
    """Corpus -> languages of its sets that are scored."""
    out: dict[str, set[str]] = {}
    for s in results["sets"]:
        if s["role"] in ("trial", "utility"):
            out.setdefault(s["corpus"], set()).update(s["languages"])
    return out


def _labels(results: dict[str, Any]) -> dict[tuple[str, str], str]:
    """(Language, corpus) -> name of the column: the language's code, with the corpus where another stands for it."""
    languages, out = _scored(results), {}
    for code in {code for codes in languages.values() for code in codes}:
        corpora = sorted(
            (c for c in languages if code in languages[c]), key=lambda c: (-len(languages[c]), c)
        )
        out |= {(code, c): code if c == corpora[0] else f"{code} ({c})" for c in corpora}
    return out


def _candidates(results: dict[str, Any], privacy: bool, group: str | None) -> Metrics:
    """Metrics of whole sets, and of the languages of mixed ones."""
    shown = [m for m in tables.shown(results) if tables.kind(m["name"]).privacy == privacy]
    codes = {code for s in results["sets"] for code in s["languages"]}
    mixed = [m for m in shown if m["group"] in codes]
    whole = tables.headline(results, privacy) if group is None else [m for m in shown if m["group"] == group]
    return [m for m in whole if m["group"] not in codes] + mixed


def _mean(metrics: Metrics, language: str) -> dict[str, Any]:
    """The plain mean, with an interval where all have one: the sets share no speaker, so MOVER as in `asv.mean_of`."""
    parts = [name for m in metrics for name in m["parts"] or [m["set"]]]
    if len(metrics) == 1:
        return {**metrics[0], "language": language, "parts": parts}
    value = sum(m["value"] for m in metrics) / len(metrics)
    low = high = None
    if all(m["low"] is not None and m["high"] is not None for m in metrics):
        low = value - math.hypot(*(m["value"] - m["low"] for m in metrics)) / len(metrics)
        high = value + math.hypot(*(m["high"] - m["value"] for m in metrics)) / len(metrics)
    n = {
        key: sum(m["n"][key] for m in metrics)
        for key in metrics[0]["n"]
        if all(key in m["n"] for m in metrics)
    }
    facts = {"value": value, "low": low, "high": high, "n": n, "parts": parts, "language": language}
    groups = {m["group"] for m in metrics} - _GENDERS
    group = groups.pop() if len(groups) == 1 else "avg"
    few = any(m["few"] for m in metrics)
    return {**metrics[0], **facts, "group": group, "few": few, "set": " + ".join(parts)}


def by_metric(results: dict[str, Any]) -> list[tuple[str, Table]]:
    """For each evaluator and metric its name and a table: systems (and attackers) against languages."""
    out: list[tuple[str, Table]] = []
    apart = unseen(results)
    for privacy in (True, False):
        metrics = measured(results, privacy)
        if privacy:
            metrics = tables.under_attack(results, metrics)
        ordered = sorted(metrics, key=tables.order(results))
        for evaluator, name in dict.fromkeys((m["evaluator"], m["name"]) for m in ordered):
            own = [m for m in ordered if (m["evaluator"], m["name"]) == (evaluator, name)]
            title = f"{evaluator}: {tables.label(own[0])}"
            out.append((title, _table(results, own, privacy, apart)))
    return sorted(out, key=lambda one: _rank(results, one[0]))


def _rank(results: dict[str, Any], title: str) -> int:
    return [e["name"] for e in results["evaluators"]].index(title.partition(":")[0])


def _table(results: dict[str, Any], metrics: Metrics, privacy: bool, apart: set[str]) -> Table:
    """One metric; what is no part of the mean stands after it."""
    codes = sorted({m["language"] for m in metrics} - {MEAN})
    columns = [c for c in codes if c not in apart and "(" not in c]
    columns += [MEAN] if any(m["language"] == MEAN for m in metrics) else []
    columns += [c for c in codes if c not in columns]
    heads = {(c,): (c, UNSEEN) if c.partition(" ")[0] in apart else (c,) for c in columns}
    keys = ("split", "attacker", "system") if privacy else ("split", "system")
    return _rows(results, metrics, keys, heads, ("language",))


def summary(results: dict[str, Any]) -> Table:
    """The mean of the seen languages, and what is no part of it, against all metrics: MUSA's Tables IV and V."""
    apart = unseen(results)
    private = tables.under_attack(results, measured(results, True))
    metrics = []
    for m in [*private, *measured(results, False)]:
        language = m["language"]
        held_out = language.partition(" ")[0] in apart
        if language == MEAN or held_out or "(" in language:
            metrics.append({**m, "languages": f"{language}, {UNSEEN}" if held_out else language})
    ordered = sorted(metrics, key=lambda m: tables.order(results)(m)[3:])
    heads = {}
    for m in ordered:
        place = tuple(m[k] for k in _TOLD)
        attacker = tables.level(m, "attacker")
        heads[place] = tuple(filter(None, (f"{m['evaluator']}: {tables.label(m)}", attacker)))
    return _rows(results, metrics, ("split", "languages", "system"), heads, _TOLD)


def _rows(
    results: dict[str, Any],
    metrics: Metrics,
    keys: tuple[str, ...],
    heads: dict[tuple[str, ...], tuple[str, ...]],
    column: tuple[str, ...],
) -> Table:
    """Spread metrics over rows of `keys` and the columns of `heads`."""
    systems = [s["name"] for s in results["systems"]]
    bound = {s["name"] for s in results["systems"] if s["lower_bound"]}
    attackers = list(tables.ATTACKERS)

    def place(m: dict[str, Any]) -> tuple:
        attacker = attackers.index(m["attacker"]) if m["attacker"] in attackers else -1
        last = m.get("languages", MEAN) != MEAN
        between = attacker if "attacker" in keys else 0
        return m["split"], between, last, m.get("languages", ""), systems.index(m["system"])

    lines: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, Any]]] = {}
    for m in sorted(metrics, key=place):
        label = tuple(tables.level(m, "attacker") if k == "attacker" else m[k] for k in keys)
        lines.setdefault(label, {})[tuple(m[k] for k in column)] = m
    rows = [
        Row(
            label,
            [tables.show(found[c]) if c in found else NONE for c in heads],
            [tables.share(found[c]) if c in found else None for c in heads],
            next(iter(found.values()))["system"] in bound,
        )
        for label, found in lines.items()
    ]
    return Table(keys, list(heads.values()), rows)


def remarks(results: dict[str, Any]) -> list[str]:
    """What is seen and what is not, where anything is unseen."""
    apart = sorted(unseen(results))
    if not apart:
        return []
    seen = sorted({code for s in results["sets"] if s["role"] == "train" for code in s["languages"]})
    return [
        f"Seen: {' '.join(seen)}, the languages of the sets that systems are trained on. Unseen: {' '.join(apart)}, in "
        "none of them. A system without training has seen none."
    ]

"""Published tables with the rows of this run set into them: plain tables from `results.json` alone.

A number of this run stands in a column only if it is the same metric of the same corpus and split, by the same kind
of attacker and for the same gender. That makes it comparable in kind; whether the data are the same, the counts say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import languages, provenance, reported, tables
from .reported import Facts, Line, Source
from .tables import Metrics, Row, Table

OTHER_DATA = (
    "its data are not those of the publication (see the counts), so a difference between a published row and one of "
    "this run does not mean that systems differ"
)
SAME_COUNTS = "it counted as much as the publication; models and software are our own"
ONLY_PUBLISHED = "This run measured none of it: published numbers only."
_GROUPS = {"f": "female", "m": "male", "avg": "mean", "all": "pooled"}
_SAID = ("metric", "attacker", "model", "set", "language", "split", "group")  # order of labels


@dataclass(frozen=True)
class Comparison:
    """A published table with what to know about it; `counts`: what its numbers and this run's are counts of."""

    name: str
    title: str
    remarks: list[str]
    table: Table
    counts: Table


def compare(results: dict[str, Any]) -> list[Comparison]:
    """Every published table that the recipe names, with this run's rows below those that they reproduce."""
    found = reported.from_plain(results.get("reported", []))
    return [_compare(results, name, source) for name, source in found.items()]


def _compare(results: dict[str, Any], name: str, source: Source) -> Comparison:
    labels = [f for f in _SAID if any(_word(f, row) for row in source.rows)]
    if "set" in labels:  # a set has one split and one gender
        labels = [f for f in labels if f not in ("split", "group")]
    heads = _heads(source.columns)
    rows, counts = [], {}
    for line in source.rows:
        said = tuple(_word(f, line) for f in labels)
        published = [tables.NONE if text == reported.NONE else text for text in line.values]
        rows.append(Row((*said, line.system, "published"), published))
        for evaluators, cells in _own(results, source, line):
            shown = [tables.NONE if m is None else tables.show(m) for m in cells]
            keys = (*said, source.ours[line.system], f"this run: {evaluators}")
            rows.append(Row(keys, shown, lower_bound=line.system == source.original))
            for head, column, m in zip(heads, source.columns, cells, strict=True):
                if m is not None:
                    what = ", ".join([*filter(None, head), *said])
                    facts = reported.facts(source, line, column)
                    own = _Counted((_measured(results, m)["corpus"],), m["n"])
                    counts.setdefault(
                        (what, m["evaluator"], m["set"]), (_Counted(facts.corpus, facts.n), own)
                    )
    table = Table((*labels, "system", "source"), heads, rows)
    remarks = _remarks(results, source, list(counts.values()))
    return Comparison(name, source.title, remarks, table, _counts(counts))


@dataclass(frozen=True)
class _Counted:
    """What a number was measured on."""

    corpus: tuple[str, ...]
    n: dict[str, int]

    def __str__(self) -> str:
        return f"{' and '.join(self.corpus)}: {tables.counted(self.n) or 'counts not published'}"

    def same(self, own: _Counted) -> bool:
        """Whether `own` counted the same, as far as this says."""
        return self.corpus == own.corpus and bool(self.n) and self.n.items() <= own.n.items()


def _counts(counts: dict[tuple[str, str, str], tuple[_Counted, _Counted]]) -> Table:
    rows = [Row(place, [str(published), str(own)]) for place, (published, own) in counts.items()]
    return Table(("number", "evaluator", "set"), [("published on",), ("this run on",)], rows, numeric=False)


def _remarks(
    results: dict[str, Any], source: Source, counts: Sequence[tuple[_Counted, _Counted]]
) -> list[str]:
    """Where the published numbers come from, and how far this run's can be held against them."""
    out = [f"Published: {source.origin}.", source.about]
    if counts:
        same = all(published.same(own) for published, own in counts)
        facts = dict(provenance.facts(results))
        how = SAME_COUNTS if same else OTHER_DATA
        out.append(f"This run: commit {facts['commit']}, seed {facts['seed']}; {how}.")
    else:
        out.append(ONLY_PUBLISHED)
    return out + [f"{row.system}: {row.notes}." for row in source.rows if row.notes]


def _own(
    results: dict[str, Any], source: Source, line: Line
) -> Iterator[tuple[str, list[dict[str, Any] | None]]]:
    """This run's rows for a published one: the names of the evaluators, and a metric or None for each column.

    Where a column was measured by several evaluators, or on several sets (which are named then), there are several.
    """
    system = source.ours.get(line.system)
    if system is None:
        return
    columns = [_matching(results, reported.facts(source, line, c), system) for c in source.columns]
    several = any(len({m["evaluator"] for m in found}) < len(found) for found in columns)
    for depth in range(max(map(len, columns), default=0)):
        cells = [found[depth] if depth < len(found) else None for found in columns]
        names = (
            f"{m['evaluator']} on {m['set']}" if several else m["evaluator"] for m in cells if m is not None
        )
        yield ", ".join(dict.fromkeys(names)), cells


def _matching(results: dict[str, Any], facts: Facts, system: str) -> Metrics:
    """The metrics of this run that are of the kind that `facts` says, by evaluator and set."""
    private = tables.kind(facts.metric).privacy
    one_group = facts.group if facts.group in ("f", "m", "all") else None
    groups = {one_group} if one_group else {"avg"} if private else {"avg", "all"}
    if facts.language == languages.MEAN:
        found = [
            m for m in languages.measured(results, private, one_group) if m["language"] == languages.MEAN
        ]
    else:
        found = tables.shown(results) if one_group else tables.headline(results, private)
    out = []
    for m in found:
        measured = _measured(results, m)
        corpora = {_set(results, name)["corpus"] for name in m["parts"] or [m["set"]]}
        alone = measured["languages"] if len(measured["languages"]) == 1 else []
        alone = [m.get("language"), *alone]
        if (
            (m["system"], m["name"]) == (system, facts.metric)
            and facts.split in ("", m["split"])
            and m["group"] in groups
            and _same_attack(facts, m)
            and corpora <= {*facts.corpus}
            and facts.set in ("", m["set"])
            and facts.language in ("", *alone)
            and not facts.model
        ):
            out.append(m)
    order = [e["name"] for e in results["evaluators"]]
    return sorted(out, key=lambda m: (order.index(m["evaluator"]), m["set"]))


def _measured(results: dict[str, Any], metric: dict[str, Any]) -> dict[str, Any]:
    """The set, or the first of the sets, that a metric is about."""
    return _set(results, (metric["parts"] or [metric["set"]])[0])


def _set(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in results["sets"] if s["name"] == name)


def _same_attack(facts: Facts, metric: dict[str, Any]) -> bool:
    """Whether the attacker of a metric did and knew what that of a published number did; utility knows no attacker."""
    attacker = "semi" if facts.attacker == "semi-informed" and facts.condition == "aa" else facts.condition
    return attacker in ("", metric["attacker"])


def _heads(columns: Sequence[Facts]) -> list[tuple[str, ...]]:
    """Headings: the metric, by whom, on what; a level that is empty throughout is left out."""
    levels = (_SAID[:1], _SAID[1:3], _SAID[3:])
    heads = [[", ".join(filter(None, (_word(f, c) for f in level))) for level in levels] for c in columns]
    used = [i for i in range(len(levels)) if any(head[i] for head in heads)]
    return [tuple(head[i] for i in used) for head in heads]


def _word(name: str, facts: Facts) -> str:
    """What a column or a row says, as a heading or a label."""
    said = getattr(facts, name)
    if name == "metric" and said:
        return tables.label({"name": said, "unit": reported.UNITS[said]})
    if name == "attacker" and facts.condition == "oo":
        return said or "original speech"
    return _GROUPS.get(said, said) if name == "group" else said

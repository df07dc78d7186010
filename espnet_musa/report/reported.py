"""Published numbers: `conf/reported.yaml`, typed and checked, digit for digit as printed.

A table is kept in the form of its source, so that the two can be laid side by side; `numbers` spreads it into single
values that know everything about themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import config
from ..config import ROOT, Lines
from ..errors import Problems, UserError, suggest

PATH = ROOT / "conf" / "reported.yaml"
NONE = "-"  # a cell without a number
CONDITIONS = {"ignorant": "oa", "lazy-informed": "aa", "semi-informed": "aa"}  # of each attacker
UNITS = {
    "eer": "%", "cllr": "bit", "cllr_min": "bit", "dsys": "", "zebra_population": "bit",
    "zebra_individual": "", "wer": "%", "cer": "%", "uar": "%", "recall_ang": "%", "recall_hap": "%",
    "recall_neu": "%", "recall_sad": "%", "pitch_correlation": "", "gvd": "dB", "utmos": "",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a row or a column says about its numbers; together they say it all."""

    metric: str = ""  # a key of UNITS
    attacker: str = ""  # ignorant | lazy-informed | semi-informed, "" where there is none
    condition: str = ""  # oo | oa | aa; follows from the attacker where there is one
    set: str = ""  # the organisers' name, where the number is of one set
    split: str = ""  # dev | test
    language: str = ""  # as in utt2lang, or "mean" of several
    group: str = ""  # f, m, avg (mean of the two), all (pooled)
    model: str = ""  # by which model or reading, where a source has several
    corpus: tuple[str, ...] | None = None  # as in meta.yaml; None: the table's
    n: dict[str, int] = field(default_factory=dict)  # counts behind the number


@dataclass(frozen=True, kw_only=True)
class Line(Facts):
    """A row of a table."""

    system: str
    values: tuple[str, ...]  # one for each column
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published table."""

    title: str
    origin: str  # where it is printed
    about: str  # what to know before comparing
    columns: tuple[Facts, ...]
    rows: tuple[Line, ...]
    original: str = "original"  # its row of unprotected speech
    ours: dict[str, str] = field(default_factory=dict)  # its system -> the same system here
    corpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Number:
    """One published value."""

    table: str
    origin: str
    system: str
    facts: Facts  # of row and column together, with its corpus and condition
    text: str  # as printed
    value: float
    unit: str
    notes: str = ""


def load(path: Path = PATH) -> dict[str, Source]:
    """All published tables by name.

    Raises:
        UserError: for an unknown key, metric, attacker or condition, a row with more or fewer values than columns, a
            value that is no number, a fact said twice, or the same number twice.
    """
    data, lines = config.load_yaml(path)
    problems, tables = Problems(), {}
    for name, values in data.items():
        if not isinstance(values, dict):
            raise UserError(f"'{name}' is no table", path=path, line=lines[(name,)], expected="a mapping")
        tables[name] = source = _source(name, values, path, lines)
        _check(name, source, path, lines, problems)
    problems.raise_if_any()
    return tables


def _source(name: str, values: dict[str, Any], path: Path, lines: Lines) -> Source:
    """One table; its columns and rows are dataclasses of their own."""
    parts: dict[str, Any] = {}
    for key, cls in (("columns", Facts), ("rows", Line)):
        items = values.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            where = lines.get((name, key))
            raise UserError(f"'{name}.{key}' is no list of mappings", path=path, line=where)
        parts[key] = tuple(
            config.from_dict(cls, item, path, lines, (name, key, str(i))) for i, item in enumerate(items)
        )
    rest = {key: value for key, value in values.items() if key not in parts}
    empty = config.from_dict(Source, {**rest, "columns": [], "rows": []}, path, lines, (name,))
    return dataclasses.replace(empty, **parts)


def _check(name: str, source: Source, path: Path, lines: Lines, problems: Problems) -> None:
    """What the types alone do not say."""
    for i, row in enumerate(source.rows):
        line = lines.get((name, "rows", str(i), "system"))
        if len(row.values) != len(source.columns):
            expected = f"{len(source.columns)} values"
            problems.add(f"'{row.system}' has {len(row.values)}", path=path, line=line, expected=expected)
            continue
        for column, text in zip(source.columns, row.values, strict=True):
            said_twice = [f for f in _NAMES if getattr(row, f) and getattr(column, f)]
            if said_twice:
                problems.add(f"row and column both say '{said_twice[0]}'", path=path, line=line)
            one = facts(source, row, column)
            for what, known in (
                ("metric", UNITS),
                ("attacker", ("", *CONDITIONS)),
                ("condition", _CONDITIONS),
            ):
                found = getattr(one, what)
                if found not in known:
                    problems.add(f"unknown {what} '{found}'{suggest(found, known)}", path=path, line=line)
            if text != NONE and not _is_number(text):
                problems.add(f"'{text}' is no number", path=path, line=line, expected=f"digits or {NONE}")
    names = {row.system for row in source.rows}
    for system in set(source.ours) - names:
        problems.add(
            f"'{name}' has no row '{system}'{suggest(system, names)}", path=path, line=lines[(name, "ours")]
        )
    seen = set()
    for row in source.rows:
        for column in source.columns:
            one = facts(source, row, column)
            key = (row.system, one.corpus, *(getattr(one, f) for f in _NAMES))
            if key in seen:
                problems.add(f"'{name}' has {row.system}, {one.metric} twice", path=path, line=lines[(name,)])
            seen.add(key)


_NAMES = tuple(f.name for f in dataclasses.fields(Facts) if f.name not in ("corpus", "n"))
_CONDITIONS = ("", "oo", "oa", "aa")


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal()


def facts(source: Source, row: Line, column: Facts) -> Facts:
    """What row and column say together; original speech meets every attacker unprotected."""
    said = {f: getattr(row, f) or getattr(column, f) for f in _NAMES}
    if said["attacker"]:
        said["condition"] = "oo" if row.system == source.original else CONDITIONS.get(said["attacker"], "")
    corpus = next((c for c in (row.corpus, column.corpus) if c is not None), source.corpus)
    return Facts(**said, corpus=corpus, n={**column.n, **row.n})


def numbers(tables: Mapping[str, Source]) -> list[Number]:
    """Every value of every table."""
    found = []
    for name, source in tables.items():
        for row in source.rows:
            for column, text in zip(source.columns, row.values, strict=True):
                if text != NONE:
                    one = facts(source, row, column)
                    unit = UNITS[one.metric]
                    found.append(
                        Number(name, source.origin, row.system, one, text, float(text), unit, row.notes)
                    )
    return found


def chosen(names: Iterable[str]) -> list[dict[str, Any]]:
    """The tables of these names as plain data, each with its `name`, for `results.json`.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    names = list(names)
    tables = load() if names else {}
    for name in names:
        if name not in tables:
            raise UserError(f"no published table '{name}'{suggest(name, tables)}", path=PATH)
    return [{"name": name, **_plain(config.to_dict(tables[name]))} for name in names]


def _plain(value: Any) -> Any:
    """As in the YAML: without what is empty, and the values of a row in one line."""
    if isinstance(value, dict):
        kept = {k: _plain(v) for k, v in value.items() if v not in ("", [], {}, None)}
        return kept | ({"values": " ".join(kept["values"])} if "values" in kept else {})
    return [_plain(v) for v in value] if isinstance(value, list) else value


def from_plain(data: Iterable[Mapping[str, Any]]) -> dict[str, Source]:
    """The inverse of `chosen`."""
    tables = {}
    for values in data:
        rest = {key: value for key, value in values.items() if key != "name"}
        tables[values["name"]] = _source(values["name"], rest, Path("results.json"), {})
    return tables

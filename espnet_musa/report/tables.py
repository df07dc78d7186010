"""The tables of the report as plain data, from `results.json` alone; Markdown, terminal and HTML only draw them.

A number is turned into text by `show` and nowhere else, so it reads the same wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..metrics.zebra import tag

Metrics = list[dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """How a metric is named and written."""

    label: str
    decimals: int
    privacy: bool = False  # measures privacy; else utility
    best: float | None = None  # value at which a bar is full: chance for an error rate
    meaning: str = ""  # how to read it, for the remarks
    suffix: Callable[[float], str] | None = None  # what follows the number


KINDS = {
    "eer": Kind("EER", 1, privacy=True, best=50.0),
    "pitch_correlation": Kind("pitch correlation", 2, best=1.0),
    "uar": Kind("UAR", 1, best=100.0),
    **{f"recall_{e}": Kind(f"recall {e}", 1, best=100.0) for e in ("ang", "hap", "neu", "sad")},
    "wer": Kind("WER", 1),
    "cer": Kind("CER", 1),
    "dnsmos_ovrl": Kind("overall", 2, best=5.0),
    "dnsmos_sig": Kind("signal", 2, best=5.0),
    "dnsmos_bak": Kind("background", 2, best=5.0),
    "utmos": Kind("UTMOS", 2, best=5.0),
    "dsys": Kind("D_sys", 3, privacy=True, meaning="linkability, 0 is unlinkable, 1 linked with certainty"),
    "cllr": Kind(
        "C_llr", 2, privacy=True, meaning="cost of the scores taken as evidence, 1 or more if worth nothing"
    ),
    "cllr_min": Kind(
        "C_llr min", 3, privacy=True, best=1.0, meaning="cost after calibration, 1 discloses nothing"
    ),
    "zebra_population": Kind(
        "ZEBRA population", 3, privacy=True, meaning="expected disclosure, 0 to 0.721 bit"
    ),
    "zebra_individual": Kind(
        "ZEBRA individual",
        2,
        privacy=True,
        suffix=lambda value: f" ({tag(value)})",
        meaning="strongest evidence in a trial as a power of ten, categories 0 (none) and A (weak) to F",
    ),
    "deid": Kind(
        "De-ID", 2, privacy=True, best=1.0, meaning="1 if no voice resembles its original, 0 if all do"
    ),
    "gvd": Kind("G_VD", 2, meaning="gain of voice distinctiveness, 0 dB if voices are told apart as before"),
}
ATTACKERS = {
    "oo": (
        "unprotected (OO)",
        "original enrolment, original trials: no anonymization, the same error for every attacker",
    ),
    "oa": (
        "ignorant (OA)",
        "original enrolment, anonymized trials: the attacker does not know that the trials are anonymized",
    ),
    "aa": (
        "lazy-informed (AA)",
        "anonymized enrolment, anonymized trials: the attacker anonymizes the enrolment with the same system, but "
        "recognizes speakers with a model trained on original speech",
    ),
    "semi": (
        "semi-informed (AA)",
        "anonymized enrolment, anonymized trials: the attacker anonymizes the enrolment with the same system, and "
        "recognizes speakers with a model trained on what that system makes of other speakers",
    ),
}
MORE_PRIVACY = (
    "The equal error rate (EER) is the attacker's error: higher means more privacy, 50 % is guessing, 0 % means that "
    "every speaker is recognized."
)
LOWER_BOUND = "original speech: lower bound of privacy, not anonymized"
BOUND = "lower bound"  # the same beside the system's name, once it has been said
FEW = "†"  # behind an error rate of so few speakers that no interval can be given
FEW_SPEAKERS = f"{FEW}: fewer than three speakers of a gender; the next one may change everything"
INTERVALS = "Square brackets hold 95 % confidence intervals (bootstrap over speakers)."
MEANS = (
    "Values are plain means of female and male where both were measured; (f) or (m) marks one measured alone."
)
NONE = "–"
ROWS = ("split", "set", "system")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    keys: tuple[str, ...]
    cells: list[str]
    shares: list[float | None] = field(default_factory=list)  # in [0, 1], length of a bar under a number
    lower_bound: bool = False
    bold: list[bool] = field(default_factory=list)  # cells that stand out


@dataclass(frozen=True)
class Table:
    """Row labels, columns and cells, all of it text.

    Attributes:
        keys: (K,) headings of the row labels.
        columns: (C,) headings, each of one or more levels.
        rows: of K labels and C cells.
        numeric: whether the cells are numbers (aligned to the right).
    """

    keys: tuple[str, ...]
    columns: list[tuple[str, ...]]
    rows: list[Row]
    numeric: bool = True


def kind(name: str) -> Kind:
    """How to write a metric; one that is not known here keeps its name and gets two decimals."""
    return KINDS.get(name, Kind(name.replace("_", " "), 2))


def show(metric: dict[str, Any]) -> str:
    """A measured value as text: `12.3`, or `12.3 [10.1, 14.2]` with its interval."""
    digits = kind(metric["name"]).decimals
    value, low, high = (
        None if metric[k] is None else f"{round(metric[k], digits) + 0.0:.{digits}f}"
        for k in ("value", "low", "high")
    )  # + 0.0 turns -0.0 into 0.0
    suffix = kind(metric["name"]).suffix
    value += suffix(metric["value"]) if suffix else ""
    value += f" {FEW}" if metric.get("few") else ""
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def duration(hours: float) -> str:
    """Hours as `1:02:05`: readable for ten seconds and for a thousand hours."""
    seconds = round(hours * 3600)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def counted(n: dict[str, int]) -> str:
    """Counts as text: `11,196 nontarget, 548 target`."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in sorted(n.items()))


def label(metric: dict[str, Any]) -> str:
    """`EER %`, `pitch correlation`."""
    return f"{kind(metric['name']).label} {metric['unit']}".strip()


def shown(results: dict[str, Any]) -> Metrics:
    """All metrics, each with its `attacker` (a key of `ATTACKERS`, or "") and whether its speakers are too `few`.

    All but repetitions: unprotected speech is the same for every system, so its row has it alone.
    """
    bound = {s["name"] for s in results["systems"] if s["lower_bound"]}
    semi = {e["name"] for e in results["evaluators"] if e.get("attacker") == "semi"}
    eers = [m for m in results["metrics"] if m["name"] == "eer"]
    few = {(m["evaluator"], m["set"], m["group"]) for m in eers if m["n"].get("speakers", 3) < 3}
    few |= {  # the mean of two genders is as uncertain as either
        (m["evaluator"], m["set"], "avg")
        for m in eers
        if any((m["evaluator"], part, g) in few for part in m["parts"] or [m["set"]] for g in "fm")
    }
    return [
        {
            **m,
            "attacker": "semi" if m["condition"] == "aa" and m["evaluator"] in semi else m["condition"],
            "few": m["name"] == "eer" and (m["evaluator"], m["set"], m["group"]) in few,
        }
        for m in results["metrics"]
        if m["condition"] != "oo" or not bound or m["system"] in bound
    ]


def per_set(results: dict[str, Any], privacy: bool) -> Metrics:
    """One metric for each system, evaluator, set and condition: mean of genders, else all, else what there is."""
    rank = {"avg": 0, "all": 1}
    best: dict[tuple, dict[str, Any]] = {}
    for m in sorted(shown(results), key=order(results)):
        key = tuple(m[k] for k in ("system", "evaluator", "name", "set", "condition"))
        if kind(m["name"]).privacy != privacy or m["parts"]:
            continue
        if key not in best or rank.get(m["group"], 2) < rank.get(best[key]["group"], 2):
            best[key] = m
    return list(best.values())


def headline(results: dict[str, Any], privacy: bool) -> Metrics:
    """`per_set`, but sets that were averaged (`parts`) are represented by their mean."""
    means = [m for m in shown(results) if m["parts"] and kind(m["name"]).privacy == privacy]
    averaged = {(m["evaluator"], m["name"], part) for m in means for part in m["parts"]}
    rest = per_set(results, privacy)
    return means + [m for m in rest if (m["evaluator"], m["name"], m["set"]) not in averaged]


def order(results: dict[str, Any]) -> Callable[[dict[str, Any]], tuple]:
    """Sort key of rows and columns: as the recipe lists systems and evaluators."""
    systems = [s["name"] for s in results["systems"]]
    evaluators = [e["name"] for e in results["evaluators"]]
    kinds = list(KINDS)
    groups = ("avg", "all", "f", "m", "x")

    def key(m: dict[str, Any]) -> tuple:
        group = groups.index(m["group"]) if m["group"] in groups else len(groups)
        return (
            m["split"], m["set"], systems.index(m["system"]), evaluators.index(m["evaluator"]),
            kinds.index(m["name"]) if m["name"] in kinds else len(kinds), m["name"],
            list(ATTACKERS).index(m["attacker"]) if m["attacker"] in ATTACKERS else -1, group,
        )  # fmt: skip

    return key


def pivot(
    results: dict[str, Any],
    metrics: Metrics,
    rows: Iterable[str],
    columns: Iterable[str],
    *,
    alone: bool = True,
) -> Table:
    """Spread metrics over a table; cells that nobody measured hold a dash.

    Args:
        results: gives the order and the lower bound.
        metrics: at most one for each row and column.
        rows: fields that label a row; `set` is left out where every split has one set only.
        columns: fields that label a column, joined by level; a level that is empty throughout is left out.
        alone: mark a value of one gender.
    """
    by_row = order(results)
    metrics = sorted(metrics, key=by_row)
    if len({m["set"] for m in metrics}) == len({m["split"] for m in metrics}):
        rows = [k for k in rows if k != "set"]
    columns = [c for c in columns if any(_joined(m, c) for m in metrics)]
    bound = {s["name"] for s in results["systems"] if s["lower_bound"]}
    by_column = sorted(metrics, key=lambda m: by_row(m)[3:])
    heads = list(dict.fromkeys(tuple(_joined(m, c) for c in columns) for m in by_column))
    lines: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, Any]]] = {}
    for m in metrics:
        lines.setdefault(tuple(level(m, k) for k in rows), {})[tuple(_joined(m, c) for c in columns)] = m
    out = []
    for keys, found in lines.items():
        cells, shares, bold = [], [], []
        for head in heads:
            m = found.get(head)
            single = f" ({m['group']})" if m and alone and m["group"] in ("f", "m") else ""
            cells.append(NONE if m is None else show(m) + single)
            shares.append(None if m is None else share(m))
            bold.append(bool(m and m.get("bold")))
        out.append(Row(keys, cells, shares, next(iter(found.values()))["system"] in bound, bold))
    return Table(tuple(rows), heads, out)


def share(metric: dict[str, Any]) -> float | None:
    best = kind(metric["name"]).best
    return None if best is None else min(1.0, max(0.0, metric["value"] / best))


def _joined(metric: dict[str, Any], names: Iterable[str]) -> str:
    return ": ".join(text for text in (level(metric, name) for name in names) if text)


def level(metric: dict[str, Any], name: str) -> str:
    """Text of a row label or of a heading's level."""
    if name == "attacker":
        return ATTACKERS[metric["attacker"]][0] if metric["attacker"] in ATTACKERS else metric["attacker"]
    if name == "group":
        return {"f": "female", "m": "male", "all": "pooled", "avg": "mean", "x": "cross"}.get(
            metric["group"], ""
        )
    return label(metric) if name == "name" else metric[name]


def privacy(results: dict[str, Any]) -> Table:
    """Systems against evaluators and attackers."""
    found = under_attack(results, headline(results, True))
    return pivot(results, found, ROWS, (("evaluator", "name"), ("attacker",)))


def under_attack(results: dict[str, Any], found: Metrics) -> Metrics:
    """Metrics of privacy by attacker: original speech is what a system that changes nothing makes, so its one error
    stands under every attacker."""
    attacks = {e: [c for c in ("oa", "aa") if _has(found, e, c)] for e in {m["evaluator"] for m in found}}
    repeated = [
        {**m, "attacker": c}
        for m in found
        for c in (attacks[m["evaluator"]] if m["attacker"] == "oo" else [])
        if not _has(found, m["evaluator"], c, m["system"])
    ]
    return repeated + [m for m in found if m["attacker"] != "oo" or not attacks[m["evaluator"]]]


def _has(metrics: Metrics, evaluator: str, attacker: str, system: str | None = None) -> bool:
    """Whether an evaluator measured an attacker (against a system)."""
    return any(
        (m["evaluator"], m["attacker"]) == (evaluator, attacker) and system in (None, m["system"])
        for m in metrics
    )


def privacy_lines(results: dict[str, Any]) -> Table:
    """The privacy table with a line for each attacker: narrow enough for a terminal."""
    return pivot(results, headline(results, True), (*ROWS, "attacker"), (("evaluator",), ("name",)))


def utility(results: dict[str, Any]) -> Table:
    """Systems against what they keep of the speech."""
    return pivot(results, headline(results, False), ROWS, (("evaluator",), ("name",)))


def genders(results: dict[str, Any], privacy: bool) -> Table:
    """Every metric of a single gender; sets that were averaged share their rows."""
    of_kind = [m for m in shown(results) if kind(m["name"]).privacy == privacy]
    whole = {(m["evaluator"], m["name"], part): m["set"] for m in of_kind for part in m["parts"]}
    found = [
        {**m, "set": whole.get((m["evaluator"], m["name"], m["set"]), m["set"])}
        for m in of_kind
        if m["group"] in ("f", "m")
    ]
    rows = (*ROWS, "attacker") if privacy else ROWS
    return pivot(results, found, rows, (("evaluator", "name"), ("group",)), alone=False)


def everything(results: dict[str, Any]) -> Table:
    """Every measurement with its counts and notes."""
    keys = ("set", "system", "evaluator", "attacker", "name", "group")
    rows = []
    for m in sorted(shown(results), key=order(results)):
        rows.append(Row(tuple(level(m, k) for k in keys), [show(m), counted(m["n"]), m["notes"]]))
    heads = ("set", "system", "evaluator", "attacker", "metric", "group")
    return Table(heads, [("value",), ("counted",), ("notes",)], rows, numeric=False)


def data(results: dict[str, Any]) -> Table:
    """The sets."""
    heads = ("corpus", "role", "split", "speakers (f / m)", "utterances", "h:mm:ss", "languages")
    rows = [
        Row(
            (s["name"],),
            [
                s["corpus"], s["role"], s["split"], f"{s['speakers']} ({s['female']} / {s['male']})",
                str(s["utterances"]), duration(s["hours"]), " ".join(s["languages"]) or NONE,
            ],
        )
        for s in results["sets"]
    ]  # fmt: skip
    return Table(("set",), [(h,) for h in heads], rows, numeric=False)


def systems(results: dict[str, Any]) -> Table:
    """The systems."""
    rows = [
        Row((s["name"],), [s["description"], s["reference"], s["config_hash"]], lower_bound=s["lower_bound"])
        for s in results["systems"]
    ]
    return Table(("system",), [("what it does",), ("reference",), ("configuration",)], rows, numeric=False)


def evaluators(results: dict[str, Any]) -> Table:
    """The evaluators."""
    heads, rows = [("what it measures",)], [[e["description"]] for e in results["evaluators"]]
    if any(e.get("train") for e in results["evaluators"]):
        heads.append(("trained with (configuration)",))
        for e, row in zip(results["evaluators"], rows, strict=True):
            row.append(f"{e['train']} ({e['train_hash']})" if e["train"] else NONE)
    names = [(e["name"],) for e in results["evaluators"]]
    return Table(("evaluator",), heads, list(map(Row, names, rows)), numeric=False)


def attackers(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and explanation of every attacker in the tables."""
    found = {m["attacker"] for m in shown(results)}
    return [text for attacker, text in ATTACKERS.items() if attacker in found]


def remarks(results: dict[str, Any]) -> list[str]:
    """What a reader of the numbers must know: explanations that apply, then the notes of the metrics."""
    found = shown(results)
    out = [f"{s['name']} is the {LOWER_BOUND}." for s in results["systems"] if s["lower_bound"]]
    out += [MEANS] if any(m["group"] == "avg" for m in found) else []
    if any(m["low"] is not None for m in found):
        out.append(INTERVALS)
    if any(m["few"] for m in found):
        out.append(FEW_SPEAKERS + ".")
    kinds = [kind(name) for name in KINDS if any(m["name"] == name for m in found)]
    out += [f"{one.label}: {one.meaning}." for one in kinds if one.meaning]
    notes = dict.fromkeys((m["evaluator"], m["notes"]) for m in found if m["notes"])
    return out + [f"{evaluator}: {note}." for evaluator, note in notes]

"""`report.html`: one file without scripts or external requests, for a browser, a phone or a printer."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from . import comparison, identity, languages, provenance, summary, sweep, tables
from .tables import Row, Table

POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"  # nothing leaves the page
)
NAMES = {
    "gender": {"f": "female", "m": "male"},
    "emotion": {
        "ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad", "bor": "bored", "dis": "disgusted",
        "fea": "afraid",
    },
}  # fmt: skip
CSS = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5f6670; --line: #dfe3e8; --page: #fff; --panel: #f6f7f9;
  --accent: #0b6bcb; --bar: #0072b2; --bound: #fff6e0; --bound-line: #e6a817; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a2a9b3; --line: #343a42; --page: #14171a;
  --panel: #1d2126; --accent: #6cb4ff; --bar: #56b4e9; --bound: #2b2515; --bound-line: #b98a1b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1.25rem 4rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header { padding: 3rem 0 1rem; }
h1 { margin: 0; font-size: clamp(1.7rem, 4vw, 2.5rem); line-height: 1.15; letter-spacing: -0.02em; }
h2 { margin: 3.2rem 0 .6rem; font-size: 1.4rem; letter-spacing: -0.01em; }
h3 { margin: 2rem 0 .3rem; font-size: 1.05rem; }
p, ul, dl { max-width: 46rem; }
a { color: var(--accent); }
.lead, .soft, figcaption, caption { color: var(--soft); }
.lead { margin: .5rem 0 0; font-size: 1.05rem; max-width: none; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: .7rem 0; border-block: 1px solid var(--line); }
nav a { text-decoration: none; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { padding: .45rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom; white-space: nowrap; }
thead tr:not(:last-child) th:not(.key) { border-bottom: 0; padding-bottom: 0; }
tbody th { font-weight: 600; }
table.number { width: auto; }
.number td, .number th.value { text-align: right; white-space: nowrap; min-width: 9rem; }
.number th[scope=colgroup] { text-align: center; }
.bound > * { background: var(--bound); }
.bound th:first-child { box-shadow: inset 3px 0 var(--bound-line); }
.mark { display: block; font-weight: 400; font-size: .82rem; color: var(--soft); }
.range { color: var(--soft); font-size: .85em; }
.bar { display: block; height: 3px; width: 7rem; margin: .3rem 0 0 auto; border-radius: 2px; background: var(--line); }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--bar); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.4rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.plot { overflow-x: auto; } .plot img { min-width: min(34rem, 100%); }
figcaption { font-size: .9rem; padding-top: .4rem; max-width: 46rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
.cards figure { margin: 0; padding: .8rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 10px; max-width: 30rem; }
.cards figure { display: flex; flex-direction: column; }
.cards audio { width: 100%; height: 2.4rem; margin: auto 0 .6rem; padding-top: .4rem; box-sizing: content-box; }
.cards b { display: block; }
.cards .soft { font-size: .85rem; }
h3 .soft { font-weight: 400; }
.said { font-size: 1.05rem; margin: .1rem 0 .8rem; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
code { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .9em; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0 0; } dd { margin-bottom: .6rem; }
  dt { color: var(--soft); } th, td { padding: .4rem .45rem; }
  .number td, .number th.value { min-width: 0; } .plot img { min-width: 34rem; max-width: none; } }
@media print { nav, audio { display: none; } body { max-width: none; } details > * { display: block; } }
"""


@dataclass(frozen=True)
class Plot:
    """A figure of the page: file name, section (anchor in `_sections`), caption, description and bytes."""

    name: str
    section: str
    caption: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Version:
    """An example as one system made it: its picture and audio."""

    system: str
    alt: str
    png: bytes
    flac: bytes


@dataclass(frozen=True)
class Sample:
    """An utterance and its versions; `cut`: only the beginning is shown."""

    set: str
    utt: str
    facts: dict[str, str]
    text: str
    versions: list[Version]
    cut: bool


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as the value of an attribute."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _cell(text: str, share: float | None, bold: bool) -> str:
    value, bracket, interval = text.partition(" [")
    out = f"<strong>{escape(value)}</strong>" if bold else escape(value)
    out += f' <span class="range">[{escape(interval)}</span>' if bracket else ""
    if share is not None:
        out += f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'
    return f"<td>{out}</td>"


def _head(one: Table) -> str:
    """Heading rows; equal neighbours of an upper level become one cell."""
    levels = max((len(c) for c in one.columns), default=1)
    lines = []
    for level in range(levels):
        cells = (
            "".join(f'<th scope="col" class="key" rowspan="{levels}">{escape(k)}</th>' for k in one.keys)
            if not level
            else ""
        )
        at = 0
        while at < len(one.columns):
            prefix = one.columns[at][: level + 1]
            span = 1
            if level < levels - 1:
                while at + span < len(one.columns) and one.columns[at + span][: level + 1] == prefix:
                    span += 1
            wide = f' colspan="{span}"' if span > 1 else ""
            scope = "colgroup" if span > 1 else "col"
            cells += f'<th scope="{scope}" class="value"{wide}>{escape(prefix[-1])}</th>'
            at += span
        lines.append(f"<tr>{cells}</tr>")
    return "".join(lines)


def _row(one: Table, row: Row, before: tuple[str, ...]) -> str:
    mark = f'<span class="mark">{escape(tables.BOUND)}</span>'
    cells = ""
    for i, (heading, key) in enumerate(zip(one.keys, row.keys, strict=True)):
        again = row.keys[: i + 1] == before[: i + 1] and i + 1 < len(row.keys)
        shown = f'<span class="soft">{escape(key)}</span>' if again else escape(key)
        cells += f'<th scope="row">{shown}{mark if row.lower_bound and heading == "system" else ""}</th>'
    shares = row.shares or [None] * len(row.cells)
    bold = row.bold or [False] * len(row.cells)
    cells += "".join(map(_cell, row.cells, shares, bold))
    return f"<tr{' class=bound' if row.lower_bound else ''}>{cells}</tr>"


def table(one: Table, caption: str) -> str:
    """A table that scrolls by itself where the page is narrow."""
    before: tuple[str, ...] = ()
    rows = []
    for row in one.rows:
        rows.append(_row(one, row, before))
        before = row.keys
    kind = ' class="number"' if one.numeric else ""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead>{_head(one)}</thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _list(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>\n"


def _plots(plots: Sequence[Plot], section: str) -> str:
    return "".join(
        f'<figure><div class="plot"><img alt="{escape(p.alt)}" src="{data_uri("image/png", p.png)}"></div>'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>\n"
        for p in plots
        if p.section == section
    )


def _version(sample: Sample, one: Version, about: str) -> str:
    name = escape(one.system)
    return (
        f'<figure><b>{name}</b><span class="soft">{escape(about)}</span>'
        f'<audio controls preload="metadata" aria-label="{escape(sample.utt)}, {name}" '
        f'src="{data_uri("audio/flac", one.flac)}"></audio>'
        f'<img alt="{escape(one.alt)}" src="{data_uri("image/png", one.png)}"></figure>'
    )


def _sample(sample: Sample, about: dict[str, str]) -> str:
    facts = [NAMES.get(name, {}).get(value, value) for name, value in sample.facts.items()]
    where = " · ".join([*facts, f"set {sample.set}", *(["beginning only"] if sample.cut else [])])
    title = f'<p class="said">“{escape(sample.text)}”</p>' if sample.text else ""
    cards = "".join(
        _version(sample, one, about.get(one.system, "original speech")) for one in sample.versions
    )
    heading = f'<h3>{escape(sample.utt)} <span class="soft">{escape(where)}</span></h3>'
    return f'{heading}{title}<div class="cards">{cards}</div>\n'


def _published(one: comparison.Comparison) -> str:
    """A published table with this run's rows, what to know about it, and what was counted."""
    remarks = "".join(f"<li>{escape(r)}</li>" for r in one.remarks)
    out = f"<h3>{escape(one.title)}</h3>" + table(one.table, "Published, and this run")
    if one.counts.rows:
        counts = table(one.counts, "What the numbers were counted on")
        out += f"<details><summary>Counts</summary>{counts}</details>\n"
    return out + f'<ul class="soft">{remarks}</ul>\n'


def _identity(results: dict[str, Any], plots: Sequence[Plot]) -> str:
    """What the probe of codecs found."""
    found = identity.table(results)
    if not found.rows:
        return ""
    return (
        f"<p>{escape(identity.about(results))}</p>"
        + table(found, "Attackers' error by what is kept")
        + _plots(plots, "identity")
    )


def _languages(results: dict[str, Any]) -> str:
    """What each language has, where there are several."""
    found = languages.by_metric(results)
    if not found:
        return ""
    about = "".join(f"<p>{escape(text)}</p>" for text in (languages.ABOUT, *languages.remarks(results)))
    made = table(languages.summary(results), "Seen and unseen languages")
    return about + made + "".join(table(one, title) for title, one in found)


def _sweep(results: dict[str, Any], plots: Sequence[Plot]) -> str:
    """What mean reversion and noise on F0 do."""
    found, drawn = sweep.table(results), _plots(plots, "sweep")
    return (
        f"<p>{escape(sweep.ABOUT)}</p>" + table(found, "Measures by pull and noise") if found.rows else ""
    ) + drawn


def _sections(
    results: dict[str, Any], plots: Sequence[Plot], samples: Sequence[Sample]
) -> list[tuple[str, str, str]]:
    """Anchor, title and content of every section that has something to show."""
    shown = sweep.without(results)
    privacy, utility = tables.privacy(shown), tables.utility(shown)
    remarks = "".join(f"<li>{escape(r)}</li>" for r in tables.remarks(results))
    attackers = _list(tables.attackers(results))
    numbers, glance = "", summary.table(shown)
    if glance.rows:
        numbers += f"<p>{escape(summary.about(shown))}</p>" + table(glance, summary.TITLE)
    if privacy.rows:
        numbers += (
            f"<p>{escape(tables.MORE_PRIVACY)}</p>"
            + table(privacy, "Privacy: error of the attackers")
            + attackers
        )
    if utility.rows:
        numbers += table(utility, "Utility: what is kept of the speech")
    if remarks:
        numbers += f'<ul class="soft">{remarks}</ul>\n'
    about = {s["name"]: s["description"] for s in results["systems"]}
    listen = "".join(_sample(sample, about) for sample in samples)
    if listen:
        listen = (
            "<p>The same utterance, original and anonymized. Above: spectrogram; below: pitch, with that of the "
            "original in grey.</p>" + listen
        )
    details = table(tables.everything(results), "Every measurement with its counts")
    genders = [(tables.genders(shown, True), "Privacy of"), (tables.genders(shown, False), "Utility of")]
    more = "".join(table(one, f"{what} each gender") for one, what in genders if one.rows)
    more += f"<details><summary>All measurements</summary>{details}</details>\n"
    published = "".join(map(_published, comparison.compare(results)))
    systems = table(tables.systems(results), "Systems") + table(tables.evaluators(results), "Evaluators")
    origin = _list([*provenance.facts(results), ("command", provenance.command(results))])
    found = [
        ("results", "Results", numbers),
        ("listen", "Listen", listen),
        ("languages", languages.TITLE, _languages(results)),
        ("tradeoff", "Privacy and utility", _plots(plots, "tradeoff")),
        ("sweep", sweep.TITLE, _sweep(results, plots)),
        ("scores", "Scores", _plots(plots, "scores")),
        ("det", "Detection error trade-off", _plots(plots, "det")),
        ("similarity", "Voice similarity", _plots(plots, "similarity")),
        ("identity", identity.TITLE, _identity(results, plots)),
        ("published", "Beside published numbers", published),
        ("details", "Details", more),
        ("data", "Data", table(tables.data(results), "Sets of this recipe")),
        ("systems", "Systems and evaluators", systems),
        ("provenance", "Provenance", origin),
    ]
    return [section for section in found if section[2]]


def page(results: dict[str, Any], plots: Sequence[Plot] = (), samples: Sequence[Sample] = ()) -> str:
    """The page: a pure function of its arguments.

    Args:
        results: as `results.json`.
        plots: figures, in order.
        samples: utterances to listen to.
    """
    title = f"Speaker anonymization: {results['recipe']}"
    sections = _sections(results, plots, samples)
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(name)}</h2>\n{content}</section>\n'
        for anchor, name, content in sections
    )
    count = sum(not s["lower_bound"] for s in results["systems"])
    lead = (
        f"{count} {'system' if count == 1 else 'systems'}, {len(results['evaluators'])} evaluators, "
        f"{len(results['sets'])} sets. Generated by espnet_musa at commit {results['commit']}."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>\n'
        f'<nav aria-label="Sections">{links}</nav>\n<main>\n{body}</main>\n</body>\n</html>\n'
    )

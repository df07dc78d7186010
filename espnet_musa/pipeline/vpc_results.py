"""Results in the form of the VoicePrivacy Challenge 2024, from the scores of stage 8, as far as there are any.

| file | what |
|---|---|
| `results_summary/eval_orig<suffix>/results_orig.txt` | UAR, EER of original speech (OO), WER |
| `results_summary/eval_anon<suffix>/results_anon.txt` | EER of the semi-informed attacker (AA), the ranking metric |
| `results_summary/result_for_rank<suffix>` | both |
| `asv_orig/results<suffix>.csv`, `asv_anon<suffix>/results<suffix>.csv` | EER: OO, OA and AA |
| `asv_*/<enrolment>-<trials>/{scores,EER}` | scores, and the EER as a fraction |
| `asr/results<suffix>.csv`, `asr/<set>/{text,wer}` | WER of each split; what was recognized |
| `ser/results<suffix>.csv` | UAR and the recall of each emotion |

The organisers' tables are printed data frames; these have their columns and layout, but no line with the time, so that
the same scores give the same bytes. Where a recipe has several evaluators of a kind, one stands for the challenge's:
the first that is semi-informed; of the others the first with a trained attacker, else the first (`config.yaml` names
them).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from .. import config, stamp
from ..config import EvaluatorConfig, Recipe
from ..data.table import write_text
from ..errors import Problems
from ..evaluators.base import Metric

SIDES = {"o": "original", "a": "anon"}
Rows = list[list[str | float]]
Fingerprints = dict[str, list[str | None]]  # set -> of the original, of its anonymized copy


@dataclass(frozen=True)
class Scored:
    """What one evaluator measured of one system; `place` holds the files, `digest` tells versions apart."""

    name: str
    settings: EvaluatorConfig
    metrics: list[Metric]
    place: Path
    digest: str

    def has(self, name: str) -> bool:
        """Whether it measured `name`."""
        return any(metric.name == name for metric in self.metrics)


@dataclass(frozen=True)
class Results:
    """The evaluators that stand for the challenge's; None: not measured. `*_original`: of original speech."""

    asv_orig: Scored | None
    asv_anon: Scored | None
    asr: Scored | None
    asr_original: Scored | None
    ser: Scored | None
    ser_original: Scored | None

    @property
    def found(self) -> dict[str, Scored]:
        """Those that there are, by role."""
        return {role: scored for role, scored in vars(self).items() if scored is not None}


def read_results(recipe: Recipe, root: Path, system: str, inputs: Fingerprints) -> Results:
    """The scores of a system and of the original speech.

    Args:
        recipe: names the evaluators.
        root: the recipe's directory.
        system: an anonymizing system.
        inputs: fingerprints of today's sets.

    Raises:
        UserError: if scores are there that were made from other sets.
    """
    problems = Problems()
    made = _read(recipe, root, system, inputs, problems)
    lower = next((s for s in recipe.systems if config.load_system(recipe, s, root).lower_bound), None)
    originals = {name: [original, None] for name, (original, _) in inputs.items()}
    before = [] if lower is None else _read(recipe, root, lower, originals, problems)
    problems.raise_if_any()
    attackers = [s for s in made if s.has("eer")]
    informed = [s for s in attackers if s.settings.semi]
    others = sorted((s for s in attackers if not s.settings.semi), key=lambda s: s.settings.train is None)
    asr, ser = (next((s for s in made if s.has(name)), None) for name in ("wer", "uar"))
    asr_original, ser_original = (
        next((b for b in before if s is not None and b.name == s.name), None) for s in (asr, ser)
    )
    first = next(iter(others), None)
    return Results(first, next(iter(informed), None), asr, asr_original, ser, ser_original)


def _read(recipe: Recipe, root: Path, system: str, inputs: Fingerprints, problems: Problems) -> list[Scored]:
    out = []
    for name in recipe.evaluators:
        place = root / "exp" / system / "score" / name
        made = stamp.read(place)
        if made is None:
            continue
        if made["fields"]["inputs"] != inputs:
            problems.add(
                "was scored on other versions of the sets", path=place,
                hint=f"./run.sh --stage score --systems {system} --force true",
            )  # fmt: skip
        metrics = [Metric.from_dict(m) for m in stamp.read_json(place / "metrics.json")["metrics"]]
        settings = config.load_evaluator(recipe, name, root)
        out.append(Scored(name, settings, metrics, place, config.digest(made["fields"])))
    return out


def write_results(out: Path, results: Results, enroll_of: dict[str, str], suffix: str, notes: dict) -> None:
    """Write all files below `out`, the challenge's `exp/`.

    Args:
        out: directory to hold them.
        results: the scores.
        enroll_of: trial set -> enrolment set.
        suffix: of the anonymized sets.
        notes: plain data to put into `config.yaml` beside the evaluators.
    """
    asv_header = ["dataset", "split", "gender", "enrollment", "trial", "EER"]
    asr, ser = asr_rows(results.asr_original, results.asr), ser_rows(results.ser_original, results.ser)
    pre, post = [], []
    if ser:
        emotions = list(ser[1])
        header = ["dataset", "split", "ser", "UAR", *(f"ACC_{e}" for e in emotions)]
        second = ["", "", "", *["mean"] * (1 + len(emotions))]
        pre.append("---- SER results ----\n" + frame(header, ser[0], second))
        write_csv(out / "ser" / f"results{suffix}.csv", header, ser[0], second)
    for role, place, title, kept, texts in (
        ("asv_orig", "asv_orig", "ASV_eval", "oo", pre),
        ("asv_anon", f"asv_anon{suffix}", "ASV_eval^anon", "aa", post),
    ):
        scored = results.found.get(role)
        rows = {c: asv_rows(scored, c) for c in ("oo", "oa", "aa")} if scored else {}
        if rows.get(kept):
            texts.append(f"---- {title} results ----\n" + frame(asv_header, rows[kept]))
        if scored:
            write_csv(
                out / place / f"results{suffix}.csv",
                asv_header,
                sorted(row for some in rows.values() for row in some),
            )
            _copy_scores(scored, enroll_of, suffix, out / place)
    if asr:
        pre.append("---- ASR results ----\n" + frame(["dataset", "split", "asr", "WER"], asr))
        write_csv(out / "asr" / f"results{suffix}.csv", ["dataset", "split", "asr", "WER"], asr)
        _copy_texts(results.asr, suffix, out / "asr")
    facts = notes | {
        role: {"name": s.name, **config.to_dict(s.settings)} for role, s in results.found.items()
    }
    summary = out / "results_summary"
    for name, blocks in (("orig", pre), ("anon", post)):
        place = summary / f"eval_{name}{suffix}"
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / f"results_{name}.txt", "".join(f"\n{block}\n" for block in blocks))
        write_text(place / "config.yaml", yaml.safe_dump(facts, sort_keys=False))
    ranked = [(summary / f"eval_{n}{suffix}" / f"results_{n}.txt").read_text() for n in ("orig", "anon")]
    write_text(summary / f"result_for_rank{suffix}", "\n".join(ranked))


def dataset(name: str, split: str) -> str:
    """The challenge's name for what a set belongs to: `libri_dev_trials_f` -> `libri`, `IEMOCAP_dev` -> `IEMOCAP`."""
    parts = [part for part in name.split("_") if part not in (split, "trials", "f", "m", "mixed")]
    return "_".join(parts) or name


def asv_rows(scored: Scored, condition: str) -> Rows:
    """Dataset, split, gender, enrolment, trial, EER in %; a set with trials across genders has one row, `mixed`."""
    found = [m for m in scored.metrics if m.name == "eer" and m.condition == condition]
    gendered = {m.set for m in found if m.group in ("f", "m")} - {
        m.set for m in found if m.n.get("cross_gender")
    }
    rows = [
        [
            dataset(m.set, m.split), m.split, m.group if m.group in ("f", "m") else "mixed",
            SIDES[condition[0]], SIDES[condition[1]], round(m.value, 3),
        ]
        for m in found
        if m.group in (("f", "m") if m.set in gendered else ("all",))
    ]  # fmt: skip
    return sorted(rows)


def asr_rows(original: Scored | None, anonymized: Scored | None) -> Rows:
    """Dataset, split, side, WER in %: pooled over the sets of a split, as the challenge joins its trial sets."""
    rows: Rows = []
    for side, scored in (("anon", anonymized), ("original", original)):
        pooled: dict[tuple[str, str], list[float]] = {}
        for m in scored.metrics if scored else []:
            if m.name == "wer" and m.group == "all":
                total = pooled.setdefault((dataset(m.set, m.split), m.split), [0.0, 0.0])
                total[0] += m.n["substitutions"] + m.n["deletions"] + m.n["insertions"]
                total[1] += m.n["words"]
        rows += [[*key, side, round(100 * errors / words, 3)] for key, (errors, words) in pooled.items()]
    return sorted(rows)


def ser_rows(original: Scored | None, anonymized: Scored | None) -> tuple[Rows, list[str]] | None:
    """Dataset, split, side, UAR and recalls in %, and the emotions of the recalls; None if nothing was measured."""
    rows: Rows = []
    emotions: list[str] = []
    for side, scored in (("anon", anonymized), ("original", original)):
        metrics = scored.metrics if scored else []
        names = [m.name.removeprefix("recall_") for m in metrics if m.name.startswith("recall_")]
        emotions = emotions or list(dict.fromkeys(names))
        for m in metrics:
            if m.name == "uar" and m.group == "all":
                recall = {r.name: r.value for r in metrics if r.set == m.set}
                values = [m.value, *(recall.get(f"recall_{e}", float("nan")) for e in emotions)]
                rows.append([dataset(m.set, m.split), m.split, side, *(round(v, 4) for v in values)])
    return (sorted(rows), emotions) if rows else None


def frame(header: Sequence[str], rows: Rows, second: Sequence[str] | None = None) -> str:
    """A table as a data frame prints itself: an index, right-aligned columns, as many decimals as a column needs."""
    columns = []
    for number, name in enumerate(header):
        cells = [f" {cell}" for cell in _decimals([row[number] for row in rows])]
        columns.append([name, *([] if second is None else [second[number]]), *cells])
    index = ["" for _ in range(1 if second is None else 2)] + [str(i) for i in range(len(rows))]
    width = max(map(len, index))
    lines = []
    for number, label in enumerate(index):
        cells = [column[number].rjust(max(map(len, column))) for column in columns]
        lines.append(" ".join([label.ljust(width), *cells]).rstrip())
    return "\n".join(lines)


def _decimals(values: list[str | float]) -> list[str]:
    """Numbers with the fewest decimals (at least one) that lose nothing; texts as they are."""
    if not all(isinstance(value, float) for value in values):
        return [str(value) for value in values]
    shortest = [f"{value:.4f}".rstrip("0") for value in values]
    digits = max(1, *(len(text.partition(".")[2]) for text in shortest))
    return [f"{value:.{digits}f}" for value in values]


def write_csv(path: Path, header: Sequence[str], rows: Rows, second: Sequence[str] | None = None) -> None:
    """A table as comma-separated values with an unnamed index."""
    lines = [",".join(["", *line]) for line in (header, second) if line is not None]
    lines += [",".join(map(str, [i, *row])) for i, row in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")


def _copy_scores(scored: Scored, enroll_of: dict[str, str], suffix: str, out: Path) -> None:
    """Score files and the EER as a fraction, one folder for each pair of sets."""
    for trial, enroll in enroll_of.items():
        for condition in ("oo", "oa", "aa"):
            file = scored.place / trial / condition / "scores"
            if not file.is_file():
                continue
            ends = {"o": "", "a": suffix}
            place = out / f"{enroll}{ends[condition[0]]}-{trial}{ends[condition[1]]}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place / "scores")
            values = {
                m.group: m.value / 100
                for m in scored.metrics
                if (m.name, m.set, m.condition) == ("eer", trial, condition)
            }
            pooled = values.get("all", next(iter(values.values()), None))
            if pooled is not None:
                write_text(place / "EER", f"{pooled}\n")


def _copy_texts(scored: Scored, suffix: str, out: Path) -> None:
    """What was recognized in the anonymized sets."""
    for place in sorted(p for p in scored.place.iterdir() if (p / "text").is_file()):
        target = out / f"{place.name}{suffix}"
        target.mkdir(parents=True, exist_ok=True)
        for name in ("text", "wer"):
            shutil.copyfile(place / name, target / name)

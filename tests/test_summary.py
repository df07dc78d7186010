"""The table 'At a glance': each number at its place, and in bold what beats the baseline, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import report_tree

from espnet_musa.config import Recipe, ReportConfig, SummaryConfig
from espnet_musa.errors import UserError
from espnet_musa.report import html, markdown, summary
from espnet_musa.report.build import build
from espnet_musa.report.results import collect

SETS = (
    ("a_trials", "a", "trial"), ("a_emotions", "a", "utility"), ("b_f", "b", "trial"), ("b_m", "b", "trial"),
)  # fmt: skip
ATTACKED = {"orig": {"oo": 2.0}, "base": {"oa": 40.0, "aa": 30.0}, "ours": {"oa": 61.0, "aa": 30.04}}
UTILITY = {  # pitch correlation, UAR, WER
    "orig": (None, 80.0, 50.0), "base": (0.5, 40.0, 70.04), "ours": (0.504, 50.0, 69.9),
}  # fmt: skip


def metric(system, evaluator, name, where, value, condition="", group="avg", parts=(), few=False):
    n = {"speakers": 2 if few else 9}
    return {
        "system": system, "evaluator": evaluator, "name": name, "value": value, "unit": "", "set": where,
        "split": "test", "group": group, "condition": condition, "n": n, "low": value - 1, "high": value + 1,
        "notes": "", "parts": list(parts),
    }  # fmt: skip


def results(baseline="base", systems=("orig", "base", "ours"), **more):
    metrics = []
    for system in systems:
        pitch, uar, wer = UTILITY[system]
        metrics += [metric(system, "asv", "eer", "a_trials", v, c) for c, v in ATTACKED[system].items()]
        metrics += [metric(system, "ser", "uar", "a_emotions", uar)]
        metrics += [
            metric(system, "asr", "wer", "b_f", wer, group="f"),
            metric(system, "asr", "cer", "b_f", 9),
        ]
        metrics += [metric(system, "asr", "wer", "b_f + b_m", wer, group="all", parts=("b_f", "b_m"))]
        if pitch is not None:
            metrics += [metric(system, "pitch", "pitch_correlation", "a_trials", pitch)]
            metrics += [metric(system, "pitch", "pitch_correlation", "a_emotions", 0.9)]  # not of the trials
            metrics += [metric(system, "pitch", "pitch_correlation", "b_m", pitch + 0.1, group="m")]
    return {
        "systems": [{"name": name, "lower_bound": name == "orig"} for name in systems],
        "evaluators": [{"name": name} for name in ("asv", "ser", "asr", "pitch")],
        "sets": [{"name": name, "corpus": corpus, "role": role} for name, corpus, role in SETS],
        "metrics": metrics, "baseline": baseline, **more,
    }  # fmt: skip


def column(table, system, corpus):
    (row,) = [row for row in table.rows if row.keys == ("test", corpus, system)]
    return dict(
        zip((" ".join(head) for head in table.columns), zip(row.cells, row.bold, strict=True), strict=True)
    )


def test_a_row_for_each_corpus_and_system():
    table = summary.table(results())
    assert table.keys == ("split", "corpus", "system")
    assert [row.keys[1:] for row in table.rows] == [(c, s) for c in "ab" for s in ("orig", "base", "ours")]
    assert [row.lower_bound for row in table.rows] == 2 * [True, False, False]
    assert table.columns == [
        ("asv: EER", "ignorant (OA)"), ("asv: EER", "lazy-informed (AA)"), ("ser: UAR", ""), ("asr: WER", ""),
        ("pitch: pitch correlation", ""),
    ]  # fmt: skip


def test_bold_is_what_beats_the_baseline_as_it_is_written():
    ours, base, orig = (column(summary.table(results()), s, "a") for s in ("ours", "base", "orig"))
    assert list(ours.values()) == [
        ("61.0", False),  # 11 points from guessing, the baseline 10
        ("30.0", False), ("50.0", True), ("–", False), ("0.50", False),
    ]  # fmt: skip
    assert [cell for cell, _ in orig.values()] == ["2.0", "2.0", "80.0", "–", "–"]
    assert not any(bold for cells in (base, orig) for _, bold in cells.values())
    assert column(summary.table(results()), "ours", "b")["asr: WER "] == ("69.9", True)  # less is better


def test_of_several_sets_the_mean():
    data = results()
    data["sets"] = [{**s, "role": "trial"} for s in data["sets"]]
    assert column(summary.table(data), "ours", "a")["pitch: pitch correlation "] == ("0.70", False)


def test_one_gender_and_few_speakers_are_marked():
    data = results()
    assert column(summary.table(data), "ours", "b")["pitch: pitch correlation "] == ("0.60 (m)", False)
    data["metrics"] += [metric("base", "asv", "eer", "b_f", 20.0, "oa", "f", few=True)]
    assert column(summary.table(data), "base", "b")["asv: EER ignorant (OA)"] == ("20.0 † (f)", False)


def test_no_baseline_no_table():
    assert not summary.table(results(baseline="")).rows
    old = results()
    del old["baseline"]  # results of before there was one
    assert not summary.table(old).rows


def test_a_run_without_the_baseline_has_no_bold():
    data = results(systems=("orig", "ours"))
    assert not any(bold for row in summary.table(data).rows for bold in row.bold)
    assert "Bold" in summary.about(results()) and "Bold" not in summary.about(data)


def test_a_recipe_asks_for_it(tmp_path):
    report = ReportConfig(examples=1, audio=1.0, summary=SummaryConfig(baseline="b2_mcadams"))
    recipe = Recipe("made", report_tree.SYSTEMS, ("asv_resemblyzer", "pitch"), {}, report=report)
    report_tree.make(tmp_path, recipe, splits=("test",))
    data, _ = build(recipe, tmp_path)
    assert data["baseline"] == "b2_mcadams"
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.index("## At a glance") < text.index("## Privacy")
    glance = text[: text.index("## Privacy")]
    assert "| test | dsp\\_f0 |" in glance and "**" not in glance.split("dsp\\_f0")[1]  # worse in everything
    recipe = dataclasses.replace(recipe, report=ReportConfig(summary=SummaryConfig(baseline="dsp_f0")))
    data = collect(recipe, tmp_path)
    glance = markdown.render(data).partition("## Privacy")[0]
    row = next(line for line in glance.splitlines() if line.startswith("| test | b2\\_mcadams"))
    assert row.count("**") == 6  # better in both errors and in pitch
    page = html.page(data)
    assert "At a glance" in page and page.count("<strong>") == 3
    shutil.rmtree(tmp_path / "exp" / "report")
    typo = dataclasses.replace(recipe, report=ReportConfig(summary=SummaryConfig(baseline="b2_mcadam")))
    with pytest.raises(UserError, match=r"no system named 'b2_mcadam'"):
        collect(typo, tmp_path)

"""Results by language, from made-up results alone: means in closed form, what is unseen, corpora that share one."""

from __future__ import annotations

from typing import Any

import pytest

from espnet_musa.report import languages, tables

SETS = {  # name -> corpus, role, languages
    "train": ("mls", "train", ["de", "nl"]),
    "de_f": ("mls", "trial", ["de"]),
    "nl_f": ("mls", "trial", ["nl"]),
    "cmn_f": ("aishell3", "trial", ["cmn"]),
    "berlin": ("emodb", "trial", ["de"]),
    "mixed": ("other", "utility", ["de", "en"]),
}


def metric(
    name: str, where: str, value: float, group: str = "avg", condition: str = "", half: float | None = None
) -> dict:
    limits = (None, None) if half is None else (value - half, value + half)
    system = "orig" if condition == "oo" else "b2"
    return {
        "system": system, "evaluator": "e", "name": name, "value": value, "unit": "%", "set": where, "split": "test",
        "group": group, "condition": condition, "n": {"speakers": 4}, "low": limits[0], "high": limits[1], "notes": "",
        "parts": [],
    }  # fmt: skip


def results(metrics: list[dict[str, Any]], sets: dict = SETS) -> dict[str, Any]:
    return {
        "systems": [{"name": "orig", "lower_bound": True}, {"name": "b2", "lower_bound": False}],
        "evaluators": [{"name": "e", "attacker": "original"}],
        "sets": [
            {"name": name, "corpus": corpus, "role": role, "split": "test", "languages": spoken}
            for name, (corpus, role, spoken) in sets.items()
        ],
        "metrics": metrics,
    }


def by_language(made: dict, privacy: bool) -> dict[str, dict]:
    return {m["language"]: m for m in languages.measured(made, privacy) if m["system"] == "b2"}


def test_means_and_intervals():
    found = [("de_f", 10.0, 3.0), ("nl_f", 20.0, 4.0), ("cmn_f", 60.0, 5.0)]
    made = results([metric("eer", s, v, condition="oa", half=h) for s, v, h in found])
    shown = by_language(made, True)
    assert list(shown) == ["cmn", "de", "nl", "mean"]
    mean = shown["mean"]
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx(
        (15.0, 12.5, 17.5)
    )  # 5 = |(3, 4)|, halved
    assert mean["parts"] == ["de_f", "nl_f"] and mean["n"] == {"speakers": 8}
    assert languages.unseen(made) == {"cmn", "en"}
    ((_, table),) = languages.by_metric(made)
    assert table.columns == [("de",), ("nl",), ("mean",), ("cmn", "unseen")]
    rows = {row.keys[1]: row.cells for row in languages.summary(made).rows}
    assert rows == {"mean": ["15.0 [12.5, 17.5]"], "cmn, unseen": ["60.0 [55.0, 65.0]"]}


def test_without_a_training_set_nothing_is_unseen():
    sets = {name: one for name, one in SETS.items() if one[1] != "train"}
    made = results([metric("eer", s, v, condition="oa") for s, v in (("de_f", 1.0), ("cmn_f", 3.0))], sets)
    assert languages.unseen(made) == set() and languages.remarks(made) == []
    assert by_language(made, True)["mean"]["value"] == 2.0


def test_original_speech_stands_under_every_attacker():
    metrics = [metric("eer", s, 1.0, condition="oo") for s in ("de_f", "nl_f")]
    metrics += [metric("eer", s, 30.0, condition=c) for s in ("de_f", "nl_f") for c in ("oa", "aa")]
    ((_, table),) = languages.by_metric(results(metrics))
    attackers = [tables.ATTACKERS[c][0] for c in ("oa", "aa")]
    assert [row.keys[1:] for row in table.rows] == [(a, s) for a in attackers for s in ("orig", "b2")]


def test_a_language_of_two_corpora():
    """The corpus with most languages stands for it; the other has a column beside the mean."""
    values = {"de_f": 10.0, "nl_f": 20.0, "berlin": 90.0}
    made = results([metric("utmos", s, v, group="avg") for s, v in values.items()])
    shown = by_language(made, False)
    assert {code: m["value"] for code, m in shown.items()} == {
        "de": 10.0, "nl": 20.0, "de (emodb)": 90.0, "mean": 15.0,
    }  # fmt: skip
    ((_, table),) = languages.by_metric(made)
    assert table.columns == [("de",), ("nl",), ("mean",), ("de (emodb)",)]
    assert [row.keys[1] for row in languages.summary(made).rows] == ["mean", "de (emodb)"]


def test_a_set_in_several_languages_counts_where_numbers_are_by_language():
    sets = {"mixed": ("other", "trial", ["de", "en"])}
    metrics = [metric("wer", "mixed", v, group=g) for v, g in ((9.0, "all"), (10.0, "de"), (20.0, "en"))]
    metrics += [metric("eer", "mixed", 5.0, condition="oa")]
    made = results(metrics, sets)
    assert {c: m["value"] for c, m in by_language(made, False).items()} == {
        "de": 10.0,
        "en": 20.0,
        "mean": 15.0,
    }
    assert languages.measured(made, True) == []


def test_one_language_is_no_table():
    made = results([metric("eer", "de_f", 3.0, condition="oa")])
    assert languages.by_metric(made) == [] and not languages.summary(made).rows


def test_corpora_of_one_language_each_are_not_compared():
    sets = {"libri": ("librispeech", "trial", ["en"]), "berlin": ("emodb", "trial", ["de"])}
    made = results([metric("eer", s, 3.0, condition="oa") for s in sets], sets)
    assert languages.by_metric(made) == []

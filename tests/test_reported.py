"""Published numbers: typed right, consistent with themselves and each other, and set beside our own fairly."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from espnet_musa import config
from espnet_musa.errors import UserError
from espnet_musa.metrics import text_norm, uar
from espnet_musa.report import comparison, html, markdown, reported, tables
from espnet_musa.report.reported import NONE, Number

TABLES = reported.load()
NUMBERS = reported.numbers(TABLES)


def select(table: str, system: str | None = None, **facts: object) -> list[Number]:
    """The numbers of a table that say all this."""
    return [
        n
        for n in NUMBERS
        if n.table == table and system in (None, n.system) and all(getattr(n.facts, k) == v for k, v in facts.items())
    ]  # fmt: skip


def one(table: str, system: str, **facts: object) -> Number:
    (found,) = select(table, system, **facts)
    return found


# Read again from the specifications, the paper and the slides, not copied from the file.
GOLDEN = [
    ("vpc2024", "original", {"metric": "eer", "split": "dev", "group": "f"}, "10.511"),
    ("vpc2024", "original", {"metric": "eer", "split": "test", "group": "m"}, "0.418"),
    ("vpc2024", "original", {"metric": "uar", "split": "test"}, "71.0618"),
    ("vpc2024", "B1", {"metric": "eer", "split": "test", "group": "f"}, "7.474"),
    ("vpc2024", "B2", {"metric": "eer", "split": "dev", "group": "m"}, "2.045"),
    ("vpc2024", "B2", {"metric": "wer", "split": "test"}, "9.954"),
    ("vpc2024", "B3", {"metric": "eer", "split": "test", "group": "avg"}, "27.322"),
    ("vpc2024", "B4", {"metric": "uar", "split": "test"}, "42.7800"),
    ("vpc2024", "B5", {"metric": "eer", "split": "dev", "group": "m"}, "32.918"),
    ("vpc2024", "B6", {"metric": "wer", "split": "dev"}, "9.693"),
    ("vpc2024_recalls", "B1", {"metric": "recall_sad", "split": "dev"}, "0.2564"),
    ("vpc2024_recalls", "B6", {"metric": "recall_hap", "split": "test"}, "71.7136"),
    ("vpc2024_lazy", "B1", {"attacker": "ignorant", "split": "test", "group": "m"}, "52.785"),
    ("vpc2024_lazy", "B2", {"attacker": "lazy-informed", "split": "dev", "group": "f"}, "35.939"),
    ("vpc2022", "B1.a", {"attacker": "semi-informed", "split": "test"}, "11.809"),
    ("vpc2022", "B2", {"attacker": "lazy-informed", "split": "test"}, "45.045"),
    ("vpc2022", "B2", {"metric": "pitch_correlation", "split": "dev"}, "0.608"),
    ("vpc2022", "B1.a", {"metric": "gvd", "split": "dev"}, "-9.706"),
    ("vpc2022_wer", "B2", {"corpus": ("vctk",), "split": "test", "condition": ""}, "13.48"),
    ("vpc2022_sets", "B1.b", {"set": "vctk_dev_trials_f", "condition": "oo"}, "2.920"),
    ("vpc2022_sets", "B2", {"set": "vctk_test_trials_f", "attacker": "lazy-informed"}, "58.85"),
    ("vpc2022_sets", "B1.a", {"set": "vctk_dev_trials_m", "metric": "gvd"}, "-12.612"),
    ("vpc2022_privacy_metrics", "B1.a", {"metric": "zebra_individual", "condition": "oo"}, "3.829"),
    ("musa_table3", "MUSA_en", {"attacker": "ignorant", "split": "test"}, "54.17"),
    ("musa_table3", "MUSA_en", {"attacker": "lazy-informed", "split": "test"}, "48.65"),
    ("musa_table3", "ASV-Free", {"metric": "gvd", "split": "dev"}, "-18.86"),
    ("musa_table3", "B1.b", {"metric": "utmos", "split": "test"}, "3.71"),
    ("musa_table3", "Orig", {"metric": "wer", "split": "dev"}, "7.30"),
    ("musa_table4", "MUSA_ml", {"attacker": "lazy-informed", "split": "test"}, "28.76"),
    ("musa_table5", "Formant", {"metric": "cer"}, "41.31"),
    ("musa_table5", "MUSA_ml", {"metric": "utmos"}, "3.81"),
    ("musa_table6", "MUSA_ml without speaker distillation", {"metric": "wer"}, "25.47"),
    ("slides_facodec", "FACodec, speaker anonymized", {"metric": "uar", "split": "test"}, "52.89"),
    ("slides_emotion", "B3 with emotion embedding", {"metric": "eer", "split": "dev"}, "22.59"),
    ("slides_prosody", "B3, multipliers 0.9 to 1.1", {"metric": "eer", "split": "test"}, "22.62"),
    ("vpc2026_track1", "B5", {"attacker": "semi-informed", "split": "test"}, "21.279"),
    ("vpc2026_track2", "BM3", {"attacker": "semi-informed", "language": "en", "split": "test"}, "22.250"),
    ("vpc2026_track2_wer", "BM2", {"language": "fr", "split": "dev"}, "52.168"),
    ("vpc2026_track2_emotion", "BM1", {"metric": "recall_ang", "split": "dev"}, "5.166"),
]


@pytest.mark.parametrize(
    ("table", "system", "facts", "text"), GOLDEN, ids=lambda x: x if isinstance(x, str) else ""
)
def test_golden(table, system, facts, text):
    assert one(table, system, **facts).text == text


def test_every_number_says_what_it_is():
    assert len(NUMBERS) > 900
    for n in NUMBERS:
        assert n.unit == reported.UNITS[n.facts.metric] and n.value == float(n.text)
        assert n.facts.corpus or n.table == "vpc2022_wer", n
        assert n.facts.split in ("dev", "test") or n.table == "musa_table5", n
        low, high = {"%": (0, 100), "dB": (-20, 1), "bit": (0, 150), "": (0, 5)}[n.unit]
        assert low <= n.value <= high, n
        private = n.facts.metric == "eer"
        assert (n.facts.condition in ("oo", "oa", "aa")) >= private, n


def test_original_speech_is_unprotected_and_nothing_else_is():
    for n in NUMBERS:
        if n.facts.attacker:
            original = n.system == TABLES[n.table].original
            expected = "oo" if original else {"ignorant": "oa"}.get(n.facts.attacker, "aa")
            assert n.facts.condition == expected, n


def decimals(text: str) -> float:
    """Half of the last digit."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def test_means_of_genders():
    for n in select("vpc2024", metric="eer", group="avg"):
        f, m = (one("vpc2024", n.system, metric="eer", split=n.facts.split, group=g).value for g in "fm")
        assert (f + m) / 2 == pytest.approx(n.value, abs=0.00051), n


@pytest.mark.parametrize(
    ("table", "recalls"),
    [
        ("vpc2024", "vpc2024_recalls"),
        ("vpc2026_track1", "vpc2026_track1_recalls"),
        ("vpc2026_track2_emotion", "vpc2026_track2_emotion"),
    ],
)
def test_uar_is_the_mean_recall(table, recalls):
    checked = 0
    for n in select(table, metric="uar"):
        parts = [
            r.value
            for r in select(recalls, n.system, split=n.facts.split)
            if r.facts.metric.startswith("recall")
        ]
        if len(parts) == 4:
            assert sum(parts) / 4 == pytest.approx(n.value, abs=0.002), n
            checked += 1
    assert checked >= 6


WEIGHTS = {"libri": 0.25, "vctk": 0.20, "common": 0.05}  # [22] average_results.py


@pytest.mark.parametrize("system", ["B1.a", "B1.b", "B2"])
@pytest.mark.parametrize("split", ["dev", "test"])
def test_vpc2022_weighted_averages(system, split):
    for n in select("vpc2022", system, split=split):
        if n.facts.metric == "wer":
            continue
        same = {"metric": n.facts.metric, "attacker": n.facts.attacker, "condition": n.facts.condition}
        parts = select("vpc2022_sets", system, split=split, **same)
        assert len(parts) == 6
        weights = [WEIGHTS["common" if "common" in p.facts.set else p.facts.set.split("_")[0]] for p in parts]
        mean = sum(w * p.value for w, p in zip(weights, parts, strict=True))
        assert mean == pytest.approx(n.value, abs=decimals(n.text) + 0.005), n
    for measured in ({"condition": "oo"}, {"model": "ASR trained on anonymized speech"}):
        average = one("vpc2022", system, split=split, metric="wer", **measured)
        parts = select("vpc2022_wer", system, split=split, **measured)
        assert sum(p.value for p in parts) / 2 == pytest.approx(average.value, abs=0.0051)


def test_vpc2022_error_rates_are_fractions_of_the_targets():
    """Kaldi's EER is k / number of targets, printed with four significant digits: a mistyped digit shows."""
    found = select("vpc2022_sets", metric="eer")
    assert len(found) == 144
    for n in found:
        targets = n.facts.n["target"]
        k = round(n.value * targets / 100)
        assert f"{100 * k / targets:.4g}" == f"{n.value:.4g}", n


def test_musa_repeats_the_challenge_but_for_the_misprints():
    different = []
    for system in ("B1.a", "B1.b", "B2"):
        for n in select("musa_table3", system):
            if n.facts.metric != "utmos":
                model = "ASR trained on original speech" if n.facts.metric == "wer" else ""
                same = {"metric": n.facts.metric, "attacker": n.facts.attacker, "split": n.facts.split}
                if n.facts.metric == "wer":
                    same["model"] = model
                official = one("vpc2022", system, **same)
                if abs(n.value - official.value) > 0.045:
                    different.append((system, n.facts.metric, n.facts.split))
    assert different == [
        ("B1.a", "gvd", "dev"), ("B2", "pitch_correlation", "dev"), ("B2", "pitch_correlation", "test")
    ]  # fmt: skip
    assert all(select("musa_table3", system)[0].notes for system, _, _ in different)


def test_musa_tables_fit_the_text():
    mls = {s: one("musa_table4", s, metric="wer", split="test").value for s in ("Orig", "MUSA_ml")}
    assert mls["MUSA_ml"] - mls["Orig"] == pytest.approx(1.92)
    mandarin = {s: one("musa_table5", s, metric="cer").value for s in ("Orig", "MUSA_en")}
    assert mandarin["MUSA_en"] - mandarin["Orig"] == pytest.approx(6.71)
    whole = [n.text for n in select("musa_table4", "MUSA_ml", split="test")][:5]
    assert [n.text for n in select("musa_table6", "MUSA_ml")] == whole


@pytest.mark.parametrize("table", ["vpc2026_track2", "vpc2026_track2_wer"])
def test_means_of_languages(table):
    means = [n for n in select(table) if n.facts.language == "mean"]
    assert len(means) >= 10
    for n in means:
        parts = [
            p.value
            for p in select(table, n.system, split=n.facts.split, attacker=n.facts.attacker)
            if p.facts.language in ("en", "de", "es", "fr")
        ]
        assert len(parts) == 4
        assert sum(parts) / 4 == pytest.approx(n.value, abs=0.00051), n


def test_the_slides_agree_with_themselves():
    texts = [n.text for n in select("slides_emotion", "B3")]
    assert texts == [n.text for n in select("slides_prosody", "B3, multipliers 0.6 to 1.4")]


def test_our_systems_exist():
    for source in TABLES.values():
        for name in source.ours.values():
            assert (REPOSITORY / "conf" / "systems" / f"{name}.yaml").is_file()


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "egs").glob("*/conf/recipe.yaml")), ids=lambda p: p.parts[-3]
)
def test_recipes_name_known_tables(path):
    named = config.load_recipe(path).report.reported
    assert set(named) <= set(TABLES)
    assert not (path.parts[-3] == "mini" and named), "synthetic speech compares with nothing"


READINGS = ("vpc2024", "vpc2022", "rocch", "voiced")  # of the EER and of the pitch correlation


def test_metrics_document_names_everything():
    """docs/metrics.md has every metric, evaluator, reading and attacker that there is."""
    text = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    evaluators = {path.stem for path in (REPOSITORY / "conf" / "evaluators").glob("*.yaml")}
    for name in {*evaluators, *tables.KINDS, *READINGS, *uar.READINGS, *text_norm.SCHEMES}:
        assert f"`{name}`" in text, name
    for path in re.findall(r"`((?:metrics|evaluators)/[a-z_]+\.py)`", text):
        assert (REPOSITORY / "espnet_musa" / path).is_file(), path


GOOD = """
t:
  title: T
  origin: O
  about: A.
  ours: {original: orig}
  corpus: librispeech
  columns: [{metric: eer, attacker: ignorant, split: dev}, {metric: wer, split: dev}]
  rows:
    - {system: original, values: 1.50 -}
    - {system: X, values: 20.0 3}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: wer", "metric: werr", r"unknown metric 'werr'; did you mean 'wer'"),
        ("attacker: ignorant", "attacker: stupid", r"unknown attacker 'stupid'"),
        ("20.0 3", "20.0 3 4", r":11: 'X' has 3; expected 2 values"),
        ("1.50 -", "1.50", r":10: 't.rows.0.values' is 1.5; expected a list"),
        ("20.0 3", "20.0 3%", r":11: '3%' is no number"),
        ("20.0 3", "20;0 3", r"'20;0' is no number"),
        ("system: X,", "system: X, split: test,", r"row and column both say 'split'"),
        ("title: T", "titel: T", r"unknown key 't.titel'; did you mean 'title'"),
        ("{original: orig}", "{Orig: orig}", r"'t' has no row 'Orig'"),
        ("system: X,", "system: original,", r"'t' has original, eer twice"),
        ("columns: [", "columns: [1, ", r"'t.columns' is no list of mappings"),
        ("{system: X, ", "{sistem: X, ", r"unknown key 't.rows.1.sistem'"),
        ("t:\n", "t: 1\nu:\n", r"'t' is no table"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, old, new, message):
    path = tmp_path / "reported.yaml"
    path.write_text(GOOD)
    assert len(reported.numbers(reported.load(path))) == 3
    assert GOOD.count(old) >= 1
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        reported.load(path)


def test_chosen_and_back():
    data = reported.chosen(list(TABLES))
    found = reported.from_plain(json.loads(json.dumps(data, sort_keys=True)))
    assert found == TABLES and list(found) == list(TABLES)
    assert reported.chosen([]) == []
    with pytest.raises(UserError, match=r"no published table 'vpc2042'; did you mean 'vpc20"):
        reported.chosen(["vpc2042"])


def metric(name: str, value: float, system: str, evaluator: str, **other: object) -> dict:
    base = {
        "condition": "", "group": "avg", "high": None, "low": None, "n": {"target": 7}, "notes": "", "parts": [],
        "set": "libri_test_trials", "split": "test", "unit": "%",
    }  # fmt: skip
    return {**base, "name": name, "value": value, "system": system, "evaluator": evaluator, **other}


@pytest.fixture
def results() -> dict:
    """A run of orig and b2_mcadams with two attackers of original speech and a semi-informed one."""
    systems = [
        {"name": n, "description": n, "reference": "-", "lower_bound": n == "orig", "config_hash": "0"}
        for n in ("orig", "b2_mcadams", "dsp_f0")
    ]
    evaluators = [
        {"name": n, "description": n, "kind": "verification", "attacker": a}
        for n, a in (("asv_a", "original"), ("asv_b", "original"), ("asv_semi", "semi"), ("ser", "original"))
    ]
    sets = [
        {"name": n, "corpus": c, "role": "trial", "split": "test", "speakers": 2, "female": 1, "male": 1,
         "utterances": 4, "hours": 0.1, "languages": ["en"]}
        for n, c in (("libri_test_trials", "librispeech"), ("emodb", "emodb"))
    ]  # fmt: skip
    metrics = [
        metric("eer", 4.04, "orig", "asv_a", condition="oo", low=3.0, high=5.0),
        metric("eer", 31.0, "b2_mcadams", "asv_a", condition="aa"),
        metric("eer", 32.0, "b2_mcadams", "asv_b", condition="aa"),
        metric("eer", 33.0, "b2_mcadams", "asv_a", condition="oa"),
        metric("eer", 9.0, "b2_mcadams", "asv_semi", condition="aa"),
        metric("eer", 8.0, "b2_mcadams", "asv_semi", condition="aa", group="f"),
        metric("eer", 10.0, "b2_mcadams", "asv_semi", condition="aa", group="m"),
        metric("eer", 22.0, "dsp_f0", "asv_semi", condition="aa"),
        metric("uar", 60.0, "orig", "ser", set="emodb", group="all"),
    ]
    return {
        "recipe": "r", "seed": 0, "commit": "c0ffee", "versions": {}, "systems": systems, "evaluators": evaluators,
        "sets": sets, "metrics": metrics, "reported": reported.chosen(["vpc2024", "vpc2024_lazy"]),
    }  # fmt: skip


def cells(found: comparison.Comparison, *keys: str) -> list[str]:
    (row,) = [row for row in found.table.rows if row.keys == keys]
    return row.cells


def test_ours_stand_below_what_they_reproduce(results):
    semi, lazy = comparison.compare(results)
    assert cells(semi, "B2", "published")[:6] == ["12.910", "2.045", "7.478", "7.483", "1.557", "4.520"]
    assert cells(semi, "b2_mcadams", "this run: asv_semi")[:6] == ["–", "–", "–", "8.0", "10.0", "9.0"]
    assert cells(semi, "orig", "this run: asv_a")[5] == "4.0 [3.0, 5.0]"
    at = [row.keys[0] for row in semi.table.rows]
    assert at[:5] == ["original", "orig", "B1", "B2", "b2_mcadams"] and "dsp_f0" not in at
    assert [row.lower_bound for row in semi.table.rows][:3] == [False, True, False]
    assert semi.table.columns[5] == ("EER %", "semi-informed", "test, mean")
    assert not any(
        "this run" in row.keys[-1] for row in lazy.table.rows
    )  # it has genders only, these runs none
    assert lazy.remarks[-1] == comparison.ONLY_PUBLISHED and not lazy.counts.rows


def test_attackers_are_not_mixed_up(results):
    genders = [
        {**m, "group": g} for m in results["metrics"] for g in "fm" if m["evaluator"] in ("asv_a", "asv_b")
    ]
    _, lazy = comparison.compare({**results, "metrics": genders})
    assert cells(lazy, "b2_mcadams", "this run: asv_a")[2:4] == ["33.0", "33.0"]
    assert cells(lazy, "b2_mcadams", "this run: asv_a")[6:] == ["31.0", "31.0"]
    assert cells(lazy, "b2_mcadams", "this run: asv_b") == ["–"] * 6 + ["32.0", "32.0"]


@pytest.mark.parametrize("change", [{"corpus": "vctk"}, {"split": "dev"}, {"name": "zebra_population"}])
def test_what_is_something_else_is_not_compared(results, change):
    data = copy.deepcopy(results)
    for one_set in data["sets"]:
        one_set |= {k: v for k, v in change.items() if k == "corpus"}
    for m in data["metrics"]:
        m |= {k: v for k, v in change.items() if k != "corpus"}
    semi, _ = comparison.compare(data)
    ours = [c for row in semi.table.rows if "this run" in row.keys[-1] for c in row.cells]
    published = [c for row in semi.table.rows if row.keys[-1] == "published" for c in row.cells]
    assert "9.0" not in ours[5::10] and "7.478" in published
    assert "60.0" not in ours  # EMO-DB is not IEMOCAP


def test_several_sets_are_told_apart(results):
    other = {**results["sets"][0], "name": "libri_other_trials"}
    more = [
        {**m, "set": "libri_other_trials", "value": 1.0}
        for m in results["metrics"]
        if m["evaluator"] == "asv_semi"
    ]
    data = {**results, "sets": [*results["sets"], other], "metrics": [*results["metrics"], *more]}
    semi, _ = comparison.compare(data)
    assert cells(semi, "b2_mcadams", "this run: asv_semi on libri_test_trials")[5] == "9.0"
    assert cells(semi, "b2_mcadams", "this run: asv_semi on libri_other_trials")[5] == "1.0"


def test_unknown_table_is_noticed_before_any_work():
    from espnet_musa.bin.plan import check

    recipe = config.load_recipe(
        REPOSITORY / "egs" / "mini" / "conf" / "recipe.yaml", ["report.reported=[vpc24]"]
    )
    with pytest.raises(UserError, match="no published table 'vpc24'; did you mean 'vpc2024'"):
        check(recipe, REPOSITORY / "egs" / "mini")


def test_whether_the_data_are_the_same_is_said(results):
    semi, _ = comparison.compare(results)
    assert any("c0ffee" in r and comparison.OTHER_DATA in r for r in semi.remarks)
    assert {row.cells[1] for row in semi.counts.rows} == {"librispeech: 7 target"}
    official = {"speakers": 29, "target": 997, "nontarget": 20653}
    kept = [{**m, "n": official} for m in results["metrics"] if m["group"] == "avg"]
    semi, _ = comparison.compare({**results, "metrics": kept})
    assert any(comparison.SAME_COUNTS in r for r in semi.remarks)


def test_documents_are_functions_of_the_results(results):
    text, page = markdown.render(results), html.page(results)
    assert markdown.render(json.loads(json.dumps(results, sort_keys=True))) == text  # as the file is written
    for number in ("12.910", "71.0618", "38.4000", "9.0"):
        assert number in text and number in page
    assert "Beside published numbers" in text and "Beside published numbers" in page
    nothing = {**results, "reported": []}
    assert "published" not in markdown.render(nothing) and "published" not in html.page(nothing)
    evil = copy.deepcopy(results)
    evil["reported"][0]["about"] = evil["reported"][0]["title"] = "<script>|"
    assert "<script" not in html.page(evil) and "<script" not in markdown.render(evil)


def test_rows_without_a_number_keep_a_dash(results):
    data = {**results, "reported": reported.chosen(["slides_facodec"])}
    (found,) = comparison.compare(data)
    assert found.table.rows[0].cells == ["7.40", "–", "63.36", "–", "–", "–"]
    assert NONE not in found.table.rows[0].cells
    assert Path(reported.PATH).is_file()

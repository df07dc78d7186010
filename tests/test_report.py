"""The report: tables from results.json alone, the same bytes each time, a page that needs nothing but itself."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_tree
import soundfile as sf
from PIL import Image

from espnet_musa import config, stamp
from espnet_musa.bin import report as verb
from espnet_musa.config import Recipe, commit
from espnet_musa.data.audio import read_audio
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.report import examples, figures, html, markdown, provenance, scores, tables
from espnet_musa.report import results as results_module
from espnet_musa.report.build import build
from espnet_musa.report.results import collect, versions

RECIPE = Recipe(
    name="made <up>", systems=report_tree.SYSTEMS, evaluators=("asv_resemblyzer", "pitch"), corpora={}
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A scored recipe; tests do not change it."""
    root = tmp_path_factory.mktemp("recipe")
    report_tree.make(root, RECIPE, splits=("test",))
    return root


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory) -> Path:
    """A copy of it with its report."""
    root = tmp_path_factory.mktemp("built") / "recipe"
    shutil.copytree(tree, root)
    build(RECIPE, root)
    return root


@pytest.fixture(scope="module")
def results(tree) -> dict:
    return collect(RECIPE, tree)


def cells(table: tables.Table, *keys: str) -> list[str]:
    """The cells of the one row whose labels are `keys`."""
    (row,) = [row for row in table.rows if row.keys == keys]
    return row.cells


def value(results: dict, system: str, condition: str, group: str = "avg") -> str:
    (found,) = [
        m
        for m in results["metrics"]
        if (m["system"], m["condition"], m["group"], m["name"]) == (system, condition, group, "eer")
    ]
    return tables.show(found)


def test_show():
    metric = {"name": "eer", "value": 12.349, "low": 10.05, "high": 100.0}
    assert tables.show(metric) == "12.3 [10.1, 100.0]"
    assert tables.show({**metric, "low": None, "high": None}) == "12.3"
    assert tables.show({"name": "pitch_correlation", "value": -0.001, "low": None, "high": None}) == "0.00"
    assert tables.duration(3725 / 3600) == "1:02:05"


def test_results_hold_no_place_and_no_time(tree, results):
    text = json.dumps(results)
    assert str(tree) not in text and str(Path.home()) + "/" not in text
    assert collect(RECIPE, tree) == results
    names = "recipe partial seed overrides commit versions systems evaluators sets probes metrics reported baseline"
    assert set(results) == set(names.split())
    (trials,) = [s for s in results["sets"] if s["role"] == "trial"]
    assert (trials["speakers"], trials["female"], trials["male"], trials["utterances"]) == (6, 3, 3, 18)
    assert trials["languages"] == ["de", "en"]


def test_missing_scores_are_all_named(tree, tmp_path):
    root = tmp_path / "recipe"
    shutil.copytree(tree, root)
    shutil.rmtree(root / "exp" / "dsp_f0" / "score" / "pitch")
    (root / "exp" / "orig" / "score" / "asv_resemblyzer" / "metrics.json").write_text("{")
    with pytest.raises(UserError) as error:
        collect(RECIPE, root)
    assert "system 'dsp_f0' is not scored by 'pitch'" in str(error.value)
    assert "hint: run stage 'score': the same command with --stage score" in str(error.value)
    assert "orig/score/asv_resemblyzer/metrics.json: missing or damaged; hint: remove" in str(error.value)
    assert "run.sh" not in str(error.value)  # which would drop this run's options


@pytest.mark.parametrize("change", [{"seed": 1}, {"overrides": {"dsp_f0": {"target": {"policy": "none"}}}}])
def test_scores_of_another_recipe_are_refused(tree, change):
    """The report never credits a configuration with the numbers of another one."""
    with pytest.raises(UserError, match=r"/data/test_enroll: not this recipe's: differs in (seed|system)"):
        collect(dataclasses.replace(RECIPE, **change), tree)


def test_scores_of_other_settings_or_data_are_refused(tree, tmp_path):
    other = {"asv_resemblyzer": {"params": {"method": "rocch"}}}
    with pytest.raises(UserError, match=r"orig/score/asv_resemblyzer: not this recipe's: differs in config"):
        collect(dataclasses.replace(RECIPE, overrides=other), tree)
    root = tmp_path / "recipe"
    shutil.copytree(tree, root)
    text = root / "exp" / "dsp_f0" / "data" / "test_trials" / "text"
    text.write_text(text.read_text().replace("sentence", "phrase"))
    with pytest.raises(UserError, match=r"dsp_f0/score/pitch: not this recipe's: differs in inputs"):
        collect(RECIPE, root)


def test_privacy_table(results):
    table = tables.privacy(results)
    attacks = [("asv_resemblyzer: EER %", name) for name in ("ignorant (OA)", "lazy-informed (AA)")]
    assert table.columns == attacks
    bound = value(results, "orig", "oo")
    assert cells(table, "test", "orig") == [bound, bound]  # what a system that changes nothing would get
    assert cells(table, "test", "dsp_f0") == [value(results, "dsp_f0", c) for c in ("oa", "aa")]
    assert [row.lower_bound for row in table.rows] == [True, False, False]
    lines = tables.privacy_lines(results)
    assert cells(lines, "test", "orig", "unprotected (OO)") == [bound]
    assert ("test", "dsp_f0", "unprotected (OO)") not in [row.keys for row in lines.rows]
    by_gender = cells(tables.genders(results, True), "test", "b2_mcadams", "lazy-informed (AA)")
    assert by_gender == [value(results, "b2_mcadams", "aa", g) for g in "fm"]


def test_every_number_reads_the_same_everywhere(results):
    texts = (
        markdown.render(results),
        markdown.text_table(results),
        re.sub("<[^>]*>", "", html.page(results)),
    )
    for system, condition in (("orig", "oo"), ("b2_mcadams", "oa"), ("dsp_f0", "aa")):
        assert all(value(results, system, condition) in text for text in texts)
    assert all(text.count(tables.LOWER_BOUND) == 1 and "0.81" in text for text in texts)
    assert all(tables.MORE_PRIVACY in text for text in (texts[0], texts[2].replace("&#x27;", "'")))


def test_what_is_not_measured_is_not_shown(results):
    privacy_only = {**results, "metrics": [m for m in results["metrics"] if m["name"] == "eer"]}
    lines = [{**m, "low": None, "high": None} for m in privacy_only["metrics"] if m["condition"] != "aa"]
    text = markdown.render({**privacy_only, "metrics": lines})
    assert "## Privacy" in text and "## Utility" not in text
    assert "lazy" not in text and "confidence" not in text
    nothing = markdown.render({**results, "metrics": []})
    assert "## Privacy" not in nothing and "## Data" in nothing


def test_unknown_metric_is_shown(results):
    base = next(m for m in results["metrics"] if m["name"] == "pitch_correlation" and m["group"] == "all")
    wer = {**base, "evaluator": "pitch", "name": "word_error_rate", "unit": "%", "value": 4.567}
    table = tables.utility({**results, "metrics": [wer]})
    assert table.columns == [("pitch", "word error rate %")] and table.rows[0].cells == ["4.57"]


def test_the_average_recall_comes_before_those_of_the_emotions(results):
    base = next(m for m in results["metrics"] if m["name"] == "pitch_correlation" and m["group"] == "all")
    names = ("recall_sad", "unheard_of", "uar", "recall_ang")
    found = [{**base, "name": name, "unit": "%", "value": 50.0} for name in names]
    heads = [column[-1] for column in tables.utility({**results, "metrics": found}).columns]
    assert heads == ["UAR %", "recall ang %", "recall sad %", "unheard of %"]


def test_error_rates_of_few_speakers_are_marked(results):
    """Two women: their figure and the mean say so, that of three men does not."""
    assert tables.FEW not in markdown.render(results)
    found = [
        {**m, "n": {**m["n"], "speakers": 2}} if (m["name"], m["group"]) == ("eer", "f") else m
        for m in results["metrics"]
    ]
    few = {**results, "metrics": found}
    assert all(f" {tables.FEW} [" in cell for row in tables.privacy(few).rows for cell in row.cells)
    female, male = cells(tables.genders(few, True), "test", "dsp_f0", "lazy-informed (AA)")
    assert tables.FEW in female and tables.FEW not in male
    for text in (markdown.render(few), markdown.text_table(few), html.page(few)):
        assert text.count(tables.FEW_SPEAKERS) == 1


def test_settings_are_told_without_the_places_of_a_machine(tree, monkeypatch):
    changed = {
        "dsp_f0": {"description": "mine"},
        "pitch": {"description": "/somewhere/x", "params": {"tracker": "dio"}},
        "utmos": {"description": "not part of this run"},
    }
    monkeypatch.setattr(config, "digest", lambda data: "same")
    monkeypatch.setattr(results_module, "_changed", lambda fields, wanted: "")
    found = collect(dataclasses.replace(RECIPE, overrides=changed), tree)
    told = dict(provenance.facts(found))[provenance.CHANGED]
    assert told == "dsp_f0.description=mine, pitch.description=x, pitch.params.tracker=dio"
    assert "pitch.params.tracker=dio" in markdown.render(found).replace("\\", "")
    assert dict(provenance.facts({**found, "overrides": {}}))[provenance.CHANGED] == "none"


def test_versions_are_those_of_what_computes():
    installed = {*versions()}
    assert {"espnet", "onnxruntime", "scikit-learn", "speechmos", "torch", "transformers"} <= installed


def test_sets_of_one_gender_are_averaged(tmp_path):
    """VoicePrivacy's layout: a trial list for each gender; the table shows their mean and each of them once."""
    report_tree.make(tmp_path, RECIPE, split_genders=True, splits=("test",))
    found = collect(RECIPE, tmp_path)
    one = {m["group"]: m for m in found["metrics"] if (m["system"], m["condition"]) == ("dsp_f0", "aa")}
    assert one["avg"]["value"] == pytest.approx((one["f"]["value"] + one["m"]["value"]) / 2)
    assert one["avg"]["parts"] == ["test_trials_f", "test_trials_m"]
    assert cells(tables.privacy(found), "test", "dsp_f0")[1] == tables.show(one["avg"])
    assert cells(tables.utility(found), "test", "dsp_f0") == ["0.69"]
    by_gender = cells(tables.genders(found, True), "test", "dsp_f0", "lazy-informed (AA)")
    assert by_gender == [tables.show(one[g]) for g in "fm"]
    alone = {**found, "metrics": [m for m in found["metrics"] if m["set"] == "test_trials_f"]}
    assert cells(tables.privacy(alone), "test", "dsp_f0")[1] == tables.show(one["f"]) + " (f)"


def test_report_is_reproducible(built):
    """Made twice, every file has the same bytes; RESULTS.md is a function of results.json."""
    files = [built / "results.json", built / "RESULTS.md", *sorted((built / "exp" / "report").rglob("*.*"))]
    files = [path for path in files if path.is_file() and path.name != stamp.DONE]
    before = {path: path.read_bytes() for path in files}
    assert {path.suffix for path in files} == {".json", ".md", ".html", ".png", ".svg"}
    shutil.rmtree(built / "exp" / "report")
    build(RECIPE, built)
    assert {path: path.read_bytes() for path in files} == before
    saved = json.loads((built / "results.json").read_text())
    assert markdown.render(saved) == (built / "RESULTS.md").read_text()


def test_second_run_does_nothing(built):
    page = built / "exp" / "report" / "report.html"
    before = page.stat().st_mtime_ns
    build(RECIPE, built)
    assert page.stat().st_mtime_ns == before


def test_other_systems_leave_the_results_of_the_recipe_alone(tree, tmp_path, monkeypatch, capsys):
    root = tmp_path / "recipe"
    shutil.copytree(tree, root)
    config.save(RECIPE, root / "conf" / "recipe.yaml")
    monkeypatch.chdir(root)
    verb.main([])
    before = {path: path.read_bytes() for path in (root / "RESULTS.md", root / "results.json")}
    assert "stays as it was" not in capsys.readouterr().out and not (root / "exp/report/RESULTS.md").exists()
    verb.main(["--set", "systems=orig dsp_f0"])
    assert {path: path.read_bytes() for path in before} == before
    out = capsys.readouterr().out
    assert "the recipe's RESULTS.md stays as it was" in out and "\nexp/report/RESULTS.md\n" in out
    own = (root / "exp/report/RESULTS.md").read_text()
    assert '--systems "orig dsp_f0" --evaluators "asv_resemblyzer pitch"' in own and "mcadams" not in own
    assert json.loads((root / "exp/report/results.json").read_text())["partial"]


def test_verb(built, monkeypatch, capsys):
    config.save(RECIPE, built / "exp" / "recipe.yaml")
    monkeypatch.chdir(built)
    verb.main(["--config", "exp/recipe.yaml"])
    out = capsys.readouterr().out
    assert "higher EER = more privacy" in out
    for path in ("RESULTS.md", "results.json", "exp/report/figures", "exp/report/report.html"):
        assert f"\n{path}\n" in out and Path(path).exists()


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_page_needs_nothing_but_itself(built):
    text = (built / "exp" / "report" / "report.html").read_text()
    page = Page(text)
    assert len(text) < 6e6
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"}
    assert "url(" not in html.CSS and "@import" not in html.CSS
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) >= 3 + 3 * 3 and all(a["alt"] for a in images)
    for a in images:
        kind, _, content = a["src"].partition(",")
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        assert kind == "data:image/png;base64" and image.format == "PNG" and image.width > 200
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= anchors
    assert all(a.get("scope") for tag, a in page.tags if tag == "th")


def test_players_hold_what_was_anonymized(built):
    page = Page((built / "exp" / "report" / "report.html").read_text())
    players = [a for tag, a in page.tags if tag == "audio"]
    assert len(players) == RECIPE.report.examples * len(RECIPE.systems)
    for a in players:
        utt, system = a["aria-label"].split(", ")
        place = built / "dump" if system == "orig" else built / "exp" / system / "data"
        content = base64.b64decode(a["src"].partition("data:audio/flac;base64,")[2], validate=True)
        wav, rate = sf.read(io.BytesIO(content), dtype="float32")
        expected, _ = read_audio(place / "test_trials" / "wav" / f"{utt}.wav")
        assert rate == 16000 and np.array_equal(wav, expected)


def test_text_is_escaped(results, built):
    evil = "<script>alert(1)</script> | `x` \"'& _a_"
    bad = json.loads(json.dumps(results))
    bad["recipe"] = bad["systems"][1]["description"] = bad["sets"][0]["corpus"] = evil
    bad["metrics"] = [{**m, "notes": evil} for m in bad["metrics"]]
    version = html.Version(evil, evil, b"", b"")
    text = html.page(
        bad,
        [html.Plot(evil, "det", evil, evil, b"")],
        [html.Sample("s", evil, {"a": evil}, evil, [version], True)],
    )
    assert "<script" not in text and "alert(1)" in text
    tags = Page(text).tags
    assert evil in [a.get("alt") for _, a in tags]
    rendered = markdown.render(bad)
    assert "<script" not in rendered
    rows = [line for line in rendered.splitlines() if line.startswith("|") and "alert" in line]
    assert rows and all(len(re.findall(r"(?<!\\)\|", line)) in (5, 9) for line in rows)
    page = (built / "exp" / "report" / "report.html").read_text()
    assert (
        "<b>&amp;amp;" not in page and "&lt;b&gt;&amp;amp;" in page
    )  # the transcripts of the tree hold markup


def test_examples_differ(tree):
    sets = [DataDir.read(tree / "dump" / "test_trials")]
    chosen = examples.choose(sets, 3, seed=0)
    assert chosen == examples.choose(sets, 3, seed=0)
    found = [examples.facts(data, utt) for data, utt in chosen]
    assert {f["gender"] for f in found} == {"f", "m"} and {f["language"] for f in found} == {"de", "en"}
    assert len({f["emotion"] for f in found}) == 3
    assert len({data.table("utt2spk")[utt] for data, utt in chosen}) == 3
    assert len({tuple(u for _, u in examples.choose(sets, 3, seed=s)) for s in range(5)}) > 1
    assert len(examples.choose(sets, 99, seed=0)) == 18
    assert examples.choose([], 3, seed=0) == []


def test_scores_are_reduced(tree, results):
    found = scores.load(results, tree)
    assert [(s.system, s.attacker) for s in found] == [
        ("orig", "oo"), ("b2_mcadams", "oa"), ("b2_mcadams", "aa"), ("dsp_f0", "oa"), ("dsp_f0", "aa"),
    ]  # fmt: skip
    for one in found:
        assert one.target.sum() == pytest.approx(1) and one.nontarget.sum() == pytest.approx(1)
        assert one.text == value(results, one.system, one.attacker)
    unprotected, protected = found[0], found[1]
    for one, far_apart in ((unprotected, True), (protected, False)):
        centres = (one.edges[1:] + one.edges[:-1]) / 2
        assert (centres @ one.target - centres @ one.nontarget > 0.2) == far_apart


def test_scores_of_other_trials_are_refused(tree, results, tmp_path):
    root = tmp_path / "recipe"
    shutil.copytree(tree, root)
    path = root / "exp" / "dsp_f0" / "score" / "asv_resemblyzer" / "test_trials" / "aa" / "scores"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match="holds other trials than those of 'test_trials'"):
        scores.load(results, root)


def test_spectrogram():
    wav = np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000).astype(np.float32)
    power = figures.spectrogram(wav, 16000)
    assert power.shape[0] == 401 and power.max() == 0 and power.min() >= -70.001
    assert (power[:, 5:-5].argmax(axis=0) == 1000 * 800 // 16000).all()
    assert np.isfinite(figures.spectrogram(np.zeros(10, np.float32), 16000)).all()


def test_figures_do_not_touch_the_users_settings():
    import matplotlib

    before = dict(matplotlib.rcParams)
    one = figures.example(np.zeros(1600, np.float32), 16000, np.zeros(11), hop=0.01)
    first = figures.png(one), figures.svg(one)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        again = figures.example(np.zeros(1600, np.float32), 16000, np.zeros(11), hop=0.01)
        assert (figures.png(again), figures.svg(again)) == first
    assert dict(matplotlib.rcParams) == before


def test_commit(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # inside a git hook they point to the outer repository

    def git(*words: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    assert commit(tmp_path) == "unknown"
    git("init")
    own = tmp_path / "egs" / "mini" / "RESULTS.md"
    own.parent.mkdir(parents=True)
    own.write_text("old")
    (tmp_path / "code.py").write_text("a")
    git("add", ".")
    git("commit", "-m", "m")
    clean = commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    own.write_text("new")  # what the report writes is no change of the code
    assert commit(tmp_path) == clean
    (tmp_path / "code.py").write_text("b")
    assert commit(tmp_path) == clean + "-dirty"

"""The whole job on a small generated corpus: all stages, a second run that does nothing, a changed setting refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY

from espnet_musa.report.markdown import render

pytestmark = pytest.mark.slow
RECIPE = """
name: small
corpora:
  mini:
    {train_speakers: 2, train_utterances: 3, eval_speakers: 3, impostors: 0, enroll_utterances: 2, trial_utterances: 3,
     codec_speakers: 0}
overrides:
  asv_ecapa: {train: tiny}
  pitch: {params: {tracker: dio}}
  dsp_f0: {params: {f0: {tracker: dio}}}
report: {examples: 1}
"""
TINY = """
model: {channels: 16, pooled_channels: 48, attention_channels: 8, se_channels: 8, res2net_scale: 2, embedding_dim: 16}
crop_s: 1.0
batch_size: 8
epochs: 2
"""


def run(root: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [REPOSITORY / "run.sh", "--config", "conf/recipe.yaml", *options],
        cwd=root, env={**os.environ, "CALLED_FROM": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def made(root: Path) -> dict[str, tuple[int, int]]:
    """Time and inode of everything that the stages publish."""
    files = (p for place in ("data", "dump", "exp") for p in (root / place).rglob("*") if p.is_file())
    skipped = ("exp/log", "exp/recipe.yaml", "exp/env.json", "exp/.lock")
    return {
        name: (p.stat().st_mtime_ns, p.stat().st_ino)
        for p in files
        if not (name := p.relative_to(root).as_posix()).startswith(skipped) and p.name != "system.yaml"
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("recipe")
    (place / "conf/train").mkdir(parents=True)
    (place / "conf/recipe.yaml").write_text(RECIPE)
    (place / "conf/train/tiny.yaml").write_text(TINY)
    done = run(place)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Privacy", "orig*", "b2_mcadams", "dsp_f0", "lazy-informed (AA)", "exp/report/report.html"):
        assert word in done.stdout
    return place


def test_results_are_complete(root):
    results = json.loads((root / "results.json").read_text())
    assert render(results) == (root / "RESULTS.md").read_text()
    found = {(m["system"], m["evaluator"], m["condition"], m["group"]) for m in results["metrics"]}
    for evaluator in ("asv_ecapa", "asv_resemblyzer"):
        assert ("orig", evaluator, "oo", "avg") in found
        for system in ("b2_mcadams", "dsp_f0"):
            assert {(system, evaluator, c, g) for c in ("oa", "aa") for g in ("f", "m", "avg")} <= found
    assert ("b2_mcadams", "pitch", "", "avg") in found
    eers = [m for m in results["metrics"] if m["name"] == "eer"]
    assert all(0 <= m["value"] <= 100 and m["n"] for m in eers)


def test_original_speech_is_scored_but_never_anonymized_data(root):
    assert not (root / "exp/orig/data").exists()
    assert (root / "exp/orig/score/asv_ecapa/metrics.json").is_file()


def test_score_files_let_any_tool_recompute(root):
    trials = (root / "dump/mini_trials/trials").read_text().splitlines()
    place = root / "exp/b2_mcadams/score/asv_resemblyzer/mini_trials"
    for condition in ("oo", "oa", "aa"):
        scores = (place / condition / "scores").read_text().splitlines()
        assert [s.split()[:2] for s in scores] == [t.split()[:2] for t in trials]


def test_artefacts_name_no_machine(root):
    for name in ("results.json", "RESULTS.md", "exp/report/report.html", "exp/env.json"):
        assert str(root) not in (root / name).read_text()


def test_second_run_does_nothing(root):
    before = made(root)
    done = run(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert made(root) == before


def test_changed_setting_is_refused_and_force_makes_it_anew(root):
    change = (
        "--stage",
        "5",
        "--stop-stage",
        "5",
        "--systems",
        "b2_mcadams",
        "--set",
        "b2_mcadams.params.lpc_order=16",
    )
    before = made(root)
    done = run(root, *change)
    assert done.returncode == 2 and "changed: system" in done.stderr and "--force true" in done.stderr
    assert made(root) == before
    assert run(root, *change, "--force", "true").returncode == 0
    changed = {n for n, v in made(root).items() if before.get(n) != v}
    assert changed and all(n.startswith("exp/b2_mcadams/data/") for n in changed)
    done = run(root, "--stage", "9")
    assert done.returncode == 2 and "run stage" in done.stderr  # old scores are not credited to the new data

"""Stage 6: variants of a system share its analyses and targets, and come out as a full run makes them; sweeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_source

from espnet_musa import config
from espnet_musa.anonymizers import dsp_f0
from espnet_musa.anonymizers.base import F0Anonymizer
from espnet_musa.anonymizers.dsp_f0 import DspF0
from espnet_musa.bin import plan
from espnet_musa.config import FormatConfig, Recipe, SweepConfig
from espnet_musa.data.audio import ArraySource
from espnet_musa.errors import UserError
from espnet_musa.pipeline import format as formatting
from espnet_musa.pipeline.analysis import Analyses
from espnet_musa.pipeline.anonymize import Run, build, shard

BASE = """
description: whole
reference: r
anonymizer: dsp_f0
params: {f0: {tracker: dio}, transforms: [scale: {factor: 1.1}]}
target: {policy: uniform, params: {low: 0.9, high: 1.2, level: utt}}
"""
RECIPE = Recipe(
    "test",
    ("whole", "flat", "noisy"),
    (),
    {},
    format=FormatConfig(roles=("utility",)),
    anonymize_roles=("utility",),
    variants={
        "flat": {"variant_of": "whole", "params": {"transforms": [{"mean_reversion": {"alpha": 0.75}}]}},
        "noisy": {"variant_of": "whole", "params": {"transforms": [{"awgn": {"db": 10.0}}]}},
    },
)


@pytest.fixture
def root(tmp_path):
    """A recipe directory with one formatted set and the system `whole`."""
    systems = tmp_path / "conf" / "systems"
    systems.mkdir(parents=True)
    (systems / "whole.yaml").write_text(BASE)
    make_source(tmp_path / "data" / "s", utterances=2)
    formatting.plan(RECIPE, tmp_path, "", force=False)
    formatting.shard(RECIPE, tmp_path, "", (1, 1))
    formatting.finish(RECIPE, tmp_path, "")
    return tmp_path


def make_all(root, names, recipe=RECIPE, nj=1):
    runs = [Run(recipe, root, name) for name in names]
    for run in runs:
        run.plan(force=False)
    for job in range(nj, 0, -1):
        shard(runs, (job, nj), "cpu")
    out = []
    for run in runs:
        run.finish()
        place = root / "exp" / run.name / "data" / "s"
        wavs = {p.name: p.read_bytes() for p in (place / "wav").iterdir()}
        out.append((wavs, (place / "utt2target").read_text()))
    return out


def make(root, name, recipe=RECIPE, nj=1):
    return make_all(root, [name], recipe, nj)[0]


@pytest.fixture
def analysed(monkeypatch):
    """Counts analyses."""
    calls = []
    analyze = DspF0.analyze
    monkeypatch.setattr(DspF0, "analyze", lambda self, source: calls.append(1) or analyze(self, source))
    return calls


def test_variants_equal_full_runs_and_nothing_is_analysed_twice(root, analysed):
    whole, flat, noisy = (make(root, name, nj=2) for name in RECIPE.systems)
    assert len(analysed) == len(whole[0])
    assert whole[1] == flat[1] == noisy[1]  # the same targets
    assert whole[0] != flat[0] != noisy[0]
    (root / "exp").rename(root / "before")
    assert make(root, "noisy", replace(RECIPE, systems=("noisy",))) == noisy  # alone, without its base
    (root / "exp").rename(root / "alone")
    assert make(root, "whole", replace(RECIPE, systems=("whole",))) == whole
    assert not (root / "exp" / "cache").exists()  # nobody to share with


def test_variants_made_together_equal_those_made_one_by_one(root, monkeypatch):
    found = []
    cheaptrick = dsp_f0.pyworld.cheaptrick
    monkeypatch.setattr(dsp_f0.pyworld, "cheaptrick", lambda *args: found.append(1) or cheaptrick(*args))
    together = make_all(root, ["flat", "noisy"], nj=3)
    assert len(found) == len(together[0][0])  # an envelope an utterance, not a variant
    (root / "exp").rename(root / "before")
    assert [make(root, name) for name in ("flat", "noisy")] == together


def test_a_damaged_analysis_is_made_again(root, analysed):
    flat = make(root, "flat")
    count = len(analysed)
    [place] = (root / "exp/cache/analysis/whole").iterdir()
    Analyses.last = (None, {})  # as in a new process
    for file in place.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    (root / "exp" / "flat").rename(root / "before")
    assert make(root, "flat") == flat and len(analysed) == 2 * count


def test_another_tracker_is_another_analysis(root, analysed):
    make(root, "flat")
    changed = replace(RECIPE, overrides={"whole": {"params": {"f0": {"tracker": "harvest"}}}})
    assert config.load_system(changed, "flat", root).params["f0"]["tracker"] == "harvest"
    make(root, "noisy", changed)
    assert len(list((root / "exp/cache/analysis/whole").iterdir())) == 2


def test_convert_is_analysis_and_synthesis(root):
    anonymizer = build(config.load_system(RECIPE, "noisy", root))
    wav = np.sin(np.arange(16000) * 0.05).astype(np.float32)
    analysis = anonymizer.analyze(ArraySource(wav, 16000))
    one = anonymizer.convert(wav, 1.1, np.random.default_rng(1))
    [other] = anonymizer.synthesize_batch([wav], [analysis], [1.1], [np.random.default_rng(1)])
    assert analysis["f0"].ndim == 1 and np.array_equal(one, other)


def test_an_analysis_cannot_be_left_out():
    with pytest.raises(TypeError, match="does not implement analyze"):
        type("Half", (F0Anonymizer,), {"analysis_params": dict, "synthesize": DspF0.synthesize})


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"variant_of": "hole"}, "did you mean 'whole'"),
        ({"variant_of": "flat"}, "'flat' is a variant itself"),
        ({"variant_of": "whole", "target": {"policy": "none"}}, "no key 'target' of its own"),
        ({"variant_of": "whole", "params": {"transform": []}}, "did you mean 'transforms'"),
        ({"variant_of": "b2_mcadams"}, "'b2_mcadams' does not expose F0"),
    ],
)
def test_bad_variants_are_refused_before_any_work(root, variant, message):
    recipe = replace(RECIPE, variants=RECIPE.variants | {"bad": variant}, systems=("bad",))
    with pytest.raises(UserError, match=message):
        plan.check(recipe, root)


def test_a_sweep_adds_a_variant_a_pair(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "name: n\nsystems: [orig]\nevaluators: []\ncorpora: {}\n"
        "sweep: {base: dsp_f0, alpha: [0, 0.75], db: [null, 10], before: [{scale: {factor: 2}}]}\n"
    )
    recipe = config.load_recipe(tmp_path / "recipe.yaml")
    assert recipe.systems == (
        "orig", "dsp_f0_mr0", "dsp_f0_mr0_awgn10", "dsp_f0_mr0.75", "dsp_f0_mr0.75_awgn10"
    )  # fmt: skip
    assert recipe.sweep == SweepConfig()
    scale = {"scale": {"factor": 2}}
    found = [config.load_system(recipe, name, tmp_path).params["transforms"] for name in recipe.systems[1:]]
    assert found == [
        [scale],
        [scale, {"awgn": {"db": 10.0}}],
        [scale, {"mean_reversion": {"alpha": 0.75}}],
        [scale, {"mean_reversion": {"alpha": 0.75}}, {"awgn": {"db": 10.0}}],
    ]
    config.save(recipe, tmp_path / "again.yaml")
    assert config.load_recipe(tmp_path / "again.yaml") == recipe

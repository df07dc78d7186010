"""What the report makes of a sweep: a table of its own, figures, and contours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import report_tree

from espnet_musa import config
from espnet_musa.config import SweepConfig
from espnet_musa.report import build, markdown, sweep
from espnet_musa.report.tables import NONE


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Directory and results of a recipe with a sweep of two pulls and two noises."""
    root = tmp_path_factory.mktemp("sweep")
    recipe = config.load_recipe(config.ROOT / "egs/mini/conf/recipe.yaml")
    grid = SweepConfig("dsp_f0", alpha=(0.0, 0.75), db=(None, 10.0))
    recipe = replace(
        recipe,
        systems=("orig", "dsp_f0", "vqbn_mini_mr"),
        evaluators=("asv_resemblyzer", "pitch"),
        overrides={},
        sweep=grid,
    )
    config.save(recipe, root / "recipe.yaml")
    recipe = config.load_recipe(root / "recipe.yaml")
    report_tree.make(root, recipe)
    return root, build.build(recipe, root)[0]


def test_points(built):
    assert sweep.points(built[1]) == {
        "dsp_f0_mr0": ("dsp_f0", 0.0, None),
        "dsp_f0_mr0_awgn10": ("dsp_f0", 0.0, 10.0),
        "dsp_f0_mr0.75": ("dsp_f0", 0.75, None),
        "dsp_f0_mr0.75_awgn10": ("dsp_f0", 0.75, 10.0),
    }


def test_every_number_of_the_sweep_is_in_its_table_and_in_no_other(built):
    results = built[1]
    text = markdown.render(results)
    table = sweep.table(results)
    assert table.columns == [("no noise",), ("noise 10 dB",)]
    assert {row.keys[2] for row in table.rows} == {"0", "0.75"}
    assert all(NONE not in row.cells for row in table.rows)
    assert len({row.keys for row in table.rows}) == len(table.rows)
    assert f"## {sweep.TITLE}" in text
    measured = {row.keys[1] for row in table.rows}
    assert "EER %, asv_resemblyzer, lazy-informed (AA)" in measured and "pitch correlation, pitch" in measured
    before = text.split(f"## {sweep.TITLE}")[0]
    assert "mr0" not in before.replace("\\", "") and "dsp\\_f0" in before
    metric = next(
        m for m in results["metrics"]
        if m["system"] == "dsp_f0_mr0.75_awgn10" and m["name"] == "pitch_correlation" and m["group"] == "avg"
    )  # fmt: skip
    row = next(r for r in table.rows if r.keys == (metric["set"], "pitch correlation, pitch", "0.75"))
    assert row.cells[1] == f"{metric['value']:.2f}"


def test_figures(built):
    names = {path.stem for path in (built[0] / "exp/report/figures").glob("*.png")}
    assert {"sweep_dsp_f0", "sweep_dsp_f0_tradeoff", "f0_contours"} <= names
    page = (built[0] / "exp/report/report.html").read_text(encoding="utf-8")
    assert sweep.TITLE in page and "Line plots of F0 over time" in page


def test_tracks_are_the_systems_own_transforms():
    f0 = np.array([0.0, 100.0, 140.0, 0.0, 120.0])
    steps = [{"normalize": {}}, {"mean_reversion": {"alpha": 0.75}}, {"awgn": {"db": 10.0}}]
    title, original, reverted, noisy = sweep.tracks({"name": "x", "transforms": steps}, f0, 0.01, 0)
    assert title == "x" and original is f0
    np.testing.assert_allclose(reverted, [0, 115, 125, 0, 120])
    assert (noisy[[0, 3]] == 0).all() and (noisy != reverted).sum() == 3
    assert sweep.tracks({"name": "x", "transforms": steps[:2]}, f0, 0.01, 0)[3] is None
    assert not sweep.reverts({"name": "x", "transforms": [{"scale": {"factor": 2}}]})
    assert not sweep.reverts({"name": "orig"})


def test_results_without_a_sweep_show_none():
    results = {"systems": [{"name": "orig", "lower_bound": True}], "metrics": [], "evaluators": []}
    assert sweep.points(results) == {} and sweep.without(results) == results
    assert not sweep.table(results).rows


def test_a_sweep_that_nobody_measured_has_no_figures(built):
    nothing = {**built[1], "metrics": [m for m in built[1]["metrics"] if m["name"] != "pitch_correlation"]}
    assert sweep.tradeoff(nothing, "dsp_f0") is None and sweep.curves(nothing, "dsp_f0") is not None
    assert sweep.curves({**nothing, "metrics": []}, "dsp_f0") is None

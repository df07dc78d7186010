"""What the report says of a probed codec: every number at its place, and a map of its voices."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_musa.errors import Problems, UserError
from espnet_musa.report import identity

PROBE = {
    "system": "musa_x",
    "sets": [
        {
            "set": "trials",
            "embedding_eer": 5.0,
            "decoded": [
                {"quantizers": 1, "speaker": "own", "eer": 20.0},
                {"quantizers": 1, "speaker": "zero", "eer": 40.25},
                {"quantizers": 2, "speaker": "own", "eer": 10.0},
                {"quantizers": 2, "speaker": "zero", "eer": 30.0},
            ],
            "n": {"speakers": 4, "target": 8},
        }
    ],
}


def test_one_row_a_system_and_one_column_a_number_of_quantizers():
    table = identity.table({"probes": [PROBE]})
    assert table.columns == [
        ("speaker embedding",), ("1 quantizer", "own"), ("1 quantizer", "zero"),
        ("2 quantizers", "own"), ("2 quantizers", "zero"),
    ]  # fmt: skip
    (row,) = table.rows
    assert row.keys == ("musa_x", "trials")
    assert row.cells == ["5.0 %", "20.0 %", "40.2 %", "10.0 %", "30.0 %"]


def test_a_codec_with_fewer_quantizers_leaves_cells_empty():
    small = {"system": "s", "sets": [{**PROBE["sets"][0], "decoded": PROBE["sets"][0]["decoded"][:2]}]}
    rows = identity.table({"probes": [PROBE, small]}).rows
    assert rows[1].cells == ["5.0 %", "20.0 %", "40.2 %", "–", "–"]
    assert not identity.table({}).rows  # results of a recipe without codecs


def test_the_lazy_informed_attacker_stands_beside_the_ignorant_one():
    lazy = [{**made, "eer_lazy": made["eer"] / 2} for made in PROBE["sets"][0]["decoded"]]
    one = {**PROBE, "sets": [{**PROBE["sets"][0], "decoded": lazy}]}
    table = identity.table({"probes": [one]})
    assert table.columns[1:3] == [("1 quantizer", "own"), ("1 quantizer", "own, lazy-informed")]
    assert table.rows[0].cells[1:5] == ["20.0 %", "10.0 %", "40.2 %", "20.1 %"]
    assert identity.LAZY in identity.about({"probes": [one]})
    assert identity.about({"probes": [PROBE]}) == identity.about({}) == identity.ABOUT


def test_a_codec_that_was_not_probed_is_a_problem(tmp_path):
    problems = Problems()
    assert identity.load(tmp_path, ["musa_x"], problems) == []
    with pytest.raises(UserError, match=r"codec of system 'musa_x' is not probed.*run stage 'score'"):
        problems.raise_if_any()


def test_voices_that_differ_lie_apart_on_the_map(tmp_path):
    rng = np.random.default_rng(0)
    centres = 20 * rng.standard_normal((3, 8))
    speakers = np.repeat(["a", "b", "c"], 10)
    embeddings = np.repeat(centres, 10, axis=0) + rng.standard_normal((30, 8))
    np.savez(tmp_path / "set.npz", embeddings=embeddings.astype(np.float32), speakers=speakers)
    plane, shown = identity.positions(tmp_path / "set.npz", most=2)
    assert plane.shape == (20, 2) and len(set(shown)) == 2
    first, second = (plane[np.array(shown) == name] for name in sorted(set(shown)))
    spread = max(np.linalg.norm(own - own.mean(0), axis=1).mean() for own in (first, second))
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * spread

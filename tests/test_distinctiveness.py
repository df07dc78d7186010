"""The evaluator of voice distinctiveness on data directories, and what the report makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_sets import GENDERS, make_set, tone

from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.base import Resources
from espnet_musa.evaluators.distinctiveness import Distinctiveness
from espnet_musa.evaluators.voices import Voices
from espnet_musa.report import figures, tables
from espnet_musa.report.build import _similarity

PITCHES = {"a": 210.0, "b": 260.0, "c": 80.0, "d": 130.0}
RATE = 16000


class Ear:
    """An encoder that hears the pitch, a little uncertainly."""

    dimension, identity = 12, "ear"

    def embed(self, wavs):
        rows = []
        for wav in wavs:
            band = int(np.argmax(np.abs(np.fft.rfft(wav, RATE)[:400]))) // 45
            rows.append(np.eye(self.dimension)[band % 12] + 0.01 * np.random.default_rng(len(wav)).random(12))
        return np.array(rows, np.float32)


@pytest.fixture(autouse=True)
def ear(monkeypatch):
    monkeypatch.setattr(Voices, "_encoder", lambda *_: Ear())


def speech(path: Path, pitches: dict[str, float], utts: int = 3, only: str = "abcd") -> DataDir:
    wavs = {f"{s}-{i}": tone(0.3 + 0.02 * i, pitches[s], i) for s in only for i in range(utts)}
    return DataDir.read(make_set(path, wavs, GENDERS, {"role": "utility", "split": "test"}), "audio")


def scored(original: DataDir, anonymized: DataDir, out: Path) -> dict[tuple[str, str], float]:
    out.mkdir(exist_ok=True)
    metrics = Distinctiveness("resemblyzer").score(original, anonymized, out, Resources())
    assert all(m.split == "test" and m.set == original.name for m in metrics)
    return {(m.name, m.group): m.value for m in metrics}


def test_a_set_against_itself_gains_and_hides_nothing(tmp_path: Path):
    original = speech(tmp_path / "trials", PITCHES)
    found = scored(original, original, tmp_path / "out")
    assert found == {(name, group): 0.0 for name in ("gvd", "deid") for group in ("f", "m", "all", "avg")}
    for group, size in (("f", 2), ("m", 2), ("all", 4)):
        oo, oa, aa = (np.load(tmp_path / "out" / group / f"{pair}.npy") for pair in ("oo", "oa", "aa"))
        assert oo.shape == (size, size)
        assert np.diag(oo).min() > 0.8 > 0.2 > oo[~np.eye(size, dtype=bool)].max()
        np.testing.assert_array_equal(oo, oa)
        np.testing.assert_array_equal(oo, aa)
    assert (tmp_path / "out/all/speakers").read_text().split() == ["a", "b", "c", "d"]


def test_other_voices_hide_and_one_voice_confuses(tmp_path: Path):
    original = speech(tmp_path / "o" / "trials", PITCHES)
    swapped = {"a": PITCHES["b"], "b": PITCHES["a"], "c": PITCHES["d"], "d": PITCHES["c"]}
    found = scored(original, speech(tmp_path / "p" / "trials", swapped), tmp_path / "out")
    assert found["gvd", "all"] == pytest.approx(0, abs=0.2)  # as distinct as before, each in another's place
    assert found["deid", "all"] > 0.5
    found = scored(
        original, speech(tmp_path / "q" / "trials", dict.fromkeys("abcd", 170.0)), tmp_path / "out"
    )
    assert found["gvd", "avg"] < -3
    assert found["gvd", "avg"] == pytest.approx((found["gvd", "f"] + found["gvd", "m"]) / 2)  # decibels


def test_one_gender_is_reported_once(tmp_path: Path):
    women = speech(tmp_path / "trials", PITCHES, only="ab")
    assert set(scored(women, women, tmp_path / "out")) == {("gvd", "f"), ("deid", "f")}


def test_mistakes_are_refused_before_any_work(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Voices, "_encoder", lambda *_: pytest.fail("started to work"))
    original, less = speech(tmp_path / "a", PITCHES), speech(tmp_path / "b", PITCHES, only="abc")
    with pytest.raises(UserError, match=r"utt 'd-0'(?s:.*)only in one of the two sets"):
        Distinctiveness("resemblyzer").score(original, less, tmp_path, Resources())
    single = speech(tmp_path / "c", PITCHES, utts=1)
    with pytest.raises(UserError, match="0 speakers with two or more utterances"):
        Distinctiveness("resemblyzer").score(single, single, tmp_path, Resources())
    with pytest.raises(UserError, match="attacker"):
        Distinctiveness("ecapa").score(original, original, tmp_path, Resources())
    with pytest.raises(UserError, match="did you mean 'plda'"):
        Distinctiveness("resemblyzer", backend="pldaa")
    assert Distinctiveness(backend="plda").trained
    assert not Distinctiveness().trained


def test_the_report_draws_the_matrices(tmp_path: Path):
    """Blocks oo, oa, ao, aa of all speakers; missing files are named."""
    original = speech(tmp_path / "trials", PITCHES)
    place = tmp_path / "exp" / "system" / "score" / "gvd" / "trials"
    place.mkdir(parents=True)
    metrics = Distinctiveness("resemblyzer").score(original, original, place, Resources())
    common = {"system": "system", "evaluator": "gvd", "parts": []}
    results = {"metrics": [{**m.to_dict(), **common} for m in metrics]}
    ((evaluator, name, panels),) = _similarity(results, tmp_path)
    assert (evaluator, name, panels[0][0]) == ("gvd", "trials", "system")
    matrix = panels[0][1]
    assert matrix.shape == (8, 8)
    np.testing.assert_array_equal(matrix, matrix.T)
    image = figures.png(figures.similarity(panels))
    assert image == figures.png(figures.similarity(panels))
    assert image.startswith(b"\x89PNG")
    (place / "all" / "oa.npy").unlink()
    with pytest.raises(UserError, match=r"all: similarity matrices are missing"):
        list(_similarity(results, tmp_path))


def test_tables_know_the_privacy_metrics():
    names = ("eer", "dsys", "cllr", "cllr_min", "zebra_population", "zebra_individual", "deid")
    assert all(tables.kind(name).privacy for name in names)
    worst = {"name": "zebra_individual", "value": 3.829, "unit": "", "low": None, "high": None}
    assert tables.show(worst) == "3.83 (C)"
    assert tables.show({**worst, "name": "gvd", "value": -9.1512, "unit": "dB"}) == "-9.15"

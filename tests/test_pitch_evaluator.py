"""Pitch correlation of two sets: identity, groups, files and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_sets import GENDERS, RATE, make_set, tone

from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.base import Resources
from espnet_musa.evaluators.pitch import Pitch
from espnet_musa.metrics.pitch import pitch_correlation


def melody(seconds: float, middle: float, seed: int) -> np.ndarray:
    """A voice with a wandering pitch, silent in the middle third."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = middle * 2 ** (0.3 * np.sin(2 * np.pi * rng.uniform(0.8, 2.5) * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 8)) * 0.2
    wave[len(wave) // 3 : 2 * len(wave) // 3] = 0
    return (wave + 0.001 * rng.standard_normal(len(time))).astype(np.float32)


def pair(tmp_path: Path, other: dict[str, np.ndarray] | None = None) -> tuple[DataDir, DataDir]:
    wavs = {"a-0": melody(0.9, 200.0, 0), "b-0": melody(1.0, 220.0, 1), "c-0": melody(0.9, 110.0, 2)}
    one = make_set(tmp_path / "original", wavs, GENDERS, {"split": "dev"})
    two = make_set(tmp_path / "copy", wavs if other is None else wavs | other, GENDERS, {})
    return DataDir.read(one, "audio"), DataDir.read(two, "audio")


@pytest.mark.parametrize("reading", ["vpc2022", "voiced"])
def test_identical_sets_correlate_perfectly(tmp_path: Path, reading: str):
    metrics = Pitch(tracker="dio", reading=reading).score(*pair(tmp_path), tmp_path, Resources())
    assert {m.group for m in metrics} == {"all", "f", "m", "avg"}
    for metric in metrics:
        assert metric.value == pytest.approx(1.0)
        assert "WORLD" in metric.notes
    assert (tmp_path / "pitch").read_text() == "a-0 1.0000\nb-0 1.0000\nc-0 1.0000\n"


def test_groups_are_means_over_their_utterances(tmp_path: Path):
    """Another melody for the man: his group falls, the women's does not, the average is the plain mean of both."""
    sets = pair(tmp_path, {"c-0": tone(1.0, 150.0)})
    metrics = Pitch(tracker="dio").score(*sets, tmp_path, Resources())
    value = {m.group: m.value for m in metrics}
    count = {m.group: m.n["utterances"] for m in metrics}
    assert value["f"] == pytest.approx(1.0)
    assert value["m"] < 0.8
    assert value["avg"] == pytest.approx((value["f"] + value["m"]) / 2)
    assert value["all"] == pytest.approx((2 * value["f"] + value["m"]) / 3)
    assert count == {"all": 3, "f": 2, "m": 1, "avg": 3}


def test_yaapt_in_place_of_praat(tmp_path: Path):
    metrics = Pitch(tracker="yaapt").score(*pair(tmp_path), tmp_path, Resources())
    assert {m.notes for m in metrics} == {"YAAPT replaces Praat; reading vpc2022"}
    assert {m.value for m in metrics} == {1.0}


def test_praat_as_the_challenge_calls_it(tmp_path: Path):
    """Praat's own frames: the definition word for word, on two utterances of different length."""
    parselmouth = pytest.importorskip("parselmouth")
    original, anonymized = pair(tmp_path, {"c-0": melody(1.1, 150.0, 5)})
    metrics = Pitch(tracker="praat").score(original, anonymized, tmp_path, Resources())
    assert {m.notes for m in metrics} == {"Praat; reading vpc2022"}
    tracks = []
    for data in (original, anonymized):
        sound = parselmouth.Sound(str(data.audio_path("c-0")))
        pitch = sound.to_pitch(time_step=0.01, pitch_floor=75, pitch_ceiling=500)
        tracks.append(pitch.selected_array["frequency"])
    assert next(m.value for m in metrics if m.group == "m") == pytest.approx(pitch_correlation(*tracks))


def test_praat_is_asked_for_before_anything_is_scored(monkeypatch):
    monkeypatch.setattr("espnet_musa.f0.praat.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'praat-parselmouth"):
        Pitch(tracker="praat")


def test_processes_change_nothing(tmp_path: Path):
    sets = pair(tmp_path, {"a-0": melody(1.2, 180.0, 8)})
    one = Pitch(tracker="dio").score(*sets, tmp_path, Resources(jobs=1))
    assert Pitch(tracker="dio").score(*sets, tmp_path, Resources(jobs=2)) == one


def test_mismatched_sets_and_unknown_names_are_refused(tmp_path: Path):
    sets = pair(tmp_path, {"d-0": tone(0.5, 100.0)})
    with pytest.raises(UserError, match="utt 'd-0'"):
        Pitch().score(*sets, tmp_path, Resources())
    with pytest.raises(UserError, match="did you mean 'harvest'"):
        Pitch(tracker="harvset")

"""Pitch correlation: hand-worked values of both readings."""

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.metrics.pitch import pitch_correlation

A, B = np.array([100.0, 200, 300, 0]), np.array([200.0, 200, 300, 0])


def contour(frames=400, seed=0):
    """A track with pauses and a moving pitch."""
    t = np.arange(frames)
    f0 = 150 + 30 * np.sin(t / 15) + 10 * np.sin(t / 4 + seed)
    f0[(t // 40) % 3 == 2] = 0
    return f0


def test_hand_worked():
    # deviations (-50, 50, 150, -150) and (25, 25, 125, -175): 45000 / sqrt(50000 * 47500); lag 0
    assert pitch_correlation(A, B) == pytest.approx(45000 / np.sqrt(50000 * 47500))
    # the three voiced frames: deviations (-100, 0, 100) and (-100, -100, 200) / 3: sqrt(3) / 2
    assert pitch_correlation(A, B, "voiced") == pytest.approx(np.sqrt(3) / 2)


@pytest.mark.parametrize("reading", ["vpc2022", "voiced"])
def test_identical_and_scaled_tracks(reading):
    f0 = contour()
    assert pitch_correlation(f0, f0, reading) == pytest.approx(1.0)
    assert pitch_correlation(f0, 1.2 * f0, reading) == pytest.approx(1.0)


def test_mirrored_intonation():
    f0 = contour()
    mirrored = np.where(f0 > 0, 300 - f0, 0)
    assert pitch_correlation(f0, mirrored, "voiced", max_lag=0) == pytest.approx(-1.0)
    assert pitch_correlation(f0, mirrored) > 0.7  # mostly the agreement of voicing, as the module says


def test_lag():
    f0 = contour()
    late = np.roll(f0, 7)
    far = np.roll(np.pad(f0, (0, 200)), 150)
    assert pitch_correlation(f0, late) == pytest.approx(1.0)  # circular: nothing is lost at the ends
    assert pitch_correlation(f0, late, "voiced") == pytest.approx(1.0)
    assert pitch_correlation(f0, late, "voiced", max_lag=3) < 0.99
    assert pitch_correlation(np.pad(f0, (0, 200)), far) == pytest.approx(1.0)  # any lag
    assert pitch_correlation(np.pad(f0, (0, 200)), far, "voiced") < 0.9


def test_voiced_sees_only_frames_voiced_in_both():
    f0 = contour()
    holes = f0.copy()
    holes[::5] = 0
    assert pitch_correlation(f0, holes, "voiced") == pytest.approx(1.0)
    assert pitch_correlation(f0, holes) < 0.9


def test_other_length():
    f0 = contour()
    # (100, 200, 300) on 5 points: (100, 150, 200, 250, 300)
    assert pitch_correlation(
        np.array([100.0, 200, 300]), np.array([100.0, 150, 200, 250, 300])
    ) == pytest.approx(1)
    # 0 and 200 give 100 in the middle: kept; 0 and 120 give 60: set to 0, so the tracks are equal
    assert pitch_correlation(np.array([0.0, 120]), np.array([0.0, 0, 120])) == pytest.approx(1.0)
    for reading in ("vpc2022", "voiced"):
        assert pitch_correlation(f0, f0[:-3], reading) > 0.9
        assert pitch_correlation(f0[:-3], f0, reading) > 0.9


def test_range_of_2022():
    f0 = contour()
    wild = f0.copy()
    wild[:3] = 600  # above 500 Hz: 0 in this reading
    clean = f0.copy()
    clean[:3] = 0
    assert pitch_correlation(wild, f0) == pytest.approx(pitch_correlation(clean, f0))


@pytest.mark.parametrize("reading", ["vpc2022", "voiced"])
def test_undefined_is_zero(reading):
    f0 = contour()
    for flat in (np.zeros(400), np.full(400, 120.1), np.zeros(1), np.array([120.0])):
        assert pitch_correlation(f0, flat, reading) == 0.0
        assert pitch_correlation(flat, flat, reading) == 0.0
    monotone = np.where(f0 > 0, 120.1, 0)
    assert pitch_correlation(f0, monotone, "voiced") == 0.0
    assert pitch_correlation(f0, monotone) > 0.8


def test_refuses():
    f0 = contour()
    for bad in (np.zeros(0), np.array([np.nan]), np.array([-1.0]), np.zeros((2, 2))):
        with pytest.raises(UserError, match="second pitch track"):
            pitch_correlation(f0, bad)
    with pytest.raises(UserError, match="did you mean 'voiced'"):
        pitch_correlation(f0, f0, "voice")

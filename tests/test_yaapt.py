"""YAAPT against AMFM_decompy, against pitches that are known, and its kernels against plain searches."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import voice, vowel

from espnet_musa.errors import UserError
from espnet_musa.f0 import yaapt_kernels as kernels
from espnet_musa.f0.yaapt import Yaapt, track

RATE = 16000


def cents(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both = (a > 0) & (b > 0)
    return 1200 * np.abs(np.log2(a[both] / b[both]))


def package(wav: np.ndarray, rate: int, **options) -> np.ndarray:
    """The track of AMFM_decompy."""
    tracker = pytest.importorskip("amfm_decompy.pYAAPT")
    from amfm_decompy.basic_tools import SignalObj

    return tracker.yaapt(SignalObj(wav.astype(np.float64), rate), **options).samp_values


def same(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of frames that are both unvoiced, or both voiced within a cent."""
    assert ours.shape == theirs.shape
    return float((((ours == 0) & (theirs == 0)).sum() + (cents(ours, theirs) < 1).sum()) / ours.size)


@pytest.mark.parametrize(
    ("rate", "options"),
    [
        (16000, {}),
        (16000, {"f0_max": 600.0}),
        (16000, {"frame_space": 20.0, "tda_frame_length": 25.0, "nccf_thresh1": 0.25}),
        (22050, {"f0_min": 75.0, "f0_max": 500.0}),
        (8000, {}),
    ],
)
def test_is_the_package_on_generated_speech(rate, options):
    for seed, f0 in enumerate((90.0, 150.0, 230.0)):
        wav = voice(seed, 2.0, f0, rate)
        wav[rate // 2 : rate] *= 0.01  # a pause
        ours = track(wav, rate, Yaapt(compat=True, **options))
        theirs = package(wav, rate, **options)
        assert same(ours, theirs) > 0.99
        assert ((ours > 0) == (theirs > 0)).mean() > 0.995


@pytest.mark.real
def test_is_the_package_on_real_speech(real_speech: Path):
    """What remains are paths of equal cost, between which rounding decides; voicing is the same in all frames."""
    files = sorted((real_speech / "librispeech" / "LibriSpeech" / "train-clean-100").rglob("*.flac"))[::63]
    pairs = []
    for file in files:
        wav = sf.read(file, dtype="float64", frames=6 * RATE)[0]
        pairs.append((track(wav, RATE, Yaapt(compat=True)), package(wav, RATE)))
    ours, theirs = (np.concatenate(both) for both in zip(*pairs, strict=True))
    assert same(ours, theirs) > 0.995
    assert ((ours > 0) == (theirs > 0)).all()


@pytest.mark.real
def test_without_compat_it_is_the_package_without_its_offsets(real_speech: Path):
    """On the same grid of frames: hardly another voicing, and the package is lower by what its lags are too long."""
    file = sorted((real_speech / "librispeech" / "LibriSpeech" / "train-clean-100").rglob("*.flac"))[0]
    wav = sf.read(file, dtype="float64", frames=8 * RATE)[0]
    ours = track(wav, RATE)
    padded = np.pad(wav, (280 - 75, 1000))
    theirs = track(padded, RATE, Yaapt(compat=True))[: ours.size]
    assert ((ours > 0) == (theirs > 0)).mean() > 0.97
    both = (ours > 0) & (theirs > 0)
    lag = RATE / ours[both]
    error = 1200 * np.log2(theirs[both] / ours[both]) - 1200 * np.log2(lag / (lag + 1))
    assert abs(np.median(error)) < 5


@pytest.mark.parametrize("period", [60, 80, 107, 160])
def test_a_period_of_whole_samples(period):
    """Its pitch exactly; the package's lag is one too long."""
    wav = vowel(RATE / period, 1.0)
    ours, theirs = track(wav, RATE), track(wav, RATE, Yaapt(compat=True))
    assert np.median(ours[ours > 0]) == pytest.approx(RATE / period)
    assert np.median(theirs[theirs > 0]) == pytest.approx(RATE / (period + 1))


def test_level_does_not_matter():
    wav = voice(1, 1.5, 140.0).astype(np.float64)
    for gain in (2.0**-12, 2.0**6):
        assert (track(gain * wav, RATE) == track(wav, RATE)).all()


def test_noise_and_silence_are_unvoiced():
    wav = np.zeros(2 * RATE)
    wav[RATE : RATE + RATE // 2] = vowel(140.0, 0.5)
    f0 = track(wav, RATE)
    assert f0.size == 201
    assert not f0[:98].any() and not f0[153:].any()
    assert (f0[105:145] > 0).all()


def test_refuses_what_it_cannot_hold():
    for rate, params, words in (
        (4000, Yaapt(), "YAAPT on audio of 4000 Hz"),
        (96000, Yaapt(), "8000 to 58000 Hz"),
        (RATE, Yaapt(f0_max=110.0), "more than an octave"),
        (8000, Yaapt(f0_max=1000.0), "at most 890 Hz"),
        (RATE, Yaapt(tda_frame_length=15.0), "a lowest F0 of 60 Hz"),
    ):
        with pytest.raises(UserError, match=words):
            track(np.zeros(8000), rate, params)


# -- kernels ---------------------------------------------------------------------------------------------------------


def cheapest(local: np.ndarray, step) -> float:
    """Least cost over all paths through (F, K) candidates, by trying them all."""
    frames, count = local.shape
    return min(
        sum(local[f, k] for f, k in enumerate(path))
        + sum(step(f, path[f - 1], path[f]) for f in range(1, frames))
        for path in itertools.product(range(count), repeat=frames)
    )


def cost(path: np.ndarray, local: np.ndarray, step) -> float:
    return sum(local[f, k] for f, k in enumerate(path)) + sum(
        step(f, path[f - 1], path[f]) for f in range(1, len(path))
    )


@pytest.mark.parametrize("seed", range(5))
def test_paths_are_the_cheapest(seed):
    rng = np.random.default_rng(seed)
    pitch, merit = rng.uniform(80, 300, (6, 4)), rng.uniform(0, 1, (6, 4))

    def smooth(f, j, k):
        d = abs(pitch[f, k] - pitch[f - 1, j]) / 60
        return 2.0 * (0.05 * d + d * d)

    path = kernels.smooth_path(pitch, merit, 2.0, 60.0)
    assert cost(path, 1 - merit, smooth) == pytest.approx(cheapest(1 - merit, smooth))
    pitch[rng.uniform(size=pitch.shape) < 0.4] = 0
    energy = rng.uniform(0, 2, 6)

    def voicing(f, j, k):
        a, b = pitch[f - 1, j], pitch[f, k]
        if a > 0 and b > 0:
            return 0.15 * abs(a - b) / 150 / 0.9
        return (0.5 * (1 - min(1, abs(energy[f] - energy[f - 1]))) if a > 0 or b > 0 else 0.1) / 0.9

    path = kernels.voicing_path(pitch, merit, energy, 150.0, (0.15, 0.5, 0.1, 0.9))
    assert cost(path, 1 - merit, voicing) == pytest.approx(cheapest(1 - merit, voicing))


def test_correlation_peaks_of_a_periodic_frame():
    """A period of 50 samples: 1 at 50 and 100; the threshold keeps one or both, the highest first."""
    frame = np.tile(np.sin(2 * np.pi * np.arange(50) / 50) ** 3, 8)[None]
    lags = np.array([[30, 130]])
    span = 400 - 130
    products = np.array([[frame[0, :span] @ frame[0, n : n + span] for n in range(131)]])
    found, values = kernels.correlation_peaks(products, frame, lags, 2, (0.3, 1.1), 3)
    assert sorted(found[0]) == [0, 50, 100]
    np.testing.assert_allclose(np.sort(values[0]), [0, 1, 1], atol=1e-12)
    found, values = kernels.correlation_peaks(products, frame, lags, 2, (0.3, 0.9), 3)
    assert found[0, 0] in (50, 100) and not found[0, 1:].any() and not values[0, 1:].any()
    found, _ = kernels.correlation_peaks(0 * products, 0 * frame, lags, 2, (0.3, 0.9), 3)
    assert not found.any()


def test_harmonic_peaks_of_a_line_spectrum():
    """Lines at multiples of bin 60: of all bins only that one has a line at each of its first four multiples."""
    magnitude = np.full((2, 4 * 200 + 11), 1e-3)
    magnitude[0, 60::60] = 1.0
    settings = {
        "lowest": 31, "highest": 200, "half_window": 5, "harmonics": 4, "half_width": 13,
        "search": (20, 190), "thresholds": (5.0, 1.25), "most": 4,
    }  # fmt: skip
    bins, merits, counts = kernels.harmonic_peaks(magnitude, *settings.values())
    assert bins[0, 0] in range(59, 62) and merits[0, 0] == 1 and counts[0] >= 1
    assert counts[1] == 0 and not bins[1].any()  # flat: no peak

"""F0 extraction (pitch found, grid, flat memory) and transforms (closed forms)."""

import numpy as np
import pytest

from espnet_musa.data.audio import ArraySource, AudioFile, write_wav
from espnet_musa.errors import UserError
from espnet_musa.f0.extract import extract, extract_stream
from espnet_musa.f0.transforms import LOWEST, apply

RATE = 16000


def tone(f0: float | np.ndarray, seconds: float, rate: int = RATE) -> np.ndarray:
    """A harmonic sound with a given pitch."""
    phase = np.cumsum(np.broadcast_to(f0, round(seconds * rate))) / rate
    return 0.1 * sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 10)).astype(np.float32)


class Watched(ArraySource):
    """Remembers how much was read at once."""

    longest = 0

    def read(self, start=0, stop=None):
        self.longest = max(self.longest, stop - start)
        return super().read(start, stop)


@pytest.mark.parametrize("tracker", ["harvest", "dio"])
@pytest.mark.parametrize("hop_ms", [5.0, 10.0])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_finds_the_pitch(tracker, hop_ms, rate):
    f0 = extract(tone(137.0, 1.0, rate), rate, tracker=tracker, hop_ms=hop_ms)
    assert f0.shape == (int(1000 / hop_ms) + 1,)
    assert np.median(f0[f0 > 0]) == pytest.approx(137, rel=0.01)
    assert (f0 > 0).mean() > 0.9


def test_frames_are_centred_on_the_hop():
    pitch = np.linspace(100, 200, 2 * RATE)
    f0 = extract(tone(pitch, 2.0), RATE)
    np.testing.assert_allclose(f0[50:150], pitch[::160][50:150], rtol=0.02)


@pytest.mark.parametrize("tracker", ["harvest", "dio"])
def test_short_and_silent(tracker):
    rng = np.random.default_rng(0)
    for samples in (1, 2, 79, 80, 160, 400, 1600):
        for wav in (np.zeros(samples), 0.1 * rng.standard_normal(samples)):
            f0 = extract(wav.astype(np.float32), RATE, tracker=tracker)
            assert f0.shape == (samples // 160 + 1,)
            assert np.isfinite(f0).all() and (f0 >= 0).all()
    assert not extract(np.zeros(RATE, np.float32), RATE, tracker=tracker).any()


def test_long_audio_in_flat_memory_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_musa.f0.extract.CHUNK", 5)
    pitch = 140 + 30 * np.sin(np.arange(18 * RATE) / RATE)
    wav = tone(pitch, 18.0)
    source = Watched(wav, RATE)
    f0 = extract_stream(source, tracker="dio")
    assert f0.shape == (1801,)
    assert source.longest <= 7 * RATE
    np.testing.assert_allclose(f0[20:1780], pitch[::160][20:1780], rtol=0.02)  # chunk borders included
    assert (f0 == extract(wav, RATE, tracker="dio")).all()
    write_wav(tmp_path / "a.wav", wav, RATE)
    with AudioFile(tmp_path / "a.wav") as file:
        assert (extract_stream(file, tracker="dio") == extract(file.read(), RATE, tracker="dio")).all()


def test_exact_multiples_of_a_chunk(monkeypatch):
    monkeypatch.setattr("espnet_musa.f0.extract.CHUNK", 3)
    for seconds in (3, 6):
        f0 = extract(tone(120.0, seconds), RATE, tracker="dio")
        assert f0.shape == (100 * seconds + 1,)
        assert f0[5:-5] == pytest.approx(120, rel=0.01)


@pytest.mark.real
@pytest.mark.parametrize("tracker", ["harvest", "dio"])
def test_chunks_of_real_speech_agree_with_the_whole(real_speech, monkeypatch, tracker):
    """Context hides the borders: nearly all frames near them are as if there were none."""
    files = sorted((real_speech / "librispeech" / "LibriSpeech" / "train-clean-100").rglob("*.flac"))[:2]
    near, total = 0, 0
    for file in files:
        with AudioFile(file) as audio:
            wav = audio.read(0, 7 * RATE)
        monkeypatch.undo()
        whole = extract(wav, RATE, tracker=tracker)
        monkeypatch.setattr("espnet_musa.f0.extract.CHUNK", 2)
        chunked = extract(wav, RATE, tracker=tracker)
        near += int((abs(whole - chunked) <= 0.01 * whole).sum())
        total += whole.size
    assert near / total > 0.985


def test_refuses_bad_settings_and_samples():
    wav = tone(120.0, 0.1)
    for bad, words in (
        ({"tracker": "harvets"}, "did you mean 'harvest'"),
        ({"hop_ms": 7.0}, "hop of 7.0 ms"),
        ({"floor": 300.0, "ceiling": 200.0}, "range of 300.0 to 200.0"),
        ({"floor": 1.0}, "range"),
    ):
        with pytest.raises(UserError, match=words):
            extract(wav, RATE, **bad)
    with pytest.raises(UserError, match="no samples"):
        extract(wav[:0], RATE)
    with pytest.raises(UserError, match="NaN"):
        extract(np.array([0, np.nan], np.float32), RATE)


# -- transforms ------------------------------------------------------------------------------------------------------


def contour(frames: int = 20000) -> np.ndarray:
    """A long track with mean 150 and standard deviation 20 over voiced frames, a third unvoiced."""
    rng = np.random.default_rng(0)
    f0 = rng.normal(size=frames)
    voiced = np.arange(frames) % 3 > 0
    f0 = 150 + 20 * (f0 - f0[voiced].mean()) / f0[voiced].std()
    return np.where(voiced, f0, 0.0)


def change(f0, *transforms, seed=0):
    return apply(list(transforms), f0, np.random.default_rng(seed), hop_ms=10.0)


@pytest.mark.parametrize(("reading", "left"), [("r1", 0.25), ("r2", 0.75)])
def test_mean_reversion(reading, left):
    f0 = contour()
    out = change(f0, {"mean_reversion": {"alpha": 0.75, "reading": reading}})
    voiced = f0 > 0
    assert out[voiced].mean() == pytest.approx(150)
    assert out[voiced].std() == pytest.approx(20 * left)
    np.testing.assert_allclose(out[voiced], 150 + left * (f0[voiced] - 150))
    assert not out[~voiced].any()
    default = change(f0, {"mean_reversion": {"alpha": 0.75}})
    assert (default == out).all() == (reading == "r1")


def test_moving_mean():
    # hop 10 ms, window 20 ms: one frame to either side; unvoiced frames are no part of a mean
    f0 = np.array([100.0, 200, 300, 0, 100, 0, 0])
    out = change(f0, {"mean_reversion": {"alpha": 1.0, "mean": "moving", "window_ms": 20.0}})
    assert out.tolist() == [150, 200, 250, 0, 100, 0, 0]
    slow = np.linspace(100, 200, 400)
    out = change(slow, {"mean_reversion": {"alpha": 0.75, "mean": "moving"}})
    np.testing.assert_allclose(out[40:-40], slow[40:-40])  # declination is left alone


@pytest.mark.parametrize(
    ("params", "sigma"),
    [
        ({}, 20 / np.sqrt(10)),
        ({"reading": "snr_variance"}, 20 / np.sqrt(10)),
        ({"reading": "snr_power"}, np.hypot(150, 20) / np.sqrt(10)),
        ({"reading": "absolute_hz"}, np.sqrt(10)),
        ({"reading": "absolute_z"}, 20 * np.sqrt(10)),
        ({"db": 0.0}, 20),
        ({"db": -6.0}, 20 * 10**0.3),
    ],
)
def test_noise_power(params, sigma):
    f0 = contour() + 1000 * (contour() > 0)  # far from the lowest pitch, which would clip the noise
    if params.get("reading") == "snr_power":
        sigma = np.hypot(1150, 20) / np.sqrt(10)
    noise = change(f0, {"awgn": {"db": 10.0, **params}}) - f0
    voiced = f0 > 0
    assert noise[voiced].std() == pytest.approx(sigma, rel=0.03)
    assert abs(noise[voiced].mean()) < 4 * sigma / np.sqrt(voiced.sum())
    assert not noise[~voiced].any()


def test_noise_after_mean_reversion_is_relative_to_the_original_unless_told():
    f0 = contour()
    voiced, reversion = f0 > 0, {"mean_reversion": {"alpha": 0.75}}
    calm = change(f0, reversion)
    original = change(f0, reversion, {"awgn": {"db": 10.0}}) - calm
    current = change(f0, reversion, {"awgn": {"db": 10.0, "reference": "current"}}) - calm
    assert original[voiced].std() == pytest.approx(20 / np.sqrt(10), rel=0.03)
    assert current[voiced].std() == pytest.approx(5 / np.sqrt(10), rel=0.03)


def test_noise_is_the_generators():
    f0, noise = contour(300), {"awgn": {"db": 10.0}}
    assert (change(f0, noise, seed=1) == change(f0, noise, seed=1)).all()
    assert (change(f0, noise, seed=1) != change(f0, noise, seed=2))[f0 > 0].all()


def test_voiced_stays_voiced():
    f0 = contour()
    out = change(f0, {"awgn": {"db": -40.0}})
    assert ((out > 0) == (f0 > 0)).all()
    assert out[f0 > 0].min() == LOWEST


@pytest.mark.parametrize(
    "neutral",
    [
        [],
        [{"mean_reversion": {"alpha": 0}}],
        [{"mean_reversion": {"alpha": 1.0, "reading": "r2"}}],
        [{"scale": {"factor": 1}}],
        [{"awgn": {"db": 100.0}}],
    ],
)
def test_neutral(neutral):
    f0 = contour(300)
    np.testing.assert_allclose(change(f0, *neutral), f0, rtol=1e-5)


def test_scale_and_order():
    f0 = contour(300)
    np.testing.assert_allclose(change(f0, {"scale": {"factor": 1.25}}), 1.25 * f0)
    one = change(f0, {"scale": {"factor": 2.0}}, {"awgn": {"db": 10.0, "reading": "absolute_hz"}})
    other = change(f0, {"awgn": {"db": 10.0, "reading": "absolute_hz"}}, {"scale": {"factor": 2.0}})
    np.testing.assert_allclose(other - 2 * f0, 2 * (one - 2 * f0), atol=1e-9)


def test_input_is_not_changed_and_silence_comes_back():
    f0 = contour(300)
    copy = f0.copy()
    change(f0, {"scale": {"factor": 2.0}})
    assert (f0 == copy).all()
    everything = [{"mean_reversion": {"alpha": 0.5}}, {"awgn": {"db": 3.0}}, {"scale": {"factor": 2.0}}]
    assert not change(np.zeros(10), *everything).any()
    assert change(np.array([0.0, 120.0]), *everything).tolist() == [
        0,
        240,
    ]  # one frame: no variance, no noise


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"mean_reversoin": {"alpha": 1}}, "did you mean 'mean_reversion'"),
        ({"mean_reversion": {"aplha": 1}}, "no parameter 'aplha'; did you mean 'alpha'"),
        ({"mean_reversion": {}}, "needs the parameter 'alpha'"),
        ({"mean_reversion": {"alpha": 1.5}}, "alpha is 1.5; expected a number from 0 to 1"),
        ({"mean_reversion": {"alpha": float("nan")}}, "alpha is nan"),
        ({"mean_reversion": {"alpha": True}}, "alpha is True"),
        ({"mean_reversion": {"alpha": 0.5, "reading": "r3"}}, "unknown mean_reversion.reading 'r3'"),
        ({"awgn": {"db": "10"}}, "awgn.db is '10'"),
        ({"awgn": {"db": 10, "reading": "snr"}}, "unknown awgn.reading 'snr'"),
        ({"scale": {"factor": 0}}, "scale.factor is 0"),
        ({"scale": 2.0}, "scale has parameters 2.0"),
        ({"scale": {"factor": 1}, "awgn": {"db": 1}}, "a transform is"),
        ("scale", "a transform is 'scale'"),
    ],
)
def test_refuses_bad_transforms(transform, words):
    with pytest.raises(UserError) as error:
        change(contour(30), transform)
    assert words in str(error.value)

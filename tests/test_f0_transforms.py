"""Transforms of F0 against closed forms, in Hz and as z-scores."""

import numpy as np
import pytest

from espnet_musa.errors import UserError
from espnet_musa.f0.transforms import LOWEST, apply, domain


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
        [{"multiply": {"low": 1.0, "high": 1.0, "per": "frame"}}],
        [{"shift": {"mean": 150.0}}],
        [{"shift": {"mean": 150.0, "by": "add"}}],
        [{"quantize": {"steps": 10000}}],
        [{"normalize": {"mean": 0, "sd": 1}}],
    ],
)
def test_neutral(neutral):
    f0 = contour(300)  # its mean is 150, its standard deviation 20
    np.testing.assert_allclose(change(f0, *neutral), f0, rtol=1e-5)
    z = change(f0, {"normalize": {}})
    if neutral and "normalize" not in neutral[0]:
        np.testing.assert_allclose(change(f0, {"normalize": {}}, *neutral), z, atol=1e-4)


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
        ({"normalize": {"mean": 120.0}}, "one of mean and sd"),
        ({"normalize": {"mean": 120.0, "sd": 0.0}}, "normalize.sd is 0.0"),
        ({"multiply": {"low": 1.2, "high": 0.8}}, "multiply.high is 0.8"),
        ({"multiply": {"low": 0.8, "high": 1.2, "per": "phones"}}, "did you mean 'phone'"),
        ({"multiply": {"low": 0.8, "high": 1.2, "per": "phone"}}, "knows no phones"),
        ({"shift": {"mean": 5.0}}, "shift.mean is 5.0"),
        ({"shift": {"mean": 150.0, "by": "semitones"}}, "unknown shift.by"),
        ({"quantize": {"steps": 0}}, "quantize.steps is 0"),
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


# -- z-scores --------------------------------------------------------------------------------------------------------

NORMALIZE = {"normalize": {}}


def test_normalize():
    f0 = contour()
    z, voiced = change(f0, NORMALIZE), f0 > 0
    assert z[voiced].mean() == pytest.approx(0, abs=1e-12)
    assert z[voiced].var(ddof=1) == pytest.approx(1, rel=1e-7)
    assert not z[~voiced].any()
    fixed = change(f0, {"normalize": {"mean": 120.0, "sd": 40.0}})
    np.testing.assert_allclose(fixed[voiced], (f0[voiced] - 120) / 40)


@pytest.mark.parametrize(
    "before",
    [
        [{"scale": {"factor": 1.7}}],
        [{"shift": {"mean": 210.0, "by": "add"}}],
        [{"mean_reversion": {"alpha": 0.75}}],
        [{"mean_reversion": {"alpha": 0.5}}, {"shift": {"mean": 90.0}}],
    ],
)
def test_what_is_affine_before_normalize_is_cancelled(before):
    """The trap: mean reversion of the utterance's pitch does nothing if the system normalises after it."""
    f0 = contour()
    assert np.abs(change(f0, *before) - f0).max() > 20
    np.testing.assert_allclose(change(f0, *before, NORMALIZE), change(f0, NORMALIZE), atol=1e-6)
    behind = change(f0, NORMALIZE, *before)
    assert np.abs(behind - change(f0, NORMALIZE)).max() > 1  # and is heard where it stands behind


@pytest.mark.parametrize(("reading", "left"), [("r1", 0.25), ("r2", 0.75)])
def test_mean_reversion_scales_z(reading, left):
    f0 = contour()
    z = change(f0, NORMALIZE)
    out = change(f0, NORMALIZE, {"mean_reversion": {"alpha": 0.75, "reading": reading}})
    np.testing.assert_allclose(out, left * z, atol=1e-12)
    assert out.std() == pytest.approx(left * z.std(), rel=1e-12)


@pytest.mark.parametrize("reading", ["snr_variance", "snr_power", "absolute_hz", "absolute_z"])
@pytest.mark.parametrize("reference", ["original", "current"])
def test_noise_is_the_same_in_both_domains(reading, reference):
    """Its power by each reading within 0.3 dB over 13000 frames, in Hz and, over the variance, as z-scores."""
    f0 = contour() + 1000 * (contour() > 0)
    voiced, calm = f0 > 0, {"mean_reversion": {"alpha": 0.5}}
    sd = 10 if reference == "current" else 20
    power = {"snr_variance": sd**2 / 10, "snr_power": (1150**2 + sd**2) / 10, "absolute_hz": 10}
    wanted = power.get(reading, sd**2 * 10)
    noise = {"awgn": {"db": 10.0, "reading": reading, "reference": reference}}
    hz = change(f0, calm, noise)[voiced] - change(f0, calm)[voiced]
    z = change(f0, NORMALIZE, calm, noise)[voiced] - change(f0, NORMALIZE, calm)[voiced]
    assert voiced.sum() > 1e4
    assert 10 * np.log10(hz.var() / wanted) == pytest.approx(0, abs=0.3)
    assert 10 * np.log10(z.var() / (wanted / 20**2)) == pytest.approx(0, abs=0.3)


def test_the_toolkits_noise():
    """SA-toolkit's 10 dB: a standard deviation of sqrt(10) for z-scores."""
    f0 = contour()
    noise = {"awgn": {"db": 10.0, "reading": "absolute_z"}}
    out = change(f0, NORMALIZE, noise) - change(f0, NORMALIZE)
    assert out[f0 > 0].std() == pytest.approx(np.sqrt(10), rel=0.03)


def test_voiced_stays_voiced_as_z():
    for track in ([0.0, 120.0, 0.0], [0.0, 120.0, 120.0], [100.0, 150.0, 200.0, 0.0]):
        z = change(np.array(track), NORMALIZE)
        assert ((z.astype(np.float32) != 0) == (np.array(track) > 0)).all()
        assert np.isfinite(z).all()
    assert not change(np.zeros(5), NORMALIZE, {"awgn": {"db": 0}}).any()
    assert change(contour(), NORMALIZE, {"awgn": {"db": -40.0}}).min() < -100  # no floor in this domain


def test_domain():
    assert domain([]) == domain([{"scale": {"factor": 2.0}}]) == "hz"
    assert domain([{"scale": {"factor": 2.0}}, NORMALIZE, {"awgn": {"db": 1}}]) == "z"
    with pytest.raises(UserError, match="twice"):
        domain([NORMALIZE, {"normalize": {"mean": 1.0, "sd": 1.0}}])


# -- multiply, shift, quantize, order --------------------------------------------------------------------------------


def factors(f0, phones=None, **params) -> np.ndarray:
    out = apply([{"multiply": params}], f0, np.random.default_rng(0), phones=phones)
    return np.divide(out, f0, out=np.zeros_like(f0), where=f0 > 0)


def test_multiply_is_uniform():
    """The histogram of factors is flat within four standard deviations of its counts."""
    drawn = factors(np.full(100000, 200.0), low=0.6, high=1.4, per="frame")
    assert drawn.min() >= 0.6 and drawn.max() <= 1.4
    counts, _ = np.histogram(drawn, bins=80, range=(0.6, 1.4))
    assert np.abs(counts - 1250).max() < 4 * np.sqrt(1250)


def test_multiply_per_piece():
    f0 = np.array([0, 100, 110, 0, 0, 120, 130, 140, 0, 150], float)
    runs = [[1, 2], [5, 6, 7], [9]]
    got = factors(f0, low=0.5, high=2.0, per="segment")
    assert [len(set(got[run].round(12))) for run in runs] == [1, 1, 1]
    assert len({got[run[0]].round(6) for run in runs}) == 3 and not got[f0 == 0].any()
    assert len(set(factors(f0, low=0.5, high=2.0, per="utterance")[f0 > 0].round(12))) == 1
    assert len(set(factors(f0, low=0.5, high=2.0, per="frame")[f0 > 0])) == 6
    phones = np.array([7, 7, 3, 3, 3, 3, 3, 7, 7, 7])  # voiced: 1 | 2, 5, 6 | 7, 9
    got = factors(f0, phones, low=0.5, high=2.0, per="phone")
    assert got[2] == pytest.approx(got[5]) and got[7] == pytest.approx(got[9])
    assert len({got[k].round(6) for k in (1, 2, 7)}) == 3
    with pytest.raises(UserError, match="one a frame"):
        factors(f0, phones[:-1], low=0.5, high=2.0, per="phone")


@pytest.mark.parametrize(
    "step",
    [
        {"multiply": {"low": 0.8, "high": 1.25, "per": "frame"}},
        {"scale": {"factor": 0.7}},
        {"shift": {"mean": 110.0}},
        {"shift": {"mean": 110.0, "by": "add"}},
    ],
)
def test_changes_of_pitch_are_the_same_in_both_domains(step):
    f0 = contour(300)
    voiced = f0 > 0
    z = change(f0, {"normalize": {"mean": 140.0, "sd": 30.0}}, step)
    np.testing.assert_allclose(140 + 30 * z[voiced], change(f0, step)[voiced])


@pytest.mark.parametrize("by", ["ratio", "add"])
def test_shift(by):
    f0 = contour()
    out, voiced = change(f0, {"shift": {"mean": 210.0, "by": by}}), f0 > 0
    assert out[voiced].mean() == pytest.approx(210)
    assert out[voiced].std() == pytest.approx(20 * (210 / 150 if by == "ratio" else 1))


def test_quantize():
    """z-scores on multiples of 1/16; in Hz the same grid, about the mean."""
    f0 = contour()
    voiced, step = f0 > 0, {"quantize": {"steps": 16.0}}
    z = change(f0, NORMALIZE, step)
    np.testing.assert_allclose(z * 16, np.round(z * 16), atol=1e-9)
    assert np.abs(z - change(f0, NORMALIZE)).max() <= 1 / 32 + 1e-12
    np.testing.assert_allclose(change(f0, step)[voiced], 150 + 20 * z[voiced], rtol=1e-4)


def test_order_matters():
    """The published order (noise, then reversion) leaves a quarter of the noise; ours all of it."""
    f0, voiced = contour(), contour() > 0
    noise, reversion = {"awgn": {"db": 10.0}}, {"mean_reversion": {"alpha": 0.75}}
    calm = change(f0, NORMALIZE, reversion)
    ours = (change(f0, NORMALIZE, reversion, noise) - calm)[voiced]
    published = (change(f0, NORMALIZE, noise, reversion) - calm)[voiced]
    assert ours.std() == pytest.approx(np.sqrt(0.1), rel=0.03)
    assert published.std() == pytest.approx(np.sqrt(0.1) / 4, rel=0.03)


@pytest.mark.parametrize("bad", [[100.0, np.nan], [np.inf], [-1.0, 100.0], [[100.0]]])
def test_refuses_what_is_no_pitch_track(bad):
    with pytest.raises(UserError, match="pitch track"):
        change(np.array(bad), NORMALIZE)


def test_dsp_f0s_default_is_what_it_was():
    """Mean reversion and noise in Hz as plain formulas, bit for bit."""
    f0 = contour(300)
    voiced = f0[f0 > 0]
    calm = voiced + 0.75 * (voiced.mean() - voiced)
    noise = voiced.std() / 10 ** (10.0 / 20) * np.random.default_rng(0).standard_normal(voiced.size)
    out = change(f0, {"mean_reversion": {"alpha": 0.75}}, {"awgn": {"db": 10.0}})
    assert (out[f0 > 0] == np.maximum(calm + noise, LOWEST)).all()

"""McAdams anonymizer: equal to a plain reading, to closed forms, and to itself however it is cut into blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.signal
import soundfile as sf
from conftest import voice
from plain_mcadams import plain_mcadams, plain_pcm

from espnet_musa.anonymizers import mcadams
from espnet_musa.anonymizers.base import PEAK, Anonymizer, ArraySource, to_peak
from espnet_musa.anonymizers.mcadams import McAdams, analysis_window
from espnet_musa.data.audio import to_int16
from espnet_musa.errors import UserError

RNG = np.random.default_rng(0)  # never drawn from


def stream(wav: np.ndarray, target: float, rate: int = 16000, **params) -> np.ndarray:
    """All blocks, joined."""
    return np.concatenate(list(McAdams(**params).convert_stream(ArraySource(wav, rate), target, RNG)))


def steps(wav: np.ndarray, rate: int, coefficient: float, first_frame: int = 0) -> int:
    """Largest difference from the plain reading, in 16-bit steps of the written files."""
    ours = stream(wav, coefficient, rate, skip_first_frame=bool(first_frame))
    ours = to_int16(ours * (PEAK / np.abs(ours).max()), truncate=True)
    plain = plain_pcm(plain_mcadams(wav, rate, coefficient, first_frame=first_frame))
    return int(np.abs(ours.astype(int) - plain).max())


@pytest.mark.parametrize("coefficient", [0.5, 0.8, 1.2])
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_equals_the_plain_reading(rate, coefficient):
    assert steps(voice(seconds=0.5, rate=rate), rate, coefficient) <= 1


def test_equals_the_plain_reading_of_2022():
    wav = voice(seconds=0.5)
    assert steps(wav, 16000, 0.7, first_frame=1) <= 1
    assert not stream(wav, 0.7, skip_first_frame=True)[:160].any()
    assert stream(wav, 0.7)[:160].any()


@pytest.mark.real
def test_equals_the_plain_reading_on_real_speech(real_speech):
    files = sorted(real_speech.glob("librispeech/LibriSpeech/test-other/*/*/*.flac"))[::10]
    files += sorted(real_speech.glob("emodb/wav/*.flac"))[::60]
    for file, coefficient in zip(files, itertools.cycle([0.5, 0.6, 0.7, 0.8, 0.9])):
        wav, rate = sf.read(file, dtype="float32", frames=48000)
        assert steps(wav, rate, coefficient) <= 1, file.name


@pytest.mark.parametrize(
    ("hertz", "expected"),
    [
        (200, {0.5: 713.6, 0.7: 429.0, 0.8: 332.7, 0.9: 257.9}),
        (500, {0.5: 1128.4, 0.7: 814.8, 0.8: 692.4, 0.9: 588.4}),
        (1000, {0.5: 1595.8, 0.7: 1323.7, 0.8: 1205.6, 0.9: 1098.0}),
        (4000, {0.5: 3191.5, 0.7: 3493.2, 0.8: 3654.6, 0.9: 3823.4}),
        (7000, {0.5: 4222.0, 0.7: 5168.3, 0.8: 5718.3, 0.9: 6326.8}),
    ],
)
def test_a_pole_moves_to_its_closed_form(hertz, expected):
    pole = 0.95 * np.exp(2j * np.pi * hertz / 16000)
    a, roots = np.poly([pole, pole.conj()]), np.empty(2, complex)
    assert mcadams._roots(a, np.empty(3), roots)
    assert np.sort_complex(roots) == pytest.approx(np.sort_complex([pole, pole.conj()]))
    for coefficient, moved in expected.items():
        new = np.empty(3)
        mcadams._rebuild(roots, coefficient, new)
        made = np.roots(new)[0]
        assert abs(made) == pytest.approx(0.95)
        assert abs(np.angle(made)) * 16000 / (2 * np.pi) == pytest.approx(moved, abs=0.05)


@pytest.mark.parametrize(("coefficient", "moved"), [(0.5, 1128.4), (0.7, 814.8), (0.8, 692.4), (0.9, 588.4)])
def test_a_resonance_of_a_signal_moves(coefficient, moved):
    pole = 0.99 * np.exp(2j * np.pi * 500 / 16000)
    noise = np.random.default_rng(1).standard_normal(32000)
    wav = scipy.signal.lfilter([0.01], np.poly([pole, pole.conj()]).real, noise).astype(np.float32)
    frequency, power = scipy.signal.welch(stream(wav, coefficient), 16000, nperseg=2048)
    assert frequency[np.argmax(power)] == pytest.approx(moved, abs=40)


def test_real_poles_and_radii_stay():
    poles = np.array([0.9, -0.8, 0.5, 0.7 + 0.2j, 0.7 - 0.2j])
    a, roots, new = np.poly(poles), np.empty(5, complex), np.empty(6)
    assert mcadams._roots(a, np.empty(6), roots)
    mcadams._rebuild(roots, 0.6, new)
    made = np.roots(new)
    assert np.sort(made[made.imag == 0].real) == pytest.approx([-0.8, 0.5, 0.9])
    assert np.sort(np.abs(made)) == pytest.approx(np.sort(np.abs(poles)))


def test_roots_are_right_or_disowned():
    rng = np.random.default_rng(0)
    trusted = 0
    for _ in range(300):
        radius, angle = 1 - rng.exponential(0.05, 8) % 1, rng.uniform(0, np.pi, 8)
        pairs = radius * np.exp(1j * angle)
        a = np.poly(np.concatenate([pairs, pairs.conj(), rng.uniform(-1, 1, 4)])).real
        found, rebuilt = np.empty(20, complex), np.empty(21)
        if mcadams._roots(a, np.empty(21), found):
            trusted += 1
            mcadams._rebuild(found, 1.0, rebuilt)
            assert np.abs(rebuilt - a).max() <= 2 * mcadams.REBUILT * np.abs(a).max()
            residues = np.abs(np.polyval(a, found)) / np.polyval(np.abs(a), np.abs(found))
            assert residues.max() < 1e-12
    assert trusted > 250  # the rest has clusters of roots, as few frames of speech do


def test_sparse_and_multiple_roots_do_no_harm():
    for a in (np.eye(21)[0], np.poly(np.full(20, 0.9)), np.array([1.0] + [0.0] * 19 + [0.5])):
        found = np.empty(20, complex)
        if not mcadams._roots(a, np.empty(21), found):
            found = np.roots(a)
        assert np.abs(np.poly(found) - a).max() < 1e-9 * np.abs(a).max()


def test_distrusted_frames_go_through_eigenvalues(monkeypatch):
    wav = voice(seconds=0.3)
    fast = stream(wav, 0.7)
    analyse = mcadams._analyse

    def distrust(*args):
        analyse(*args)
        args[-1][:] = False
        args[-2][:] = np.nan

    monkeypatch.setattr(mcadams, "_analyse", distrust)
    assert stream(wav, 0.7) == pytest.approx(fast, abs=1e-6)


def test_coefficient_one_is_the_sum_of_the_windowed_frames():
    wav = voice(seconds=0.4)[:6300]
    window, expected = analysis_window(320, 160), np.zeros(len(wav))
    for start in range(0, len(wav) - 319, 160):
        expected[start : start + 320] += (wav[start : start + 320] + mcadams.EPSILON) * window**2
    out = stream(wav, 1.0)
    assert out == pytest.approx(expected, abs=1e-6)
    assert out[160:6000] == pytest.approx(wav[160:6000], abs=0.01)  # squared windows add up to one
    assert window.dot(window) == pytest.approx(160)


@pytest.mark.parametrize("length", [320, 321, 479, 480, 481, 16000, 16159])
def test_length_and_tail(length):
    wav = voice(seconds=2)[:length]
    out = stream(wav, 0.8)
    covered = 320 + (length - 320) // 160 * 160
    assert out.dtype == np.float32 and len(out) == length
    assert not out[covered:].any() and out[1 : covered - 1].any()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("window_ms", [20.0, 25.0, 30.0])
def test_blocks_make_no_difference(monkeypatch, window_ms, skip):
    wav = voice(seconds=1.3)
    params = {"window_ms": window_ms, "skip_first_frame": skip}
    whole = stream(wav, 0.6, **params)
    for size in (1, 2, 7, *np.random.default_rng(2).integers(3, 130, 4)):
        monkeypatch.setattr(mcadams, "BLOCK_FRAMES", int(size))
        assert stream(wav, 0.6, **params).tobytes() == whole.tobytes()


def test_memory_is_flat():
    class Endless:
        frames, sample_rate, longest = 10**7, 16000, 0

        def read(self, start, stop):
            self.longest = max(self.longest, stop - start)
            return np.full(stop - start, 0.1, np.float32)

    source = Endless()
    blocks = McAdams().convert_stream(source, 0.8, RNG)
    sizes = [len(next(blocks)) for _ in range(3)]
    assert sizes == [160000] * 3 and source.longest == 160160


def test_nothing_is_left_to_compile_after_prepare():
    McAdams().prepare()
    kernels = (mcadams._analyse, mcadams._synthesise)
    before = [len(kernel.signatures) for kernel in kernels]
    stream(voice(seconds=0.1), 0.8, skip_first_frame=True)
    assert [len(kernel.signatures) for kernel in kernels] == before == [1, 1]


def test_convert_is_the_stream_at_full_level():
    wav = voice(seconds=0.5)
    made = McAdams().convert(wav, 0.7, RNG)
    assert np.array_equal(made, to_peak(stream(wav, 0.7)))
    assert np.abs(made).max() == pytest.approx(PEAK, abs=1e-6)
    assert np.array_equal(made, McAdams().convert(wav, 0.7, RNG))


@pytest.mark.parametrize(
    "wav",
    [
        np.zeros(4000),
        np.full(4000, -mcadams.EPSILON),
        np.full(4000, 0.5),
        np.sin(np.arange(4000) * 0.3),
        np.r_[np.zeros(2000), 1.0, np.zeros(1999)],
    ],
    ids=["silence", "minus epsilon", "constant", "tone", "click"],
)
@pytest.mark.parametrize("coefficient", [0.5, 0.9])
def test_degenerate_signals_stay_finite_and_bounded(wav, coefficient):
    wav = wav.astype(np.float32)
    out = stream(wav, coefficient)
    assert np.isfinite(out).all()  # the plain reading is NaN for the tone
    assert np.abs(out).max() <= 1e4 * max(np.abs(wav).max(), 1e-8)


def test_silence_is_not_blown_up():
    assert np.abs(McAdams().convert(np.zeros(1600, np.float32), 0.5, RNG)).max() < 1e-4


@pytest.mark.parametrize("length", [0, 1, 160, 319])
def test_too_short_is_an_error(length):
    with pytest.raises(UserError, match=rf"{length} samples .* at least 320"):
        McAdams().convert(np.zeros(length, np.float32), 0.8, RNG)
    with pytest.raises(UserError, match="at least 480"):
        McAdams(skip_first_frame=True).convert(np.zeros(320 + length // 2, np.float32), 0.8, RNG)


@pytest.mark.parametrize("target", [None, "0.8", True, 0.0, -0.5, float("nan"), float("inf")])
def test_targets_that_are_no_coefficient(target):
    with pytest.raises(UserError, match="McAdams coefficient"):
        McAdams().convert(np.zeros(1600, np.float32), target, RNG)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lpc_ordr": 20}, "unknown key 'lpc_ordr'; did you mean 'lpc_order'"),
        ({"lpc_order": "20"}, "expected a whole number"),
        ({"lpc_order": 0}, "at least 1"),
        ({"hop_ms": 25.0}, "hop_ms <= window_ms"),
        ({"hop_ms": 0}, "hop_ms <= window_ms"),
        ({"window_ms": float("nan")}, "hop_ms <= window_ms"),
    ],
)
def test_parameters_are_checked(params, message):
    with pytest.raises(UserError, match=message):
        McAdams(**params)


def test_a_window_too_short_for_its_prediction():
    with pytest.raises(UserError, match="at least 22 and 1"):
        McAdams(window_ms=1.0, hop_ms=0.5).convert(np.zeros(1600, np.float32), 0.8, RNG)


def test_an_anonymizer_of_whole_utterances_streams_too():
    class Backwards(Anonymizer):
        def convert(self, wav, target, rng):
            return wav[::-1]

    wav = voice(seconds=0.1)
    (block,) = Backwards().convert_stream(ArraySource(wav, 16000), None, RNG)
    assert np.array_equal(block, wav[::-1])
    with pytest.raises(TypeError, match="neither"):
        type("Nothing", (Anonymizer,), {})

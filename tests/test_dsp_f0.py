"""WORLD with another pitch: what changes, what stays, seams, any length."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf

from espnet_musa.anonymizers import dsp_f0
from espnet_musa.anonymizers.dsp_f0 import DspF0
from espnet_musa.data.audio import ArraySource
from espnet_musa.errors import UserError
from espnet_musa.f0.extract import extract

RATE = 16000
DIO = {"tracker": "dio"}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(f0: float | np.ndarray, seconds: float) -> np.ndarray:
    phase = np.cumsum(np.broadcast_to(f0, round(seconds * RATE))) / RATE
    return 0.1 * sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 20)).astype(np.float32)


def snr(clean: np.ndarray, other: np.ndarray) -> float:
    """dB."""
    clean, other = clean.astype(np.float64), other.astype(np.float64)
    return float(10 * np.log10(np.sum(clean**2) / np.sum((clean - other) ** 2)))


def loudness(wav: np.ndarray) -> np.ndarray:
    """dB per 25 ms, not below -60."""
    return 10 * np.log10((wav[: wav.size // 400 * 400].reshape(-1, 400) ** 2).mean(axis=1) + 1e-6)


@pytest.mark.parametrize("tracker", ["harvest", "dio"])
@pytest.mark.parametrize("samples", [1, 2, 79, 80, 81, 160, 1000, 16000, 16001])
def test_any_length(tracker, samples):
    system = DspF0(f0={"tracker": tracker}, transforms=[{"awgn": {"db": 10.0}}])
    for wav in (np.zeros(samples, np.float32), tone(150.0, 2.0)[:samples]):
        out = system.convert(wav, None, rng())
        assert out.shape == (samples,) and out.dtype == np.float32
        assert np.isfinite(out).all() and np.abs(out).max() <= 1
        if not wav.any():
            assert np.abs(out).max() < 1e-4  # silence stays silence


def test_no_samples():
    with pytest.raises(UserError, match="no samples"):
        DspF0().convert(np.zeros(0, np.float32), None, rng())


@pytest.mark.parametrize("target", [1.3, {"scale": 1.3}])
def test_target_scales_the_pitch_and_keeps_the_level(target):
    wav = tone(150 + 20 * np.sin(np.arange(2 * RATE) / 4000), 2.0)
    out = DspF0().convert(wav, target, rng())
    before, after = extract(wav, RATE), extract(out, RATE)
    both = (before > 0) & (after > 0)
    assert both.mean() > 0.9
    np.testing.assert_allclose(after[both][5:-5], 1.3 * before[both][5:-5], rtol=0.02)
    assert out.std() == pytest.approx(wav.std(), rel=0.3)


def test_mean_reversion_is_heard():
    wav = tone(150 + 30 * np.sin(np.arange(3 * RATE) / 4000), 3.0)
    out = DspF0(transforms=[{"mean_reversion": {"alpha": 0.75}}]).convert(wav, None, rng())
    before, after = extract(wav, RATE), extract(out, RATE)
    assert after[after > 0].std() == pytest.approx(before[before > 0].std() / 4, rel=0.15)
    assert after[after > 0].mean() == pytest.approx(before[before > 0].mean(), rel=0.01)


def test_deterministic_and_random_where_it_should_be():
    wav, quiet = tone(150.0, 1.0) + tone(151.0, 1.0), DspF0(f0=DIO)
    wav *= np.linspace(0.2, 1, wav.size, dtype=np.float32)
    pitch = tone(150 + 20 * np.sin(np.arange(RATE) / 3000), 1.0)
    noisy = DspF0(f0=DIO, transforms=[{"awgn": {"db": 0.0}}])
    assert (quiet.convert(wav, 1.1, rng(0)) == quiet.convert(wav, 1.1, rng(1))).all()  # it draws nothing
    first = noisy.convert(pitch, None, rng(0))
    quiet.convert(wav, None, rng(5))  # the vocoder's own noise must not remember this
    assert (first == noisy.convert(pitch, None, rng(0))).all()
    assert (first != noisy.convert(pitch, None, rng(1))).any()


def test_seams_of_voiced_sound(monkeypatch):
    """Sustained sound, no pause to hide a seam in: chunked and whole synthesis agree to 25 dB, at the seams too.

    The rest is WORLD's noise, drawn anew in each chunk. Chunks out of step agree to about 0 dB.
    """
    system = DspF0(f0=DIO)
    wav = tone(150 + 40 * np.sin(np.arange(9 * RATE) / 5000), 9.0)
    whole = system.convert(wav, 1.2, rng())
    monkeypatch.setattr(dsp_f0, "CHUNK", 2)
    out = system.convert(wav, 1.2, rng())
    assert snr(whole[RATE:-RATE], out[RATE:-RATE]) > 25
    for seam in range(2 * RATE, 8 * RATE, 2 * RATE):
        around = slice(seam - 800, seam + 800)
        assert snr(whole[around], out[around]) > 25
    monkeypatch.setattr(dsp_f0, "_steer", lambda f0, *_: f0)
    assert snr(whole, system.convert(wav, 1.2, rng())) < 10


@pytest.mark.real
def test_seams_of_real_speech(real_speech, monkeypatch):
    """Speech cut every second, so that seams fall anywhere.

    Where two chunks overlap they hold the same pulses: over 50 ms around a voiced seam they correlate by more than 0.98
    in the median and 0.6 in the worst case, where the voice is breathy and much of it WORLD's noise (without `_steer`:
    about -0.2 in the median). The loudness contour is that of the whole within 1 dB on average.
    """
    files = sorted((real_speech / "librispeech" / "LibriSpeech" / "train-clean-100").rglob("*.flac"))[:4]
    system = DspF0(f0=DIO, transforms=[{"mean_reversion": {"alpha": 0.75}}])
    wavs = [sf.read(file, dtype="float32", frames=8 * RATE)[0] for file in files]
    wholes = [system.convert(wav, None, rng()) for wav in wavs]
    pieces, original = [], dsp_f0._Piece.__init__

    def watched(self, *args):
        original(self, *args)
        pieces.append(self)

    monkeypatch.setattr(dsp_f0._Piece, "__init__", watched)
    monkeypatch.setattr(dsp_f0, "CHUNK", 1)
    agreement = []
    for wav, whole in zip(wavs, wholes, strict=True):
        pieces.clear()
        out = system.convert(wav, None, rng())
        assert out.size == whole.size == wav.size
        assert np.abs(loudness(out) - loudness(whole)).mean() < 1.0
        assert len(pieces) == -(-wav.size // RATE)
        f0 = extract(wav, RATE, hop_ms=5.0, **DIO)
        for number, (before, after) in enumerate(pairwise(pieces), start=1):
            seam = number * RATE
            if (f0[seam // 80 - 6 : seam // 80 + 7] > 0).all():
                area = (seam - 400, seam + 400)
                agreement.append(np.corrcoef(before.samples(*area), after.samples(*area))[0, 1])
    assert len(agreement) >= 5
    assert np.median(agreement) > 0.98 and min(agreement) > 0.6


def test_flat_memory_and_exact_length(monkeypatch):
    class Watched(ArraySource):
        longest = 0

        def read(self, start=0, stop=None):
            self.longest = max(self.longest, stop - start)
            return super().read(start, stop)

    monkeypatch.setattr(dsp_f0, "CHUNK", 3)
    monkeypatch.setattr("espnet_musa.f0.extract.CHUNK", 3)
    wav = tone(150.0, 7.0)
    source = Watched(wav[: 6 * RATE + 7], RATE)
    blocks = list(DspF0(f0=DIO).convert_stream(source, None, rng()))
    assert [len(block) for block in blocks] == [3 * RATE, 3 * RATE, 7]
    assert source.longest <= 5 * RATE  # a chunk with its surroundings, however long the recording
    monkeypatch.setattr(dsp_f0, "CHUNK", 1)
    for samples in (RATE - 1, RATE, RATE + 1, 2 * RATE - 1, 2 * RATE, 2 * RATE + 1, 2 * RATE + 79):
        out = DspF0(f0=DIO).convert(wav[:samples], None, rng())
        assert out.shape == (samples,)
        assert np.abs(out).max() < 1


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"f0": {"traker": "dio"}}, "did you mean 'tracker'"),
        ({"f0": {"tracker": "dioo"}}, "did you mean 'dio'"),
        ({"f0": {"floor": 900.0}}, "F0 range"),
        ({"transform": []}, "did you mean 'transforms'"),
        ({"transforms": [{"scal": {"factor": 2}}]}, "did you mean 'scale'"),
        ({"transforms": [{"scale": {"factor": -2}}]}, "scale.factor is -2"),
        ({"transforms": [{"normalize": {}}]}, "end in z-scores"),
    ],
)
def test_refuses_bad_parameters(params, words):
    with pytest.raises(UserError) as error:
        DspF0(**params)
    assert words in str(error.value)


def test_refuses_bad_target_and_rate():
    wav = tone(150.0, 0.2)
    for target in ({"pitch": 1.0}, "high", 0.0, float("nan"), True):
        with pytest.raises(UserError):
            DspF0(f0=DIO).convert(wav, target, rng())
    with pytest.raises(UserError, match="8000 Hz"):
        list(DspF0(f0=DIO).convert_stream(ArraySource(wav, 8000), None, rng()))

"""F0 extraction by all trackers: pitch found, grid, batches, flat memory, refusals."""

from importlib.util import find_spec

import numpy as np
import pytest
from conftest import vowel

from espnet_musa.data.audio import ArraySource, AudioFile, write_wav
from espnet_musa.errors import UserError
from espnet_musa.f0 import praat
from espnet_musa.f0.extract import extract, extract_batch, extract_stream

RATE = 16000
PRAAT = pytest.param(
    "praat",
    marks=pytest.mark.skipif(find_spec("parselmouth") is None, reason="praat-parselmouth is not installed"),
)
TRACKERS = ["harvest", "dio", "yaapt", PRAAT]


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


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("hop_ms", [5.0, 10.0])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_finds_the_pitch(tracker, hop_ms, rate):
    f0 = extract(vowel(137.0, 1.0, rate), rate, tracker=tracker, hop_ms=hop_ms)
    assert f0.shape == (int(1000 / hop_ms) + 1,)
    assert np.median(f0[f0 > 0]) == pytest.approx(137, rel=0.01)
    assert (f0 > 0).mean() > 0.9


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("rate", [16000, 22050])
def test_frames_are_centred_on_the_hop(tracker, rate):
    """A sweep of 25 Hz a second over 4 s: the median error is that of less than 4 ms."""
    pitch = np.linspace(100, 200, 4 * rate)
    f0 = extract(vowel(pitch, 4.0, rate), rate, tracker=tracker)
    truth = np.interp(np.arange(401) / 100, np.arange(4 * rate) / rate, pitch)
    error = (f0 - truth)[50:350][f0[50:350] > 0]
    assert error.size > 280
    assert abs(np.median(error)) < 0.1


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_batch_is_its_utterances(tracker):
    wavs = [vowel(pitch, seconds) for pitch, seconds in ((110.0, 0.3), (220.0, 0.9), (150.0, 0.01))]
    for batched, wav in zip(extract_batch(wavs, RATE, tracker=tracker), wavs, strict=True):
        assert (batched == extract(wav, RATE, tracker=tracker)).all()
    assert extract_batch([], RATE, tracker=tracker) == []


@pytest.mark.parametrize("tracker", TRACKERS)
def test_short_and_silent(tracker):
    rng = np.random.default_rng(0)
    for samples in (1, 2, 79, 80, 160, 400, 1600):
        for wav in (np.zeros(samples), 0.1 * rng.standard_normal(samples)):
            f0 = extract(wav.astype(np.float32), RATE, tracker=tracker)
            assert f0.shape == (samples // 160 + 1,)
            assert np.isfinite(f0).all() and (f0 >= 0).all()
    assert not extract(np.zeros(RATE, np.float32), RATE, tracker=tracker).any()


@pytest.mark.parametrize("tracker", ["yaapt", PRAAT])
def test_trackers_of_whole_utterances_in_flat_memory(tracker, monkeypatch):
    """They get longer chunks with more context; at a border the track goes on."""
    monkeypatch.setattr("espnet_musa.f0.extract.UTTERANCE", 4)
    monkeypatch.setattr("espnet_musa.f0.extract._SURROUNDINGS", 2)
    pitch = 140 + 30 * np.sin(np.arange(10 * RATE) / RATE)
    source = Watched(vowel(pitch, 10.0), RATE)
    f0 = extract_stream(source, tracker=tracker)
    assert f0.shape == (1001,)
    assert source.longest <= 8 * RATE
    np.testing.assert_allclose(f0[20:980], pitch[::160][20:980], rtol=0.03)


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
        ({"tracker": "yaapt", "floor": 75.0, "ceiling": 140.0}, "more than an octave"),
        ({"tracker": "yaapt", "ceiling": 1990.0}, "at most 1890 Hz"),
    ):
        with pytest.raises(UserError, match=words):
            extract(wav, RATE, **bad)
    with pytest.raises(UserError, match="no samples"):
        extract(wav[:0], RATE)
    with pytest.raises(UserError, match="NaN"):
        extract(np.array([0, np.nan], np.float32), RATE)


def test_praat_absent(monkeypatch):
    monkeypatch.setattr("espnet_musa.f0.praat.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'praat-parselmouth"):
        extract(tone(120.0, 0.1), RATE, tracker="praat")


def test_praat_is_praat_on_the_grid():
    """As many frames as Praat itself finds in the padded sound, each where it should be."""
    pytest.importorskip("parselmouth")
    wav = vowel(150.0, 0.505)
    own, grid = praat.pitch(wav, RATE, 10.0, 75.0, 500.0), praat.track(wav, RATE, 10.0, 75.0, 500.0)
    assert own.size == int((0.505 - 3 / 75) / 0.01) + 1 and grid.size == 51
    assert np.median(own) == pytest.approx(150, rel=1e-3) and np.median(grid) == pytest.approx(150, rel=1e-3)
    assert praat.pitch(wav[:600], RATE, 10.0, 75.0, 500.0).tolist() == [0]

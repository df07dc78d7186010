"""MUSA as an anonymizer: what the decoder gets for the speaker, lengths, batches, long recordings, the Python class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import voice
from tiny_archives import tiny_archive

from espnet_musa.anonymizers.base import ArraySource
from espnet_musa.anonymizers.musa import BLOCK, Musa
from espnet_musa.codec import archive
from espnet_musa.errors import UserError

BACKBONES = ("spectral", "seanet")
NO_RNG = np.random.default_rng(0)
STEP = 1 / 32768  # of 16 bit


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An archive of each backbone."""
    return {name: tiny_archive(tmp_path_factory.mktemp(name) / "model", name) for name in BACKBONES}


@pytest.fixture(scope="module", params=BACKBONES)
def musa(request, places):
    return Musa.from_pretrained(str(places[request.param]))


def plain(place, wav: np.ndarray, **decode) -> np.ndarray:
    """Encoder, bottleneck and decoder without this package's anonymizer."""
    generator = archive.load(place)
    with torch.inference_mode():
        codes, s = generator.encode(torch.from_numpy(wav)[None], n_quantizers=decode.get("n"))
        return generator.decode(codes, s if decode.get("own") else None)[0, : len(wav)].numpy()


def test_zero_vector_and_plain_resynthesis(places):
    wav = voice(0, 1.23)
    for place in places.values():
        musa = Musa.from_pretrained(str(place))
        assert np.array_equal(musa.convert(wav, None, NO_RNG), plain(place, wav))
        assert np.array_equal(musa.convert(wav, 1.0, NO_RNG), plain(place, wav, own=True))
        few = Musa.from_pretrained(str(place), quantizers=1, blend=1.0)
        assert np.array_equal(few.convert(wav, None, NO_RNG), plain(place, wav, own=True, n=1))


def test_less_of_the_speaker_is_ever_farther_from_resynthesis(musa):
    wav = voice(0, 2.0)
    own = musa.convert(wav, 1.0, NO_RNG)
    distances = [
        np.abs(musa.convert(wav, blend, NO_RNG) - own).mean() for blend in (1.0, 0.75, 0.5, 0.25, 0.0)
    ]
    assert distances[0] == 0 and distances == sorted(distances) and distances[1] > STEP


def test_targets(musa):
    wav = voice(1)

    def made(target):
        return musa.convert(wav, target, NO_RNG)

    first, second = made({"speaker": 0.1, "gender": "f"}), made({"speaker": 0.6, "gender": "f"})
    assert not np.array_equal(first, second) and not np.array_equal(first, made(None))
    assert np.array_equal(first, made({"speaker": 0.0}))  # of genders f, m, f, m
    assert np.array_equal(made({"speaker": 0.1, "blend": 1.0}), made(1.0))
    assert np.array_equal(made({"blend": 0.3}), made(0.3))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (1.5, "blend is 1.5; expected a number from 0"),
        (float("nan"), "blend is nan"),
        ("half", "blend is 'half'"),
        ({"speakr": 0.5}, "target has a key 'speakr'; did you mean 'speaker'"),
        ({"speaker": 0.5, "gender": "x"}, "no speaker of gender 'x'; expected one of f, m"),
        ({"speaker": 1.0}, r"speaker is 1.0; expected a place in \[0, 1\)"),
    ],
)
def test_wrong_targets(places, target, message):
    with pytest.raises(UserError, match=message):
        Musa.from_pretrained(str(places["spectral"])).convert(voice(0), target, NO_RNG)


@pytest.mark.parametrize("samples", [1, 2, 160, 319, 320, 321, 641, 5000])
def test_any_length(musa, samples):
    out = musa.convert(voice(0)[3000 : 3000 + samples], None, NO_RNG)
    assert out.shape == (samples,) and out.dtype == np.float32 and np.isfinite(out).all()


def test_silence_stays_silent_and_bad_samples_are_refused(musa):
    assert not musa.convert(np.zeros(1000, np.float32), None, NO_RNG).any()
    assert not np.concatenate(list(musa.convert_stream(Zeros(31), None, NO_RNG))).any()
    wav = voice(0)
    wav[77] = np.nan
    for bad, message in ((wav, "sample 77 is NaN"), (wav[:0], "no samples")):
        with pytest.raises(UserError, match=message):
            musa.convert(bad, None, NO_RNG)
    with pytest.raises(UserError, match="audio of 8000 Hz; expected 16000 Hz"):
        next(musa.convert_stream(ArraySource(voice(0), 8000), None, NO_RNG))


class Zeros:
    """Silence of any length, read in parts."""

    sample_rate = 16000

    def __init__(self, seconds: int) -> None:
        self.frames = 16000 * seconds

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, np.float32)


def test_a_batch_gives_what_each_of_it_gives_alone(musa):
    wavs = [voice(i, seconds) for i, seconds in enumerate((2.0, 1.987, 1.4, 0.5, 0.01))]
    targets = [None, 0.5, {"speaker": 0.7}, 1.0, 0.0]
    for wav, target, made in zip(wavs, targets, musa.convert_batch(wavs, targets, [NO_RNG] * 5), strict=True):
        alone = musa.convert(wav, target, NO_RNG)
        assert made.shape == wav.shape and np.abs(made - alone).max() < STEP / 2
    with pytest.raises(UserError, match="sample 3 is NaN"):
        musa.convert_batch(
            [wavs[0], np.where(np.arange(99) == 3, np.nan, 0).astype(np.float32)], [None] * 2, [NO_RNG] * 2
        )


@pytest.mark.parametrize(
    "more", [{}, {"instance_norm": True}, {"speaker_fusion": "concat"}, {"speaker_fusion": "none"}]
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_chunked_is_whole(tmp_path, backbone, more):
    """47 s in blocks of 8 s against one pass of the networks: 1e-3 of full scale is promised."""
    place = tiny_archive(tmp_path / "model", backbone, **more)
    wav = np.concatenate([voice(i, 5.87, 90 + 20 * i) for i in range(8)])
    for blend in (0.0, 1.0):
        musa = Musa.from_pretrained(str(place), blend=blend)
        blocks = []
        for block in musa.convert_stream(ArraySource(wav, 16000), None, NO_RNG):
            assert not torch.is_inference_mode_enabled()
            blocks.append(block)
        assert len(blocks) > 2 and max(map(len, blocks)) <= (BLOCK + 1) * 16000
        made, whole = np.concatenate(blocks), plain(place, wav, own=blend == 1)
        assert made.shape == wav.shape and np.abs(made - whole).max() < 1e-4
        assert np.abs(whole).max() > 0.05


@pytest.mark.parametrize(("rate", "samples"), [(16000, 20000), (8000, 9999), (44100, 50001), (48000, 48000)])
def test_python_class(places, rate, samples):
    musa = Musa.from_pretrained(str(places["spectral"]), blend=0.2)
    wav = voice(0, 2.0, rate=rate)[:samples]
    out = musa(wav.astype(np.float64), rate)
    assert out.shape == wav.shape and out.dtype == np.float32 and np.isfinite(out).all() and out.std() > 0.005
    assert np.array_equal(musa(torch.from_numpy(wav), rate), out)
    if rate == 16000:
        assert np.array_equal(out, musa.convert(wav, 0.2, NO_RNG))
    assert not np.array_equal(musa(wav, rate, target={"speaker": 0.9}), out)


def test_python_class_refuses(places):
    musa = Musa.from_pretrained(str(places["spectral"]))
    for bad in (np.zeros((2, 100), np.float32), np.zeros(100, np.int16)):
        with pytest.raises(UserError, match=r"expected \(T,\) floating point"):
            musa(bad, 16000)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"quantizers": 5}, "5 quantizers asked for; expected at most 4"),
        ({"quantizers": -1}, "quantizers is -1"),
        ({"blend": 1.1}, "blend is 1.1"),
        ({"batch_seconds": -1}, "batch_seconds is -1"),
        ({"quantizer": 2}, "unknown key 'quantizer'; did you mean 'quantizers'"),
    ],
)
def test_parameters_are_checked(places, params, message):
    with pytest.raises(UserError, match=message):
        Musa.from_pretrained(str(places["spectral"]), **params)


def test_models_that_do_not_serve(tmp_path):
    with pytest.raises(UserError, match="the system names no model"):
        Musa().prepare()
    other = tiny_archive(tmp_path / "model", sample_rate=24000, speakers=False)
    with pytest.raises(UserError, match="a model of 24000 Hz; expected 16000 Hz"):
        Musa.from_pretrained(str(other))
    without = tiny_archive(tmp_path / "without", speakers=False)
    with pytest.raises(
        UserError, match=r"another speaker is asked for, and the model holds none; expected .*speakers"
    ):
        Musa.from_pretrained(str(without)).convert(voice(0), {"speaker": 0.5}, NO_RNG)


@pytest.mark.gpu
def test_cuda_is_the_cpu_within_a_step(places):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for place in places.values():
        wavs = [voice(i, 1 + 0.3 * i) for i in range(3)]
        made = [
            Musa.from_pretrained(str(place), device=device).convert_batch(wavs, [0.3] * 3, [NO_RNG] * 3)
            for device in ("cpu", "cuda")
        ]
        for ours, theirs in zip(*made, strict=True):
            assert np.median(np.abs(ours - theirs)) < STEP  # a code or two may change

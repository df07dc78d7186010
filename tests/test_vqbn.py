"""B5 and B6 as an anonymizer: shapes, F0, voices, batches, chunks, levels, models, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, voice
from tiny_vqbn import SPEAKERS, tiny_archive, tiny_vocoder

from espnet_musa import config
from espnet_musa.anonymizers import vqbn
from espnet_musa.anonymizers.vqbn import VqBn
from espnet_musa.codec.frames import frames_of
from espnet_musa.config import Recipe
from espnet_musa.data.audio import ArraySource
from espnet_musa.errors import UserError
from espnet_musa.seed import generator

CLOSE = 2e-5  # of full scale: rounding
MR, AWGN = {"mean_reversion": {"alpha": 0.75}}, {"awgn": {"db": 10.0}}


def make(place, **params) -> VqBn:
    anonymizer = VqBn(**{"model": str(place), "speaker": "alto"} | params)
    anonymizer.prepare("cpu")
    return anonymizer


@pytest.fixture(scope="module", params=["spectral", "hifigan", "source_filter"])
def place(request, tmp_path_factory):
    return tiny_archive(tmp_path_factory.mktemp("model") / "m", request.param)


def rng(i: int = 0) -> np.random.Generator:
    return generator(0, "s", f"u{i}", "convert")


def source(wav: np.ndarray) -> ArraySource:
    return ArraySource(wav, 16000)


@pytest.mark.parametrize("samples", [400, 401, 640, 641, 16000, 16319, 33333])
def test_lengths(place, samples):
    """Section 10.5: ceil(T / 320) codes and values of F0; exactly as many samples come out as went in."""
    anonymizer, wav = make(place), voice(1, 3.0)[:samples]
    analysis = anonymizer.analyze(source(wav))
    assert analysis["codes"].shape == analysis["f0"].shape == (frames_of(samples),)
    assert (analysis["codes"].dtype, analysis["f0"].dtype) == (np.int16, np.float32)
    assert 0 <= analysis["codes"].min() and analysis["codes"].max() < 12
    made = anonymizer.convert(wav, None, rng())
    assert made.shape == (samples,) and made.dtype == np.float32 and np.isfinite(made).all()


def test_the_scale_of_f0_is_cancelled(place):
    """Section 10.6; a change of its shape is heard."""
    anonymizer, wav = make(place), voice(2, 1.5)
    analysis = anonymizer.analyze(source(wav))
    assert (analysis["f0"] > 0).sum() > 20
    made = anonymizer.synthesize_batch([wav], [analysis], [None], [rng()])[0]
    for factor, offset in ((1.7, 0.0), (1.0, 40.0)):
        f0 = analysis["f0"]
        changed = {**analysis, "f0": np.where(f0 > 0, factor * f0 + offset, 0).astype(np.float32)}
        other = anonymizer.synthesize_batch([wav], [changed], [None], [rng()])[0]
        assert np.abs(other - made).max() < 1e-3 * np.abs(made).max()
    flipped = {**analysis, "f0": np.where(analysis["f0"] > 0, analysis["f0"][::-1] + 100, 0)}
    other = anonymizer.synthesize_batch([wav], [flipped], [None], [rng()])[0]
    assert np.abs(other - made).max() > 0.02 * np.abs(made).max()


def test_mean_reversion_acts_behind_the_normalisation_and_not_before(place):
    wav = voice(3, 1.5)
    analysis = make(place).analyze(source(wav))

    def z(*transforms):
        return make(place, transforms=list(transforms))._z([analysis], [rng()])[0]

    plain, norm = z({"normalize": {}}), {"normalize": {}}
    voiced = analysis["f0"] > 0
    assert np.array_equal(plain != 0, voiced)
    assert plain[voiced].mean() == pytest.approx(0, abs=1e-5)
    assert plain[voiced].std() == pytest.approx(1, abs=0.02)
    assert z(norm, MR) == pytest.approx(0.25 * plain, abs=1e-5)
    assert z(MR, norm) == pytest.approx(plain, abs=1e-4)
    noisy = z(norm, MR, AWGN)
    assert np.array_equal(noisy != 0, voiced)
    assert noisy[voiced] != pytest.approx(0.25 * plain[voiced], abs=0.05)


def test_noise_is_a_function_of_the_generator_alone(place):
    anonymizer = make(place, transforms=[{"normalize": {}}, AWGN])
    wav = voice(4)
    first, again, other = (anonymizer.convert(wav, None, rng(i)) for i in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    plain = make(place)
    one, two, again = (plain.convert(wav, None, rng(i)) for i in (0, 1, 0))
    assert np.array_equal(one, again) and np.array_equal(one, two) != plain._vocoder.sourced


def test_alone_or_in_a_batch(place):
    """Section 10.8, for any order and company; the published way fails it."""
    wavs = [voice(i, s) for i, s in enumerate((1.0, 1.713, 0.4, 1.2))]
    anonymizer = make(place, transforms=[{"normalize": {}}, AWGN])
    targets, rngs = ["bass", 0.1, {"speaker": 0.9}, None], [rng(i) for i in range(4)]
    alone = [anonymizer.convert(w, t, rng(i)) for i, (w, t) in enumerate(zip(wavs, targets, strict=True))]
    together = anonymizer.convert_batch(wavs, targets, rngs)
    for one, two in zip(alone, together, strict=True):
        assert one.shape == two.shape and np.abs(one - two).max() < CLOSE
    compat = make(place, compat=True)
    one, two = compat.convert(wavs[2], "alto", rng()), compat.convert_batch(wavs, ["alto"] * 4, rngs)[2]
    assert np.abs(one - two).max() > 100 * CLOSE


def test_long_recordings_pass_in_chunks(place, monkeypatch):
    """A chunk of 40 frames instead of 1500; the vocoder's output is that of one pass."""
    anonymizer, wav = make(place), voice(5, 3.1)
    analysis = anonymizer.analyze(source(wav))
    whole = anonymizer.synthesize_batch([wav], [analysis], ["tenor"], [rng()])[0]
    monkeypatch.setattr(vqbn, "CHUNK", 40)
    blocks = list(anonymizer.synthesize(source(wav), analysis, "tenor", rng()))
    assert len(blocks) >= 4 and sum(map(len, blocks)) == len(wav)
    assert np.abs(np.concatenate(blocks) - whole).max() < CLOSE
    monkeypatch.setattr(vqbn, "CONTEXT", 30)
    chunked = anonymizer.analyze(source(wav))
    assert chunked["codes"].shape == analysis["codes"].shape
    assert np.array_equal(chunked["f0"], analysis["f0"])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["spectral", "source_filter"])
def test_memory_does_not_grow_with_the_recording(tmp_path, backbone):
    """Four minutes take hardly more memory than one: what grows is a code and an F0 each 20 ms."""
    place = tiny_archive(tmp_path / "model", backbone)
    np.save(tmp_path / "voice.npy", voice(0, 10.0))
    code = f"""if True:
        import re, sys, numpy as np
        from espnet_musa.anonymizers.vqbn import VqBn
        wav, minutes = np.load({str(tmp_path / "voice.npy")!r}), int(sys.argv[1])
        class Source:
            frames, sample_rate = 960000 * minutes, 16000
            def read(self, start, stop):
                return wav.take(np.arange(start, min(stop, self.frames)), mode="wrap")
        anonymizer = VqBn(model={str(place)!r}, speaker="alto")
        anonymizer.prepare()
        made = sum(len(b) for b in anonymizer.convert_stream(Source(), None, np.random.default_rng(0)))
        assert made == Source.frames
        print(re.search("VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
    """
    # Large arrays go back to the system at once, so that the peak is what was held, not what the heap kept.
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MALLOC_MMAP_THRESHOLD_": "65536"}
    peaks = [
        int(subprocess.run(
            [sys.executable, "-c", code, str(minutes)], env=env, capture_output=True, text=True, check=True,
        ).stdout.split()[-1]) / 1024
        for minutes in (1, 4)
    ]  # fmt: skip
    assert peaks[1] - peaks[0] < 10, f"{peaks} MB"


def test_voices(place):
    anonymizer, wav = make(place), voice(6)
    every = {name: anonymizer.convert(wav, name, rng()) for name in SPEAKERS}
    assert len({made.tobytes() for made in every.values()}) == 4
    for target, name in ((0.0, "alto"), (0.3, "bass"), ({"speaker": 0.99}, "tenor"), (None, "alto"),
                         ({"speaker": 0.6, "gender": "m"}, "tenor"), ({"speaker": 0.6, "gender": "f"}, "mezzo"),
                         ({"speaker": "mezzo"}, "mezzo")):  # fmt: skip
        assert np.array_equal(anonymizer.convert(wav, target, rng()), every[name])


def test_level(place):
    wav = voice(7)
    for gain in (1.0, 0.05):
        own, models = (
            make(place, level=level).convert(gain * wav, None, rng()) for level in ("source", "model")
        )
        assert own == pytest.approx(models * np.abs(gain * wav).max() / 0.95, rel=1e-4, abs=1e-7)
    assert not make(place).convert(np.zeros(8000, np.float32), None, rng()).any()


def test_nothing_voiced(place, caplog):
    noise = (0.01 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    anonymizer = make(place)
    analysis = anonymizer.analyze(source(noise)) | {"f0": np.zeros(50, np.float32)}
    with caplog.at_level(logging.WARNING, "espnet_musa"):
        logging.getLogger("espnet_musa").propagate = True
        made = anonymizer.synthesize_batch([noise], [analysis], [None], [rng()])[0]
    assert np.isfinite(made).all() and np.abs(made).max() > 0
    assert "no voiced frame" in caplog.text


@pytest.mark.parametrize(
    ("wav", "target", "message"),
    [
        (np.zeros(0, np.float32), None, "no samples"),
        (np.ones(399, np.float32), None, "399 samples; expected 400 or more"),
        (np.full(8000, np.nan, np.float32), None, "sample 0 is NaN or infinite"),
        (voice(0), "sopran", "the model holds no speaker 'sopran'"),
        (voice(0), 1.0, r"speaker is 1.0; expected a place in \[0, 1\)"),
        (voice(0), {"speaker": 0.1, "gender": "x"}, "no speaker of gender 'x'; expected one of f, m"),
        (voice(0), {"spaeker": 0.1}, "target has a key 'spaeker'; did you mean 'speaker'?"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, wav, target, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        make(tiny_archive(tmp_path)).convert(wav, target, rng())


def test_no_voice_named_and_foreign_analyses(tmp_path):
    anonymizer = make(tiny_archive(tmp_path), speaker=None)
    wav = voice(0)
    with pytest.raises(UserError, match="neither the target nor the parameter `speaker` names a voice"):
        anonymizer.convert(wav, None, rng())
    analysis = anonymizer.analyze(source(wav))
    with pytest.raises(UserError, match="an analysis of 50 codes and 50 values of F0; expected 25 of each"):
        anonymizer.synthesize_batch([wav[:8000]], [analysis], ["alto"], [rng()])
    with pytest.raises(UserError, match="audio of 8000 Hz"):
        anonymizer.analyze(ArraySource(wav, 8000))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"transforms": [MR]}, "the F0 transforms lack 'normalize'.*affine ones before it.*are cancelled"),
        ({"transforms": [{"normalize": {}}, {"awng": {}}]}, "unknown F0 transform 'awng'"),
        ({"level": "loud"}, "unknown level 'loud'"),
        ({"tracker": "yappt"}, "unknown F0 tracker 'yappt'"),
        ({"batch_seconds": -1.0}, "batch_seconds is -1.0"),
        ({"speeker": "x"}, "unknown key 'speeker'; did you mean 'speaker'?"),
    ],
)
def test_wrong_parameters(params, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        VqBn(**params)


def test_models_that_do_not_serve(tmp_path):
    place = tiny_archive(tmp_path / "m")
    with pytest.raises(UserError, match="the system names no model"):
        VqBn().prepare()
    with pytest.raises(UserError, match="the model holds no speaker '6081'"):
        make(place, speaker="6081")
    shutil.rmtree(place / "acoustic")
    with pytest.raises(UserError, match=r"acoustic/config\.yaml"):
        make(place)
    data = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(data | {"model_type": "musa"}))
    with pytest.raises(UserError, match="not a vocoder of content codes"):
        make(place)


def test_the_fingerprint_is_that_of_both_models(tmp_path):
    one, two = tiny_archive(tmp_path / "one"), tiny_archive(tmp_path / "two")
    assert VqBn(model=str(one)).fingerprint() == VqBn(model=str(two)).fingerprint()
    other = tiny_archive(tmp_path / "other", seed=1)
    shutil.copy(other / "acoustic/model.safetensors", two / "acoustic/model.safetensors")
    assert VqBn(model=str(one)).fingerprint() != VqBn(model=str(two)).fingerprint()


def test_anonymizers_of_one_model_share_it(tmp_path):
    place = tiny_archive(tmp_path / "one")
    one, two = make(place), make(place, transforms=[{"normalize": {}}, MR], speaker="bass")
    assert one._vocoder is two._vocoder and one._tokenizer is two._tokenizer and one._teacher is two._teacher
    tiny_archive(place, seed=1)  # trained anew
    assert make(place)._vocoder is not one._vocoder


def test_what_an_analysis_depends_on():
    def facts(**params):
        return VqBn(**params).analysis_params()

    assert facts() == facts(transforms=[{"normalize": {}}, MR], speaker="x", level="model")
    assert facts() != facts(tracker="harvest")


def test_variants_differ_in_f0_alone():
    recipe = Recipe(name="t", systems=(), evaluators=(), corpora={})
    for base in ("b5", "vqbn_mini"):
        first = config.load_system(recipe, "b5_vqbn" if base == "b5" else base, REPOSITORY)
        for name, added in ((f"{base}_mr", 1), (f"{base}_mr_awgn", 2)):
            own = config.load_system(recipe, name, REPOSITORY)
            assert (own.anonymizer, own.train, own.tokens, own.target) == (
                "vqbn", first.train, first.tokens, first.target,
            )  # fmt: skip
            steps = [next(iter(step)) for step in own.params["transforms"]]
            assert steps == ["normalize", "mean_reversion", "awgn"][: added + 1]
            rest = {k: v for k, v in own.params.items() if k != "transforms"}
            assert rest == {k: v for k, v in first.params.items() if k != "transforms"}


def test_published_checkpoints_that_are_not_here(monkeypatch, tmp_path):
    monkeypatch.setenv("ESPNET_MUSA_MODELS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"model 'sa_toolkit_b5' .* lacks final.pt.*fetch from https://github.com"
    ):
        VqBn(model="sa_toolkit_b5").prepare()


def test_the_codebook_speaks():
    """A frame's content reaches the vocoder as the codebook's vector of its code (section 10.5)."""
    import torch

    vocoder = tiny_vocoder()
    codes = torch.tensor([[3, 0, 11]])
    frames = vocoder.frames(codes, torch.tensor([[0.5, 0.0, -1.0]]), torch.tensor([2]))
    assert frames.shape == (1, 16 + 1 + 4, 3)
    assert torch.equal(frames[0, :16].T, vocoder.codebook[codes[0]])
    assert frames[0, 16].tolist() == [0.5, 0.0, -1.0]
    assert frames[0, 17:].T.tolist() == [[0.0, 0.0, 1.0, 0.0]] * 3

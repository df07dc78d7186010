"""Teachers: a frame each 20 ms, the same in any batch, from checkpoints that fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import voice
from tiny_teacher import save_teacher

from espnet_musa.errors import UserError
from espnet_musa.tokenizer.mfcc import WARPS, Mfcc
from espnet_musa.tokenizer.teachers import SelfSupervised, n_frames, runs

LENGTHS = (400, 719, 720, 5000, 16000, 16399, 32000)
KINDS = [
    ("wav2vec2", "layer"),
    ("wav2vec2", "group"),
    ("hubert", "layer"),
    ("hubert", "group"),
    ("wavlm", "layer"),
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    place = tmp_path_factory.mktemp("teachers")
    return {(kind, norm): save_teacher(place / f"{kind}-{norm}", kind, norm) for kind, norm in KINDS}


def teacher(place: Path, **params) -> SelfSupervised:
    made = SelfSupervised(str(place), **params)
    made.prepare("cpu")
    return made


def mfcc(**params) -> Mfcc:
    made = Mfcc(**params)
    made.prepare("cpu")
    return made


def wavs(*lengths: int) -> list[np.ndarray]:
    return [voice(i, 3.0, 100 + 10 * i)[:length] for i, length in enumerate(lengths)]


def test_frames_are_those_of_the_formula(checkpoints):
    assert [n_frames(length) for length in (399, *LENGTHS)] == [0, 1, 1, 2, 15, 49, 50, 99]
    for made in (teacher(checkpoints["wav2vec2", "layer"]), mfcc(vtln=False)):
        for wav in wavs(*LENGTHS):
            assert made.features([wav])[0].shape == (n_frames(len(wav)), made.dimension)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_batch_changes_nothing(checkpoints, kind):
    made = teacher(checkpoints[kind])
    signals, sizes, forward = wavs(*LENGTHS, 16000), [], made._forward
    made._forward = lambda parts: sizes.append(len(parts)) or forward(parts)
    alone = made.features(signals)
    assert sizes == [1] * len(signals)  # a CPU's way
    made.batch = 100 * 16000  # a GPU's
    for one, batched in zip(alone, made.features(signals), strict=True):
        assert torch.allclose(one, batched, atol=1e-5)
    assert max(sizes) == (8 if kind[1] == "layer" else 2)


def test_padding_would_leak_into_base_models(checkpoints):
    """Why models that normalise over time are not batched with padding."""
    made = teacher(checkpoints["wav2vec2", "group"])
    short, long = (made._scaled(wav) for wav in wavs(5000, 16000))
    leaked = made._forward([long, short])[1]
    assert (leaked - made._forward([short])[0]).abs().max() > 0.01
    groups = made.groups({"a": 5000, "b": 16000, "c": 5000}, {})
    assert groups == [["b"], ["a", "c"]]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_layers_are_those_of_transformers(checkpoints, kind):
    from transformers import AutoModel

    (wav,) = wavs(8000)
    net = AutoModel.from_pretrained(checkpoints[kind]).eval()
    scaled = (wav - wav.mean()) / np.sqrt(wav.var() + 1e-7)
    with torch.inference_mode():
        out = net(torch.from_numpy(scaled)[None], output_hidden_states=True)
    expected = {None: out.last_hidden_state} | dict(enumerate(out.hidden_states))
    for layer in (None, 1, 2, 3):
        (found,) = teacher(checkpoints[kind], layer=layer).features([wav])
        assert torch.allclose(found, expected[layer][0], atol=1e-5), layer
    if kind[1] == "layer":  # the pitfall: the last hidden state is not the last of the hidden states
        assert not torch.allclose(out.hidden_states[-1], out.last_hidden_state, atol=1e-2)


def test_level_is_taken_out_where_the_checkpoint_says_so(checkpoints, tmp_path):
    (wav,) = wavs(8000)
    for place, same in ((checkpoints["hubert", "layer"], True), (save_teacher(tmp_path / "raw"), False)):
        if not same:
            (place / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
        made = teacher(place)
        quiet, loud = made.features([0.1 * wav])[0], made.features([wav])[0]
        assert torch.allclose(quiet, loud, atol=1e-3) == same


def test_long_utterances_keep_their_frames(checkpoints):
    made = teacher(checkpoints["wav2vec2", "layer"], chunk_s=1.0)
    (wav,) = wavs(48000)
    (found,) = made.features([wav])
    assert len(found) == n_frames(48000) == 149
    assert [len(part) for part in made._parts(wav)] == [11920, 11920, 11920, 12480]
    (whole,) = teacher(checkpoints["wav2vec2", "layer"]).features([wav])
    assert torch.nn.functional.cosine_similarity(found, whole).mean() > 0.9  # other neighbours, same frames
    assert torch.nn.functional.cosine_similarity(found[1:], whole[:-1]).mean() < 0.9


def test_half_precision(checkpoints):
    (wav,) = wavs(8000)
    (full,), (half,) = (
        teacher(checkpoints["wav2vec2", "layer"], precision=p).features([wav]) for p in ("fp32", "bf16")
    )
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), full, atol=0.2)


def test_runs_hold_similar_lengths_within_the_limit():
    lengths = [5, 9, 1, 9, 2, 30]
    assert list(runs(lengths, 18)) == [[5], [1, 3], [0, 4, 2]]
    assert list(runs(lengths, 18, padded=False)) == [[5], [1, 3], [0], [4], [2]]


def spoilt(place: Path, name: str, **changes) -> Path:
    """A checkpoint with a change to one of its JSON files."""
    content = json.loads((place / name).read_text()) | changes
    (place / name).write_text(json.dumps(content))
    return place


def test_what_is_missing_or_wrong_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_MUSA_MODELS", str(tmp_path / "models"))
    with pytest.raises(
        UserError, match=r"xls_r_300m.*hint: fetch from https://huggingface.co/facebook/wav2vec2-xls-r"
    ):
        SelfSupervised().fingerprint()
    with pytest.raises(UserError, match="hint: fetch it with `hf download nobody/no-such-model`"):
        SelfSupervised("nobody/no-such-model").fingerprint()
    place = save_teacher(tmp_path / "a")
    assert SelfSupervised(str(place)).fingerprint() == SelfSupervised(str(place)).fingerprint() != ""
    with pytest.raises(UserError, match="expected 1 to 3"):
        teacher(place, layer=4)
    (place / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config.json: no such file.*hint: fetch all files"):
        teacher(place)
    with pytest.raises(UserError, match=r"type 'bert'; expected model_type wav2vec2 or hubert or wavlm"):
        teacher(spoilt(save_teacher(tmp_path / "b"), "config.json", model_type="bert"))
    with pytest.raises(UserError, match="the weights do not fit"):
        teacher(spoilt(save_teacher(tmp_path / "c"), "config.json", num_hidden_layers=5))
    with pytest.raises(UserError, match=r"not a wav2vec2 model|the weights do not fit"):
        teacher(spoilt(save_teacher(tmp_path / "d"), "config.json", intermediate_size=64))
    with pytest.raises(UserError, match="its frames are not 20 ms apart"):
        teacher(save_teacher(tmp_path / "e", conv_stride=[5, 2, 2, 2, 2, 2, 1]))
    place = save_teacher(tmp_path / "f")
    (place / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="not a wav2vec2 model"):
        teacher(place)
    (place / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"not a wav2vec2 model.*expected config.json, preprocessor_config.json and"
    ):
        teacher(place)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SelfSupervised(precision="fp8"),
        lambda: SelfSupervised(layer=0),
        lambda: SelfSupervised(batch_s=0),
        lambda: Mfcc(per="corpus"),
        lambda: Mfcc(coefficients=41),
    ],
)
def test_wrong_parameters_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_weights_that_overflow_are_noticed(tmp_path):
    from safetensors.torch import load_file, save_file

    place = save_teacher(tmp_path / "a")
    state = load_file(place / "model.safetensors")
    state["encoder.layer_norm.weight"][3] = torch.inf
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        teacher(place).features(wavs(8000))


def test_mfcc_has_the_mean_and_variance_of_the_speaker_taken_out():
    signals = wavs(16000, 24000, 30000)
    together = torch.cat(mfcc(vtln=False).features(signals))
    assert together.mean(0).abs().max() < 1e-4 and (together.std(0) - 1).abs().max() < 1e-2
    for features in mfcc(vtln=False, per="utterance").features(signals):
        assert features.mean(0).abs().max() < 1e-4
    louder = torch.cat(mfcc(vtln=False).features([0.2 * wav for wav in signals]))
    assert torch.allclose(louder, together, atol=0.05)


def test_mfcc_groups_are_speakers():
    speakers = {"a1": "a", "a2": "a", "b1": "b"}
    assert Mfcc().groups(dict.fromkeys(speakers, 16000), speakers) == [["a1", "a2"], ["b1"]]
    assert Mfcc(per="utterance").groups(dict.fromkeys(speakers, 16000), speakers) == [["a1", "a2", "b1"]]


def vowels(tract: float, seed: int) -> np.ndarray:
    """Five vowels of 0.4 s, in an order of their own, with all formants multiplied by `tract`."""
    rng = np.random.default_rng(seed)
    time = np.arange(6400) / 16000
    formants = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)]
    out = []
    for vowel in rng.permutation(np.repeat(np.arange(5), 4)):
        wave = np.zeros_like(time)
        for k in range(1, 60):
            gain = sum(1 / (1 + ((125 * k - f * tract) / 60) ** 2) for f in formants[vowel])
            wave += gain * np.sin(2 * np.pi * 125 * k * time + rng.uniform(0, 6))
        out.append(wave / np.abs(wave).max())
    wav = np.concatenate(out)
    return (0.3 * wav + 1e-3 * rng.standard_normal(len(wav))).astype(np.float32)


def test_mfcc_finds_the_length_of_vocal_tracts_and_evens_it_out():
    tracts = [0.88, 0.94, 1.0, 1.06, 1.12]
    voices = [[vowels(tract, seed)] for seed, tract in enumerate(tracts)]
    made = mfcc()
    made.fit(voices, seed=0)
    found = [WARPS[made._nearest(made._warped(own))] for own in voices]
    assert np.corrcoef(tracts, found)[0, 1] < -0.9, (
        found
    )  # the shorter the tract, the lower the frequencies go
    other = mfcc()
    other.load_state(made.state())
    assert torch.equal(other.features(voices[0])[0], made.features(voices[0])[0])
    again = mfcc()
    again.fit(voices, seed=0)
    assert torch.equal(again.state()["sounds"], made.state()["sounds"])
    apart = {}
    for name, kind in (("plain", mfcc(vtln=False)), ("warped", made)):
        same = [vowels(tract, 7) for tract in (0.88, 1.12)]  # the same vowels by two speakers
        a, b = (kind.features([wav])[0] for wav in same)
        apart[name] = float((a - b).square().mean())
    assert apart["warped"] < 0.6 * apart["plain"], apart

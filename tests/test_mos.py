"""DNSMOS against its package, UTMOS against its definition, and means over utterances."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import voice
from tiny_sets import GENDERS, RATE, make_set, tone
from tiny_wav2vec2 import fairseq_state, forward

from espnet_musa.config import Recipe
from espnet_musa.data.audio import read_audio, write_wav
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators import mos
from espnet_musa.evaluators.base import Resources
from espnet_musa.evaluators.mos import Dnsmos, Utmos
from espnet_musa.evaluators.per_utterance import means
from espnet_musa.pipeline.score import score


def wav_file(tmp_path: Path, seconds: float) -> Path:
    write_wav(tmp_path / "a.wav", voice(3, seconds), RATE)
    return tmp_path / "a.wav"


def packaged(path: Path) -> np.ndarray:
    """SIG, BAK, OVRL by the package's own code."""
    from speechmos import dnsmos

    scores = dnsmos.run(read_audio(path)[0], RATE)
    return np.array([scores[name] for name in ("sig_mos", "bak_mos", "ovrl_mos")])


@pytest.mark.parametrize("seconds", [0.6, 9.02, pytest.param(18.3, marks=pytest.mark.slow)])
def test_dnsmos_equals_its_package(tmp_path, seconds):
    """Short ones are doubled; the package skips the windows that begin at second 7 and 8 of the long one."""
    path = wav_file(tmp_path, seconds)
    found = mos.dnsmos(path)
    assert found == pytest.approx(packaged(path), abs=1e-4)
    assert (found > 0.9).all() and (found < 5.1).all()


@pytest.mark.parametrize(
    ("seconds", "dns", "sound"), [(0.1, 3, 1), (8.9, 7, 1), (9.5, 1, 1), (17.0, 7, 8), (40.0, 14, 31)]
)
def test_windows(tmp_path, seconds, dns, sound):
    path = wav_file(tmp_path, seconds)
    for reading, count in (("dns", dns), ("sound", sound)):
        clips = list(mos.dnsmos_clips(path, reading))
        assert [len(clip) for clip in clips] == [144160] * count


def test_dnsmos_evaluates_both_sides(tmp_path):
    """Noise lowers the quality of the copy; the original set gives labels, genders and split."""
    wavs = {f"{spk}-0": tone(0.5, 120 + 20 * i) for i, spk in enumerate("acd")}
    rng = np.random.default_rng(0)
    noisy = {utt: wav + 0.1 * rng.standard_normal(len(wav)).astype(np.float32) for utt, wav in wavs.items()}
    one = DataDir.read(make_set(tmp_path / "set", wavs, GENDERS, {"split": "dev"}), "audio")
    two = DataDir.read(make_set(tmp_path / "copy", noisy, GENDERS, {}), "audio")
    plain = Dnsmos(reading="sound").score(one, None, tmp_path, Resources())
    metrics = Dnsmos(reading="sound").score(one, two, tmp_path, Resources())
    assert {(m.name, m.group) for m in metrics} == {
        (f"dnsmos_{k}", g) for k in ("sig", "bak", "ovrl") for g in ("all", "f", "m", "avg")
    }
    assert all(m.set == "set" and m.split == "dev" and "higher is better" in m.notes for m in metrics)
    bak = [m.value for m in (*plain, *metrics) if (m.name, m.group) == ("dnsmos_bak", "all")]
    assert bak[1] < bak[0]
    lines = (tmp_path / "dnsmos").read_text().splitlines()
    assert [line.split()[0] for line in lines] == one.utts and len(lines[0].split()) == 4


def test_dnsmos_refusals(monkeypatch):
    with pytest.raises(UserError, match="did you mean 'sound'"):
        Dnsmos(reading="sounds")
    mos.dnsmos_model.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="packages speechmos and onnxruntime"):
        mos.dnsmos_model()


def utmos_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A small UTMOS in the form of the published checkpoint."""
    rng = torch.Generator().manual_seed(seed)
    lstm = torch.nn.LSTM(64 + 5 + 3, 6, batch_first=True, bidirectional=True)
    rest = {f"blstm.{k}": v for k, v in lstm.state_dict().items()}
    rest |= {"domain_emb": torch.empty(1, 5), "judge_emb": torch.empty(1, 3)}
    rest |= {"projection.0.weight": torch.empty(7, 12), "projection.0.bias": torch.empty(7)}
    rest |= {"projection.2.weight": torch.empty(1, 7), "projection.2.bias": torch.empty(1)}
    drawn = {k: 0.5 * torch.randn(v.shape, generator=rng) for k, v in rest.items()}
    return {f"wav2vec2.{k}": v for k, v in fairseq_state(seed).items()} | drawn


def expected_utmos(state: dict[str, torch.Tensor], wav: np.ndarray) -> float:
    """The definition, with an LSTM written out."""
    hidden = forward(
        {k.removeprefix("wav2vec2."): v for k, v in state.items() if k.startswith("wav2vec2.")},
        torch.from_numpy(wav),
    )
    both = torch.cat([state["domain_emb"], state["judge_emb"]], 1).expand(len(hidden), -1)
    x = torch.cat([hidden, both], 1)
    outputs = []
    for end, order in (("", range(len(x))), ("_reverse", range(len(x) - 1, -1, -1))):
        w, u, b, c = (state[f"blstm.{k}_l0{end}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h, cell, steps = torch.zeros(6), torch.zeros(6), {}
        for t in order:
            i, f, g, o = (w @ x[t] + b + u @ h + c).chunk(4)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(cell)
            steps[t] = h
        outputs.append(torch.stack([steps[t] for t in range(len(x))]))
    y = torch.relu(torch.cat(outputs, 1) @ state["projection.0.weight"].T + state["projection.0.bias"])
    scores = y @ state["projection.2.weight"].T + state["projection.2.bias"]
    return float(scores.mean() * 2 + 3)


def test_utmos_is_its_definition(tmp_path):
    state = utmos_state()
    torch.save(state, tmp_path / mos.UTMOS)
    wavs = {"a-0": tone(0.3, 120), "b-0": tone(0.41, 150), "c-0": tone(0.3, 180)}
    data = DataDir.read(make_set(tmp_path / "set", wavs, GENDERS, {"split": "dev"}), "audio")
    metrics = Utmos(model=str(tmp_path)).score(data, None, tmp_path, Resources())
    own = [expected_utmos(state, data.load(utt)) for utt in data.utts]
    assert {m.group: m.value for m in metrics}["all"] == pytest.approx(np.mean(own), abs=1e-4)
    found = [float(line.split()[1]) for line in (tmp_path / "utmos").read_text().splitlines()]
    assert found == pytest.approx(own, abs=1e-4)


def test_scores_belong_to_the_checkpoint_that_made_them(tmp_path):
    """Another file under the same name is another model."""
    (tmp_path / "model").mkdir()
    torch.save(utmos_state(), tmp_path / "model" / mos.UTMOS)
    make_set(tmp_path / "dump" / "set", {"a-0": tone(0.3, 120)}, GENDERS, {"role": "utility"})
    model = {"utmos": {"params": {"model": str(tmp_path / "model")}}}
    recipe = Recipe("t", ("orig",), ("utmos",), {}, overrides=model)
    score(recipe, tmp_path, "orig", jobs=1, device="cpu", force=False)
    made = tmp_path / "exp/orig/score/utmos/metrics.json"
    first = made.stat().st_mtime_ns
    score(recipe, tmp_path, "orig", jobs=1, device="cpu", force=False)
    assert made.stat().st_mtime_ns == first
    (tmp_path / "model" / mos.UTMOS).touch()
    with pytest.raises(UserError, match="changed: checkpoint"):
        score(recipe, tmp_path, "orig", jobs=1, device="cpu", force=False)


def test_utmos_says_what_to_fetch(tmp_path, monkeypatch):
    data = DataDir.read(make_set(tmp_path / "set", {"a-0": tone(0.3, 120)}, GENDERS, {}), "audio")
    monkeypatch.setenv("ESPNET_MUSA_MODELS", str(tmp_path / "models"))
    with pytest.raises(UserError, match=r"utmos22_strong_step7459_v1\.pt.*fetch from https"):
        Utmos().score(data, None, tmp_path, Resources())
    state = utmos_state()
    del state["judge_emb"]
    torch.save(state, tmp_path / mos.UTMOS)
    with pytest.raises(UserError, match="not a checkpoint of UTMOS"):
        Utmos(model=str(tmp_path)).score(data, None, tmp_path, Resources())


def test_intervals_of_means_are_over_speakers(tmp_path):
    """Utterances of a speaker are alike: the interval is that of the speakers' means, not of 32 utterances."""
    genders = {f"s{i}": "fm"[i % 2] for i in range(8)}
    wavs = {f"s{i}-{j}": tone(0.05, 100) for i in range(8) for j in range(4)}
    data = DataDir.read(make_set(tmp_path / "set", wavs, genders, {}), "audio")
    rng = np.random.default_rng(0)
    of_speaker = rng.normal(3, 1, 8)
    values = [of_speaker[int(utt[1])] + 0.01 * rng.standard_normal() for utt in data.utts]
    found = {m.group: m for m in means("x", data, values, seed=0)}
    every = found["all"]
    assert every.n == {"utterances": 32, "speakers": 8}
    assert every.value == pytest.approx(np.mean(values)) and every.low < every.value < every.high
    assert every.high - every.low == pytest.approx(2 * 1.96 * of_speaker.std() / 8**0.5, rel=0.25)
    assert found["avg"].value == pytest.approx((found["f"].value + found["m"].value) / 2)
    assert found["avg"].low < found["avg"].value < found["avg"].high
    assert means("x", data, values, seed=0) == list(found.values())
    assert means("x", data, values, seed=0, bootstrap=0)[0].low is None

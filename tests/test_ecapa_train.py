"""Training of an attacker's speaker model: it learns, it is reproducible, and it survives being killed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_sets import SMALL, make_set, tone

from espnet_musa import config
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators import ecapa_train
from espnet_musa.evaluators.crops import Segments, crops, cut, loud_crops, split
from espnet_musa.evaluators.ecapa_train import TrainConfig, learning_rate, train
from espnet_musa.evaluators.encoders import NetEncoder
from espnet_musa.evaluators.speaker_nets import NetConfig
from espnet_musa.metrics.eer import eer

TINY = TrainConfig(model=SMALL, crop_s=0.5, batch_size=4, epochs=2, max_lr=0.01)
XVECTOR = NetConfig("xvector", mel_bands=40, channels=16, pooled_channels=24, embedding_dim=12)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Two voices with four utterances each, one of them shorter than a crop."""
    pitch = {"a": 110.0, "b": 230.0}
    wavs = {f"{s}-{i}": tone(0.3 + 0.3 * i, pitch[s], i) for s in "ab" for i in range(4)}
    return DataDir.read(
        make_set(tmp_path / "train", wavs, {"a": "m", "b": "f"}, {"role": "attack_train"}), "audio"
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_seed_gives_one_model(data: DataDir, tmp_path: Path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        train(data, tmp_path / name, TINY, seed)
    assert same(tmp_path / "one", tmp_path / "two")
    assert not same(tmp_path / "one", tmp_path / "other")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "config.yaml", "model.safetensors", "train.log", "train.yaml",
    ]  # fmt: skip
    lines = (tmp_path / "one" / "train.log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(word in lines[0] for word in ("loss", "dev_error", "lr", "seconds"))


def test_a_killed_training_goes_on_to_the_same_model(data: DataDir, tmp_path: Path, monkeypatch):
    train(data, tmp_path / "whole", TINY, 0)
    original = ecapa_train._Trainer.checkpoint

    def die(self, path, identity, epochs):
        original(self, path, identity, epochs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ecapa_train._Trainer, "checkpoint", die)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "killed", TINY, 0)
    shutil.copytree(tmp_path / "killed", tmp_path / "changed")
    train(data, tmp_path / "killed", TINY, 0)
    assert same(tmp_path / "killed", tmp_path / "whole")
    assert len((tmp_path / "killed" / "train.log").read_text().splitlines()) == 2
    train(
        data, tmp_path / "changed", replace(TINY, margin=0.1), 0
    )  # a checkpoint of something else is not used
    train(data, tmp_path / "fresh", replace(TINY, margin=0.1), 0)
    assert same(tmp_path / "changed", tmp_path / "fresh")


@pytest.mark.parametrize(
    "settings",
    [
        TINY,
        replace(TINY, model=XVECTOR),
        replace(TINY, precision="bf16"),
        replace(TINY, protocol="vpc2024", cycle_steps=24),
    ],
    ids=["ecapa", "xvector", "bf16", "vpc2024"],
)
def test_it_learns_voices(data: DataDir, tmp_path: Path, settings: TrainConfig):
    """After 12 epochs, utterances of one voice are closer to each other than to the other's."""
    train(data, tmp_path / "out", replace(settings, epochs=12), 0)
    vectors = NetEncoder(tmp_path / "out").embed(
        [tone(1.0, pitch, 7 + i) for pitch in (110.0, 230.0) for i in range(2)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.2
    losses = [float(line.split("dev_loss ")[1].split()[0]) for line in open(tmp_path / "out" / "train.log")]
    assert min(losses) < losses[0]


def test_speeds_add_speakers(data: DataDir, tmp_path: Path):
    settings = replace(TINY, speeds=(1.0, 0.9, 1.1))
    features, segments = ecapa_train._features(data, ["a", "b"], tmp_path, settings)
    assert sorted(set(segments.speaker.tolist())) == list(range(6))
    assert segments.frames[1] == pytest.approx(segments.frames[0] / 0.9, abs=2)
    assert len(features) == segments.frames.sum()


def test_the_split_holds_out_utterances_but_never_a_speaker():
    speaker = np.repeat(np.arange(5), [10, 10, 10, 9, 1])
    whole = Segments(np.arange(40) * 100, np.full(40, 100), speaker, np.full(40, 3))
    training, dev = split(whole, 0.1, 30, rng())
    assert len(dev.start) == 4
    assert not set(dev.start) & set(training.start)
    assert set(training.speaker) == set(range(5))


def test_with_one_utterance_each_the_ends_are_held_out():
    whole = Segments(np.array([0, 100, 700]), np.array([100, 600, 30]), np.arange(3), np.array([2, 15, 1]))
    training, dev = split(whole, 0.1, 40, rng())
    assert training.frames.tolist() == [60, 540, 15]
    assert dev.frames.tolist() == [40, 60, 15]
    assert dev.start.tolist() == [60, 640, 715]
    assert training.draws.tolist() == [1, 13, 1]


def test_the_learning_rate_peaks_and_decays():
    rates = [learning_rate(step, 100, TrainConfig()) for step in range(100)]
    assert max(rates) == rates[9] == 2e-3
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(2e-5)


def test_crops_lie_inside_their_segment_and_repeat_short_ones():
    features = np.arange(50, dtype=np.float16)[:, None]
    segments = Segments(np.array([10, 40]), np.array([20, 4]), np.array([3, 5]), np.ones(2, int))
    seen = set()
    for seed in range(60):
        batch, target = crops(features, segments, 8, np.random.default_rng(seed))
        assert target.tolist() == [3, 5]
        first = batch[0, :, 0].tolist()
        assert first == list(range(int(first[0]), int(first[0]) + 8))
        assert sorted(set(batch[1, :, 0].tolist())) == [40, 41, 42, 43]
        seen.add(first[0])
    assert (min(seen), max(seen)) == (10, 22)


def test_one_speaker_and_bad_settings_are_refused(tmp_path: Path):
    alone = make_set(tmp_path / "one", {"a-0": tone(0.5, 100.0)}, {"a": "f"}, {})
    with pytest.raises(UserError, match="two or more"):
        train(DataDir.read(alone, "audio"), tmp_path / "out", TINY, 0)
    with pytest.raises(UserError, match="at least 4 crops"):
        replace(TINY, batch_size=2)

    with pytest.raises(UserError, match="unknown protocol or precision 'vpc2023'; did you mean 'vpc2024'"):
        replace(TINY, protocol="vpc2023")


def test_the_protocol_of_2024_drops_short_and_quiet_crops(tmp_path: Path):
    wavs = {
        "a-0": tone(1.2, 110.0),
        "a-1": tone(0.4, 110.0),
        "b-0": tone(1.7, 230.0),
        "b-1": tone(0.6, 230.0),
    }
    wavs["b-0"][:8000] *= 1e-3
    data = DataDir.read(make_set(tmp_path / "s", wavs, {"a": "m", "b": "f"}, {}), "audio")
    settings = replace(TINY, protocol="vpc2024")
    assert [loud_crops(data.load(utt), 0.5) for utt in data.utts] == [2, 0, 2, 1]
    (tmp_path / "out").mkdir()
    _, segments = ecapa_train._features(data, ["a", "b"], tmp_path / "out", settings)
    assert segments.draws.tolist() == [2, 2, 1] and segments.speaker.tolist() == [0, 1, 1]
    with pytest.raises(UserError, match=r"no two utterances with a loud crop; expected 5\.0 s each"):
        train(data, tmp_path / "none", replace(settings, crop_s=5.0), 0)


def test_the_protocol_of_2024_cuts_a_shuffled_list():
    whole = Segments(np.arange(20), np.full(20, 90), np.arange(20), np.ones(20, int))
    training, dev = cut(whole, 0.1, rng())
    assert len(training.start) == 18 and sorted([*training.start, *dev.start]) == list(range(20))
    assert set(dev.speaker) - set(training.speaker)  # a speaker's last utterance may be gone


def test_the_learning_rate_of_2024_only_rises():
    settings = TrainConfig(protocol="vpc2024", max_lr=0.01)
    steps = 10 * 1350
    rates = [learning_rate(step, steps, settings) for step in (0, 1, steps - 1, 64999, 65000, 129999)]
    assert rates[0] == pytest.approx(1e-8 + 0.01 / 65000, rel=1e-4)
    assert rates[2] == pytest.approx(0.01 * 13500 / 65000, rel=1e-4)  # about 2e-3, far from the peak
    assert rates[3] == pytest.approx(0.01) and rates[4] < rates[3]
    assert rates[5] == pytest.approx(1e-8)


@pytest.mark.parametrize(("protocol", "kept"), [("sound", 0), ("vpc2024", 1)])
def test_which_epoch_is_kept(data: DataDir, tmp_path: Path, monkeypatch, protocol: str, kept: int):
    """The best on the held-out part, or the last whatever that says."""
    losses, states = iter([1.0, 2.0]), []

    def evaluate(self, *_):
        states.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return next(losses), 0.0

    monkeypatch.setattr(ecapa_train._Trainer, "_evaluate", evaluate)
    train(data, tmp_path / "out", replace(TINY, protocol=protocol), 0)
    found = weights(tmp_path / "out")
    equal = [all(torch.equal(found[name], state[name]) for name in found) for state in states]
    assert equal == [number == kept for number in (0, 1)]


def test_who_knows_a_fixed_transform_is_the_stronger_attacker(tmp_path: Path):
    """Spectra turned upside down: a model of such speech errs less on other such voices than one of plain speech."""

    def turned(wav: np.ndarray) -> np.ndarray:
        return wav * np.where(np.arange(len(wav)) % 2, -1, 1).astype(np.float32)

    def voice(pitch: float, seed: int) -> np.ndarray:
        return tone(0.8, pitch * (1 + 0.02 * np.random.default_rng(seed).standard_normal()), seed)

    genders = {f"s{i}": "fm"[i % 2] for i in range(10)}
    attacked = [turned(voice(95 * 1.13**i, 1000 + 10 * i + k)) for i in range(10) for k in range(6)]
    errors = {}
    for name, change in (("lazy", lambda wav: wav), ("semi", turned)):
        wavs = {
            f"s{i}-{k}": change(voice(90 * 1.13**i, 10 * i + k)).astype(np.float32)
            for i in range(10)
            for k in range(5)
        }
        path = make_set(tmp_path / name / "data", wavs, genders, {"role": "attack_train"})
        train(
            DataDir.read(path, "audio"), tmp_path / name / "model", replace(TINY, batch_size=8, epochs=12), 0
        )
        vectors = NetEncoder(tmp_path / name / "model").embed(attacked).reshape(10, 6, -1)
        models, trials = vectors[:, :3].mean(axis=1), vectors[:, 3:]
        models /= np.linalg.norm(models, axis=1, keepdims=True)
        scores = np.einsum("id,jkd->ijk", models, trials / np.linalg.norm(trials, axis=2, keepdims=True))
        own = np.eye(10, dtype=bool)
        errors[name] = eer(scores[own], scores[~own]).eer
    assert errors["semi"] < errors["lazy"] - 0.1


def test_auto_precision_is_written_down(data: DataDir, tmp_path: Path):
    train(data, tmp_path / "out", replace(TINY, epochs=1, precision="auto"), 0)
    kept = config.load(TrainConfig, tmp_path / "out" / "train.yaml").precision
    assert kept == ecapa_train.resolved("auto", "cpu") and kept in ecapa_train.TYPES
    assert ecapa_train.resolved("fp32", "cpu") == "fp32"


def test_fine_tuning_needs_the_same_sizes(data: DataDir, tmp_path: Path):
    train(data, tmp_path / "base", replace(TINY, epochs=1), 0)
    begun = ecapa_train._Trainer(TINY, 2, 0, "cpu", tmp_path / "base").model.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in weights(tmp_path / "base").items())
    train(data, tmp_path / "tuned", replace(TINY, epochs=1), 0, start=tmp_path / "base")
    assert not same(tmp_path / "base", tmp_path / "tuned")
    with pytest.raises(UserError, match="cannot be fine-tuned"):
        train(data, tmp_path / "other", replace(TINY, model=XVECTOR), 0, start=tmp_path / "base")


@pytest.mark.parametrize(
    "path", sorted((config.ROOT / "conf" / "train").glob("asv_*.yaml")), ids=lambda p: p.stem
)
def test_the_shipped_configurations_load(path: Path):
    settings = config.load(TrainConfig, path)
    if path.stem == "asv_ecapa":
        assert settings == TrainConfig()  # the documented defaults
    assert settings.sound == ("vpc2024" not in path.stem)

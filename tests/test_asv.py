"""Speaker encoders and verification attacks: exactness of batching, the protocol, and what is refused."""

from __future__ import annotations

from pathlib import Path

import kaldiio
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_sets import GENDERS, RATE, SMALL, make_set, tone

from espnet_musa.config import save
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.asv import METRICS, Asv, enrolment, mean_of, speaker_means
from espnet_musa.evaluators.base import Metric, Resources
from espnet_musa.evaluators.encoders import LogMel, NetEncoder, Resemblyzer, embed_datadir
from espnet_musa.evaluators.speaker_nets import NetConfig, build
from espnet_musa.evaluators.voices import Voices

PITCHES = {"a": 210.0, "b": 260.0, "c": 80.0, "d": 130.0}


@pytest.fixture
def sets(tmp_path: Path) -> tuple[DataDir, DataDir]:
    """Four voices, two enrolment and two trial utterances each; 'd' only an impostor."""
    enroll = {f"{s}-{i}": tone(1.0 + 0.1 * i, PITCHES[s], i) for s in "abc" for i in range(2)}
    trial = {f"{s}-{i}": tone(1.2, PITCHES[s], i) for s in "abcd" for i in (5, 6)}
    pairs = [(s, utt, s == utt[0]) for s in "abc" for utt in trial if GENDERS[s] == GENDERS[utt[0]]]
    one = make_set(tmp_path / "enroll", enroll, GENDERS, {"role": "enroll"})
    two = make_set(
        tmp_path / "trial",
        trial,
        GENDERS,
        {"role": "trial", "enroll": "enroll", "split": "dev"},
        trials=pairs,
    )
    return DataDir.read(one, "audio"), DataDir.read(two, "trials")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """An untrained ECAPA-TDNN whose batch normalisation is not the identity."""
    out = tmp_path / "model"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build(SMALL)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.bias.data.normal_()
    save(SMALL, out / "config.yaml")
    save_file(model.state_dict(), out / "model.safetensors")
    return out


class Oracle:
    """An encoder that hears the mean frequency: perfect on tones, with `noise` as bad as one likes."""

    dimension = 8
    identity = "oracle"

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        self.noise, self.rng, self.calls = noise, np.random.default_rng(seed), 0

    def embed(self, wavs):
        self.calls += 1
        rows = []
        for wav in wavs:
            power = np.abs(np.fft.rfft(wav, RATE)[:400]) ** 2
            row = np.zeros(self.dimension)
            row[int(np.argmax(power)) // 45 % self.dimension] = 1
            rows.append(row + self.noise * self.rng.standard_normal(self.dimension))
        return np.array(rows, np.float32)


def values(metrics: list[Metric]) -> dict[tuple[str, str], float]:
    return {(m.condition, m.group): m.value for m in metrics}


# Encoders


def test_resemblyzer_equals_the_package():
    import resemblyzer

    package = resemblyzer.VoiceEncoder("cpu", verbose=False)
    wavs = [tone(2.9, 120.0), tone(0.7, 200.0, 1), tone(5.3, 170.0, 2)]
    wavs[2][16000:48000] = 0  # a pause for the VAD to shorten
    expected = [package.embed_utterance(resemblyzer.preprocess_wav(wav)) for wav in wavs]
    np.testing.assert_allclose(Resemblyzer().embed(wavs), expected, atol=1e-6)


def test_resemblyzer_survives_silence_and_single_samples():
    vectors = Resemblyzer().embed([np.zeros(RATE, np.float32), np.full(1, 0.5, np.float32)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_ecapa_is_independent_of_the_batch(model_dir: Path):
    encoder = NetEncoder(model_dir)
    wavs = [tone(s, 100 + 30 * i, i) for i, s in enumerate((0.31, 2.0, 0.02, 1.234, 0.7))] + [
        np.zeros(9, "f4")
    ]
    alone = np.concatenate([encoder.embed([wav]) for wav in wavs])
    np.testing.assert_allclose(encoder.embed(wavs), alone, atol=2e-5)
    assert np.ptp(alone, axis=0).max() > 0.1  # or the equality would mean nothing


def test_ecapa_equals_speechbrain(model_dir: Path):
    """Our handling of padding must not change what SpeechBrain computes for a single utterance."""
    from safetensors.torch import load_file

    model, front, wav = build(SMALL), LogMel(SMALL.mel_bands), tone(1.1, 140.0)
    model.load_state_dict(load_file(model_dir / "model.safetensors"))
    (features,) = front([front.condition(wav)])
    with torch.inference_mode():
        expected = model.eval()((features - features.mean(dim=0))[None])[:, 0].numpy()
    np.testing.assert_allclose(NetEncoder(model_dir).embed([wav, tone(2.0, 90.0)])[:1], expected, atol=2e-5)


def test_ecapa_ignores_level_and_silent_ends(model_dir: Path):
    encoder, wav = NetEncoder(model_dir), tone(1.0, 150.0)
    padded = np.concatenate([np.zeros(777, "f4"), wav / 8, np.zeros(5000, "f4")])
    np.testing.assert_allclose(encoder.embed([padded]), encoder.embed([wav]), atol=1e-4)


def test_ecapa_averages_the_windows_of_a_long_utterance(model_dir: Path):
    wav = LogMel(40).condition(tone(2.0, 150.0))
    halves = np.array_split(wav, 2)
    whole = [half / np.abs(half).max() * np.abs(wav).max() for half in halves]
    parts = NetEncoder(model_dir).embed(whole)
    np.testing.assert_allclose(
        NetEncoder(model_dir, window_s=1.0).embed([wav])[0], parts.mean(axis=0), atol=1e-3
    )


def test_wrong_weights_are_refused(model_dir: Path, tmp_path: Path):
    save(NetConfig(mel_bands=40), model_dir / "config.yaml")
    with pytest.raises(UserError, match="do not fit"):
        NetEncoder(model_dir)
    with pytest.raises(UserError, match="stage attack"):
        NetEncoder(tmp_path)


def test_embeddings_are_stored_and_found_again(sets, tmp_path: Path):
    enroll, _ = sets
    encoder = Oracle(noise=1.0)  # another call would give other numbers
    first = embed_datadir(encoder, enroll, tmp_path / "cache", batch_s=2.2)
    assert encoder.calls > 1
    calls = encoder.calls
    np.testing.assert_array_equal(embed_datadir(encoder, enroll, tmp_path / "cache"), first)
    assert encoder.calls == calls
    (scp,) = (tmp_path / "cache").glob("*/embeddings.scp")
    stored = kaldiio.load_scp(str(scp))
    np.testing.assert_array_equal(np.stack([stored[utt] for utt in enroll.utts]), first)
    encoder.identity = "another"
    embed_datadir(encoder, enroll, tmp_path / "cache")
    assert encoder.calls > calls


# Scores


def test_an_enrolment_model_is_the_mean_of_raw_embeddings():
    rows = np.array([[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    np.testing.assert_allclose(speaker_means(rows, np.array([0, 0, 1])), [[0.5, 1.5], [5.0, 5.0]])


def test_the_interval_of_the_mean_follows_mover():
    f = Metric("eer", 10.0, "%", "s", "dev", "f", "oo", {"target": 1}, 7.0, 14.0)
    m = Metric("eer", 20.0, "%", "s", "dev", "m", "oo", {"target": 2}, 16.0, 23.0)
    mean = mean_of(f, m)
    assert (mean.value, mean.low, mean.high, mean.n) == (15.0, 12.5, 17.5, {"target": 3})
    assert Metric.from_dict(mean.to_dict()) == mean


# The evaluator


def test_perfect_encoder_has_no_errors(sets, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Voices, "_encoder", lambda *_: Oracle())
    metrics = Asv("resemblyzer").score(*sets, None, None, tmp_path, Resources())
    assert values(metrics) == {("oo", group): 0.0 for group in ("f", "m", "all", "avg")}
    assert metrics[0].n == {"speakers": 2, "target": 4, "nontarget": 4}
    assert metrics[0].split == "dev"
    lines = (tmp_path / "oo" / "scores").read_text().splitlines()
    assert len(lines) == 12
    assert lines[0].split()[:2] == ["a", "a-5"]
    assert float(lines[0].split()[2]) == pytest.approx(1.0)


def test_every_metric_is_reported(tmp_path: Path, monkeypatch):
    """Voices that nobody confuses: all metrics say so, for each gender and condition; too few targets leave one out."""
    monkeypatch.setattr(Voices, "_encoder", lambda *_: Oracle())
    enroll = {f"{s}-{i}": tone(0.4, PITCHES[s], i) for s in "abcd" for i in range(2)}
    for repeats, with_dsys in ((10, True), (9, False)):
        trial = {f"{s}-{i}": tone(0.4, PITCHES[s], i) for s in "abcd" for i in range(5, 5 + repeats)}
        pairs = [(s, utt, s == utt[0]) for s in "abcd" for utt in trial if GENDERS[s] == GENDERS[utt[0]]]
        place = tmp_path / str(repeats)
        one = make_set(place / "enroll", enroll, GENDERS, {"role": "enroll"})
        two = make_set(place / "trial", trial, GENDERS, {"role": "trial", "enroll": "enroll"}, trials=pairs)
        sets = DataDir.read(one, "audio"), DataDir.read(two, "trials")
        metrics = Asv("resemblyzer", metrics=METRICS, bootstrap=0).score(
            *sets, None, None, place, Resources()
        )
        names = {"eer", "cllr", "cllr_min", "zebra_population", "zebra_individual"}
        assert {m.name for m in metrics if m.group == "avg"} == names | ({"dsys"} if with_dsys else set())
        assert len({(m.name, m.group) for m in metrics}) == len(metrics)
        found = {m.name: m for m in metrics if m.group == "f"}
        assert found["eer"].value == 0
        assert found["cllr_min"].value == pytest.approx(0, abs=1e-5)
        assert found["zebra_population"].value == pytest.approx(0.7213, abs=1e-4)
        assert found["zebra_individual"].value > 1
        assert 0.6 < found["cllr"].value < 1  # cosines of 1 and 0, read as log-likelihood ratios
        assert found["zebra_population"].unit == found["cllr"].unit == "bit"
    assert {m.name for m in metrics if m.group == "all"} == names | {"dsys"}  # 36 targets of both genders


def test_plda_is_trained_on_the_training_set(sets, tmp_path: Path, monkeypatch):
    """Perfect embeddings stay perfect; the scores are log-likelihood ratios: positive for targets only."""
    monkeypatch.setattr(Voices, "_encoder", lambda *_: Oracle(noise=0.03))
    voices = {f"v{k}": 60.0 + 45 * k for k in range(7)}
    wavs = {f"{s}-{i}": tone(0.4, pitch, i) for s, pitch in voices.items() for i in range(4)}
    train = DataDir.read(make_set(tmp_path / "train", wavs, dict.fromkeys(voices, "f"), {}), "audio")
    evaluator = Asv("resemblyzer", backend="plda", metrics=["eer", "cllr"], bootstrap=0)
    metrics = evaluator.score(*sets, None, None, tmp_path, Resources(train=train))
    found = {(m.name, m.group): m.value for m in metrics}
    assert found["eer", "avg"] == 0
    assert found["cllr", "avg"] < 0.1
    for line in (tmp_path / "oo" / "scores").read_text().splitlines():
        speaker, utt, score = line.split()
        assert (float(score) > 0) == (speaker == utt[0])


def test_all_conditions_use_their_own_audio(sets, tmp_path: Path, monkeypatch):
    """Anonymization that shifts every voice alike hides it from 'oa' and not from 'aa'."""
    enroll, trial = sets
    shifted = {"a": 300.0, "b": 210.0, "c": 130.0, "d": 80.0}
    copies = []
    for data, utts in ((enroll, enroll.utts), (trial, trial.utts)):
        wavs = {utt: tone(1.1, shifted[utt[0]], 9) for utt in utts}
        path = make_set(tmp_path / "anon" / data.name, wavs, GENDERS, {})
        copies.append(DataDir.read(path, "audio"))
    monkeypatch.setattr(Voices, "_encoder", lambda *_: Oracle())
    result = values(Asv("resemblyzer", bootstrap=0).score(enroll, trial, *copies, tmp_path, Resources()))
    assert result["oo", "f"] == result["aa", "f"] == 0.0
    assert result["oa", "f"] >= 50.0
    assert (tmp_path / "aa" / "scores").exists()


@pytest.mark.parametrize("mixed", [False, True])
def test_noise_gives_an_interval_around_chance(tmp_path: Path, monkeypatch, mixed: bool):
    """Random embeddings of 12 speakers: the interval must hold 50 %, and it must not be trivial.

    A mixed list, as in 2026, has trials across genders: they are in the pooled figure, which then is the only summary.
    """
    names = [f"s{i:02d}" for i in range(12)]
    genders = {name: "fm"[i % 2] for i, name in enumerate(names)}
    silence = np.full(1600, 0.01, np.float32)
    enroll = {f"{s}-0": silence for s in names}
    trial = {f"{s}-{i}": silence for s in names for i in range(1, 9)}
    pairs = [
        (s, utt, utt.startswith(s)) for s in names for utt in trial if mixed or genders[s] == genders[utt[:3]]
    ]
    one = make_set(tmp_path / "enroll", enroll, genders, {"role": "enroll"})
    two = make_set(tmp_path / "trial", trial, genders, {"role": "trial", "enroll": "enroll"}, trials=pairs)

    monkeypatch.setattr(Voices, "_encoder", lambda *_: Oracle(noise=100.0, seed=1))
    metrics = Asv("resemblyzer", bootstrap=300).score(
        DataDir.read(one, "audio"), DataDir.read(two, "trials"), None, None, tmp_path, Resources(seed=1)
    )
    by_group = {m.group: m for m in metrics}
    assert set(by_group) == {"f", "m", "all"} | (set() if mixed else {"avg"})
    assert by_group["all"].n["cross_gender"] == (12 * 96 // 2 if mixed else 0)
    assert by_group["all"].n["target"] + by_group["all"].n["nontarget"] == len(pairs)
    assert by_group["f"].n == {"speakers": 6, "target": 48, "nontarget": 240}
    if not mixed:
        assert by_group["avg"].value == pytest.approx((by_group["f"].value + by_group["m"].value) / 2)
    for metric in metrics:
        assert metric.low < 50 < metric.high
        assert 2 < metric.high - metric.low < 60


def test_shuffled_labels_are_guesses(tmp_path: Path, monkeypatch):
    """Voices that an attacker tells apart, handed to utterances at random: every interval holds 50 %."""
    monkeypatch.setattr(Voices, "_encoder", lambda *_: Oracle(noise=0.2))
    names = [f"s{i}" for i in range(8)]
    genders, pitches = dict.fromkeys(names, "f"), {name: 60.0 + 45 * i for i, name in enumerate(names)}
    trial = {f"{s}-{i}": tone(0.2, pitches[s], i) for s in names for i in range(1, 13)}
    enroll = make_set(tmp_path / "enroll", {f"{s}-0": tone(0.2, pitches[s]) for s in names}, genders, {})
    order = np.random.default_rng(2).permutation(len(trial))
    shuffled = dict(zip(trial, [list(trial.values())[i] for i in order], strict=True))
    pairs = [(s, utt, utt.startswith(s)) for s in names for utt in trial]
    for wavs, low, high in ((trial, 0, 5), (shuffled, 35, 65)):
        place = tmp_path / str(high)
        made = make_set(place, wavs, genders, {"role": "trial", "enroll": "enroll"}, trials=pairs)
        sets = DataDir.read(enroll, "audio"), DataDir.read(made, "trials")
        (metric,) = Asv("resemblyzer", bootstrap=300).score(*sets, None, None, place, Resources())
        assert low <= metric.value < high
        assert (metric.low < 50 < metric.high) == (wavs is shuffled)


def test_enrolls_file_selects_utterances(tmp_path: Path):
    wavs = {f"a-{i}": tone(0.2, 100.0) for i in range(3)} | {"b-0": tone(0.2, 200.0)}
    some = make_set(tmp_path / "some", wavs, GENDERS, {"role": "enroll"}, enrolls=["a-2", "b-0"])
    speakers, utts, owner = enrolment(DataDir.read(some, "audio"))
    assert (speakers, utts, owner.tolist()) == (["a", "b"], ["a-2", "b-0"], [0, 1])
    less = make_set(tmp_path / "less", wavs, GENDERS, {"role": "enroll"}, enrolls=["a-2"])
    with pytest.raises(UserError, match="speaker 'b' has no enrolment"):
        enrolment(DataDir.read(less, "audio"))


def test_mistakes_are_refused_before_any_work(sets, tmp_path: Path):
    enroll, trial = sets
    other = DataDir.read(make_set(tmp_path / "x" / "trial", {"a-5": tone(0.3, 90.0)}, GENDERS, {}), "audio")
    with pytest.raises(UserError, match=r"utt 'a-6': not anonymized(?s:.*)7 problems"):
        Asv().score(enroll, trial, enroll, other, tmp_path, Resources())
    with pytest.raises(UserError, match="attacker"):
        Asv().score(enroll, trial, None, None, tmp_path, Resources())
    with pytest.raises(UserError, match="did you mean 'ecapa'"):
        Asv(encoder="eccapa")
    with pytest.raises(UserError, match="did you mean 'zebra'"):
        Asv(metrics=["eer", "zebras"])
    with pytest.raises(UserError, match="unknown back-end 'pldda'"):
        Asv(backend="pldda")
    with pytest.raises(UserError, match="training set"):
        Asv("resemblyzer", backend="plda").score(enroll, trial, None, None, tmp_path, Resources())
    alone = DataDir.read(make_set(tmp_path / "alone", {"a-0": tone(0.3, 90.0)}, GENDERS, {}), "audio")
    with pytest.raises(UserError, match="1 utterances of 1 speakers"):
        Asv("resemblyzer", backend="plda").score(enroll, trial, None, None, tmp_path, Resources(train=alone))
    (trial.path / "trials").write_text("q a-5 target\na a-5 nontarget\n")
    with pytest.raises(UserError, match="'q'"):
        Asv().score(enroll, trial, None, None, tmp_path, Resources())
    (trial.path / "trials").write_text("a a-5 target\n")
    with pytest.raises(UserError, match="nontarget"):
        Asv().score(enroll, trial, None, None, tmp_path, Resources())


@pytest.mark.real
def test_resemblyzer_tells_real_speakers_apart(real_speech: Path, tmp_path: Path):
    """Three readers of LibriSpeech test-other, four utterances each: no error on clean speech."""
    import soundfile as sf

    folders = sorted((real_speech / "librispeech/LibriSpeech/test-other").glob("*"))[:3]
    wavs = {}
    for folder in folders:
        files = sorted(folder.glob("*/*.flac"))[:4]
        wavs |= {f"{folder.name}-{i}": sf.read(file, dtype="float32")[0] for i, file in enumerate(files)}
    genders = dict.fromkeys((folder.name for folder in folders), "m")
    pairs = [(f.name, utt, utt.startswith(f.name)) for f in folders for utt in wavs if not utt.endswith("-0")]
    one = make_set(
        tmp_path / "enroll", {u: w for u, w in wavs.items() if u.endswith("-0")}, genders, {"role": "enroll"}
    )
    rest = {u: w for u, w in wavs.items() if not u.endswith("-0")}
    two = make_set(tmp_path / "trial", rest, genders, {"role": "trial", "enroll": "enroll"}, trials=pairs)
    (metric,) = Asv("resemblyzer", bootstrap=0).score(
        DataDir.read(one, "audio"), DataDir.read(two, "trials"), None, None, tmp_path, Resources()
    )
    assert metric.value == 0.0

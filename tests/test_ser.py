"""Emotion recognition: folds, the recipe's classifier, the challenge's checkpoints, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from tiny_sets import RATE, make_set
from tiny_wav2vec2 import fairseq_state, forward, hugging_face_state

from espnet_musa.corpora.emodb import prepare
from espnet_musa.data.audio import read_audio
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.base import Resources
from espnet_musa.evaluators.ser import Ser, deal, lacking
from espnet_musa.evaluators.ser_features import functionals

GENDERS = {f"s{i}": "fm"[i % 2] for i in range(6)}


def speech(emotion: str, speaker: int, seed: int, seconds: float = 0.7) -> np.ndarray:
    """Anger is high, wide and quick, sadness low, flat and slow, whoever speaks."""
    rng = np.random.default_rng([speaker, seed])
    middle, width, pace = {"ang": (1.6, 0.35, 5.0), "sad": (0.9, 0.05, 2.0)}[emotion]
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = (110 + 12 * speaker) * middle * (1 + width * np.sin(2 * np.pi * rng.uniform(1, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) / k ** (0.7 if emotion == "ang" else 1.5) for k in range(1, 15))
    wave = wave * (0.55 + 0.45 * np.sin(2 * np.pi * pace * time + rng.uniform(0, 6)))
    return (0.1 * wave + 0.002 * rng.standard_normal(len(time))).astype(np.float32)


def labels(wavs) -> dict[str, str]:
    return {utt: utt.split("-")[1] for utt in wavs}


def spoken(each: int = 2) -> dict[str, np.ndarray]:
    return {
        f"s{i}-{emotion}-{j}": speech(emotion, i, j)
        for i in range(6)
        for emotion in ("ang", "sad")
        for j in range(each)
    }


def a_set(path: Path, wavs: dict, emotions: dict | None = None, **tables) -> DataDir:
    emotions = {"utt2emo": labels(wavs) if emotions is None else emotions}
    return DataDir.read(make_set(path, wavs, GENDERS, {"split": "test"}, **emotions, **tables), "audio")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> DataDir:
    return a_set(tmp_path_factory.mktemp("ser") / "set", spoken())


def value(metrics, name: str = "uar") -> float:
    return {m.name: m.value for m in metrics}[name]


def test_original_speech_is_recognised_by_who_never_heard_the_speaker(original, tmp_path):
    metrics = Ser().score(original, None, tmp_path, Resources())
    assert [m.name for m in metrics] == ["uar", "recall_ang", "recall_sad"]
    assert value(metrics) > 90
    assert metrics[0].unit == "%" and metrics[0].n == {"utterances": 24, "speakers": 6, "folds": 5}
    assert "chance is 50.0 %" in metrics[0].notes and metrics[0].low <= metrics[0].value <= metrics[0].high
    rows = [line.split() for line in (tmp_path / "emotions").read_text().splitlines()]
    assert [row[0] for row in rows] == original.utts
    fold = {row[0].split("-")[0]: {r[1] for r in rows if r[0].startswith(row[0][:3])} for row in rows}
    assert all(len(folds) == 1 for folds in fold.values()) and len(set.union(*fold.values())) == 5


def test_lost_emotions_are_chance_and_the_classifier_hears_originals(original, tmp_path):
    """A copy in which everybody is sad: sadness is recognised, anger is not."""
    flat = {utt: speech("sad", int(utt[1]), 9) for utt in original.utts}
    copy = a_set(tmp_path / "copy", flat, labels(flat))
    metrics = Ser().score(original, copy, tmp_path, Resources())
    assert value(metrics, "recall_sad") > 90 and value(metrics, "recall_ang") < 10
    assert value(metrics) == pytest.approx(50, abs=6)
    assert metrics[0].set == "set"


def test_who_knows_the_system_learns_what_it_makes_of_emotions(original, tmp_path):
    """A copy in which anger sounds sad and sadness angry: all wrong for one listener, all there for the other."""
    other = {"ang": "sad", "sad": "ang"}
    turned = {utt: speech(other[utt.split("-")[1]], int(utt[1]), 7) for utt in original.utts}
    copy = a_set(tmp_path / "copy", turned, labels(turned))
    assert value(Ser().score(original, copy, tmp_path, Resources())) < 10
    adapted = Ser(heard="anonymized").score(original, copy, tmp_path, Resources())
    assert value(adapted) > 90 and "the anonymized speech of the other folds" in adapted[0].notes
    plain = Ser(heard="anonymized").score(original, None, tmp_path, Resources())
    assert value(plain) == value(Ser().score(original, None, tmp_path, Resources()))
    with pytest.raises(UserError, match="heard 'anonymized' with backend 'wav2vec2'"):
        Ser(backend="wav2vec2", heard="anonymized")


def test_same_seed_same_numbers_for_any_number_of_processes(original, tmp_path):
    one = Ser().score(original, None, tmp_path, Resources(jobs=1))
    assert Ser().score(original, None, tmp_path, Resources(jobs=2)) == one


def test_shuffled_labels_give_chance(original, tmp_path):
    rng = np.random.default_rng(1)
    utts = original.utts
    shuffled = dict(zip(utts, rng.permutation(["ang", "sad"] * 12).tolist(), strict=True))
    data = a_set(tmp_path / "set", {utt: original.load(utt) for utt in utts}, shuffled)
    metric = Ser(folds=2, reading="pooled").score(data, None, tmp_path, Resources())[0]
    assert metric.low - 10 <= 50 <= metric.high + 10


def test_given_folds_are_used(original, tmp_path):
    given = {f"s{i}": ("a", "a", "b", "b", "c", "c")[i] for i in range(6)}
    data = a_set(tmp_path / "set", {u: original.load(u) for u in original.utts}, spk2fold=given)
    metrics = Ser().score(data, None, tmp_path, Resources())
    assert metrics[0].n["folds"] == 3
    rows = [line.split() for line in (tmp_path / "emotions").read_text().splitlines()]
    assert all(given[row[0].split("-")[0]] == row[1] for row in rows)


def test_speakers_are_dealt_evenly():
    genders = {f"f{i}": "f" for i in range(7)} | {f"m{i}": "m" for i in range(5)}
    folds = deal(genders, 5, np.random.default_rng(0))
    for gender, least in (("f", 1), ("m", 1)):
        counts = [sum(folds[s] == str(k) and g == gender for s, g in genders.items()) for k in range(1, 6)]
        assert min(counts) >= least and max(counts) - min(counts) <= 1
    sizes = [list(folds.values()).count(str(k)) for k in range(1, 6)]
    assert max(sizes) - min(sizes) <= 1
    assert folds != deal(genders, 5, np.random.default_rng(1))
    assert lacking({"a": "1", "b": "2"}, {"a": {"ang"}, "b": {"ang", "sad"}}, ["ang", "sad"]) == [
        ("1", "sad")
    ]


def test_a_set_without_emotions_is_skipped(tmp_path):
    path = make_set(tmp_path / "set", {"s0-0": speech("sad", 0, 0)}, GENDERS, {})
    assert Ser().score(DataDir.read(path, "audio"), None, tmp_path, Resources()) == []


def few(path: Path, utts: tuple[str, ...], **tables) -> DataDir:
    return a_set(path, {utt: speech("sad", 0, 0, 0.1) for utt in utts}, **tables)


@pytest.mark.parametrize(
    ("utts", "tables", "message"),
    [
        (("s0-ang-0", "s0-sad-0"), {}, "a single speaker"),
        (("s0-ang-0", "s1-ang-0"), {}, "only the emotion 'ang'"),
        (("s0-ang-0", "s1-sad-0", "s1-ang-0"), {}, "has no utterance of 'sad'"),
        (
            ("s0-ang-0", "s0-sad-0", "s1-ang-0"),
            {"spk2fold": {"s0": "x", "s1": "y"}},
            "fold 'y' has no utterance of 'sad'",
        ),
        (
            ("s0-ang-0", "s0-sad-0", "s1-ang-0", "s1-sad-0"),
            {"spk2fold": {"s0": "x", "s1": "x"}},
            "a single fold",
        ),
    ],
)
def test_refused_before_any_work(tmp_path, utts, tables, message):
    with pytest.raises(UserError, match=message):
        Ser().score(few(tmp_path / "set", utts, **tables), None, tmp_path, Resources())


def test_other_utterances_and_unknown_names_are_refused(original, tmp_path):
    copy = few(tmp_path / "copy", ("s0-ang-0",))
    with pytest.raises(UserError, match="only in one of the two sets"):
        Ser().score(original, copy, tmp_path, Resources())
    with pytest.raises(UserError, match="did you mean 'recipe'"):
        Ser(backend="recipie")
    with pytest.raises(UserError, match="at least 2"):
        Ser(folds=1)


@pytest.mark.parametrize("gain", [0.02, 3.0])
def test_functionals_ignore_the_level(gain):
    wav = speech("ang", 2, 0)
    assert functionals(gain * wav) == pytest.approx(functionals(wav), abs=2e-2)


@pytest.mark.parametrize("samples", [1, 399, 401, 5000])
def test_functionals_of_anything_are_finite(samples):
    for wav in (np.zeros(samples), np.ones(samples), np.random.default_rng(0).standard_normal(samples) * 0.1):
        assert functionals(wav.astype(np.float32)).shape == (250,)
        assert np.isfinite(functionals(wav.astype(np.float32))).all()


# The challenge's classifiers, as SpeechBrain writes them


def save_fold(place: Path, seed: int, order: tuple[str, ...] = ("sad", "neu", "ang")) -> dict:
    """`CKPT+.../{wav2vec2,model}.ckpt` and label_encoder.txt; returns encoder and head."""
    from speechbrain.dataio.encoder import CategoricalEncoder

    place.mkdir(parents=True)
    encoder = fairseq_state(seed)
    named = {f"model.{k}": v for k, v in hugging_face_state(encoder).items()}
    torch.save(named, place / "wav2vec2.ckpt")
    head = torch.randn(len(order), 64, generator=torch.Generator().manual_seed(seed))
    torch.save({"0.w.weight": head}, place / "model.ckpt")
    names = CategoricalEncoder()
    names.update_from_iterable(order, sequence_input=False)
    names.save(place.parent / "label_encoder.txt")
    return {"encoder": encoder, "head": head, "order": order}


def expected(fold: dict, wav: np.ndarray) -> str:
    """SpeechBrain's recipe: standardised input, standardised output, mean over time, linear layer."""
    x = torch.from_numpy(wav)
    hidden = forward(fold["encoder"], torch.nn.functional.layer_norm(x, x.shape))
    hidden = torch.nn.functional.layer_norm(hidden, hidden.shape)
    return fold["order"][int((fold["head"] @ hidden.mean(0)).argmax())]


def test_challenge_checkpoints(tmp_path, original):
    """Every fold has its own model, the latest checkpoint counts, and an unknown class counts as wrong."""
    models = tmp_path / "ser"
    save_fold(models / "fold_x" / "CKPT+2024-01-01+00-00-00+00", 5)
    own = {
        "x": save_fold(models / "fold_x" / "CKPT+2024-03-01+00-00-00+00", 1),
        "y": save_fold(models / "fold_y" / "CKPT+2024-02-01+00-00-00+00", 2, ("ang", "sad", "neu")),
    }
    wavs = {utt: original.load(utt) for utt in original.utts if utt[:2] in ("s0", "s1", "s2")}
    given = {"s0": "x", "s1": "y", "s2": "y"}
    data = a_set(tmp_path / "set", wavs, spk2fold=given)
    metrics = Ser(backend="wav2vec2", model=str(models)).score(data, None, tmp_path, Resources())
    rows = [line.split() for line in (tmp_path / "emotions").read_text().splitlines()]
    for utt, fold, _, found in rows:
        truth = expected(own[fold], data.load(utt))
        assert found == ("other" if truth == "neu" else truth)
    assert value(metrics) == pytest.approx(
        np.mean(
            [
                np.mean([np.mean([r[2] == r[3] for r in rows if r[1:3] == [k, e]]) for e in ("ang", "sad")])
                for k in "xy"
            ]
        )
        * 100
    )


def test_challenge_checkpoints_that_are_not_there(tmp_path, original, monkeypatch):
    """All that is missing is said at once, before any audio is read."""
    with pytest.raises(UserError, match="spk2fold"):
        Ser(backend="wav2vec2", model=str(tmp_path)).score(original, None, tmp_path, Resources())
    wavs = {utt: original.load(utt) for utt in original.utts}
    data = a_set(tmp_path / "set", wavs, spk2fold={f"s{i}": str(i % 3 + 1) for i in range(6)})
    save_fold(tmp_path / "ser" / "fold_1" / "CKPT+1", 0, ("sad", "neu"))
    save_fold(tmp_path / "ser" / "fold_2" / "CKPT+1", 0)
    (tmp_path / "ser" / "fold_2" / "CKPT+1" / "model.ckpt").unlink()
    with pytest.raises(UserError) as caught:
        Ser(backend="wav2vec2", model=str(tmp_path / "ser")).score(data, None, tmp_path, Resources())
    for part in ("does not know 'ang'", "model.ckpt: not found", "fold_3: no such folder", "ser.zip"):
        assert part in str(caught.value)


@pytest.mark.slow
@pytest.mark.real
def test_emodb(real_speech, tmp_path):
    """Real emotions of ten actors, four classes: far above the 25 % of chance."""
    prepare(tmp_path / "data", root=real_speech / "emodb")
    source = DataDir.read(tmp_path / "data" / "emodb")
    wavs = {}
    for utt in source.utts:
        wav, rate = read_audio(source.table("wav.scp")[utt])
        wavs[utt] = soxr.resample(wav, rate, RATE)
    genders = source.table("spk2gender")
    data = DataDir.read(
        make_set(tmp_path / "emodb", wavs, genders, {}, utt2emo=source.table("utt2emo")), "audio"
    )
    metrics = Ser(reading="pooled").score(data, None, tmp_path, Resources(jobs=2))
    assert value(metrics) > 70 and metrics[0].low > 60

"""Track 2 of VoicePrivacy 2026: its folders, its rule on MLS, and an attacker for each language."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from corpus_trees import prepared, refused, trials_of
from test_mls import add
from tiny_sets import SMALL, make_set, tone

from espnet_musa import config
from espnet_musa.config import EvaluatorConfig, Recipe
from espnet_musa.corpora import mls, vpc2026
from espnet_musa.corpora.common import Recording
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.asv import Asv
from espnet_musa.evaluators.ecapa_train import TrainConfig
from espnet_musa.pipeline.attack import attack
from espnet_musa.pipeline.score import model_dir, score
from espnet_musa.pipeline.sharding import training_sets


def test_the_thirty_folders():
    """Section 9.1 of the protocol: six languages with four sets each, two emotional sets, four to train with."""
    assert len(vpc2026.TRACK2) == 30
    roles = [meta["role"] for _, meta in vpc2026.TRACK2.values()]
    assert [roles.count(r) for r in ("enroll", "trial", "utility", "attack_train")] == [12, 12, 2, 4]
    assert len(vpc2026.OPTIONAL) == 8 and all(name[:3] in ("cn_", "ja_") for name in vpc2026.OPTIONAL)
    assert set(vpc2026.TRACK2) >= {
        "en_dev_trials_mixed",
        "cn_test_enrolls",
        "emodata_track2_dev",
        "train_german",
    }


@pytest.mark.parametrize("sizes", [(2, 20), (7, 13, 40), (100, 101, 90)])
def test_the_rule_in_closed_form(sizes):
    """15 % rounded up enrol; all speakers against all other utterances; a target for each trial utterance."""
    corpus = {f"{k}_1_{i:06d}": Recording(Path("x"), str(k)) for k, n in enumerate(sizes) for i in range(n)}
    genders = {str(k): "fm"[k % 2] for k in range(len(sizes))}
    (enrolls, trials) = vpc2026.mixed_sets("de", "dev", corpus, genders, 0).values()
    enrolled = sum(math.ceil(0.15 * n) for n in sizes)
    assert len(enrolls[0]["utt2spk"]) == len(enrolls[0]["enrolls"]) == enrolled
    listed = trials[0]["trials"]
    assert len(listed) == len(sizes) * (sum(sizes) - enrolled)
    assert sum(target for _, _, target in listed) == sum(sizes) - enrolled == len(trials[0]["utt2spk"])
    assert {(genders[s], genders[u.split("_")[0]]) for s, u, _ in listed} >= {("f", "m"), ("m", "f")}
    assert not set(enrolls[0]["utt2spk"]) & set(trials[0]["utt2spk"])
    assert vpc2026.mixed_sets("de", "dev", corpus, genders, 1) != vpc2026.mixed_sets(
        "de", "dev", corpus, genders, 0
    )


def test_sets_of_mls(tmp_path):
    tree = tmp_path / "corpora" / "MLS"
    for split, first in (("train", 10), ("dev", 20), ("test", 30)):
        add(tree / "mls_german", split, range(first, first + 4), "der alte", ".flac")
        add(tree / "mls_english", split, range(first + 100, first + 104), "the old", ".opus")
    sets = prepared(mls.prepare, tmp_path / "data", root=tree, protocol="vpc2026", languages="de en")
    assert set(sets) <= set(vpc2026.TRACK2) and len(sets) == 10
    assert sets["train_german"].meta.role == "attack_train" and len(sets["train_german"].utts) == 24
    assert set(sets["train_english"].table("utt2lang").values()) == {"en"}
    dev = sets["de_dev_trials_mixed"]
    assert (dev.meta.enroll, dev.meta.corpus) == ("de_dev_enrolls", "mls")
    assert len(trials_of(dev.path)) == 4 * 4 * 5
    out = tmp_path / "none"
    add(tree / "mls_dutch", "test", range(60, 64), "de oude", ".flac")
    refused(mls.prepare, out, "'nl' is no language of MLS in track 2", root=tree, protocol="vpc2026")
    refused(mls.prepare, out, "unknown protocol 'vpc2062'; did you mean", root=tree, protocol="vpc2062")
    refused(mls.prepare, out, "how much of it to train on.*hours.en=100", root=tree, languages="en")
    hours = {"en": 0.01}
    assert "mls_en_train" in prepared(mls.prepare, out, root=tree, languages="de en", hours=hours)
    named = mls.prepare(tmp_path / "default", root=tree)
    assert not any(name.startswith("mls_en") for name in named)  # only if it is named


@pytest.fixture
def organisers(tmp_path: Path) -> Path:
    """Some of the folders as the organisers write them: genders in upper case, paths relative to what holds `data/`."""
    data = tmp_path / "challenge" / "data"
    utts = {f"{s}_1_{i:06d}": s for s in ("7", "8") for i in range(2)}
    for name, number in (("fr_dev_enrolls", 0), ("fr_dev_trials_mixed", 1), ("train_french", 0)):
        own = {utt: s for utt, s in utts.items() if utt.endswith(str(number))}
        scp = {utt: f"corpora/french/dev/audio/{s}/1/{utt}.wav" for utt, s in own.items()}
        for path in scp.values():
            (data.parent / path).parent.mkdir(parents=True, exist_ok=True)
            write_wav(data.parent / path, np.zeros(160, np.float32), 16000)
        tables = {"wav.scp": scp, "utt2spk": own, "spk2gender": {"7": "F", "8": "M"}}
        for table, values in tables.items():
            (data / name).mkdir(parents=True, exist_ok=True)
            (data / name / table).write_text("".join(f"{k} {v}\n" for k, v in values.items()))
    (data / "fr_dev_enrolls/enrolls").write_text("7_1_000000\n8_1_000000\n")
    lines = [f"{s} {o}_1_000001 {'' if s == o else 'non'}target\n" for s in "78" for o in "78"]
    (data / "fr_dev_trials_mixed/trials").write_text("".join(lines))
    return data


def test_prepared_folders(organisers, tmp_path):
    sets = prepared(vpc2026.prepare, tmp_path / "out", root=organisers)
    assert list(sets) == ["fr_dev_enrolls", "fr_dev_trials_mixed", "train_french"]
    assert sets["fr_dev_enrolls"].table("spk2gender") == {"7": "f", "8": "m"}
    assert set(sets["train_french"].table("utt2lang").values()) == {"fr"}
    assert sum(target for _, _, target in trials_of(sets["fr_dev_trials_mixed"].path)) == 2
    (organisers.parent / "corpora/french/dev/audio/7/1/7_1_000001.wav").unlink()
    refused(
        vpc2026.prepare, tmp_path / "none", "fr_dev_trials_mixed/wav.scp: utt|no such file", root=organisers
    )
    (tmp_path / "empty").mkdir()
    refused(vpc2026.prepare, tmp_path / "none", "none of the folders of track 2", root=tmp_path / "empty")


# --- attackers by language ----------------------------------------------------------------------------------------

VOICES = {"a": "de", "b": "de", "c": "fr", "d": "fr", "e": "cmn", "f": "cmn"}


def dump(root: Path, name: str, language: str, numbers: range, meta: dict, **tables) -> None:
    voices = [voice for voice, code in VOICES.items() if code == language]
    wavs = {
        f"{v}-{name}-{i}": tone(0.8 + 0.1 * (i % 3), 90 * 1.3 ** list(VOICES).index(v), seed=i)
        for v in voices
        for i in numbers
    }
    languages = {"utt2lang": dict.fromkeys(wavs, language)}
    if meta["role"] == "trial":
        tables["trials"] = [(s, u, u.startswith(s)) for s in voices for u in wavs]
    make_set(root / "dump" / name, wavs, dict.fromkeys(VOICES, "f"), meta, **languages, **tables)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """German, French and Mandarin to attack; German and French to train attackers with."""
    for code in ("de", "fr", "cmn"):
        dump(tmp_path, f"{code}_enrolls", code, range(2), {"role": "enroll", "split": "dev"})
        meta = {"role": "trial", "split": "dev", "enroll": f"{code}_enrolls"}
        dump(tmp_path, f"{code}_trials", code, range(2, 5), meta)
        if code != "cmn":
            dump(tmp_path, f"train_{code}", code, range(5, 10), {"role": "attack_train", "split": "train"})
    settings = TrainConfig(model=SMALL, crop_s=0.5, batch_size=4, epochs=1)
    for kind, name, values in (
        ("train", "tiny", config.to_dict(settings)),
        ("evaluators", "each", {
            "evaluator": "asv", "description": "-", "train": "tiny", "params": {"by_language": True, "bootstrap": 0},
        }),
    ):  # fmt: skip
        path = tmp_path / "conf" / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values))
    return tmp_path


RECIPE = Recipe(name="t", systems=("orig",), evaluators=("each",), corpora={})


def test_each_language_has_its_attacker(root, monkeypatch):
    attack(RECIPE, root, device="cpu", force=False)
    place = model_dir(root, "each")
    assert {p.name for p in place.iterdir() if p.is_dir()} == {"de", "fr"}
    assert not list(place.glob("*.trained"))
    used = []
    taken = Asv.score

    def watched(self, enroll, trial, *rest):
        used.append((trial.name, rest[-1].model_dir.name))
        return taken(self, enroll, trial, *rest)

    monkeypatch.setattr(Asv, "score", watched)
    score(RECIPE, root, "orig", jobs=1, device="cpu", force=False)
    assert used == [("de_trials", "de"), ("fr_trials", "fr")]  # none for Mandarin: nothing was trained in it


def test_training_that_was_killed_goes_on_with_the_next_language(root, monkeypatch):
    from espnet_musa.evaluators import ecapa_train

    inner, trained = ecapa_train.train, []

    def dying(data, *rest):
        trained.append(data.name)
        if trained == ["train_de", "train_fr"]:
            raise KeyboardInterrupt
        return inner(data, *rest)

    monkeypatch.setattr(ecapa_train, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        attack(RECIPE, root, device="cpu", force=False)
    attack(RECIPE, root, device="cpu", force=False)
    assert trained == ["train_de", "train_fr", "train_fr"]


def test_what_cannot_be_told_apart_is_refused(root):
    each = EvaluatorConfig("asv", "-", {"by_language": True}, train="tiny")
    assert list(training_sets(root, each)) == ["de", "fr"]
    with pytest.raises(UserError, match="2 sets have the role attack_train"):
        training_sets(root, replace(each, params={}))
    (root / "dump/train_fr/utt2lang").write_text(
        "".join(f"{u} de\n" for u in DataDir.read(root / "dump/train_fr").utts)
    )
    with pytest.raises(UserError, match="train_fr: also in 'de', as train_de; expected one set a language"):
        training_sets(root, each)
    (root / "dump/train_fr/utt2lang").unlink()
    with pytest.raises(UserError, match="train_fr: in several languages, or in none"):
        training_sets(root, each)
    with pytest.raises(UserError, match="by_language is for attackers that the recipe trains"):
        Asv("resemblyzer", "spkrec_ecapa_voxceleb", by_language=True)

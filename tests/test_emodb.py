"""EMO-DB: names, emotions, text, and verification sets that share no sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus_trees import trials_of

from espnet_musa.corpora import emodb
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import DataDir
from espnet_musa.data.trials import read_trials
from espnet_musa.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four speakers (2 m, 2 f) with every sentence neutral and angry, in the official layout (WAV)."""
    folder = tmp_path / "emodb" / "wav"
    folder.mkdir(parents=True)
    for spk in ("03", "10", "08", "09"):
        for text in emodb.TEXTS:
            for emotion in "NW":
                write_wav(folder / f"{spk}{text}{emotion}a.wav", np.zeros(160, np.float32), 16000)
    return folder.parent


def read(out: Path, names: list[str]) -> dict[str, DataDir]:
    return {name: DataDir.read(out / name) for name in names}


def test_sets(corpus, tmp_path):
    out = tmp_path / "data"
    names = emodb.prepare(out, root=corpus)
    sets = read(out, names)
    assert names == ["emodb", "emodb_enrolls", "emodb_trials"]
    main = sets["emodb"]
    assert (main.meta.role, main.meta.split, len(main.utts)) == ("utility", "test", 80)
    assert main.table("utt2spk")["03-a01Na"] == "03" and main.table("utt2emo")["03-a01Wa"] == "ang"
    assert main.table("text")["09-a07Na"] == "In sieben Stunden wird es soweit sein"
    assert set(main.table("utt2lang").values()) == {"de"}
    assert main.table("spk2gender") == {"03": "m", "08": "f", "09": "f", "10": "m"}
    assert main.table("wav.scp")["08-b10Wa"] == str(corpus / "wav" / "08b10Wa.wav")
    enroll, trial = sets["emodb_enrolls"], sets["emodb_trials"]
    assert (enroll.meta.role, trial.meta.role, trial.meta.enroll) == ("enroll", "trial", "emodb_enrolls")
    assert len(enroll.utts) == 4 * 4 and all("N" in utt for utt in enroll.utts)  # four neutral sentences each
    assert not {utt[3:6] for utt in enroll.utts} & {utt[3:6] for utt in trial.utts}  # no sentence in both
    assert set(enroll.table("enrolls")) == set(enroll.utts)
    trials = trials_of(out / "emodb_trials")
    assert len(trials) == 2 * 2 * (2 * 6 * 2)  # genders x enrolled x trial utterances of the gender
    gender = main.table("spk2gender")
    assert all(gender[spk] == gender[utt[:2]] and same == (spk == utt[:2]) for spk, utt, same in trials)


def test_seed_draws_the_sentences_and_nothing_else_changes(corpus, tmp_path):
    drawn = {seed: emodb.enrolment_texts(emodb.read_corpus(corpus), seed) for seed in range(5)}
    assert len(set(drawn.values())) > 1
    for name in ("a", "b"):
        emodb.prepare(tmp_path / name, root=corpus, seed=2)
    assert (tmp_path / "a/emodb_trials/trials").read_bytes() == (
        tmp_path / "b/emodb_trials/trials"
    ).read_bytes()


def test_sentences_serve_the_worst_off_speaker(corpus):
    for text in emodb.TEXTS:  # speaker 09 keeps neutral utterances of these four only
        if text not in ("a02", "a05", "b01", "b10"):
            (corpus / "wav" / f"09{text}Na.wav").unlink()
    for seed in range(3):
        assert emodb.enrolment_texts(emodb.read_corpus(corpus), seed) == ("a02", "a05", "b01", "b10")


def test_a_gender_or_all_trials_may_be_impossible(corpus, tmp_path):
    for path in (corpus / "wav").glob("10*"):
        path.unlink()
    out = tmp_path / "one"
    emodb.prepare(out, root=corpus)
    assert {spk for spk, _, _ in trials_of(out / "emodb_trials")} == {"08", "09"}
    for path in (corpus / "wav").glob("08*"):
        path.unlink()
    assert emodb.prepare(tmp_path / "none", root=corpus / "wav") == ["emodb"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("99a01Na.wav", "99a01Na.wav: not a file of EMO-DB"),
        ("03a03Na.wav", "not a file of EMO-DB"),
        ("03a01Xa.wav", "not a file of EMO-DB"),
        ("song.flac", "not a file of EMO-DB"),
        ("03a01Na.flac", r"03a01Na.wav: utt '03-a01Na': also in 03a01Na.flac"),
    ],
)
def test_bad_files(corpus, tmp_path, name, message):
    (corpus / "wav" / name).touch()
    (corpus / "wav" / ".hidden.wav").touch()  # no problem, nor is
    (corpus / "wav" / "erkennung.txt").touch()
    with pytest.raises(UserError, match=message):
        emodb.prepare(tmp_path / "data", root=corpus)
    assert not (tmp_path / "data").exists()


def test_bad_roots(corpus, tmp_path):
    with pytest.raises(UserError, match="did you mean 'emodb'"):
        emodb.prepare(tmp_path / "data", root=corpus.parent / "emdb")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.wav or \.flac file"):
        emodb.prepare(tmp_path / "data", root=tmp_path / "empty")
    with pytest.raises(UserError, match=r"unknown classes 'vcp'.*did you mean 'vpc'"):
        emodb.prepare(tmp_path / "data", root=corpus, classes="vcp")
    for path in (corpus / "wav").glob("*W*"):
        path.rename(path.with_name(path.name.replace("W", "L")))
    for path in (corpus / "wav").glob("*N*"):
        path.unlink()
    with pytest.raises(UserError, match="no utterance of the wanted emotions"):
        emodb.prepare(tmp_path / "data", root=corpus)


@pytest.mark.real
def test_real_corpus(real_speech, tmp_path):
    sets = read(tmp_path, emodb.prepare(tmp_path, root=real_speech / "emodb"))
    counts = {emo: list(sets["emodb"].table("utt2emo").values()).count(emo) for emo in emodb.CLASSES["vpc"]}
    assert counts == {"ang": 127, "hap": 71, "neu": 79, "sad": 62}
    emodb.prepare(tmp_path / "all", root=real_speech / "emodb", classes="all")
    assert len(DataDir.read(tmp_path / "all" / "emodb").utts) == 535
    enroll, trial = sets["emodb_enrolls"], sets["emodb_trials"]
    assert {spk: len(own) for spk, own in enroll.table("spk2utt").items() if len(own) < 3} == {}
    trials = read_trials(trial.path / "trials", sorted(enroll.table("spk2gender")), trial.utts)
    assert len(trials) == 5 * len(trial.utts) and trials.target.sum() == len(trial.utts)

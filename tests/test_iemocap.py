"""IEMOCAP: four classes, one speaker of each session in each set, sessions as folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus_trees import refused

from espnet_musa.corpora import iemocap
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError

LABELS = ("ang", "hap", "exc", "neu", "sad", "fru", "xxx")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five sessions of one dialogue, in which both speakers have a turn of each of seven labels."""
    root = tmp_path / "IEMOCAP_full_release"
    for session in iemocap.SESSIONS:
        add_dialog(root, session, f"Ses0{session}F_impro01")
    return root


def add_dialog(root: Path, session: str, dialog: str) -> None:
    place = root / f"Session{session}"
    wavs = place / "sentences" / "wav" / dialog
    for folder in (wavs, place / "dialog" / "EmoEvaluation", place / "dialog" / "transcriptions"):
        folder.mkdir(parents=True, exist_ok=True)
    labels, turns = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
    for number, label in enumerate(LABELS):
        for sex in "FM":
            utt = f"{dialog}_{sex}{number:03d}"
            write_wav(wavs / f"{utt}.wav", np.zeros(160, np.float32), 16000)
            labels += [
                f"[6.2901 - 8.2357]\t{utt}\t{label}\t[2.5000, 2.5000, 2.5000]",
                "C-E2:\tNeutral;\t()",
                "",
            ]
            turns.append(f"{utt} [006.2901-008.2357]: Well, {label}. [LAUGHTER] Okay?")
    turns += [f"{dialog}_MXX0 [009.0000-010.0000]: Unsegmented.", "M: [BREATHING]"]
    (wavs / f"._{dialog}_F000.wav").touch()  # litter of the official archive
    (place / "dialog" / "EmoEvaluation" / f"._{dialog}.txt").touch()
    (place / "dialog" / "EmoEvaluation" / f"{dialog}.txt").write_text("\n".join(labels) + "\n")
    (place / "dialog" / "transcriptions" / f"{dialog}.txt").write_text("\n".join(turns) + "\n")


def label_file(corpus: Path, session: str = "1") -> Path:
    return corpus / f"Session{session}/dialog/EmoEvaluation/Ses0{session}F_impro01.txt"


def fails(corpus: Path, message: str, **options) -> str:
    return refused(iemocap.prepare, corpus.parent / "data", message, root=corpus, **options)


def test_sets_and_tables(corpus, tmp_path):
    names = iemocap.prepare(tmp_path / "data", root=tmp_path)  # the directory that holds the corpus
    dev, test = (DataDir.read(tmp_path / "data" / name) for name in names)
    assert names == ["IEMOCAP_dev", "IEMOCAP_test"]
    assert set(dev.table("utt2spk").values()) == {"Ses01F", "Ses02M", "Ses03F", "Ses04M", "Ses05F"}
    assert set(test.table("utt2spk").values()) == {"Ses01M", "Ses02F", "Ses03M", "Ses04F", "Ses05M"}
    assert dev.table("spk2fold") == {
        "Ses01F": "1",
        "Ses02M": "2",
        "Ses03F": "3",
        "Ses04M": "4",
        "Ses05F": "5",
    }
    assert dev.table("spk2gender")["Ses02M"] == "m" and test.table("spk2gender")["Ses02F"] == "f"
    assert (dev.meta.role, dev.meta.split, test.meta.split) == ("utility", "dev", "test")
    assert "not the organisers'" in dev.meta.notes
    emotions = list(dev.table("utt2emo").values())
    assert {e: emotions.count(e) for e in emotions} == {
        "ang": 5,
        "hap": 10,
        "neu": 5,
        "sad": 5,
    }  # hap: and exc
    assert dev.table("text")["Ses01F_impro01_F002"] == "WELL EXC OKAY"
    assert dev.table("text_no_norm")["Ses01F_impro01_F002"] == "Well, exc. [LAUGHTER] Okay?"
    assert set(dev.table("utt2lang").values()) == {"en"}
    path = dev.table("wav.scp")["Ses02F_impro01_M000"]
    assert path == str(corpus / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M000.wav")


def test_assignment_may_be_given(corpus, tmp_path):
    given = ["Ses01M", "Ses02M", "Ses03M", "Ses04F", "Ses05F"]
    iemocap.prepare(tmp_path / "data", root=corpus, dev_speakers=given)
    dev = DataDir.read(tmp_path / "data" / "IEMOCAP_dev")
    assert set(dev.table("utt2spk").values()) == set(given) and "(given)" in dev.meta.notes
    for wrong in (given[:4], [*given[:4], "Ses04M"], [*given, "Ses05M"], [*given[:4], "Ses05X"]):
        with pytest.raises(UserError, match="expected one of each session: Ses01F or Ses01M"):
            iemocap.assignment(list(iemocap.SESSIONS), wrong)


def test_some_sessions_and_scripted_dialogues(corpus, tmp_path):
    for session in "1245":
        (corpus / f"Session{session}").rename(corpus / f"gone{session}")
    add_dialog(corpus, "3", "Ses03M_script01_1b")
    iemocap.prepare(tmp_path / "data", root=corpus)
    dev = DataDir.read(tmp_path / "data" / "IEMOCAP_dev")
    assert dev.table("spk2fold") == {"Ses03F": "3"} and "Ses03M_script01_1b_F000" in dev.utts


def test_the_whole_corpus_has_a_known_count(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(iemocap, "DIALOGS", 5)
    fails(corpus, "50 utterances of the four emotions; expected 5531")
    monkeypatch.setattr(iemocap, "UTTERANCES", 50)
    iemocap.prepare(tmp_path / "data", root=corpus)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("I don't know. [LAUGHTER] Okay?", "I DON'T KNOW OKAY"),
        ("[LAUGHTER]", "LAUGHTER"),
        ("Yes!  No,no", "YES NO NO"),
        ("...", "UNK"),
    ],
)
def test_normalized_text(text, normal):
    assert iemocap.normalize(text) == normal


def test_labels_and_audio_must_agree(corpus):
    wavs = corpus / "Session1/sentences/wav/Ses01F_impro01"
    (wavs / "Ses01F_impro01_F000.wav").rename(wavs / "Ses01F_impro01_F099.wav")
    message = fails(corpus, r"Ses01F_impro01.txt:3: utt 'Ses01F_impro01_F000': label without audio")
    assert "Ses01F_impro01_F099.wav: utt 'Ses01F_impro01_F099': audio without label" in message


def test_bad_labels_and_transcripts(corpus):
    file = label_file(corpus)
    file.write_text(file.read_text().replace("\tneu\t", "\tnue\t"))
    assert fails(corpus, "unknown emotion 'nue'; did you mean 'neu'").count("unknown emotion") == 2
    file.write_text(file.read_text().replace("\tnue\t", "\tneu\t"))
    with file.open("a") as lines:
        lines.write("[6.29 - 8.23]\tSes01F_impro01_F000\tsad\t[2.5, 2.5, 2.5]\n")
    fails(corpus, "utt 'Ses01F_impro01_F000': also in line 3, differently")
    file = label_file(corpus, "2").parent.parent / "transcriptions" / "Ses02F_impro01.txt"
    lines = file.read_text().splitlines(True)
    file.write_text("".join(lines[1:]))
    (label_file(corpus).parent / "Ses01F_impro01.txt").write_text("")
    assert "audio without label" in fails(corpus, "15 problems in all")


def test_missing_transcript(corpus):
    file = corpus / "Session2/dialog/transcriptions/Ses02F_impro01.txt"
    file.write_text("".join(file.read_text().splitlines(True)[1:]))
    fails(corpus, r"Ses02F_impro01_F000.wav: utt 'Ses02F_impro01_F000': no transcript")
    file.unlink()
    file.parent.rmdir()
    fails(corpus, "transcriptions: no such directory")


def test_wrong_layouts(corpus, tmp_path):
    wavs = corpus / "Session1/sentences/wav/Ses01F_impro01"
    (wavs / "Ses02F_impro01_F000.wav").touch()
    (wavs / "song.wav").touch()
    assert fails(corpus, "does not agree with its folders").count("does not agree") == 2
    fails(corpus.parent / "IEMOCAP_ful_release", "did you mean 'IEMOCAP_full_release'")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"IEMOCAP is not here; expected Session.*https"):
        iemocap.prepare(tmp_path / "data", root=tmp_path / "empty")
    (tmp_path / "hollow" / "Session4").mkdir(parents=True)
    with pytest.raises(UserError, match="Session4: no audio in this session"):
        iemocap.prepare(tmp_path / "data", root=tmp_path / "hollow")


def test_a_set_without_utterances(corpus):
    for session in "2345":
        (corpus / f"Session{session}").rename(corpus / f"gone{session}")
    file = label_file(corpus)
    lines = [x.replace(x.split("\t")[2], "xxx") if "_M0" in x else x for x in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    fails(corpus, "no utterance of the four emotions for IEMOCAP_test")

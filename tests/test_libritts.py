"""LibriTTS: train sets whose speakers are LibriSpeech's, and one error for everything wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus_trees import noise, prepared, refused

from espnet_musa.corpora import librispeech, libritts
from espnet_musa.data.audio import read_audio
from espnet_musa.data.datadir import DataDir

TABLE = (
    ";ID|SEX|SUBSET|MINUTES|NAME\n19   | F | train-clean-100  | 25.19 | Kara |B| S.\n27 | M | x | 1 | R. Mc\n"
)


def add(tree: Path, part: str, utt: str, text: str | None = "Hello, World!\n") -> Path:
    """One utterance; returns its folder."""
    speaker, chapter, *_ = utt.split("_")
    folder = tree / part / speaker / chapter
    noise(folder / f"{utt}.wav", 24000)
    (folder / f"{utt}.original.txt").write_text("Hello, World!")
    if text is not None:
        (folder / f"{utt}.normalized.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three parts of two speakers, with the litter of the official archive."""
    tree = tmp_path / "corpora" / "LibriTTS"
    for part, chapter in (("train-clean-100", 198), ("train-clean-360", 298), ("train-other-500", 398)):
        for speaker in (19, 27):
            for number in range(2):
                folder = add(tree, part, f"{speaker}_{chapter}_000001_00000{number}")
    (folder / "._27_398_000001_000000.wav").touch()
    (folder / "27_398.trans.tsv").write_text("27_398_000001_000000\tHello\tHello\n")
    (tree / "SPEAKERS.txt").write_text(TABLE)
    return tree


def prepare(tree: Path, **options) -> dict[str, DataDir]:
    return prepared(libritts.prepare, tree.parents[1] / "data", root=tree, **options)


def fails(tree: Path, message: str, **options) -> str:
    return refused(libritts.prepare, tree.parents[1] / "data", message, root=tree, **options)


def test_sets_and_tables(tree):
    sets = prepare(tree.parent)  # the directory that holds the corpus
    assert list(sets) == [
        "libritts_train-clean-100",
        "libritts_train-other-500",
    ]  # not the attacker's speakers
    data = sets["libritts_train-clean-100"]
    assert (data.meta.role, data.meta.split, data.meta.corpus) == ("train", "train", "libritts")
    assert data.utts == [f"{spk}_198_000001_00000{i}" for spk in (19, 27) for i in (0, 1)]
    assert data.table("utt2spk")["19_198_000001_000000"] == "19"
    assert data.table("spk2gender") == {"19": "f", "27": "m"}
    assert set(data.table("text").values()) == {"Hello, World!"}
    assert set(data.table("utt2lang").values()) == {"en"}
    assert read_audio(data.table("wav.scp")["27_198_000001_000001"])[1] == 24000


def test_parts_may_be_chosen_and_absent(tree):
    assert list(prepare(tree, parts=["train-clean-360"])) == ["libritts_train-clean-360"]
    (tree / "train-other-500").rename(tree / "elsewhere")
    assert list(prepare(tree)) == ["libritts_train-clean-100"]
    fails_at = tree.parents[1] / "more"
    refused(libritts.prepare, fails_at, "'train-other-500' is not here", root=tree, parts=["train-other-500"])
    refused(libritts.prepare, fails_at, "did you mean 'train-clean-100'", root=tree, parts=["train-clean-10"])
    (tree / "train-clean-100").rename(tree / "elsewhere too")
    refused(libritts.prepare, fails_at, "no part of LibriTTS.*some of: train-clean-360", root=tree)


def test_a_reader_is_one_speaker_in_libritts_and_librispeech(tree, tmp_path):
    other = tmp_path / "LibriSpeech"
    noise(other / "train-clean-100/19/198/19-198-0000.flac")
    (other / "SPEAKERS.TXT").write_text(TABLE)
    speech = prepared(librispeech.prepare, tmp_path / "speech", root=other, train=["train-clean-100"])
    data = prepare(tree)["libritts_train-clean-100"]
    assert speech["train-clean-100"].meta.role == data.meta.role == "train"
    assert set(speech["train-clean-100"].table("spk2gender").items()) < set(data.table("spk2gender").items())
    assert not set(speech["train-clean-100"].utts) & set(data.utts)


def test_the_restored_corpus(tree):
    """LibriTTS-R: another folder, another speaker table, one broken file."""
    tree = tree.rename(tree.with_name("LibriTTS_R"))
    (tree / "SPEAKERS.txt").unlink()
    (tree / "speakers.tsv").write_text(
        "READER\tGENDER\tSUBSET\tNAME\n19\tF\ttrain\tK\n27\tM\ttrain\tR\n1092\tM\ttrain\tX\n"
    )
    add(tree, "train-clean-100", "1092_134562_000013_000004")
    add(tree, "train-clean-100", "1092_134562_000013_000005")
    data = prepare(tree.parent)["libritts_train-clean-100"]
    assert [utt for utt in data.utts if utt.startswith("1092")] == ["1092_134562_000013_000005"]


def test_bad_roots_and_speakers(tree, tmp_path):
    fails(tree.with_name("LibreTTS"), "no such directory; did you mean 'LibriTTS'")
    (tmp_path / "a" / "empty").mkdir(parents=True)
    fails(tmp_path / "a" / "empty", "LibriTTS is not here; expected <part>/<speaker>.*openslr.org/60")
    (tree / "SPEAKERS.txt").write_text(TABLE.replace("27 | M", "28 | M"))
    fails(tree, "SPEAKERS.txt: speaker 27 has no gender; expected a line for each speaker")
    (tree / "SPEAKERS.txt").write_text(TABLE + "27 | F | x | 1 | Again\nxx | F | x | 1 | Who\n")
    message = fails(tree, "SPEAKERS.txt:4: speaker 27 occurs twice")
    assert "SPEAKERS.txt:5: bad line 'xx | F" in message
    (tree / "SPEAKERS.txt").unlink()
    fails(tree, "SPEAKERS.txt: the speaker table is missing; hint: it comes with the corpus")


def test_audio_and_transcripts_must_agree(tree):
    folder = add(tree, "train-clean-100", "19_198_000002_000000", text=None)
    add(tree, "train-clean-100", "19_198_000002_000001", text=" \n")
    add(tree, "train-clean-100", "19_198_000002_000002")
    (folder / "19_198_000002_000002.wav").unlink()
    noise(folder / "27_198_000002_000000.wav")
    message = fails(tree, "19_198_000002_000000.wav: utt '19_198_000002_000000': audio without transcript")
    assert (
        "19_198_000002_000001.normalized.txt: utt '19_198_000002_000001': the transcript is empty" in message
    )
    assert (
        "19_198_000002_000002.normalized.txt:1: utt '19_198_000002_000002': transcript without audio"
        in message
    )
    assert "27_198_000002_000000.wav: the file name does not agree with its folders" in message


def test_empty_part(tree):
    for file in (tree / "train-other-500").rglob("*.*"):
        file.unlink()
    fails(tree, "train-other-500: no audio in this part")

"""AISHELL-3: the test part as enrolment and trials, transcripts in characters, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus_trees import noise, prepared, refused, trials_of

from espnet_musa.corpora import aishell3
from espnet_musa.data.datadir import DataDir

SPEAKERS = {
    "SSB0005": "female",
    "SSB0009": "female",
    "SSB0011": "female",
    "SSB0073": "male",
    "SSB0139": "male",
}
LINE = "广 guang3 州 zhou1 女 nv3 大 da4 学 xue2 生 sheng1"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The test part of five speakers with eight utterances each."""
    tree = tmp_path / "corpora" / "data_aishell3"
    content = ""
    for speaker in SPEAKERS:
        for number in range(8):
            noise(tree / "test" / "wav" / speaker / f"{speaker}{number:04d}.wav", 44100)
            content += f"{speaker}{number:04d}.wav\t{LINE}\n"
    (tree / "test" / "content.txt").write_text(content, encoding="utf-8")
    rows = "".join(f"{speaker}\tB\t{gender}\tnorth\n" for speaker, gender in SPEAKERS.items())
    (tree / "spk-info.txt").write_text("# 1/speaker name\n# 2/ age group\n" + rows)
    return tree


def prepare(tree: Path, **options) -> dict[str, DataDir]:
    return prepared(aishell3.prepare, tree.parents[1] / "data", root=tree, **options)


def fails(tree: Path, message: str, **options) -> str:
    return refused(aishell3.prepare, tree.parents[1] / "data", message, root=tree, **options)


def test_sets_and_tables(tree):
    sets = prepare(tree.parent, impostors=0.34)  # the directory that holds the corpus; a third of the women
    assert list(sets) == ["aishell3_test_enrolls", "aishell3_test_trials_f", "aishell3_test_trials_m"]
    enroll, women, men = sets.values()
    assert (women.meta.role, women.meta.split, women.meta.enroll) == ("trial", "test", enroll.name)
    assert len(enroll.table("spk2gender")) == 4 and len(enroll.utts) == 4 * 2  # of eight, 30 %
    assert set(women.table("utt2lang").values()) == {"cmn"}
    assert set(women.table("text").values()) == {"广州女大学生"}
    assert len(trials_of(men.path)) == 2 * 2 * 6 and len(trials_of(women.path)) == 2 * (2 * 6 + 8)
    assert not set(enroll.utts) & {*women.utts, *men.utts}
    assert "same-session" in women.meta.notes
    assert women.table("utt2spk")[women.utts[0]] == women.utts[0][:7]


def test_bad_roots_and_speakers(tree, tmp_path):
    fails(tree.with_name("data_aishel3"), "no such directory; did you mean 'data_aishell3'")
    (tmp_path / "a" / "empty").mkdir(parents=True)
    fails(tmp_path / "a" / "empty", "AISHELL-3 is not here; expected test/wav/<speaker>.*openslr.org/93")
    table = tree / "spk-info.txt"
    text = table.read_text()
    table.write_text(text.replace("SSB0011\t", "SSB0012\t"))
    fails(tree, "spk-info.txt: speaker SSB0011 has no gender")
    table.write_text(text.replace("female", "woman", 1) + "SSB0139\tB\n")
    message = fails(
        tree, "spk-info.txt:3: speaker SSB0005 has the gender 'woman'; expected SPEAKER AGE GENDER"
    )
    assert "spk-info.txt:8: bad line 'SSB0139\tB'" in message
    table.unlink()
    fails(tree, "spk-info.txt: the speaker table is missing")


def test_audio_and_transcripts_must_agree(tree):
    wavs = tree / "test" / "wav"
    (wavs / "SSB0005" / "SSB00050000.wav").unlink()
    noise(wavs / "SSB0005" / "SSB00050009.wav")
    noise(wavs / "SSB0005" / "SSB00090000.wav")
    noise(wavs / "SSB00050001.wav")
    message = fails(tree, "test/wav/SSB00050001.wav: lies outside the folders of speakers")
    assert "SSB0005/SSB00090000.wav: the file name does not agree with its folders" in message
    assert "SSB00050009.wav: utt 'SSB00050009': audio without transcript" in message
    assert "content.txt:1: utt 'SSB00050000': transcript without audio" in message


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("guang3 zhou1", "content.txt:1: utt 'SSB00050000': no Chinese character"),
        ("", "content.txt:1: utt 'SSB00050000.wav': the transcript is empty"),
    ],
)
def test_bad_transcripts(tree, new, message):
    path = tree / "test" / "content.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(LINE, new, 1), encoding="utf-8")
    fails(tree, message)
    path.write_bytes(text.encode("gb18030"))
    fails(tree, "content.txt:1: not UTF-8")
    path.unlink()
    fails(tree, "content.txt: no such file")


def test_no_audio(tree):
    for file in (tree / "test" / "wav").rglob("*.wav"):
        file.unlink()
    fails(tree, "test: no audio in this part")

"""LibriSpeech: parts, roles, sets by rule and by the official lists, and one error for everything wrong."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from corpus_trees import noise, prepared, refused

from espnet_musa.corpora import librispeech
from espnet_musa.data.datadir import DataDir

SEXES = {"11": "F", "12": "F", "13": "F", "21": "M", "22": "M", "23": "M", "31": "F"}


@pytest.fixture(scope="module")
def flac(tmp_path_factory) -> Path:
    """A tenth of a second of noise."""
    return noise(tmp_path_factory.mktemp("flac") / "noise.flac")


def add(tree: Path, flac: Path, part: str, utts: list[str], text: bool = True) -> None:
    for utt in utts:
        spk, chapter, _ = utt.split("-")
        folder = tree / part / spk / chapter
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(flac, folder / f"{utt}.flac")
        if text:
            with (folder / f"{spk}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
                file.write(f"{utt} IT'S WORD {utt[-1]}\n")


def utts_of(speakers: list[str], chapters: int = 2, count: int = 3) -> list[str]:
    return [f"{spk}-{100 + c}-{i:04d}" for spk in speakers for c in range(chapters) for i in range(count)]


@pytest.fixture
def tree(tmp_path: Path, flac: Path) -> Path:
    """test-clean of 3 f and 3 m, dev-other of 3 f and 1 m, train-clean-100 without transcripts, train-clean-5."""
    tree = tmp_path / "corpora" / "LibriSpeech"
    add(tree, flac, "test-clean", utts_of(["11", "12", "13", "21", "22", "23"]))
    add(tree, flac, "dev-other", [u.replace("-10", "-20") for u in utts_of(["11", "12", "13", "21"])])
    add(tree, flac, "train-clean-100", [f"{spk}-300-0000" for spk in SEXES], text=False)
    add(tree, flac, "train-clean-5", ["31-400-0000"])
    table = "".join(
        f"{spk}   | {sex} | test-clean       | 8.00  | A |B| Name\n" for spk, sex in SEXES.items()
    )
    (tree / "SPEAKERS.TXT").write_text("; comment\n;ID  |SEX| SUBSET           |MINUTES| NAME\n" + table)
    return tree


def prepare(tree: Path, **options) -> dict[str, DataDir]:
    return prepared(librispeech.prepare, tree.parents[1] / "data", root=tree, **options)


def fails(tree: Path, message: str, **options) -> str:
    return refused(librispeech.prepare, tree.parents[1] / "data", message, root=tree, **options)


def test_sets_roles_and_tables(tree):
    sets = prepare(tree.parent)  # the directory that holds LibriSpeech/
    assert {name: (data.meta.role, data.meta.split) for name, data in sets.items()} == {
        "libri_test_enrolls": ("enroll", "test"),
        "libri_test_trials_f": ("trial", "test"),
        "libri_test_trials_m": ("trial", "test"),
        "libri_dev_other_enrolls": ("enroll", "dev"),
        "libri_dev_other_trials_f": ("trial", "dev"),  # one male speaker: no trials_m
        "train-clean-5": ("train", "train"),
        "train-clean-100": ("attack_train", "train"),  # the largest
    }
    enroll, trial = sets["libri_test_enrolls"], sets["libri_test_trials_f"]
    assert trial.meta.enroll == "libri_test_enrolls" and trial.meta.corpus == "librispeech"
    assert "31" not in enroll.table("spk2gender") and set(trial.table("spk2gender").values()) == {"f"}
    utt = trial.utts[0]
    assert trial.table("text")[utt] == f"IT'S WORD {utt[-1]}"
    path = Path(trial.table("wav.scp")[utt])
    assert path.is_absolute() and path.is_file() and path.stem == utt
    assert not set(enroll.utts) & set(trial.utts)
    lines = [line.split() for line in (trial.path / "trials").read_text().splitlines()]
    assert len(lines) == 3 * len(trial.utts)
    assert all((label == "target") == (utt.split("-")[0] == spk) for spk, utt, label in lines)
    train = sets["train-clean-100"]
    assert not train.has("text") and train.table("utt2spk")["31-300-0000"] == "31"
    assert "largest train part" in train.meta.notes


def test_parts_and_attacker_may_be_chosen(tree, flac):
    sets = prepare(tree, parts=["train-clean-5", "train-clean-100"], asv_train="train-clean-5")
    assert {name: data.meta.role for name, data in sets.items()} == {
        "train-clean-5": "attack_train",
        "train-clean-100": "train",
    }
    add(tree, flac, "train-clean-360", ["31-500-0000"])
    sets = prepare(tree, parts=["train-clean-100", "train-clean-360"])
    assert (
        sets["train-clean-360"].meta.role == "attack_train" and sets["train-clean-100"].meta.role == "train"
    )


def test_parts_for_systems_may_be_chosen(tree, flac):
    def roles(**options) -> dict[str, str]:
        sets = prepare(tree, parts=[name for name in trains if (tree / name).is_dir()], **options)
        return {name: data.meta.role for name, data in sets.items()}

    trains = ["train-clean-5", "train-clean-100", "train-clean-360", "train-other-500"]
    assert roles(train=["train-clean-100", "train-other-500"]) == {  # the latter is not here
        "train-clean-5": "attack_train",
        "train-clean-100": "train",
    }
    assert roles(train=trains) == {"train-clean-5": "train", "train-clean-100": "train"}
    add(tree, flac, "train-clean-360", ["31-500-0000"])
    assert roles(train=["train-clean-100"]) == {  # train-clean-5 trains neither
        "train-clean-100": "train",
        "train-clean-360": "attack_train",
    }
    assert roles(train=["train-clean-360"], asv_train="train-clean-5") == {
        "train-clean-5": "attack_train",
        "train-clean-360": "train",
    }


def test_a_part_cannot_train_a_system_and_the_attacker(tree):
    both = {"train": ["train-clean-5"], "asv_train": "train-clean-5"}
    fails(tree, "'train-clean-5' is among `train` and `asv_train`; expected different parts", **both)
    fails(tree, "train: unknown train part 'test-clean'", train=["test-clean"])
    fails(tree, "train: unknown train part .*did you mean 'train-clean-100'", train=["train-clean-10"])


def test_same_seed_same_bytes(tree):
    def snapshot(seed: int) -> dict[str, bytes]:
        out = tree.parent / f"data{seed}"
        librispeech.prepare(out, root=tree, seed=seed, enroll_seconds=0.2)
        files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        shutil.rmtree(out)
        return files

    assert snapshot(1) == snapshot(1)
    assert snapshot(1)["libri_test_enrolls/enrolls"] != snapshot(2)["libri_test_enrolls/enrolls"]


def test_single_chapter_is_reported_as_same_session(tree, flac):
    shutil.rmtree(tree / "test-clean")
    add(tree, flac, "test-clean", utts_of(["11", "12"], chapters=1, count=10))
    sets = prepare(tree, parts=["test-clean"])
    assert sets["libri_test_enrolls"].utts == [f"{s}-100-{i:04d}" for s in ("11", "12") for i in range(3)]
    assert "same-session" in sets["libri_test_trials_f"].meta.notes


def test_no_trials_at_all(tree, flac):
    shutil.rmtree(tree / "test-clean")
    add(tree, flac, "test-clean", ["11-100-0000", "21-100-0000"])
    fails(tree, "no trials can be made for libri_test: gender f: no trials, 1 speaker")


def test_bad_roots(tree, tmp_path):
    fails(tree.with_name("LibrySpeech"), "no such directory; did you mean 'LibriSpeech'")
    (tmp_path / "empty" / "x").mkdir(parents=True)
    fails(tmp_path / "empty" / "x", "LibriSpeech is not here; expected <part>.*openslr")
    fails(tree, "unknown part of LibriSpeech 'test-claen'; did you mean 'test-clean'", parts=["test-claen"])
    fails(tree, "the part of LibriSpeech 'dev-clean' is not here.*one of: dev-other", parts=["dev-clean"])
    fails(tree, "no part of LibriSpeech to prepare", parts=[])
    fails(tree, "asv_train.*did you mean 'train-clean-100'", asv_train="train-clean-10")
    fails(tree, "asv_train", asv_train="train-clean-100", parts=["test-clean"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("11 | M | test-clean | 8 | Again", r"SPEAKERS.TXT:10: speaker 11 occurs twice"),
        (
            "41 | X | test-clean | 8 | Odd",
            r"SPEAKERS.TXT:10: speaker 41 has the gender 'X'; expected ID . SEX .F or M",
        ),
        ("41 M test-clean", r"SPEAKERS.TXT:10: bad line '41 M test-clean'"),
        ("4a | M | test-clean | 8 | Odd", r"SPEAKERS.TXT:10: bad line"),
    ],
)
def test_bad_speaker_table(tree, line, message):
    with (tree / "SPEAKERS.TXT").open("a") as file:
        file.write(line + "\n")
    fails(tree, message)


def test_missing_speaker_table_or_speaker(tree):
    table = tree / "SPEAKERS.TXT"
    table.write_text("".join(x for x in table.read_text().splitlines(True) if not x.startswith("22 ")))
    fails(tree, "SPEAKERS.TXT: speaker 22 has no gender")
    table.unlink()
    fails(tree, "SPEAKERS.TXT: the speaker table is missing")


def test_audio_and_transcripts_must_agree(tree):
    chapter = tree / "test-clean" / "11" / "100"
    (chapter / "11-100-0001.flac").unlink()
    text = chapter / "11-100.trans.txt"
    lines = text.read_text().splitlines(True)
    text.write_text("".join([lines[0], lines[0], lines[1], "12-100-0000 OF ANOTHER\n"]))
    (chapter / "11-100-0007.flac").touch()
    (tree / "test-clean" / "12" / "101" / "12-101.trans.txt").write_text("12-101-0000\n")
    message = fails(tree, "11-100.trans.txt:2: utt '11-100-0000': the utterance has two transcripts")
    assert "11-100.trans.txt:4: utt '12-100-0000': the utterance is of another chapter" in message
    assert "12-101.trans.txt:1: utt '12-101-0000': the transcript is empty" in message
    assert "11-100-0002.flac: utt '11-100-0002': audio without transcript" in message
    assert re.search(r"and \d+ more", message)


def test_transcript_without_audio(tree):
    (tree / "test-clean" / "11" / "100" / "11-100-0001.flac").unlink()
    fails(tree, "11-100.trans.txt:2: utt '11-100-0001': transcript without audio")


def test_wrong_layouts(tree):
    speaker = tree / "test-clean" / "11"
    shutil.copy(speaker / "100" / "11-100-0000.flac", speaker / "11-100-0000.flac")
    shutil.copy(speaker / "100" / "11-100-0000.flac", tree / "test-clean")
    (speaker / "101" / "11-101-0000.flac").rename(speaker / "100" / "11-101-0000.flac")
    (speaker / "100" / "._11-100-0000.flac").touch()  # litter of another system, no problem
    message = fails(tree, "11-100-0000.flac: lies outside the folders of speakers; expected <part>/<speaker>")
    assert message.count("lies outside") == 2
    assert "11-101-0000.flac: the file name does not agree with its folders" in message


def test_empty_part_and_broken_audio(tree):
    (tree / "test-clean" / "11" / "100" / "11-100-0000.flac").write_bytes(b"no audio")
    fails(tree, "11-100-0000.flac: cannot be read as audio")
    (tree / "test-other").mkdir()
    fails(tree, "test-other: no audio in this part")


def test_utterance_in_two_parts(tree, flac):
    add(tree, flac, "train-clean-5", ["11-100-0000"])
    fails(tree, r"utt '11-100-0000': also in .*expected an utterance in one part only")


# --- the official lists ---


def fake_lists(path: Path, splits=("test",)) -> None:
    """Lists of test-clean as `tree` has it: speakers 11 and 12 enrolled, 11, 12, 13 tried; likewise 21, 22, 23."""
    for split in splits:
        for name, speakers, chapter in (
            ("enrolls", "11 12 21 22", "100"), ("trials_f", "11 12 13", "101"), ("trials_m", "21 22 23", "101"),
        ):  # fmt: skip
            folder = path / f"libri_{split}_{name}"
            folder.mkdir(parents=True)
            utts = sorted(f"{spk}-{chapter}-{i:04d}" for spk in speakers.split() for i in (0, 2))
            write = {
                "utt2spk": "{u} {s}",
                "text": "{u} LISTED",
                "utt2dur": "{u} 5 ",
                "wav.scp": "{u} data/{u}.wav",
            }
            for file, form in write.items():
                (folder / file).write_text("".join(form.format(u=u, s=u[:2]) + "\n" for u in utts))
            genders = "".join(f"{s} {SEXES[s].lower()}\n" for s in speakers.split())
            (folder / "spk2gender").write_text(genders)
            if name == "enrolls":
                (folder / "enrolls").write_text("".join(u + "\n" for u in utts))
            else:
                pairs = [(s, u) for s in speakers.split()[:2] for u in utts]
                label = {True: "target", False: "nontarget"}
                (folder / "trials").write_text("".join(f"{s} {u} {label[u[:2] == s]}\n" for s, u in pairs))


def test_listed_sets_are_exact_and_use_the_trees_audio(tree, tmp_path):
    fake_lists(tmp_path / "lists", ("dev", "test"))
    sets = prepare(tree, vpc_lists=tmp_path / "lists", parts=["test-clean", "dev-other"])
    assert list(sets) == [
        "libri_test_enrolls", "libri_test_trials_f", "libri_test_trials_m",  # official
        "libri_dev_other_enrolls", "libri_dev_other_trials_f",  # by rule; no dev-clean, so no libri_dev_*
    ]  # fmt: skip
    trial = sets["libri_test_trials_m"]
    assert trial.utts == [f"{spk}-101-{i:04d}" for spk in ("21", "22", "23") for i in (0, 2)]
    assert trial.table("text")["21-101-0000"] == "LISTED"
    assert trial.table("wav.scp")["21-101-0000"] == str(tree / "test-clean/21/101/21-101-0000.flac")
    assert (trial.path / "trials").read_text() == (tmp_path / "lists/libri_test_trials_m/trials").read_text()
    assert (trial.meta.role, trial.meta.enroll, trial.meta.split) == ("trial", "libri_test_enrolls", "test")
    assert set(sets["libri_test_enrolls"].table("enrolls")) == set(sets["libri_test_enrolls"].utts)


def test_listed_utterances_must_be_there(tree, tmp_path):
    fake_lists(tmp_path / "lists")
    for spk in ("11", "12"):
        shutil.rmtree(tree / "test-clean" / spk / "100")
    shutil.rmtree(tree / "test-clean" / "21" / "101")
    message = fails(
        tree,
        r"utt '11-100-0000': .*libri_test_enrolls has no audio in test-clean",
        vpc_lists=tmp_path / "lists",
    )
    assert "6 problems in all" in message and len(message.splitlines()) == 6


def test_lists_without_their_parts(tree, tmp_path):
    fake_lists(tmp_path / "lists")
    fails(
        tree,
        "download dev-clean.tar.gz and test-clean.tar.gz",
        vpc_lists=tmp_path / "lists",
        parts=["dev-other"],
    )


@pytest.mark.real
def test_real_slice(real_speech, tmp_path):
    names = librispeech.prepare(tmp_path, root=real_speech / "librispeech")
    sets = {name: DataDir.read(tmp_path / name) for name in names}
    assert {name: len(data.utts) for name, data in sets.items()} == {
        "libri_test_other_enrolls": 15, "libri_test_other_trials_f": 14, "libri_test_other_trials_m": 21,
        "train-clean-100": 251,
    }  # fmt: skip
    train = sets["train-clean-100"]
    assert len(set(train.table("utt2spk").values())) == 251 and not train.has("text")
    assert sets["libri_test_other_trials_f"].has("text")


@pytest.mark.real
def test_official_test_set_is_reproduced(real_speech, tmp_path, flac):
    """A tree with every listed utterance of test-clean gives the organisers' files back, byte for byte."""
    lists = real_speech / "vpc_lists"
    names = ("libri_test_enrolls", "libri_test_trials_f", "libri_test_trials_m")
    tree = tmp_path / "LibriSpeech"
    tree.mkdir()
    shutil.copy(real_speech / "librispeech/LibriSpeech/SPEAKERS.TXT", tree)
    for name in names:
        for utt in (line.split()[0] for line in (lists / name / "utt2spk").read_text().splitlines()):
            spk, chapter, _ = utt.split("-")
            folder = tree / "test-clean" / spk / chapter
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{utt}.flac").hardlink_to(flac)
    assert librispeech.prepare(tmp_path / "data", root=tree, vpc_lists=lists) == list(names)
    for name in names:
        written = DataDir.read(tmp_path / "data" / name)
        assert all(Path(path).stem == utt for utt, path in written.table("wav.scp").items())
        for file in ("utt2spk", "spk2gender", "text", "enrolls", "trials"):
            if (lists / name / file).exists():
                theirs = (lists / name / file).read_text().splitlines()
                assert (written.path / file).read_text().splitlines() == theirs, (name, file)

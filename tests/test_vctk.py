"""VCTK: the sets of VoicePrivacy 2022, by rule and by the organisers' lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from corpus_trees import noise, prepared, refused, trials_of

from espnet_musa.corpora import vctk
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError

SEXES = {
    "p225": "F",
    "p228": "F",
    "p229": "F",
    "p226": "M",
    "p227": "M",
    "p232": "M",
    "p234": "F",
    "p374": "M",
}
SENTENCES = (1, 2, 24, 25, 26, 27, 28, 30)  # the first three are common
NAMES = [f"vctk_test_{x}" for x in ("enrolls", "trials_f", "trials_m", "trials_f_common", "trials_m_common")]


@pytest.fixture(scope="module")
def flac(tmp_path_factory) -> Path:
    return noise(tmp_path_factory.mktemp("flac") / "noise.flac", 48000)


@pytest.fixture
def tree(tmp_path: Path, flac: Path) -> Path:
    """Six speakers of the test split, one of dev, one of neither, in the layout of version 0.92."""
    tree = tmp_path / "corpora" / "VCTK-Corpus-0.92"
    for spk in SEXES:
        (tree / vctk.AUDIO / spk).mkdir(parents=True)
        (tree / "txt" / spk).mkdir(parents=True)
        for number in SENTENCES:
            for mic in ("mic1", "mic2"):
                (tree / vctk.AUDIO / spk / f"{spk}_{number:03d}_{mic}.flac").hardlink_to(flac)
            (tree / "txt" / spk / f"{spk}_{number:03d}.txt").write_text(
                f"Ask her, please! Number {number}.\n"
            )
    rows = "".join(f"{spk}  23  {sex}    English    Southern  England\n" for spk, sex in SEXES.items())
    table = (
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
        + rows
        + "s5  24  F    British (mic2 files unavailable)\n"
    )
    (tree / "speaker-info.txt").write_text(table)
    return tree


def prepare(tree: Path, **options) -> dict[str, DataDir]:
    return prepared(vctk.prepare, tree.parents[1] / "data", root=tree, **options)


def fails(tree: Path, message: str, **options) -> str:
    return refused(vctk.prepare, tree.parents[1] / "data", message, root=tree, **options)


def test_speakers_are_the_challenges():
    """30 a split (vpc_protocol 1.8), none in both."""
    assert [len(set(speakers)) for speakers in vctk.SPEAKERS.values()] == [30, 30]
    assert not set(vctk.SPEAKERS["dev"]) & set(vctk.SPEAKERS["test"])


def test_sets_by_rule(tree):
    sets = prepare(tree.parent)  # the directory that holds the corpus; dev has one speaker, too few
    assert list(sets) == NAMES
    enroll, own, common = (
        sets["vctk_test_enrolls"],
        sets["vctk_test_trials_f"],
        sets["vctk_test_trials_f_common"],
    )
    women = {"p225", "p228", "p229"}
    assert set(enroll.table("spk2gender")) == women | {"p226", "p227", "p232"}
    assert len(enroll.utts) == 6 * 2 and set(enroll.table("enrolls")) == set(
        enroll.utts
    )  # half of five sentences
    assert all(int(utt.split("_")[1]) > 24 and utt.endswith("_mic2") for utt in [*enroll.utts, *own.utts])
    assert {utt.split("_")[1] for utt in common.utts} == {"001", "002", "024"}
    assert set(common.table("utt2spk").values()) == women and len(own.utts) == 3 * 3
    assert not set(enroll.utts) & set(own.utts)
    for data in (own, common):
        trials = trials_of(data.path)
        assert len(trials) == 3 * len(data.utts)
        assert all(same == utt.startswith(spk) for spk, utt, same in trials)
        assert (data.meta.role, data.meta.split, data.meta.enroll) == ("trial", "test", "vctk_test_enrolls")
    assert own.meta.corpus != common.meta.corpus  # so that their means are not mixed up
    assert own.table("text")[own.utts[0]].startswith("ASK HER PLEASE NUMBER ")
    assert own.table("text_no_norm")[own.utts[0]].startswith("Ask her, please!")
    path = Path(own.table("wav.scp")[own.utts[0]])
    assert path.is_file() and path.stem == own.utts[0]


def test_twenty_sentences_enrol_where_there_are_enough(tree, flac):
    for spk in SEXES:
        for number in range(31, 80):
            (tree / vctk.AUDIO / spk / f"{spk}_{number:03d}_mic2.flac").hardlink_to(flac)
            (tree / "txt" / spk / f"{spk}_{number:03d}.txt").write_text("More.")
    enroll = prepare(tree)["vctk_test_enrolls"]
    assert [len(utts) for utts in enroll.table("spk2utt").values()] == [20] * 6


def test_seed_and_subset(tree):
    def drawn(seed: int) -> list[str]:
        return prepare(tree, seed=seed)["vctk_test_enrolls"].utts

    first = drawn(1)
    assert drawn(1) == first and drawn(2) != first
    shutil.rmtree(tree / vctk.AUDIO / "p225")
    assert drawn(1) == [utt for utt in first if not utt.startswith("p225")]


def test_a_gender_may_be_impossible(tree):
    for spk in ("p226", "p227"):
        shutil.rmtree(tree / vctk.AUDIO / spk)
    sets = prepare(tree)
    assert list(sets) == [n for n in NAMES if "_m" not in n]
    assert "p232" not in sets["vctk_test_enrolls"].table("spk2gender")


def test_too_little_for_any_trial(tree):
    for spk in ("p226", "p227", "p225", "p228"):
        shutil.rmtree(tree / vctk.AUDIO / spk)
    fails(tree, "too few speakers and utterances for trials")


def test_bad_trees(tree, tmp_path):
    fails(tree.parent / "VCTK-Corpus-0.91", r"did you mean 'VCTK-Corpus-0.92'.*doi.org")
    with pytest.raises(UserError, match=r"VCTK 0\.92 is not here.*older versions lack microphone 2"):
        vctk.prepare(tmp_path / "data", root=tree / "txt")
    (tree / "txt/p226/p226_025.txt").write_text(" .\n")
    (tree / "txt/p227/p227_001.txt").unlink()
    audio = tree / vctk.AUDIO / "p225"
    (audio / "p225_001_mic2.flac").rename(audio / "p226_001_mic2.flac")
    for file in (tree / vctk.AUDIO / "p228").glob("*mic2*"):
        file.unlink()
    message = fails(tree, r"p226_025.txt: utt 'p226_025_mic2': no transcript")
    assert "p227_001.txt: utt 'p227_001_mic2': no transcript" in message
    assert "p226_001_mic2.flac: the file name does not agree with its folders" in message
    assert "p228: no audio of microphone 2" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p225  23  F  English", "speaker-info.txt:11: speaker p225 occurs twice"),
        (
            "p999  23  X  English",
            "speaker-info.txt:11: speaker p999 has the gender 'X'; expected ID AGE GENDER",
        ),
        ("p999", r"speaker-info.txt:11: bad line 'p999'; expected ID AGE GENDER"),
    ],
)
def test_bad_speaker_table(tree, line, message):
    with (tree / "speaker-info.txt").open("a") as file:
        file.write(line + "\n")
    fails(tree, message)


def test_missing_speaker_table_or_speaker(tree):
    table = tree / "speaker-info.txt"
    table.write_text("".join(x for x in table.read_text().splitlines(True) if not x.startswith("p226 ")))
    fails(tree, "speaker-info.txt: speaker p226 has no gender")
    table.unlink()
    fails(tree, "the speaker table is missing")


# --- the organisers' lists ---


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Lists of the test split: two women and two men enrolled with sentence 30; all pairs but one."""
    root = tmp_path / "lists"
    parts = {
        "enrolls": ("p225 p228 p226 p227", (30,)),
        "trials_f": ("p225 p228", (25, 26)),
        "trials_m": ("p226 p227", (27,)),
        "trials_f_common": ("p225 p228", (1,)),
        "trials_m_common": ("p226 p227", (2,)),
    }
    for name, (speakers, sentences) in parts.items():
        folder = root / f"vctk_test_{name}"
        folder.mkdir(parents=True)
        utts = sorted(f"{spk}_{n:03d}_mic2" for spk in speakers.split() for n in sentences)
        (folder / "utt2spk").write_text("".join(f"{u} {u[:4]}\n" for u in utts))
        (folder / "text").write_text("".join(f"{u} LISTED\n" for u in utts))
        (folder / "wav.scp").write_text("".join(f"{u} data/vctk_test/wav/{u[:4]}/{u}.wav\n" for u in utts))
        (folder / "spk2gender").write_text(
            "".join(f"{s} {SEXES[s].lower()}\n" for s in sorted(speakers.split()))
        )
        if name == "enrolls":
            (folder / "enrolls").write_text("".join(f"{u}\n" for u in utts))
        else:
            pairs = [(s, u) for s in speakers.split() for u in utts][:-1]
            label = {True: "target", False: "nontarget"}
            (folder / "trials").write_text("".join(f"{s} {u} {label[u[:4] == s]}\n" for s, u in pairs))
    return root


def test_listed_sets_are_exact(tree, lists):
    sets = prepare(tree, vpc_lists=lists)
    assert sorted(sets) == sorted(NAMES)
    trial = sets["vctk_test_trials_f"]
    assert trials_of(trial.path) == sorted(trials_of(lists / "vctk_test_trials_f"))
    assert trial.table("text")["p225_025_mic2"] == "LISTED"
    assert trial.table("wav.scp")["p225_025_mic2"] == str(tree / vctk.AUDIO / "p225" / "p225_025_mic2.flac")
    assert set(sets["vctk_test_enrolls"].table("enrolls")) == set(sets["vctk_test_enrolls"].utts)
    assert sets["vctk_test_trials_m_common"].meta.notes == "official VoicePrivacy 2022 list"


def test_listed_utterances_must_be_there(tree, lists):
    shutil.rmtree(tree / vctk.AUDIO / "p226")
    (tree / vctk.AUDIO / "p225" / "p225_030_mic2.flac").unlink()
    message = fails(
        tree, "utt 'p225_030_mic2': the utterance of the list vctk_test_enrolls has no audio", vpc_lists=lists
    )
    assert "utt 'p226_030_mic2'" in message


def test_bad_lists(tree, lists, tmp_path):
    fails(tree, "expected vctk_dev_enrolls, vctk_dev_trials_f", vpc_lists=tree)
    fails(tree, "did you mean 'lists'", vpc_lists=tmp_path / "list")
    shutil.rmtree(lists / "vctk_test_trials_m_common")
    fails(tree, "vctk_test_trials_m_common: no such data directory", vpc_lists=lists)

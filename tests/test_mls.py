"""MLS: languages, hours of training speech by a seeded draw, trials between books, and clear errors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import soundfile
from corpus_trees import noise, prepared, refused, trials_of

from espnet_musa.corpora import mls
from espnet_musa.corpora.common import Recording
from espnet_musa.data.audio import read_audio
from espnet_musa.data.datadir import DataDir

HEADER = " SPEAKER   |   GENDER   | PARTITION  |  MINUTES   |  BOOK ID   |  TITLE  |  CHAPTER  \n"
WORDS = {"nl": "de oude bakker", "fr": "le vieux boulanger où", "pl": "stary piekarz żółknie"}
SECONDS = 12.5  # of every utterance, by segments.txt


def add(
    folder: Path, split: str, speakers: Iterable[int], words: str, suffix: str, books: int = 2, utts: int = 3
) -> None:
    """A split of a language; speakers with even numbers are women."""
    place = folder / split
    rows = HEADER if not (folder / "metainfo.txt").exists() else ""
    texts, segments = "", ""
    for speaker in speakers:
        for book in range(books):
            rows += (
                f"  {speaker}   |   {'FM'[speaker % 2]}   |  {split}  |  7.56  | {book} | Een | boek | I\n"
            )
            for number in range(utts):
                utt = f"{speaker}_{500 + book}_{number:06d}"
                noise(place / "audio" / str(speaker) / str(500 + book) / f"{utt}{suffix}")
                texts += f"{utt}\t{words}\n"
                segments += f"{utt}\thttp://www.archive.org/a b.mp3\t10.5\t{10.5 + SECONDS}\n"
    (place / "transcripts.txt").write_text(texts, encoding="utf-8")
    (place / "segments.txt").write_text(segments, encoding="utf-8")
    with (folder / "metainfo.txt").open("a", encoding="utf-8") as file:
        file.write(rows)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Dutch with all splits as FLAC, French without dev as Opus, Polish with test alone."""
    tree = tmp_path / "corpora" / "MLS"
    add(tree / "mls_dutch", "train", range(10, 14), WORDS["nl"], ".flac", utts=4)
    add(tree / "mls_dutch", "dev", range(20, 24), WORDS["nl"], ".flac")
    add(tree / "mls_dutch", "test", range(30, 34), WORDS["nl"], ".flac")
    add(tree / "mls_french_opus", "train", range(40, 42), WORDS["fr"], ".opus")
    add(tree / "mls_french_opus", "test", range(50, 54), WORDS["fr"], ".opus")
    add(tree / "mls_polish", "test", range(60, 64), WORDS["pl"], ".flac")
    return tree


def prepare(tree: Path, **options) -> dict[str, DataDir]:
    return prepared(mls.prepare, tree.parents[1] / "data", root=tree, **options)


def fails(tree: Path, message: str, **options) -> str:
    return refused(mls.prepare, tree.parents[1] / "data", message, root=tree, **options)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_sets_and_tables(tree):
    sets = prepare(tree.parent)  # the directory that holds MLS/
    evaluations = ("nl_dev", "nl_test", "fr_test", "pl_test")
    named = {f"mls_{e}_{x}" for e in evaluations for x in ("enrolls", "trials_f", "trials_m")}
    assert set(sets) == named | {"mls_nl_train", "mls_fr_train"}
    train = sets["mls_fr_train"]
    assert (train.meta.role, train.meta.split, train.meta.corpus) == ("train", "train", "mls")
    assert set(train.table("utt2lang").values()) == {"fr"} and set(train.table("text").values()) == {
        WORDS["fr"]
    }
    assert train.table("spk2gender") == {"40": "f", "41": "m"}
    path = Path(train.table("wav.scp")["40_500_000000"])
    assert path.suffix == ".opus" and read_audio(path)[1] == 16000
    enroll, trial = sets["mls_pl_test_enrolls"], sets["mls_pl_test_trials_f"]
    assert (trial.meta.role, trial.meta.split, trial.meta.enroll) == ("trial", "test", enroll.name)
    assert set(enroll.table("spk2gender").values()) == {"f", "m"} and set(trial.table("spk2gender")) == {
        "60",
        "62",
    }
    trials = trials_of(trial.path)
    assert len(trials) == 2 * len(trial.utts) and all(
        same == utt.startswith(spk) for spk, utt, same in trials
    )
    book = {utt.rsplit("_", 1)[0] for utt in enroll.utts}
    assert not book & {utt.rsplit("_", 1)[0] for utt in trial.utts}  # a speaker's trials are of another book


def test_languages_may_be_chosen(tree):
    assert {name[:6] for name in prepare(tree, languages=["pl", "fr"])} == {"mls_pl", "mls_fr"}
    assert {name[:6] for name in prepare(tree, languages="nl pl")} == {
        "mls_nl",
        "mls_pl",
    }  # as on the command line
    for languages, message in (
        (["jp"], "unknown language of MLS 'jp'; known: de, en, es, fr, it, nl, pl, pt"),
        (["dutch"], "unknown language"),
        (["de"], "the language of MLS 'de' is not here; expected one of: nl, fr, pl"),
        ([], "no language of MLS to prepare"),
    ):
        refused(mls.prepare, tree.parent / "none", message, root=tree, languages=languages)


def test_hours(tree):
    hours = 5 * SECONDS / 3600  # of 32 utterances
    data = prepare(tree, languages=["nl"], hours={"nl": hours})["mls_nl_train"]
    own = data.table("spk2utt")
    assert sorted(map(len, own.values())) == [1, 1, 1, 2]  # all speakers alike
    assert data.meta.notes.startswith(
        f"{hours:g} h wanted, seed 0: 0.02 of 0.11 h, 4 speakers, 5 of 32 utterances"
    )
    again = prepare(tree, languages=["nl"], hours={"nl": hours})["mls_nl_train"]
    other = prepare(tree, languages=["nl"], hours={"nl": hours}, seed=1)["mls_nl_train"]
    assert again.utts == data.utts != other.utts and again.meta.notes == data.meta.notes
    assert len(prepare(tree, languages=["nl"])["mls_nl_train"].utts) == 32  # far less than the 155 h wanted
    for wrong, message in (
        ({"nl": 0}, "hours.nl is 0; expected hours of speech, more than 0"),
        ({"nl": "all"}, "hours.nl is 'all'"),
        ({"jp": 5}, "hours: unknown language 'jp'"),
    ):
        refused(mls.prepare, tree.parent / "none", message, root=tree, hours=wrong)


def test_table_two():
    """Hours of MUSA's Table II, for every language."""
    assert mls.HOURS == {"nl": 155, "fr": 107, "de": 196, "it": 147, "pl": 103, "pt": 160, "es": 117}
    assert list(mls.HOURS) == list(mls.LANGUAGES)


def test_selection_shares_evenly_and_grows():
    """Who has little gives all of it; more hours only add; a speaker's draw does not depend on the others."""
    size = {"a": 2, "b": 10, "c": 30}
    corpus = {f"{spk}_{i:02d}": Recording(Path("x"), spk) for spk, n in size.items() for i in range(n)}
    seconds = {utt: 360.0 + i for i, utt in enumerate(sorted(corpus))}

    def select(hours: float, of: dict[str, Recording] = corpus) -> set[str]:
        chosen = mls.select_hours(of, seconds, hours, 0, "x")
        assert chosen == sorted(chosen)
        return set(chosen)

    def count(utts: set[str]) -> dict[str, int]:
        return {spk: sum(utt.startswith(spk) for utt in utts) for spk in size}

    ten, twenty = select(1.0), select(2.0)
    assert count(ten)["a"] == 2 and abs(count(ten)["b"] - count(ten)["c"]) <= 1
    assert 3600 <= sum(seconds[utt] for utt in ten) < 3600 + 402
    assert ten < twenty < select(100) == set(corpus)
    alone = select(0.5, {utt: rec for utt, rec in corpus.items() if rec.speaker == "c"})
    assert alone < {utt for utt in select(3.0) if utt.startswith("c")}


def test_a_speaker_in_two_places(tree):
    add(tree / "mls_french_opus", "train", [40, 41, 10], WORDS["fr"], ".opus")
    add(tree / "mls_polish", "dev", range(60, 66), WORDS["pl"], ".flac")
    message = fails(
        tree, "speaker 10 occurs in mls_dutch/train and mls_french_opus/train; expected a speaker in one"
    )
    assert (
        "speaker 63 occurs in mls_polish/dev and mls_polish/test" in message and "polyglots=drop" in message
    )
    fails(tree, "unknown value 'dorp' of polyglots; did you mean 'drop'", polyglots="dorp")
    sets = prepare(tree, polyglots="drop", languages=["nl", "fr"])
    assert set(sets["mls_nl_train"].table("spk2gender")) == {"11", "12", "13"}
    assert set(sets["mls_fr_train"].table("spk2gender")) == {"40", "41"}


def test_bad_roots(tree, tmp_path):
    fails(tree.with_name("MSL"), "no such directory; did you mean 'MLS'")
    fails(tree / "mls_dutch", "MLS is not here; expected mls_<language>/.*openslr.org/94")


def test_metainfo(tree):
    path = tree / "mls_dutch" / "metainfo.txt"
    text = path.read_text()
    path.write_text(text.replace("  10   |   F", "  10   |   M", 1))
    fails(tree, "metainfo.txt:3: speaker 10 has two genders")
    path.write_text(text.replace("  10   |   F", "  10   |   X", 1))
    fails(tree, "metainfo.txt:2: speaker 10 has the gender 'X'")
    path.write_text(text.replace("  10   |", "  ten  |", 1))
    fails(tree, "metainfo.txt:2: bad line '  ten .*expected SPEAKER . GENDER")
    path.write_text("".join(line for line in text.splitlines(True) if " 10 " not in line))
    fails(tree, "metainfo.txt: speaker 10 has no gender")
    path.unlink()
    fails(tree, "metainfo.txt: the speaker table is missing")


def test_audio_and_transcripts_must_agree(tree):
    split = tree / "mls_dutch" / "train"
    (split / "audio/10/500/10_500_000001.flac").unlink()
    noise(split / "audio/10/500/10_500_000009.flac")
    noise(split / "audio/10/500/11_500_000000.flac")
    noise(split / "audio/10/500/10_500_000000.opus")
    message = fails(tree, "10_500_000000.opus: utt '10_500_000000': also in 10_500_000000.flac")
    assert "11_500_000000.flac: the file name does not agree with its folders" in message
    assert "10_500_000009.flac: utt '10_500_000009': audio without transcript" in message
    assert "transcripts.txt:2: utt '10_500_000001': transcript without audio" in message
    assert "10_500_000009.flac: utt '10_500_000009': the utterance is not in segments.txt" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "de oude bakker",
            "старый пекарь",
            "transcripts.txt:1: utt '10_500_000000': no letter of the Latin script",
        ),
        ("de oude bakker", "de ou\u0308de", r"transcripts.txt:1: not in Unicode's composed form \(NFC\)"),
        (
            "10_500_000000",
            "\ufeff10_500_000000",
            "transcripts.txt:1: starts with a byte order mark; hint: save",
        ),
        ("\tde oude bakker", "\t", "transcripts.txt:1: utt '10_500_000000': the transcript is empty"),
        ("10_500_000001", "10_500_000000", "transcripts.txt:2: .*'10_500_000000': the utterance has two"),
    ],
)
def test_bad_transcripts(tree, old, new, message):
    edit(tree / "mls_dutch/train/transcripts.txt", old, new)
    fails(tree, message)


def test_transcripts_in_another_encoding_or_missing(tree):
    path = tree / "mls_french_opus/test/transcripts.txt"
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    fails(tree, "mls_french_opus/test/transcripts.txt:1: not UTF-8")
    path.unlink()
    fails(tree, "mls_french_opus/test/transcripts.txt: no such file")


@pytest.mark.parametrize("bad", ["10_500_000000 u 3.0 2.0", "10_500_000000 u x y", "10_500_000000"])
def test_bad_segments(tree, bad):
    path = tree / "mls_dutch/train/segments.txt"
    lines = path.read_text().splitlines(True)
    path.write_text("".join([bad + "\n", *lines[1:]]))
    fails(tree, f"segments.txt:1: bad line '{bad}'; expected <utt> <recording>")
    path.unlink()
    fails(tree, "segments.txt: no such file")


def test_no_audio(tree):
    (tree / "mls_italian").mkdir()
    (tree / "mls_italian/metainfo.txt").write_text(HEADER)
    fails(tree, "mls_italian: no split of this language is here; expected train, dev, test", languages=["it"])
    (tree / "mls_polish/test/audio").rename(tree / "mls_polish/test/wav")
    fails(tree, "mls_polish/test: no audio in this split; expected mls_<language>/", languages=["pl"])


def test_opus_without_a_decoder(tree, monkeypatch):
    monkeypatch.setattr(soundfile, "available_subtypes", lambda format: {"VORBIS": "Vorbis"})
    fails(
        tree,
        r"libsndfile .* cannot read Opus; expected 1.0.29 or later; hint: pip install --upgrade soundfile",
    )
    assert prepare(tree, languages=["nl"])

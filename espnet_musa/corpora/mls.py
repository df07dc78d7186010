"""Multilingual LibriSpeech (Pratap et al., Interspeech 2020; openslr.org/94), FLAC or Opus.

    <root>/mls_<language>[_opus]/metainfo.txt                      SPEAKER | GENDER | PARTITION | ...
    <root>/mls_<language>[_opus]/<train|dev|test>/transcripts.txt  <utt> TAB <words>
    <root>/mls_<language>[_opus]/<train|dev|test>/segments.txt     <utt> TAB <recording> TAB <start s> TAB <end s>
    <root>/mls_<language>[_opus]/<train|dev|test>/audio/<speaker>/<book>/<speaker>_<book>_<number>.<flac|opus>

A language gives `mls_<code>_train` (role `train`), and for dev and test `mls_<code>_<split>_enrolls` and
`..._trials_<f|m>` by the rule of `trial_rule`, a session being a book. Speakers are LibriVox's readers by number, as in
LibriSpeech and LibriTTS.

MUSA (Yao et al., Table II) learns from 103 to 196 hours a language with all of its speakers, but does not say which.
Here each speaker's utterances are put in a random order, and all speakers give theirs alike, one after the other, until
the language has its hours. The list is the set's utt2spk; its SHA-256 stands in meta.yaml, to compare.

Read here and not through lhotse's recipe, for the reason given in `librispeech`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import soundfile

from ..errors import Problems, UserError, suggest
from ..log import get_logger
from ..seed import generator
from . import common, vpc2026
from .common import Recording, Sets, Transcript

log = get_logger(__name__)

LANGUAGES = {  # utt2lang -> the corpus's name
    "nl": "dutch",
    "fr": "french",
    "de": "german",
    "it": "italian",
    "pl": "polish",
    "pt": "portuguese",
    "es": "spanish",
}
HOURS = {
    "nl": 155.0,
    "fr": 107.0,
    "de": 196.0,
    "it": 147.0,
    "pl": 103.0,
    "pt": 160.0,
    "es": 117.0,
}  # Table II
ENGLISH = {"en": "english"}  # of which there is far more; prepared only if it is named
EVERY = LANGUAGES | ENGLISH
PROTOCOLS = ("trial_rule", "vpc2026")
SPLITS = ("train", "dev", "test")
AUDIO = (".flac", ".opus")
LAYOUT = "mls_<language>/<train|dev|test>/audio/<speaker>/<book>/<speaker>_<book>_<number>.flac or .opus"
POLYGLOTS = ("error", "drop")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")  # a letter of the script that all seven languages are written in

Corpus = dict[str, Recording]


def prepare(
    out: Path,
    *,
    root: Path,
    languages: list[str] | None = None,
    hours: dict[str, float] | None = None,
    polyglots: str = "error",
    protocol: str = "trial_rule",
    seed: int = 0,
    enroll_seconds: float = 75.0,
    impostors: float = 0.25,
) -> list[str]:
    """Write Kaldi data directories for the languages of MLS.

    Args:
        out: directory to hold one data directory per set.
        root: holds the languages' folders `mls_<language>` (or `mls_<language>_opus`), whole or without some splits.
        languages: codes (`nl`, ...) of those to prepare; all that are there by default, but for English (`en`).
        hours: code -> hours of training speech, for languages that shall have other than Table II says, more than 0;
            English has none there.
        polyglots: what to do with a speaker who occurs in two languages or splits, and so in training and test:
            `error`, or `drop` it from all of them.
        protocol: `trial_rule`, or `vpc2026`: the sets of track 2 of VoicePrivacy 2026 (`<code>_<split>_enrolls`,
            `..._trials_mixed`, `train_<language>` with all of the training speech, which attackers learn from), see
            `vpc2026.mixed_sets`; nothing is then left to train systems with.
        seed: draws the training utterances, and is of the enrolment and trial rule, as are
        enroll_seconds: speech to enrol a speaker with, and
        impostors: share of each gender's speakers to leave unenrolled.

    Returns:
        Names of the sets.

    Raises:
        UserError: if a language is unknown, or its folder, speaker table, transcripts or audio are not as described;
            nothing has been written then.
    """
    if polyglots not in POLYGLOTS:
        raise UserError(f"unknown value '{polyglots}' of polyglots{suggest(polyglots, POLYGLOTS)}")
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol '{protocol}'{suggest(protocol, PROTOCOLS)}")
    wanted_hours = _hours(hours or {})
    marks = [f"mls_{name}{form}" for name in EVERY.values() for form in ("", "_opus")]
    tree = common.find_tree(
        Path(root), "MLS", ["MLS"], marks, layout=LAYOUT,
        hint="download languages from https://www.openslr.org/94 and unpack them in one place",
    )  # fmt: skip
    known = LANGUAGES if languages is None else EVERY
    present = [code for code in known if _folder(tree, code).is_dir()]
    names = common.choose(languages, EVERY, present, "language of MLS", tree)
    chosen = {code: _folder(tree, code) for code in names}
    shared = _shared(chosen.values(), polyglots)
    rule = {"seed": seed, "enroll_seconds": enroll_seconds, "impostors": impostors}
    if protocol == "vpc2026":
        for code in chosen.keys() - vpc2026.TRAINING.keys():
            raise UserError(f"'{code}' is no language of MLS in track 2", expected=" ".join(vpc2026.TRAINING))
    sets: Sets = {}
    for code, folder in chosen.items():
        sets |= _language_sets(code, folder, shared, wanted_hours.get(code), rule, protocol)
    return common.write_sets(out, sets)


def _hours(given: dict[str, float]) -> dict[str, float]:
    """Hours of training speech by language, checked."""
    for code, value in given.items():
        if code not in EVERY:
            raise UserError(f"hours: unknown language '{code}'{suggest(code, EVERY)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"hours.{code} is {value!r}", expected="hours of speech, more than 0")
    return HOURS | given


def _folder(tree: Path, code: str) -> Path:
    """A language's folder; the one with FLAC where both are there."""
    flac = tree / f"mls_{EVERY[code]}"
    return flac if flac.is_dir() else tree / f"mls_{EVERY[code]}_opus"


def _splits(folder: Path) -> list[str]:
    """The splits of a language that are there."""
    return [split for split in SPLITS if (folder / split).is_dir()]


def _shared(folders: Iterable[Path], polyglots: str) -> set[str]:
    """Speakers who occur in two languages or splits, if they are to be dropped.

    Raises:
        UserError: if there are any and they are not to be dropped.
    """
    places: dict[str, list[str]] = {}
    for folder in folders:
        for split in _splits(folder):
            for speaker in (folder / split / "audio").glob("[!.]*"):
                places.setdefault(speaker.name, []).append(f"{folder.name}/{split}")
    shared = {speaker: " and ".join(where) for speaker, where in sorted(places.items()) if len(where) > 1}
    problems = Problems()
    for speaker, where in shared.items():
        if polyglots == "drop":
            log.info("mls: speaker %s is dropped, who occurs in %s", speaker, where)
        else:
            problems.add(
                f"speaker {speaker} occurs in {where}", expected="a speaker in one language and split",
                hint="--set corpora.mls.polyglots=drop leaves such speakers out",
            )  # fmt: skip
    problems.raise_if_any()
    return set(shared)


def _language_sets(
    code: str, folder: Path, shared: set[str], hours: float | None, rule: dict[str, Any], protocol: str
) -> Sets:
    """The sets of a language; `shared` speakers are left out, `rule` is seed and options of the trial rule."""
    genders = common.read_genders(
        folder / "metainfo.txt", _row, "SPEAKER | GENDER (F or M) | PARTITION | ...", repeats=True
    )
    if not _splits(folder):
        raise UserError("no split of this language is here", path=folder, expected=", ".join(SPLITS))
    sets: Sets = {}
    for split in _splits(folder):
        problems = Problems()
        corpus, seconds = scan_split(folder / split, genders, problems)
        problems.raise_if_any()
        corpus = {utt: rec for utt, rec in corpus.items() if rec.speaker not in shared}
        stem, meta = f"mls_{code}_{split}", {"corpus": "mls", "split": split}
        if protocol == "vpc2026" and split == "train":
            meta |= {"role": "attack_train", "notes": "all of the training speech"}
            sets[f"train_{EVERY[code]}"] = common.tables(corpus, sorted(corpus), genders, code), meta
        elif protocol == "vpc2026":
            sets |= vpc2026.mixed_sets(code, split, corpus, genders, rule["seed"])
        elif split == "train":
            if hours is None:
                raise UserError(
                    "how much of it to train on?", path=folder / split, expected=f"hours of '{code}'",
                    hint=f"--set corpora.mls.hours.{code}=100",
                )  # fmt: skip
            utts = select_hours(corpus, seconds, hours, rule["seed"], f"mls_{code}")
            notes = f"{hours:g} h wanted, seed {rule['seed']}: {_describe(utts, corpus, seconds)}"
            log.info("%s: %s", stem, notes)
            sets[stem] = (
                common.tables(corpus, utts, genders, code),
                meta | {"role": "train", "notes": notes},
            )
        else:
            meta["notes"] = f"{split} by rule"
            sets |= common.rule_sets(stem, corpus, genders, meta, language=code, seconds=seconds, **rule)
    return sets


def _row(line: str) -> tuple[str, str] | None:
    """Speaker and gender in a line of metainfo.txt."""
    return None if line.split("|")[0].strip() == "SPEAKER" else common.piped(line)


def scan_split(path: Path, genders: dict[str, str], problems: Problems) -> tuple[Corpus, dict[str, float]]:
    """Utterances of a split and their durations in seconds; what is wrong goes to `problems`. A session is a book."""
    audio = (
        common.find_files(path / "audio", AUDIO, "_", LAYOUT, problems) if (path / "audio").is_dir() else {}
    )
    if not audio:
        problems.add("no audio in this split", path=path, expected=LAYOUT)
    opus = next((file for file in audio.values() if file.suffix == ".opus"), None)
    if opus and "OPUS" not in soundfile.available_subtypes("OGG"):
        problems.add(
            f"libsndfile {soundfile.__libsndfile_version__} cannot read Opus", path=opus,
            expected="1.0.29 or later", hint="pip install --upgrade soundfile, or take the FLAC version of MLS",
        )  # fmt: skip
    texts: dict[str, Transcript] = {}
    common.read_transcripts(path / "transcripts.txt", texts, problems)
    for utt, words in texts.items():
        if words.text and not _LATIN.search(words.text):
            problems.add("no letter of the Latin script", path=words.path, line=words.line, utt=utt)
    if texts:
        common.compare(audio, texts, problems)
    seconds = _read_segments(path / "segments.txt", problems)
    for utt in sorted(audio.keys() - seconds.keys()) if seconds else ():
        problems.add("the utterance is not in segments.txt", path=audio[utt], utt=utt)
    corpus = {
        utt: Recording(
            file, utt.split("_")[0], texts[utt].text if utt in texts else "", utt.rsplit("_", 1)[0]
        )
        for utt, file in audio.items()
    }
    common.check_genders(
        (r.speaker for r in corpus.values()), genders, path.parent / "metainfo.txt", problems
    )
    return corpus, seconds


def _read_segments(path: Path, problems: Problems) -> dict[str, float]:
    """Durations by utterance; opening hundreds of thousands of files to ask them would take hours on a network disk."""
    seconds: dict[str, float] = {}
    for number, line in common.read_lines(path, problems):
        try:
            utt, _, *_, start, end = line.split()
            seconds[utt] = float(end) - float(start)
        except ValueError:
            utt = ""
        if not (utt and 0 < seconds[utt] < float("inf")):
            problems.add(
                f"bad line '{line}'", path=path, line=number, expected="<utt> <recording> <start s> <end s>"
            )
    return seconds


def select_hours(
    corpus: Mapping[str, Recording], seconds: Mapping[str, float], hours: float, seed: int, name: str
) -> list[str]:
    """Utterances of all speakers alike that together last `hours`, or all there are.

    Args:
        corpus: utterances.
        seconds: their durations.
        hours: to reach, exceeded by less than an utterance.
        seed: of each speaker's order, which does not depend on the other speakers.
        name: mixed into the draws.

    Returns:
        Sorted ids.
    """
    own: dict[str, list[str]] = {}
    for utt in sorted(corpus):
        own.setdefault(corpus[utt].speaker, []).append(utt)
    queue: list[tuple[float, str]] = []  # (what the speaker has given before, utterance)
    for speaker, utts in own.items():
        given = 0.0
        for index in generator(seed, name, speaker, "training selection").permutation(len(utts)):
            queue.append((given, utts[index]))
            given += seconds[utts[index]]
    chosen, total = [], 0.0
    for _, utt in sorted(queue):
        if total >= 3600 * hours:
            break
        chosen.append(utt)
        total += seconds[utt]
    return sorted(chosen)


def _describe(utts: list[str], corpus: Corpus, seconds: Mapping[str, float]) -> str:
    """A selection in words, for meta.yaml."""
    chosen, there = (sum(seconds[utt] for utt in part) / 3600 for part in (utts, corpus))
    speakers = len({corpus[utt].speaker for utt in utts})
    digest = hashlib.sha256("".join(f"{utt}\n" for utt in utts).encode()).hexdigest()[:16]
    return (
        f"{chosen:.2f} of {there:.2f} h, {speakers} speakers, {len(utts)} of {len(corpus)} utterances; "
        f"SHA-256 of the sorted list {digest}..."
    )

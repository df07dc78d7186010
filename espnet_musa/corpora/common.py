"""What the preparers share: finding a corpus, its speaker table, transcripts and audio, and the sets made of them.

A preparer collects what is wrong in `Problems`, raises once, and writes its sets last: all of them or none.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.audio import AudioFile
from ..data.datadir import write_datadir
from ..errors import Problems, UserError, suggest
from ..log import get_logger, progress
from .trial_rule import Utterance, select

log = get_logger(__name__)

Sets = dict[str, tuple[dict[str, Any], dict[str, Any]]]  # name -> (tables, fields of meta.yaml)
GENDERS = {
    "f": "f",
    "female": "f",
    "m": "m",
    "male": "m",
}  # a speaker table's word in lower case -> spk2gender


@dataclass(frozen=True)
class Recording:
    """An utterance of a corpus: its file, speaker and transcript (empty: none).

    `session` (chapter, book, sentence, ...) is what parts enrolment from trials.
    """

    path: Path
    speaker: str
    text: str = ""
    session: str = ""


class Transcript(NamedTuple):
    """The words of an utterance and where they stand, for messages."""

    text: str
    path: Path
    line: int


# --- trees --------------------------------------------------------------------------------------------------------


def require_dir(root: Path, what: str, hint: str | None = None) -> None:
    """Refuse a directory that is not there, saying `what` was expected."""
    if not root.is_dir():
        near = suggest(root.name, (p.name for p in root.parent.iterdir())) if root.parent.is_dir() else ""
        raise UserError(f"no such directory{near}", path=root, expected=what, hint=hint)


def find_tree(
    root: Path, corpus: str, folders: Iterable[str], marks: Collection[str], *, layout: str, hint: str
) -> Path:
    """The directory that holds a corpus: `root`, or one of `folders` in it.

    Args:
        root: what the user gave.
        corpus: the corpus's name, for messages.
        folders: what its archive unpacks to.
        marks: folders of which its directory holds at least one.
        layout: where its audio lies, for messages.
        hint: where to get it.

    Raises:
        UserError: if it is not there.
    """
    require_dir(root, f"the {corpus} corpus", hint)
    for tree in (root, *(root / folder for folder in folders)):
        if any((tree / mark).is_dir() for mark in marks):
            return tree.resolve()
    raise UserError(f"{corpus} is not here", path=root, expected=layout, hint=hint)


def listed(value: list[str] | str | None) -> list[str] | None:
    """An option that is a list, given as one or, as on the command line, as words of one text."""
    return value.split() if isinstance(value, str) else value


def choose(
    wanted: list[str] | str | None, known: Iterable[str], present: list[str], what: str, tree: Path
) -> list[str]:
    """Those of `present` (parts, languages, ...) that are wanted; all where `wanted` is None.

    Raises:
        UserError: for a wanted one that is unknown or absent, and for an empty list.
    """
    wanted = listed(wanted)
    for name in wanted or []:
        if name not in known:
            raise UserError(f"unknown {what} '{name}'{suggest(name, known)}")
        if name not in present:
            raise UserError(
                f"the {what} '{name}' is not here", path=tree, expected=f"one of: {', '.join(present)}"
            )
    if wanted is not None and not wanted:
        raise UserError(f"no {what} to prepare", path=tree, expected=f"some of: {', '.join(present)}")
    return [name for name in present if wanted is None or name in wanted]


def find_files(
    folder: Path, suffixes: tuple[str, ...], joint: str, layout: str, problems: Problems, *, depth: int = 2
) -> dict[str, Path]:
    """Files by utterance id in `<speaker>/<book>/<speaker><joint><book><joint><numbers><suffix>`, sorted.

    Links are followed, hidden files passed over. Files with a suffix that lie elsewhere or are named otherwise, and an
    id that two files have, go to `problems`.

    Args:
        folder: holds the speakers.
        suffixes: endings of the files to find, dots included.
        joint: what joins the parts of a name.
        layout: for messages.
        problems: collects what is wrong.
        depth: folders to go down: 2, or 1 where there are no books.
    """
    found: dict[str, Path] = {}
    for parents, place in progress(_walk(folder, depth), total=None, desc=folder.name):
        prefix = "".join(name + joint for name in parents)
        for name in sorted(os.listdir(place)):
            suffix = next((s for s in suffixes if name.endswith(s)), None)
            if suffix is None or name.startswith("."):
                continue
            utt, path = name.removesuffix(suffix), place / name
            if len(parents) < depth:
                problems.add("lies outside the folders of speakers", path=path, expected=layout)
            elif not utt.startswith(prefix) or not utt[len(prefix) :].replace("_", "").isdecimal():
                problems.add("the file name does not agree with its folders", path=path, expected=layout)
            elif utt in found:
                problems.add(
                    f"also in {found[utt].name}", path=path, utt=utt, expected="one file an utterance"
                )
            else:
                found[utt] = path
    return found


def _walk(folder: Path, depth: int, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Path]]:
    """`folder` and the folders below it down to `depth`, with the names on the way; sorted."""
    yield parents, folder
    if len(parents) < depth:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        for name in names:
            yield from _walk(folder / name, depth, (*parents, name))


# --- texts --------------------------------------------------------------------------------------------------------


def read_genders(
    path: Path, parse: Callable[[str], tuple[str, str] | None], form: str, *, repeats: bool = False
) -> dict[str, str]:
    """Gender of every speaker, `f` or `m`, from a corpus's own table.

    Args:
        path: the table.
        parse: line -> (speaker, gender), or None for a line about no speaker; raises ValueError or IndexError for a
            malformed one.
        form: of a line, for messages.
        repeats: whether a speaker may have several lines, which must agree.

    Raises:
        UserError: if the table is missing, or a line is malformed or contradicts another.
    """
    if not path.is_file():
        raise UserError("the speaker table is missing", path=path, hint="it comes with the corpus")
    problems = Problems()
    genders: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # names alone hold other letters
    for number, line in enumerate(lines, start=1):
        try:
            row = parse(line) if line.strip() else None
        except (ValueError, IndexError):
            problems.add(f"bad line '{line}'", path=path, line=number, expected=form)
            continue
        if row is None:
            continue
        speaker, word = row
        gender = GENDERS.get(word.lower())
        if gender is None:
            problems.add(f"speaker {speaker} has the gender '{word}'", path=path, line=number, expected=form)
        elif speaker in genders and not repeats:
            problems.add(f"speaker {speaker} occurs twice", path=path, line=number)
        elif genders.setdefault(speaker, gender) != gender:
            problems.add(f"speaker {speaker} has two genders", path=path, line=number)
    problems.raise_if_any()
    return genders


def piped(line: str) -> tuple[str, str] | None:
    """A line `READER | GENDER | SUBSET | ...` of LibriVox's descendants; `;` begins a comment."""
    if line.startswith(";"):
        return None
    reader, gender, _, *_ = (field.strip() for field in line.split("|"))
    int(reader)
    return reader, gender


def check_genders(
    speakers: Iterable[str], genders: Mapping[str, str], table: Path, problems: Problems
) -> None:
    """Every speaker must be in the table."""
    for speaker in sorted(set(speakers) - genders.keys()):
        problems.add(f"speaker {speaker} has no gender", path=table, expected="a line for each speaker")


def read_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text, blank ones passed over; a file that is missing or not plain UTF-8 is a problem."""
    if not path.is_file():
        problems.add("no such file", path=path, hint="it comes with the corpus")
        return
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.add("not UTF-8", path=path, line=line, hint="restore the file, or convert it with iconv")
        return
    if text.startswith("\ufeff"):
        problems.add("starts with a byte order mark", path=path, line=1, hint="save it without one")
        return
    composed = unicodedata.is_normalized("NFC", text)
    for number, line in enumerate(text.split("\n"), start=1):
        if not composed and not unicodedata.is_normalized("NFC", line):
            problems.add("not in Unicode's composed form (NFC)", path=path, line=number)
        if line.strip():
            yield number, line.strip()


def read_transcripts(path: Path, into: dict[str, Transcript], problems: Problems) -> list[str]:
    """Add the lines `<utt> <words>` of a file, parted by spaces or a tab.

    Returns:
        ids of the file's utterances.
    """
    ids = []
    for number, line in read_lines(path, problems):
        utt, *words = line.split()
        if utt in into:
            problems.add("the utterance has two transcripts", path=path, line=number, utt=utt)
        elif not words:
            problems.add("the transcript is empty", path=path, line=number, utt=utt)
        into.setdefault(utt, Transcript(" ".join(words), path, number))
        ids.append(utt)
    return ids


def compare(audio: Mapping[str, Path], texts: Mapping[str, Transcript], problems: Problems) -> None:
    """Every utterance must have audio and a transcript."""
    for utt in sorted(audio.keys() - texts.keys()):
        problems.add("audio without transcript", path=audio[utt], utt=utt)
    for utt in sorted(texts.keys() - audio.keys()):
        problems.add("transcript without audio", path=texts[utt].path, line=texts[utt].line, utt=utt)


# --- sets ---------------------------------------------------------------------------------------------------------


def tables(
    corpus: Mapping[str, Recording], utts: Iterable[str], genders: Mapping[str, str], language: str
) -> dict[str, Any]:
    """Kaldi tables of some utterances; `text` where there are transcripts. `genders` is by speaker."""
    chosen = {utt: corpus[utt] for utt in utts}
    out: dict[str, Any] = {
        "wav.scp": {utt: str(rec.path) for utt, rec in chosen.items()},
        "utt2spk": {utt: rec.speaker for utt, rec in chosen.items()},
        "spk2gender": {rec.speaker: genders[rec.speaker] for rec in chosen.values()},
        "utt2lang": dict.fromkeys(chosen, language),
    }
    if any(rec.text for rec in chosen.values()):
        out["text"] = {utt: rec.text for utt, rec in chosen.items()}
    return out


def rule_sets(
    stem: str,
    corpus: Mapping[str, Recording],
    genders: Mapping[str, str],
    meta: dict[str, Any],
    *,
    language: str,
    seed: int,
    seconds: Mapping[str, float] | None = None,
    enroll_seconds: float = 75.0,
    impostors: float = 0.25,
) -> Sets:
    """Enrolment and trial sets `<stem>_enrolls`, `<stem>_trials_<f|m>` of an evaluation part by `trial_rule`.

    Args:
        stem: of the sets' names; mixed into every draw.
        corpus: the part's utterances.
        genders: by speaker.
        meta: what meta.yaml says of all of them; `notes` comes before the rule's own.
        language: code for utt2lang.
        seed: of the draws.
        seconds: durations of the utterances; by their headers if not given.
        enroll_seconds: as `trial_rule.select` describes, as is
        impostors.

    Raises:
        UserError: if no trials can be made.
    """
    if seconds is None:
        items = progress(corpus.items(), total=len(corpus), desc=f"{stem}: durations")
        seconds = {utt: duration(rec.path) for utt, rec in items}
    utterances = [
        Utterance(utt, rec.speaker, genders[rec.speaker], rec.session, seconds[utt])
        for utt, rec in corpus.items()
    ]
    chosen = select(utterances, seed=seed, corpus=stem, enroll_seconds=enroll_seconds, impostors=impostors)
    for note in chosen.notes:
        log.info("%s: %s", stem, note)
    if not chosen.trials:
        raise UserError(
            f"no trials can be made for {stem}: {'; '.join(chosen.notes)}",
            hint="trials need two speakers of a gender, one of them with two utterances; leave this part out",
        )
    common = meta | {"notes": "; ".join([meta["notes"], *chosen.notes])}
    enrolls = f"{stem}_enrolls"
    own = tables(corpus, chosen.enrolls, genders, language) | {"enrolls": chosen.enrolls}
    sets: Sets = {enrolls: (own, common | {"role": "enroll"})}
    for gender, trials in chosen.trials.items():
        own = tables(corpus, chosen.trial_utts[gender], genders, language) | {"trials": trials}
        sets[f"{stem}_trials_{gender}"] = (own, common | {"role": "trial", "enroll": enrolls})
    return sets


def duration(path: Path) -> float:
    """Seconds, by the header."""
    with AudioFile(path, channels="first") as file:  # what the audio must be is stage 2's to judge
        return file.frames / file.sample_rate


def write_sets(out: Path, sets: Sets) -> list[str]:
    """Write data directories below `out`; returns their names."""
    for name, (own, meta) in sets.items():
        write_datadir(Path(out) / name, own, meta)
    return list(sets)

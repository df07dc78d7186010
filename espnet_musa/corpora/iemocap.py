"""IEMOCAP (Busso et al., Language Resources and Evaluation 42, 2008): ten actors in five dialogues of two, emotions.

    <root>/Session<1-5>/sentences/wav/<dialog>/<dialog>_<F|M><turn>.wav
    <root>/Session<1-5>/dialog/EmoEvaluation/<dialog>.txt    [start - end] <utt> <emotion> [valence, ...]
    <root>/Session<1-5>/dialog/transcriptions/<dialog>.txt   <utt> [start-end]: <text>

The VoicePrivacy Challenge takes the four classes anger, happiness (with excitement), neutral and sadness, 5,531
utterances, and tests each session with the classifier that has not heard it (`spk2fold`: the session). Its two sets
hold one speaker of each session; which one is not public. The rule here alternates, so that each set has both genders:
development takes the woman of the odd sessions and the man of the even ones, test the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problems, UserError, suggest
from ..log import get_logger
from . import common
from .common import find_tree, listed, write_sets
from .vpc_lists import plain_text

log = get_logger(__name__)

CLASSES = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}  # the corpus's label -> ours
OTHERS = ("fru", "sur", "fea", "dis", "oth", "xxx")  # labels that are left out; xxx: the annotators disagree
SESSIONS = ("1", "2", "3", "4", "5")
DIALOGS = 151  # in the whole corpus
UTTERANCES = 5531  # of the four classes, in the whole corpus
LAYOUT = "Session<1-5>/sentences/wav/<dialog>/<utterance>.wav"
_UTT = re.compile(r"(Ses0([1-5]))[FM]_(?:impro|script)\w+_([FM])(?:XX)?\d+")  # speaker's session, gender
_LABEL = re.compile(r"\[[^\]]*\]\s+(Ses\S+)\s+(\w+)\s+\[.*")
_TURN = re.compile(r"(Ses\S+)\s+\[[^\]]*\]:(.*)")
_EVENT = re.compile(r"\[([^\]]*)\]")  # [LAUGHTER], [BREATHING], ...


@dataclass(frozen=True)
class Recording(common.Recording):
    """One turn of a speaker (`Ses01F`) in a session (`1`), with its label as the corpus has it."""

    label: str = ""


def prepare(out: Path, *, root: Path, dev_speakers: list[str] | None = None) -> list[str]:
    """Write the data directories `IEMOCAP_dev` and `IEMOCAP_test`.

    Args:
        out: directory to hold the data directories.
        root: the corpus, or the directory that holds it as `IEMOCAP_full_release/`; whole sessions may be absent.
        dev_speakers: the development set's speakers, one of each session, e.g. `[Ses01F, Ses02M, ...]`, for who knows
            the challenge's assignment; None: the rule of the module.

    Returns:
        Names of the sets.

    Raises:
        UserError: if the corpus is not as described (a label without audio, audio without label, a turn without
            words, another number of utterances in the whole corpus), or the assignment is not one of each session;
            nothing has been written then.
    """
    tree = find_tree(
        Path(root), "IEMOCAP", ["IEMOCAP_full_release"], [f"Session{s}" for s in SESSIONS], layout=LAYOUT,
        hint="IEMOCAP is licensed: https://sail.usc.edu/iemocap",
    )  # fmt: skip
    sessions = [s for s in SESSIONS if (tree / f"Session{s}").is_dir()]
    corpus = {}
    problems = Problems()
    for session in sessions:
        corpus |= read_session(tree / f"Session{session}", session, problems)
    problems.raise_if_any()
    used = {utt: rec for utt, rec in corpus.items() if rec.label in CLASSES}
    _check_count(tree, sessions, len(used))
    dev = assignment(sessions, listed(dev_speakers))
    chosen = {
        "dev": sorted(utt for utt, rec in used.items() if rec.speaker in dev),
        "test": sorted(utt for utt, rec in used.items() if rec.speaker not in dev),
    }
    for split, utts in chosen.items():
        if not utts:
            raise UserError(f"no utterance of the four emotions for IEMOCAP_{split}", path=tree)
    how = "given" if dev_speakers else "by rule, not the organisers'"
    notes = (
        f"four classes, excitement counted as happiness; development speakers {' '.join(sorted(dev))} ({how})"
    )
    meta = {"corpus": "iemocap", "role": "utility", "notes": notes}
    sets = {f"IEMOCAP_{s}": (_tables(used, utts), meta | {"split": s}) for s, utts in chosen.items()}
    return write_sets(out, sets)


def assignment(sessions: list[str], dev_speakers: list[str] | None = None) -> set[str]:
    """The development set's speakers: those given, or by rule.

    Raises:
        UserError: if those given are not exactly one of each session.
    """
    if not dev_speakers:
        return {f"Ses0{s}{'FM'[index % 2]}" for index, s in enumerate(SESSIONS) if s in sessions}
    wanted = [(f"Ses0{s}F", f"Ses0{s}M") for s in sessions]
    if [sum(spk in pair for spk in dev_speakers) for pair in wanted] != [1] * len(dev_speakers):
        raise UserError(
            f"dev_speakers is {' '.join(dev_speakers)}",
            expected="one of each session: " + ", ".join(" or ".join(pair) for pair in wanted),
        )
    return set(dev_speakers)


def read_session(path: Path, session: str, problems: Problems) -> dict[str, Recording]:
    """All labelled turns of a session by utterance id; what is wrong goes to `problems`."""
    audio = {}
    for file in sorted((path / "sentences" / "wav").glob("*/*.wav")):
        if file.name.startswith("."):  # left by macOS in the official archive
            continue
        match = _UTT.fullmatch(file.stem)
        if not match or match[2] != session or not file.stem.startswith(f"{file.parent.name}_"):
            problems.add("the file name does not agree with its folders", path=file, expected=LAYOUT)
        else:
            audio[file.stem] = file
    if not audio:
        problems.add("no audio in this session", path=path, expected=LAYOUT)
        return {}
    labels, label_at = _read_lines(path / "dialog" / "EmoEvaluation", _LABEL, problems)
    texts, text_at = _read_lines(path / "dialog" / "transcriptions", _TURN, problems)
    for utt in sorted(labels.keys() - audio.keys()):
        where, line = label_at[utt]
        problems.add("label without audio", path=where, line=line, utt=utt)
    found = {}
    for utt in sorted(audio):
        label = labels.get(utt)
        if label is None:
            problems.add("audio without label", path=audio[utt], utt=utt, expected="a line in EmoEvaluation")
        elif label not in CLASSES and label not in OTHERS:
            where, line = label_at[utt]
            near = suggest(label, (*CLASSES, *OTHERS))
            problems.add(f"unknown emotion '{label}'{near}", path=where, line=line, utt=utt)
        elif label in CLASSES and not texts.get(utt):
            where, line = text_at.get(utt, (audio[utt], None))
            problems.add("no transcript", path=where, line=line, utt=utt)
        else:
            match = _UTT.fullmatch(utt)
            found[utt] = Recording(audio[utt], match[1] + match[3], texts.get(utt, ""), session, label)
    return found


def _read_lines(
    folder: Path, pattern: re.Pattern, problems: Problems
) -> tuple[dict[str, str], dict[str, tuple[Path, int]]]:
    """What the lines of a folder's dialogues say of each utterance, and where; other lines are the corpus's own."""
    values: dict[str, str] = {}
    places: dict[str, tuple[Path, int]] = {}
    if not folder.is_dir():
        problems.add("no such directory", path=folder, expected="a text file for each dialogue")
        return values, places
    for file in sorted(folder.glob("Ses*.txt")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            match = pattern.fullmatch(line.strip())
            if not match:
                continue
            utt, value = match[1], " ".join(match[2].split())
            if utt in values and values[utt] != value:
                problems.add(f"also in line {places[utt][1]}, differently", path=file, line=number, utt=utt)
            values.setdefault(utt, value)
            places.setdefault(utt, (file, number))
    return values, places


def _check_count(tree: Path, sessions: list[str], found: int) -> None:
    """The whole corpus has a known number of utterances."""
    dialogs = [p for s in sessions for p in (tree / f"Session{s}" / "sentences" / "wav").glob("Ses*")]
    if len(dialogs) < DIALOGS:
        log.info("a part of IEMOCAP: %d of %d dialogues, %d utterances", len(dialogs), DIALOGS, found)
    elif found != UTTERANCES:
        raise UserError(
            f"{found} utterances of the four emotions", path=tree, expected=f"{UTTERANCES} in the whole corpus",
            hint="files are missing or of another release",
        )  # fmt: skip


def normalize(text: str) -> str:
    """A transcript in upper case without `, ! ? .`, as the challenge writes them, and without events.

    `I don't know. [LAUGHTER] Okay?` -> `I DON'T KNOW OKAY`. A turn of events alone keeps their names; a turn without
    a letter is `UNK`, since a text must not be empty.
    """
    return plain_text(_EVENT.sub(" ", text)) or plain_text(_EVENT.sub(r" \1 ", text)) or "UNK"


def _tables(corpus: dict[str, Recording], utts: list[str]) -> dict[str, Any]:
    """The Kaldi tables of some utterances."""
    speakers = {corpus[utt].speaker: corpus[utt].session for utt in utts}
    return common.tables(corpus, utts, {spk: spk[-1].lower() for spk in speakers}, "en") | {
        "spk2fold": speakers,
        "utt2emo": {utt: CLASSES[corpus[utt].label] for utt in utts},
        "text": {utt: normalize(corpus[utt].text) for utt in utts},
        "text_no_norm": {utt: corpus[utt].text for utt in utts},
    }

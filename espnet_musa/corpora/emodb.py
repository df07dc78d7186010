"""Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005): German, 10 actors, 7 emotions.

A file name `SSTTTEV` gives speaker, sentence, emotion and version (`03a01Fa.wav`). Speaker, sentence and emotion are
those of the corpus's own documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ..errors import Problems, UserError, suggest
from ..log import get_logger
from ..seed import generator
from . import common
from .common import Sets, require_dir, tables, write_sets
from .trial_rule import cross_product

log = get_logger(__name__)

GENDERS = dict.fromkeys(("03", "10", "11", "12", "15"), "m") | dict.fromkeys(
    ("08", "09", "13", "14", "16"), "f"
)
EMOTIONS = {"W": "ang", "F": "hap", "N": "neu", "T": "sad", "L": "bor", "E": "dis", "A": "fea"}
CLASSES = {
    "vpc": ("ang", "hap", "neu", "sad"),
    "all": tuple(EMOTIONS.values()),
}  # the first: VoicePrivacy's four
TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank",
    "a02": "Das will sie am Mittwoch abgeben",
    "a04": "Heute abend könnte ich es ihm sagen",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück",
    "a07": "In sieben Stunden wird es soweit sein",
    "b01": "Was sind denn das für Tüten die da unter dem Tisch stehen",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen",
    "b10": "Die wird auf dem Platz sein wo wir sie immer hinlegen",
}
ENROLL_TEXTS = 4  # of the ten sentences; the others are left to the trials
_NAME = re.compile(r"(\d\d)([a-z]\d\d)([A-Z])([a-z])")


@dataclass(frozen=True)
class Recording(common.Recording):
    """One file of a speaker (two digits); the session is the sentence (a key of `TEXTS`); a value of `EMOTIONS`."""

    emotion: str = ""


def prepare(out: Path, *, root: Path, classes: str = "vpc", seed: int = 0) -> list[str]:
    """Write the data directories `emodb` (emotions) and `emodb_enrolls`, `emodb_trials` (speakers).

    The speakers' sets hold all emotions: neutral utterances of four sentences enrol a speaker, and every utterance of
    the six other sentences is tried against every speaker of its gender. So no trial shares its text with any
    enrolment. The audio keeps its rate.

    Args:
        out: directory to hold the data directories.
        root: the corpus, with the folder `wav/`, or that folder; WAV or FLAC.
        classes: emotions of the set `emodb`: `vpc` (anger, happiness, neutral, sadness) or `all` seven.
        seed: draws among the choices of four sentences that leave every speaker equally many enrolment utterances.

    Returns:
        Names of the sets.

    Raises:
        UserError: if the corpus is not there, or a file's name is not of the corpus or occurs twice.
    """
    if classes not in CLASSES:
        raise UserError(f"unknown classes '{classes}'{suggest(classes, CLASSES)}")
    corpus = read_corpus(Path(root))
    some = sorted(utt for utt, rec in corpus.items() if rec.emotion in CLASSES[classes])
    if not some:
        raise UserError("no utterance of the wanted emotions", path=root, expected=" ".join(CLASSES[classes]))
    emotions = {"utt2emo": {utt: corpus[utt].emotion for utt in some}}
    notes = f"emotions: {' '.join(CLASSES[classes])}"
    meta = {"corpus": "emodb", "role": "utility", "split": "test", "notes": notes}
    main = tables(corpus, some, GENDERS, "de") | emotions
    return write_sets(out, {"emodb": (main, meta)} | _verification(corpus, seed))


def read_corpus(root: Path) -> dict[str, Recording]:
    """Recordings by utterance id, which is the file name with a hyphen after the speaker.

    Raises:
        UserError: see `prepare`.
    """
    require_dir(root, "the EMO-DB corpus")
    folder = (root / "wav" if (root / "wav").is_dir() else root).resolve()
    corpus: dict[str, Recording] = {}
    problems = Problems()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".wav", ".flac") or path.name.startswith("."):
            continue
        match = _NAME.fullmatch(path.stem)
        if not match or match[1] not in GENDERS or match[2] not in TEXTS or match[3] not in EMOTIONS:
            problems.add("not a file of EMO-DB", path=path, expected="SSTTTEV, such as 03a01Fa.wav")
            continue
        utt = f"{match[1]}-{path.stem[2:]}"
        if utt in corpus:
            problems.add(
                f"also in {corpus[utt].path.name}", path=path, utt=utt, expected="one file an utterance"
            )
        corpus[utt] = Recording(path, match[1], TEXTS[match[2]], match[2], EMOTIONS[match[3]])
    if not corpus and not problems:
        problems.add(
            "no .wav or .flac file is here", path=folder, hint="get EMO-DB from http://emodb.bilderbar.info"
        )
    problems.raise_if_any()
    return corpus


def _verification(corpus: dict[str, Recording], seed: int) -> Sets:
    """Enrolment and trial sets; none, with a message, where too little of the corpus is there."""
    texts = enrolment_texts(corpus, seed)
    enrolls = sorted(utt for utt, rec in corpus.items() if rec.session in texts and rec.emotion == "neu")
    tried = {utt: rec.speaker for utt, rec in corpus.items() if rec.session not in texts}
    trials, used, kept = [], [], []
    for gender in ("f", "m"):
        own = {utt: spk for utt, spk in tried.items() if GENDERS[spk] == gender}
        enrolled = {corpus[utt].speaker for utt in enrolls if GENDERS[corpus[utt].speaker] == gender}
        pairs = cross_product(enrolled, own)
        if not pairs:
            log.info("emodb: too few utterances for trials of gender %s", gender)
            continue
        trials += pairs
        used += own
        kept += [utt for utt in enrolls if corpus[utt].speaker in enrolled]
    if not trials:
        return {}
    notes = f"enrolment: neutral utterances of the sentences {' '.join(texts)}; trials: all emotions of the others"
    common = {"corpus": "emodb", "split": "test", "notes": notes}
    return {
        "emodb_enrolls": (
            tables(corpus, kept, GENDERS, "de") | {"enrolls": sorted(kept)},
            common | {"role": "enroll"},
        ),
        "emodb_trials": (
            tables(corpus, used, GENDERS, "de") | {"trials": trials},
            common | {"role": "trial", "enroll": "emodb_enrolls"},
        ),
    }


def enrolment_texts(corpus: dict[str, Recording], seed: int) -> tuple[str, ...]:
    """The sentences to enrol with: those that give the worst-off speaker most neutral utterances, ties drawn."""
    neutral: dict[str, list[str]] = {}  # speaker -> sentences of its neutral utterances
    for rec in corpus.values():
        if rec.emotion == "neu":
            neutral.setdefault(rec.speaker, []).append(rec.session)
    texts = sorted({rec.session for rec in corpus.values()})
    choices = list(combinations(texts, min(ENROLL_TEXTS, len(texts) // 2)))
    worst = [
        min((sum(text in choice for text in own) for own in neutral.values()), default=0)
        for choice in choices
    ]
    best = [choice for choice, count in zip(choices, worst, strict=True) if count == max(worst)]
    return best[generator(seed, "emodb", "sentences", "enrolment").integers(len(best))]

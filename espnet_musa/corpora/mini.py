"""`mini`: a small generated corpus, multilingual and emotional, for a recipe that needs no download and no GPU.

espeak-ng reads everyday sentences with invented voices (`mini_voices`). A speaker is a pitch, a vocal tract length,
formants, a voice quality and a tempo; an emotion changes pitch, its range, tempo, level and spectral tilt; an utterance
adds small variations of its own and a microphone. All of it is drawn by `seed.generator` from the seed and the ids, so
the same seed gives the same bytes for any number of jobs.

`sentences/<language>.txt` has one a line: those of the sets that attack and evaluate, an empty line, those of the set
that systems learn from.

It exercises every stage with numbers that move the right way. It is synthetic speech: no result on it says anything
about the protection of people.
"""

from __future__ import annotations

import hashlib
import json
import queue
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import soxr

from espnet_musa import seed as seeds
from espnet_musa import stamp
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import SAMPLE_RATE
from espnet_musa.errors import UserError, suggest
from espnet_musa.log import get_logger, progress

from .common import Sets, listed, write_sets
from .espeak import Espeak
from .mini_voices import CORPUS, EMOTIONS, LANGUAGES, RENDERING, Line, Voice, draw, render

COMMON_META = {"corpus": CORPUS, "notes": "synthetic speech, generated with espeak-ng"}
SETS = {
    "mini_train": {"role": "attack_train", "split": "train"},
    "mini_enrolls": {"role": "enroll", "split": "test"},
    "mini_trials": {"role": "trial", "split": "test", "enroll": "mini_enrolls"},
    "mini_codec": {"role": "train", "split": "train"},
}
# Mother tongues of successive speakers of a gender. Female evaluation speakers start at the beginning, male ones in
# the middle, so that six of each cover all nine. The last of the six, the impostor, shares English with the first.
ROTA = ("en", "de", "es", "nl", "pt", "en", "en", "fr", "it", "pl", "cmn", "en")
# Parts of the first sentences of a language, in the order of its file, so that no two sets share a sentence.
SHARES = {"enroll": 0.2, "trial": 0.3, "train": 0.5}
log = get_logger(__name__)


def prepare(
    out: Path,
    *,
    audio: Path,
    seed: int = 0,
    train_speakers: int = 12,
    train_utterances: int = 8,
    eval_speakers: int = 6,
    impostors: int = 1,
    enroll_utterances: int = 4,
    trial_utterances: int = 6,
    codec_speakers: int = 24,
    codec_utterances: int = 12,
    codec_languages: list[str] | None = None,
    eval_languages: list[str] | None = None,
    train_languages: list[str] | None = None,
    romanize: bool = False,
    jobs: int = 2,
) -> list[str]:
    """Generate the corpus and write its data directories `mini_{train,enrolls,trials,codec}`.

    With `eval_languages`, enrolment and trials are sets of one language each, `mini_<code>_{enrolls,trials}`, so that
    every evaluator gives its numbers by language; a language that is not among `codec_languages` is then one that
    systems have never heard.

    Args:
        out: directory to hold one data directory per set.
        audio: directory to hold the WAV files; complete or absent. A killed run goes on where it was, and audio made
            from other arguments or with another espeak-ng is replaced.
        seed: of everything.
        train_speakers: of each gender, in no other set; the attacker is trained with them.
        train_utterances: of each of them.
        eval_speakers: of each gender.
        impostors: how many of them, of each gender, are not enrolled.
        enroll_utterances: of each enrolled speaker.
        trial_utterances: of each evaluation speaker, of other sentences; all are tried against all enrolled speakers
            of the same gender. Sentences recur beyond 10 train, 4 enrolment and 6 trial utterances (English: double).
        codec_speakers: of each gender, in no other set, for systems to learn from; 0: no such set.
        codec_utterances: of each of them, of sentences of no other set; beyond 24 (English: 40) they recur.
        codec_languages: of them, codes of `LANGUAGES`; all by default.
        eval_languages: codes of the languages that have enrolment and trial sets of their own; `eval_speakers` and
            `impostors` are then of each language. By default all languages share one set of each.
        train_languages: mother tongues of the speakers of `mini_train`; all by default.
        romanize: write Mandarin in pinyin without tones. So few sentences hold so few of its characters that no
            recognizer learns them from here; syllables it can.
        jobs: processes of espeak-ng at a time; without influence on the result.

    Returns:
        Names of the sets.

    Raises:
        UserError: if a number is out of range, a language unknown or espeak-ng cannot be used.
    """
    _check_counts(
        1, train_speakers=train_speakers, train_utterances=train_utterances, eval_speakers=eval_speakers,
        enroll_utterances=enroll_utterances, trial_utterances=trial_utterances, codec_utterances=codec_utterances,
        jobs=jobs,
    )  # fmt: skip
    _check_counts(0, codec_speakers=codec_speakers)
    if not 0 <= impostors < eval_speakers:
        raise UserError(
            f"impostors is {impostors}", expected=f"0 to {eval_speakers - 1}, fewer than eval_speakers"
        )
    train = _cast(seed, "train", 1, train_speakers, 0, _rota(_known(train_languages, "train_languages")))
    tested = list(dict.fromkeys(_known(eval_languages, "eval_languages") or ()))
    count = eval_speakers * max(1, len(tested))
    shift = 0 if tested else len(ROTA) // 2
    evaluation = _cast(seed, "eval", 1 + train_speakers, count, shift, tuple(tested) or ROTA)
    enrolled = [s for s in evaluation if s.rank < count - impostors * max(1, len(tested))]
    rota = _rota(_known(codec_languages, "codec_languages"))
    codec = _cast(seed, "codec", 1 + train_speakers + count, codec_speakers, len(rota) // 2, rota)
    lines = {
        "mini_train": _script(seed, train, "train", train_utterances, 0),
        "mini_enrolls": _script(seed, enrolled, "enroll", enroll_utterances, 0),
        "mini_trials": _script(seed, evaluation, "trial", trial_utterances, enroll_utterances),
        "mini_codec": _script(seed, codec, "codec", codec_utterances, 0),
    }
    audio = Path(audio).resolve()
    _generate(audio, [line for part in lines.values() for line in part], seed, jobs)
    return write_sets(out, _sets(lines, enrolled, audio, tested, romanize))


def _known(languages: list[str] | str | None, option: str) -> list[str] | None:
    """Codes of languages, checked."""
    codes = listed(languages)
    for code in codes or ():
        if code not in LANGUAGES:
            raise UserError(f"{option}: unknown language '{code}'{suggest(code, LANGUAGES)}")
    if codes is not None and not codes:
        raise UserError(f"{option} is empty", expected=f"some of {' '.join(LANGUAGES)}")
    return codes


def _rota(languages: list[str] | None) -> tuple[str, ...]:
    """Mother tongues of the speakers that systems learn from: those of `ROTA` that are wanted."""
    return tuple(code for code in ROTA if languages is None or code in languages)


def _check_counts(least: int, **counts: int) -> None:
    for name, value in counts.items():
        if value < least:
            raise UserError(f"{name} is {value}", expected=f"at least {least}")


@dataclass(frozen=True)
class _Speaker:
    name: str
    gender: str
    rank: int  # within gender and part, from 0
    language: str
    voice: Voice


def _cast(
    seed: int, part: str, first: int, count: int, shift: int, rota: tuple[str, ...] = ROTA
) -> list[_Speaker]:
    """Invent `count` speakers of each gender, numbered from `first`; `shift` is where men start in the rota."""
    speakers = []
    for gender in ("f", "m"):
        start = shift if gender == "m" else 0
        for rank, voice in enumerate(draw(seed, part, gender, count)):
            language = rota[(start + rank) % len(rota)]
            speakers.append(_Speaker(f"{gender}{first + rank:02d}", gender, rank, language, voice))
    return speakers


def _sentences(language: str, part: str) -> list[str]:
    """The sentences of a language that are reserved for a part (enroll, trial, train, codec)."""
    path = Path(__file__).with_name("sentences") / f"{language}.txt"
    every, codec = (block.splitlines() for block in path.read_text(encoding="utf-8").split("\n\n"))
    if part == "codec":
        return codec
    parts = list(SHARES)
    start = sum(SHARES[p] for p in parts[: parts.index(part)])
    return every[round(start * len(every)) : round((start + SHARES[part]) * len(every))]


def _script(seed: int, speakers: list[_Speaker], part: str, count: int, first: int) -> list[Line]:
    """What each speaker says: sentences in an order of the speaker's own, emotions in turn; numbered from `first`."""
    lines = []
    for speaker in speakers:
        pool = _sentences(speaker.language, part)
        order = seeds.generator(seed, CORPUS, speaker.name, f"sentences {part}").permutation(len(pool))
        for index in range(count):
            emotion = list(EMOTIONS)[index % len(EMOTIONS)]
            utt = f"{speaker.name}-{speaker.language}-{emotion}-{first + index:02d}"
            sentence = pool[order[index % len(pool)]]
            lines.append(
                Line(utt, speaker.name, speaker.gender, speaker.language, emotion, sentence, speaker.voice)
            )
    return lines


def _trials(enrolled: list[_Speaker], lines: list[Line]) -> list[tuple[str, str, bool]]:
    """Every enrolled speaker against every trial utterance of the same gender."""
    return [
        (speaker.name, line.utt, speaker.name == line.speaker)
        for speaker in enrolled
        for line in lines
        if line.gender == speaker.gender
    ]


def transcript(sentence: str) -> str:
    """Lower case without punctuation, as MLS writes it; apostrophes and hyphens within words stay."""
    return " ".join(re.sub(r"[^\w'\- ]", "", sentence.lower()).split())


def _roman(line: Line) -> str:
    """The sentence, Mandarin in pinyin: a word for each character."""
    if line.language != "cmn":
        return line.sentence
    from pypinyin import lazy_pinyin

    return " ".join(lazy_pinyin(line.sentence))


def _sets(
    lines: dict[str, list[Line]], enrolled: list[_Speaker], audio: Path, languages: list[str], romanize: bool
) -> Sets:
    """The sets that have utterances; enrolment and trials by language, if there are `languages`."""
    parts = []  # name of a set, its lines, what it lists, its role and the like
    for name, own in lines.items():
        part = name.removeprefix("mini_")
        for code in languages if languages and part in ("enrolls", "trials") else [""]:
            said = [line for line in own if code in ("", line.language)]
            speakers = [speaker for speaker in enrolled if code in ("", speaker.language)]
            lists = {
                "enrolls": {"enrolls": [line.utt for line in said]},
                "trials": {"trials": _trials(speakers, said)},
            }
            stem = f"mini_{code}" if code else "mini"
            meta = SETS[name] | ({"enroll": f"{stem}_enrolls"} if part == "trials" else {})
            parts.append((f"{stem}_{part}", said, lists.get(part, {}), meta))
    return {
        name: (_tables(said, audio, romanize) | own, COMMON_META | meta)
        for name, said, own, meta in parts
        if said
    }


def _tables(lines: list[Line], audio: Path, romanize: bool) -> dict[str, dict[str, str]]:
    return {
        "wav.scp": {line.utt: str(audio / f"{line.utt}.wav") for line in lines},
        "utt2spk": {line.utt: line.speaker for line in lines},
        "spk2gender": {line.speaker: line.gender for line in lines},
        "text": {line.utt: transcript(_roman(line) if romanize else line.sentence) for line in lines},
        "utt2lang": {line.utt: line.language for line in lines},
        "utt2emo": {line.utt: line.emotion for line in lines},
    }


def _generate(audio: Path, lines: list[Line], seed: int, jobs: int) -> None:
    """Make the WAV files that are missing; `audio` appears when all of them are there.

    A WAV file counts as made when it is there: it is written under another name, and a directory with audio made from
    anything else (`fields`) is emptied first.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        first = stack.enter_context(Espeak())
        content = json.dumps([asdict(line) for line in lines], sort_keys=True)
        fields = {
            "rendering": RENDERING,
            "espeak-ng": first.version,
            "soxr": soxr.__version__,
            "seed": seed,
            "lines": hashlib.sha256(content.encode()).hexdigest()[:16],
        }
        partial = stamp.begin(audio, "data", fields, force=True)
        folder = audio if partial is None else partial
        for leftover in folder.glob(".*.tmp"):  # of a write that was killed
            leftover.unlink()
        missing = [line for line in lines if not (folder / f"{line.utt}.wav").exists()]
        idle: queue.SimpleQueue[Espeak] = queue.SimpleQueue()
        idle.put(first)
        for _ in range(min(jobs, len(missing)) - 1):
            idle.put(stack.enter_context(Espeak()))

        def make(line: Line) -> None:
            espeak = idle.get()
            try:
                write_wav(folder / f"{line.utt}.wav", render(espeak, line, seed), SAMPLE_RATE)
            finally:
                idle.put(espeak)

        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        for _ in progress(pool.map(make, missing), total=len(missing), desc="mini: speaking"):
            pass
        if partial is not None:
            stamp.finish(audio, "data", counts={"utterances": len(lines)}, seconds=time.monotonic() - began)
        log.info("%s: %d utterances, %d of them new", audio.name, len(lines), len(missing))

"""`mini`: a small generated corpus, multilingual and emotional, for a recipe that needs no download and no GPU.

espeak-ng reads everyday sentences (`sentences/<language>.txt`, one a line) with invented voices. A speaker is a pitch,
a vocal tract length, formants, a voice quality and a tempo; an emotion changes pitch, its range, tempo, level and
spectral tilt; an utterance adds small variations of its own and a microphone. All of it is drawn by
`seed.generator` from the seed and the ids, so the same seed gives the same bytes for any number of jobs.

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
from typing import Any

import numpy as np
import soxr

from espnet_musa import seed as seeds
from espnet_musa import stamp
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import SAMPLE_RATE, write_datadir
from espnet_musa.errors import UserError
from espnet_musa.log import get_logger, progress

from .espeak import Espeak

RENDERING = 1  # to be raised when `_variant` or `render` changes what is heard: older audio is then made anew
CORPUS = "mini"
COMMON_META = {"corpus": CORPUS, "notes": "synthetic speech, generated with espeak-ng"}
SETS = {
    "mini_train": {"role": "attack_train", "split": "train"},
    "mini_enrolls": {"role": "enroll", "split": "test"},
    "mini_trials": {"role": "trial", "split": "test", "enroll": "mini_enrolls"},
}
LANGUAGES = {  # utt2lang -> espeak-ng's voice
    "en": "en-us",
    "de": "de",
    "es": "es",
    "fr": "fr",
    "it": "it",
    "nl": "nl",
    "pl": "pl",
    "pt": "pt-br",
    "cmn": "cmn",
}
# Mother tongues of successive speakers of a gender. Female evaluation speakers start at the beginning, male ones in
# the middle, so that six of each cover all nine. The last of the six, the impostor, shares English with the first.
ROTA = ("en", "de", "es", "nl", "pt", "en", "en", "fr", "it", "pl", "cmn", "en")
# Parts of the sentences of a language, in the order of its file, so that no two sets share a sentence.
SHARES = {"enroll": 0.2, "trial": 0.3, "train": 0.5}
log = get_logger(__name__)


@dataclass(frozen=True)
class Prosody:
    """What an emotion does to a voice."""

    pitch: float  # factor of the middle of the F0 range
    span: float  # factor of the range
    tempo: float  # factor of the speaking rate
    level: float  # dB
    tilt: float  # dB per octave of spectrum


EMOTIONS = {
    "neu": Prosody(1.0, 1.0, 1.0, 0.0, 0.0),
    "ang": Prosody(1.12, 1.6, 1.12, 4.0, 1.5),
    "hap": Prosody(1.25, 1.8, 1.05, 2.0, 0.5),
    "sad": Prosody(0.92, 0.4, 0.82, -4.0, -1.5),
}
# Ranges that voices are drawn from, each divided evenly among the speakers of a gender and part.
PITCH = {"f": (165.0, 245.0), "m": (85.0, 145.0)}  # Hz, middle of the F0 range; medians are 5-15 % higher
TRACT = {"f": (1.04, 1.22), "m": (0.90, 1.06)}  # all formants, relative to espeak-ng's (male) voice
SPAN = (4.0, 8.0)  # semitones between the ends of the pitch range
RATE = (155.0, 190.0)  # words per minute
TILT = (-4.0, 3.0)  # dB per octave above 600 Hz
FORMANT = (0.92, 1.08)  # of each of F1 to F4, on top of the tract
HEIGHT = (65.0, 120.0)  # % of each of F1 to F4
WIDTH = (80.0, 150.0)  # % of each of F1 to F4
BREATH = (0.0, 6.0)  # noise excited in the formants
ROUGHNESS = (0.0, 2.0)  # alternate glottal cycles; from 3 on, F0 estimators hear the octave below
FLUTTER = (1.0, 10.0)  # irregularity of the pitch
CONSONANTS = (80.0, 125.0)  # % level of unvoiced consonants
# Variation between the utterances of a speaker (standard deviations) and their recording conditions (ranges).
PITCH_SD = 0.6  # semitones
TRACT_SD = 0.006  # share
TEMPO_SD = 0.04  # share
MICROPHONE = (-0.3, 0.3)  # t of the filter 1 - t/z: 8 kHz from 5 dB below 0 Hz to 5 dB above
SPEECH_LEVEL = (-28.0, -24.0)  # dB of full scale, rms
NOISE_LEVEL = (-70.0, -60.0)  # dB of full scale, rms
MARGIN = (0.08, 0.20)  # seconds of noise before and after the speech
PEAK = 0.9  # of full scale; a louder utterance is scaled down to it


@dataclass(frozen=True)
class Voice:
    """What is constant in a speaker; units as in the ranges above."""

    pitch: float
    tract: float
    span: float
    rate: float
    tilt: float
    formants: tuple[float, ...]
    heights: tuple[float, ...]
    widths: tuple[float, ...]
    breath: float
    roughness: float
    flutter: float
    consonants: float


@dataclass(frozen=True)
class Line:
    """One utterance to be spoken."""

    utt: str
    speaker: str
    gender: str
    language: str
    emotion: str
    sentence: str
    voice: Voice


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
    jobs: int = 2,
) -> list[str]:
    """Generate the corpus and write its data directories `mini_train`, `mini_enrolls` and `mini_trials`.

    Args:
        out: directory to hold one data directory per set.
        audio: directory to hold the WAV files; complete or absent. A killed run goes on where it was, and audio made
            from other arguments or with another espeak-ng is replaced.
        seed: of everything.
        train_speakers: of each gender, in no other set.
        train_utterances: of each of them.
        eval_speakers: of each gender.
        impostors: how many of them, of each gender, are not enrolled.
        enroll_utterances: of each enrolled speaker.
        trial_utterances: of each evaluation speaker, of other sentences; all are tried against all enrolled speakers
            of the same gender. Sentences recur beyond 10 train, 4 enrolment and 6 trial utterances (English: double).
        jobs: processes of espeak-ng at a time; without influence on the result.

    Returns:
        Names of the sets.

    Raises:
        UserError: if a number is out of range or espeak-ng cannot be used.
    """
    _check_at_least_one(
        train_speakers=train_speakers,
        train_utterances=train_utterances,
        eval_speakers=eval_speakers,
        enroll_utterances=enroll_utterances,
        trial_utterances=trial_utterances,
        jobs=jobs,
    )
    if not 0 <= impostors < eval_speakers:
        raise UserError(
            f"impostors is {impostors}", expected=f"0 to {eval_speakers - 1}, fewer than eval_speakers"
        )
    train = _cast(seed, "train", 1, train_speakers, 0)
    evaluation = _cast(seed, "eval", 1 + train_speakers, eval_speakers, len(ROTA) // 2)
    enrolled = [s for s in evaluation if s.rank < eval_speakers - impostors]
    lines = {
        "mini_train": _script(seed, train, "train", train_utterances, 0),
        "mini_enrolls": _script(seed, enrolled, "enroll", enroll_utterances, 0),
        "mini_trials": _script(seed, evaluation, "trial", trial_utterances, enroll_utterances),
    }
    audio = Path(audio).resolve()
    _generate(audio, [line for part in lines.values() for line in part], seed, jobs)
    lists: dict[str, dict[str, Any]] = {
        "mini_train": {},
        "mini_enrolls": {"enrolls": [line.utt for line in lines["mini_enrolls"]]},
        "mini_trials": {"trials": _trials(enrolled, lines["mini_trials"])},
    }
    for name, part in lines.items():
        write_datadir(Path(out) / name, _tables(part, audio) | lists[name], COMMON_META | SETS[name])
    return list(lines)


def _check_at_least_one(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}", expected="at least 1")


@dataclass(frozen=True)
class _Speaker:
    name: str
    gender: str
    rank: int  # within gender and part, from 0
    language: str
    voice: Voice


def _cast(seed: int, part: str, first: int, count: int, shift: int) -> list[_Speaker]:
    """Invent `count` speakers of each gender, numbered from `first`; `shift` is where men start in the rota."""
    speakers = []
    for gender in ("f", "m"):
        start = shift if gender == "m" else 0
        for rank, voice in enumerate(_voices(seed, part, gender, count)):
            language = ROTA[(start + rank) % len(ROTA)]
            speakers.append(_Speaker(f"{gender}{first + rank:02d}", gender, rank, language, voice))
    return speakers


def _voices(seed: int, part: str, gender: str, count: int) -> list[Voice]:
    """Draw voices by Latin hypercube sampling: in each dimension, one voice in each of `count` equal parts.

    McKay, Beckman and Conover, Technometrics 21(2), 1979. Independent draws would make some pairs of so few speakers
    almost equal and leave gaps elsewhere.
    """
    rng = seeds.generator(seed, CORPUS, f"{part} {gender}", "voices")

    def spread(limits: tuple[float, float], columns: int = 1) -> np.ndarray:
        places = [(rng.permutation(count) + rng.random(count)) / count for _ in range(columns)]
        return limits[0] + (limits[1] - limits[0]) * np.round(np.stack(places, axis=1), 4)

    low, high = np.log(PITCH[gender])
    scalars = [np.exp(spread((low, high))), spread(TRACT[gender]), spread(SPAN), spread(RATE), spread(TILT)]
    vectors = [spread(FORMANT, 4), spread(HEIGHT, 4), spread(WIDTH, 4)]
    rest = [spread(limits) for limits in (BREATH, ROUGHNESS, FLUTTER, CONSONANTS)]
    return [
        Voice(
            *(float(x[i, 0]) for x in scalars),
            *(tuple(map(float, x[i])) for x in vectors),
            *(float(x[i, 0]) for x in rest),
        )
        for i in range(count)
    ]


def _sentences(language: str, part: str) -> list[str]:
    """The sentences of a language that are reserved for a part (enroll, trial, train)."""
    path = Path(__file__).with_name("sentences") / f"{language}.txt"
    every = path.read_text(encoding="utf-8").splitlines()
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


def _tables(lines: list[Line], audio: Path) -> dict[str, dict[str, str]]:
    return {
        "wav.scp": {line.utt: str(audio / f"{line.utt}.wav") for line in lines},
        "utt2spk": {line.utt: line.speaker for line in lines},
        "spk2gender": {line.speaker: line.gender for line in lines},
        "text": {line.utt: transcript(line.sentence) for line in lines},
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


def _variant(line: Line, pitch: float, tract: float) -> str:
    """An espeak-ng voice variant: this voice in this mood.

    Args:
        line: the utterance.
        pitch: middle of its F0 range in Hz.
        tract: factor by which `render` will raise all frequencies, for which the pitch makes room.
    """
    voice, mood = line.voice, EMOTIONS[line.emotion]
    half = voice.span * mood.span / 2
    low, high = (pitch / tract * 2 ** (x / 12) for x in (-half, half))
    # Level (0 to 255) of the spectrum at four frequencies; espeak-ng's own voice falls from 170 to 110.
    tilt = voice.tilt + mood.tilt
    tone = {f: min(130 * 10 ** (tilt * np.log2(f / 1200) / 20), 255) for f in (600, 1200, 2000, 3000)}
    triples = zip(voice.formants, voice.heights, voice.widths, strict=True)
    formants = [f"formant {n} {100 * x:.0f} {h:.0f} {w:.0f}" for n, (x, h, w) in enumerate(triples, 1)]
    return "\n".join([
        "language variant", "name speaker", f"gender {'female' if line.gender == 'f' else 'male'}",
        f"pitch {low:.0f} {high:.0f}", *formants,
        "tone " + " ".join(f"{f} {level:.0f}" for f, level in tone.items()),
        f"roughness {voice.roughness:.0f}", f"flutter {voice.flutter:.0f}",
        "breath 0 " + " ".join([f"{voice.breath:.0f}"] * 6), f"consonants {voice.consonants:.0f}", "",
    ])  # fmt: skip


def render(espeak: Espeak, line: Line, seed: int) -> np.ndarray:
    """Speak one utterance as if recorded: (T,) float32, 16 kHz, peak at most `PEAK`, nowhere digital silence."""
    rng = seeds.generator(seed, CORPUS, line.utt, "recording")
    voice, mood = line.voice, EMOTIONS[line.emotion]
    pitch = voice.pitch * mood.pitch * 2 ** (PITCH_SD * rng.standard_normal() / 12)
    tract = voice.tract * (1 + TRACT_SD * rng.standard_normal())
    tempo = mood.tempo * (1 + TEMPO_SD * rng.standard_normal())
    samples = espeak.say(
        line.sentence,
        LANGUAGES[line.language],
        _variant(line, pitch, tract),
        rate=int(np.clip(voice.rate * tempo / tract, 80, 450)),
        seed=int(rng.integers(2**31)),
    )
    # Played faster, a voice has a shorter vocal tract; its pitch and tempo were lowered by as much beforehand.
    wav = soxr.resample(np.frombuffer(samples, "<i2") / 32768, espeak.sample_rate * tract, SAMPLE_RATE)
    tap = rng.uniform(*MICROPHONE)
    wav[1:] -= tap * wav[:-1]
    margins = np.round(rng.uniform(*MARGIN, size=2) * SAMPLE_RATE).astype(int)
    level = 10 ** ((rng.uniform(*SPEECH_LEVEL) + mood.level) / 20)
    wav = np.pad(wav * (level / np.sqrt(np.mean(wav**2))), margins)
    wav += 10 ** (rng.uniform(*NOISE_LEVEL) / 20) * rng.standard_normal(len(wav))
    return (wav * min(1.0, PEAK / np.abs(wav).max())).astype(np.float32)

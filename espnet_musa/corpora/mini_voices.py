"""Voices and moods of the corpus `mini`: how a speaker is invented, and how an utterance is spoken and recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from espnet_musa import seed as seeds
from espnet_musa.data.datadir import SAMPLE_RATE

from .espeak import Espeak

CORPUS = "mini"
RENDERING = 1  # to be raised when `_variant` or `render` changes what is heard: older audio is then made anew
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


def draw(seed: int, part: str, gender: str, count: int) -> list[Voice]:
    """Draw `count` voices by Latin hypercube sampling: in each dimension, one voice in each of `count` equal parts.

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

"""What a codec is trained on: utterances of formatted sets with their teacher tokens, as ESPnet's data files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.datadir import SAMPLE_RATE, DataDir
from ..data.table import write_text
from ..errors import Problems, UserError
from ..seed import generator
from ..tokenizer.store import load_tokens

HOP = 320  # samples from frame to frame, of the teacher's and of the codec's
HELD_OUT = (50, 8, 256)  # validation: every fiftieth utterance, but at least and at most so many


@dataclass(frozen=True)
class Utterance:
    """What ESPnet's data files say of an utterance."""

    wav: Path
    speaker: str
    samples: int
    tokens: str | None  # <ark>:<offset>
    language: str = ""  # code of utt2lang; empty: not known


def gather(
    sets: Iterable[DataDir], places: dict[str, Path], n_tokens: int, *, by_language: bool = False
) -> dict[str, Utterance]:
    """All utterances of the sets; with their tokens, if `places` says for each set where they lie.

    Raises:
        UserError: for an utterance in two sets, one without tokens, tokens that are no tokens of the tokenizer's, or a
            teacher and a codec that differ by more than one frame; for fewer than two speakers; `by_language`: for an
            utterance without a language.
    """
    out: dict[str, Utterance] = {}
    problems = Problems()
    for data in sets:
        tokens = load_tokens(places[data.name]) if data.name in places else None
        speakers, durations = data.table("utt2spk"), data.table("utt2dur")
        languages = data.tables.get("utt2lang", {})
        for utt in data.utts:
            if utt in out:
                problems.add(f"also in {out[utt].wav.parent.parent}", path=data.path / "utt2spk", utt=utt)
            samples = round(durations[utt] * SAMPLE_RATE)
            place = None if tokens is None else tokens.places.get(utt)
            out[utt] = Utterance(data.audio_path(utt), speakers[utt], samples, place, languages.get(utt, ""))
            if by_language and not out[utt].language:
                hint = "language_temperature wants utt2lang for all training sets"
                problems.add("no language", path=data.path / "utt2lang", utt=utt, hint=hint)
            where = {"path": places.get(data.name), "utt": utt}
            if place:
                _check_tokens(tokens[utt], samples, n_tokens, problems, **where)
            elif tokens is not None:
                problems.add("no tokens", hint="run stage 'tokenize' again", **where)
    problems.raise_if_any()
    speakers = {utterance.speaker for utterance in out.values()}
    if len(speakers) < 2:
        where = ", ".join(str(data.path) for data in sets)
        raise UserError(f"{len(speakers)} speaker(s)", path=where, expected="two or more to train")
    return out


def _check_tokens(tokens: np.ndarray, samples: int, n_tokens: int, problems: Problems, **where: Any) -> None:
    """Tokens (F,) of an utterance against its length and the tokenizer; what is wrong goes to `problems`."""
    # A partial frame at the end does not count: the codec fills it with zeros, while a teacher may want 400 samples.
    frames = samples // HOP
    if abs(len(tokens) - frames) > 1:
        problems.add(
            f"{len(tokens)} tokens for {frames} frames of the codec", expected="at most one frame of difference",
            hint="the tokens are of other audio, or of a teacher with another frame rate", **where,
        )  # fmt: skip
    if len(tokens) and not (0 <= tokens.min() and tokens.max() < n_tokens):
        problems.add(
            f"tokens from {tokens.min()} to {tokens.max()}", expected=f"0 to {n_tokens - 1}",
            hint="they are of another tokenizer; run stage 'tokenize' again", **where,
        )  # fmt: skip


def split(utterances: dict[str, Utterance], seed: int) -> tuple[list[str], list[str]]:
    """Utterances to train on and to validate on, both in random order.

    A speaker's last one is not held out, unless no speaker has two.

    Returns:
        training and validation.

    Raises:
        UserError: if there are too few to hold any out.
    """
    utts = sorted(utterances)
    order = [utts[i] for i in generator(seed, "musa", "all", "order").permutation(len(utts))]
    share, least, most = HELD_OUT
    wanted = min(most, max(least, len(utts) // share))
    left: dict[str, int] = {}
    for utterance in utterances.values():
        left[utterance.speaker] = left.get(utterance.speaker, 0) + 1
    held_out = set()
    for utt in order:
        speaker = utterances[utt].speaker
        if len(held_out) < min(wanted, len(utts) // 4 + 1) and left[speaker] > 1:
            left[speaker] -= 1
            held_out.add(utt)
    if not held_out:  # then whole speakers, of whom only the speaker losses know nothing
        held_out = set(order[: min(wanted, (len(utts) - 1) // 2)])
    if not held_out:
        raise UserError(
            f"{len(utts)} utterances of {len(left)} speakers",
            expected="some to validate on besides those to train on",
        )
    return [utt for utt in order if utt not in held_out], [utt for utt in order if utt in held_out]


def write(
    place: Path, utterances: dict[str, Utterance], speakers: list[str], f0: Mapping[str, str] | None = None
) -> None:
    """ESPnet's data files of one part, all in the same order; `f0` as <ark>:<offset>, for a vocoder."""
    number = {speaker: i for i, speaker in enumerate(speakers)}
    tables: dict[str, dict[str, Any]] = {
        "wav.scp": {utt: own.wav for utt, own in utterances.items()},
        "utt2sid": {utt: number[own.speaker] for utt, own in utterances.items()},
        "audio_shape": {utt: own.samples for utt, own in utterances.items()},
        "tokens.scp": {utt: own.tokens for utt, own in utterances.items() if own.tokens},
        "utt2lang": {utt: own.language for utt, own in utterances.items() if own.language},
        "f0.scp": {utt: f0[utt] for utt in utterances} if f0 else {},
    }
    place.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        if table:
            write_text(place / name, "".join(f"{utt} {value}\n" for utt, value in table.items()))


def check_temperature(value: Any, path: Path, line: int | None = None) -> None:
    """Refuse a `language_temperature` (see `tasks/sampling.py`) that is none.

    Raises:
        UserError: if it is no number above 0.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and value > 0):
        raise UserError(
            f"language_temperature is {value!r}", path=path, line=line, expected="more than 0, .inf, or null"
        )

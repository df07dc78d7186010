"""Transcripts as units that an acoustic model can recognise: characters, phones of a lexicon, phones of the corpus."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ..data.datadir import DataDir
from ..errors import SHOWN, UserError
from ..log import get_logger
from ..metrics.text_norm import scheme
from .config import UnitsConfig

log = get_logger(__name__)
SILENCE = "SIL"  # unit 0
PHONES = "phones"  # file of a data directory
BOUNDARY = "|"  # between words in that file
Words = list[list[str]]  # an utterance: the units of each word


def read(data: DataDir, utts: Iterable[str], config: UnitsConfig) -> dict[str, Words]:
    """Transcripts of the utterances that have one in these units; how many lack one, and which, is logged.

    Args:
        data: the set.
        utts: of it.
        config: which units.

    Raises:
        UserError: if the set has no transcripts, or none of them can be used.
    """
    file = PHONES if config.kind == PHONES else "text"
    if not data.has(file):
        raise UserError(
            f"file '{file}' is missing: a vq_bottleneck is trained with transcripts", path=data.path,
            hint="name sets with transcripts, or take tokens that need none (tokenizer: kmeans, feature_codec)",
        )  # fmt: skip
    table, languages = data.table(file), data.tables.get("utt2lang", {})
    lexicon = read_lexicon(Path(config.path)) if config.path else None
    out: dict[str, Words] = {}
    reasons: dict[str, list[str]] = {}
    for utt in utts:
        if file == PHONES:
            words = [word.split() for word in table[utt].split(BOUNDARY)]
        else:
            words = _characters(
                table[utt], languages.get(utt, "en" if lexicon else "und"), config.normalization
            )
        reason = None
        if lexicon is not None:
            lacking = [word for word in map("".join, words) if word not in lexicon]
            reason = "words that the lexicon lacks" if lacking else None
            words = [] if lacking else [lexicon["".join(word)] for word in words]
        elif file != PHONES and any(not _spoken(unit) for word in words for unit in word):
            reason = "characters that are no letters"
        words = [word for word in words if word]
        if reason or not words:
            reasons.setdefault(reason or "nothing to recognise", []).append(utt)
        else:
            out[utt] = words
    for reason, own in reasons.items():
        log.warning(
            "%s: %d of %d transcripts left out for %s: %s", data.path, len(own), len(own) + len(out), reason, names(own)
        )  # fmt: skip
    if not out:
        raise UserError(
            f"none of {sum(map(len, reasons.values()))} transcripts can be written in units of kind '{config.kind}'",
            path=data.path / file, expected="some", hint=f"the first problem: {next(iter(reasons), 'no utterances')}",
        )  # fmt: skip
    return out


def names(utts: list[str]) -> str:
    """The first few, for a message."""
    return ", ".join(utts[:SHOWN]) + (", ..." if len(utts) > SHOWN else "")


def _characters(text: str, language: str, normalization: str) -> Words:
    """Words of a text, letter by letter, in lower case; where nothing parts words, each character is one."""
    own = scheme(language, normalization)
    words = own.apply(text).lower().replace("'", "").split()
    return [list(word) for word in words] if own.words else [[c] for word in words for c in word]


def _spoken(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def read_lexicon(path: Path) -> dict[str, list[str]]:
    """A pronunciation dictionary: word, in lower case and without apostrophes -> phones without stress digits.

    Of several pronunciations the first one counts. A second column of numbers (Kaldi's lexiconp.txt) is skipped.

    Raises:
        UserError: if the file is missing or a line has no phones.
    """
    out: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the lexicon cannot be read ({error})", path=path, expected="a line a word"
        ) from None
    for number, line in enumerate(lines, 1):
        word, *phones = line.split() or [""]
        if not word:
            continue
        if phones and _is_number(phones[0]):
            phones = phones[1:]
        if not phones:
            raise UserError("a word without phones", path=path, line=number, expected="WORD PHONE ...")
        out.setdefault(word.lower().replace("'", ""), [phone.rstrip("0123456789") for phone in phones])
    if not out:
        raise UserError("holds no words", path=path, expected="WORD PHONE ...")
    return out


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def inventory(transcripts: Iterable[Words]) -> list[str]:
    """All units, sorted, silence first; a silence that a lexicon names itself is that one."""
    found = {unit for words in transcripts for word in words for unit in word}
    return [SILENCE, *sorted(found - {SILENCE})]


def numbered(words: Words, numbers: dict[str, int]) -> list[int]:
    """Units as numbers, with `lfmmi.BREAK` before, between and after words."""
    out = [0]
    for word in words:
        out += [numbers[unit] for unit in word if unit != SILENCE]
        out += [0] if out[-1] else []
    return out

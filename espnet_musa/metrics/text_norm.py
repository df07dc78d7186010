"""Text normalisation before words or characters are counted: explicit, per language, with a sentence for the notes.

Reference and hypothesis pass through the same function, and nothing else ever touches them. Every scheme begins with
Unicode NFC, makes the apostrophe's variants one, and ends with single spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError, suggest

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'"})
_HAN = re.compile(r"[^㐀-䶿一-鿿豈-﫿𠀀-𯿿]")  # all but Chinese characters


@dataclass(frozen=True)
class Scheme:
    """A normalisation.

    Attributes:
        apply: text -> text.
        says: what it does, for the notes of a metric.
        words: whether spaces part words; else only characters can be counted.
    """

    apply: Callable[[str], str]
    says: str
    words: bool = True


def vpc(text: str) -> str:
    """VoicePrivacy's and LibriSpeech's English: `Don't stop the naïve!` -> `DON'T STOP THE NAIVE`.

    Accents are dropped; whatever is no letter from A to Z and no apostrophe parts words.
    """
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES).upper()
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    words = re.sub(r"[^A-Z']", " ", text).split()
    return " ".join(w for w in words if w.strip("'"))


def basic(text: str) -> str:
    """Lower case; letters, marks, digits and apostrophes within words stay, all else parts words."""
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES).lower()
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    words = (w.strip("'") for w in "".join(kept).split())
    return unicodedata.normalize(
        "NFC", " ".join(w for w in words if w)
    )  # lower() may have taken letters apart


def characters(text: str) -> str:
    """Chinese characters alone, nothing between them."""
    return _HAN.sub("", unicodedata.normalize("NFC", text))


def verbatim(text: str) -> str:
    """The text as it is, as VoicePrivacy 2024 scores it."""
    return " ".join(text.split())


SCHEMES = {
    "vpc": Scheme(vpc, "NFC, upper case, A to Z and apostrophes, no accents"),
    "basic": Scheme(basic, "NFC, lower case, no punctuation"),
    "characters": Scheme(characters, "NFC, Chinese characters only", words=False),
    "verbatim": Scheme(verbatim, "none"),
}
BY_LANGUAGE = {"en": "vpc", "cmn": "characters", "zh": "characters", "yue": "characters"}


def scheme(language: str, name: str = "language") -> Scheme:
    """The normalisation of a language.

    Args:
        language: ISO 639 code, as in `utt2lang`.
        name: a key of `SCHEMES` for all languages, or "language": "vpc" for English, "characters" for Chinese,
            "basic" for all others.

    Raises:
        UserError: for an unknown name.
    """
    if name == "language":
        name = BY_LANGUAGE.get(language, "basic")
    if name not in SCHEMES:
        raise UserError(f"unknown text normalisation '{name}'{suggest(name, [*SCHEMES, 'language'])}")
    return SCHEMES[name]

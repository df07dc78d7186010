"""One table of the files that a data directory may hold: key, value, derived or not.

Every tool (read, validate, fix, subset, split, combine, copy) works from this table, so that none of them can
forget a file. A file that is not in it is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EMOTIONS = ("ang", "hap", "neu", "sad", "bor", "dis", "fea")  # VoicePrivacy's four, then EMO-DB's others
ROLES = ("enroll", "trial", "train", "attack_train", "utility")


@dataclass(frozen=True)
class FileSpec:
    """A file of a data directory.

    Attributes:
        key: what a line is about: `utt`, `rec` (recording), `spk`, or `list` (a bare list of utterances).
        parse: text after the key -> value; raises ValueError saying what was expected.
        format: value -> text; the inverse.
        doc: one line for the documentation.
    """

    key: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str]
    doc: str


def _token(text: str) -> str:
    if not text or len(text.split()) != 1:
        raise ValueError("exactly two columns")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("a value after the key")
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError("a positive number of seconds")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError("a positive whole number")
    return int(text)


def _language(text: str) -> str:
    if not re.fullmatch(r"[a-z]{2,3}", text):
        raise ValueError("an ISO 639 code in lower case, such as 'en' or 'cmn'")
    return text


def _segment(text: str) -> tuple[str, float, float]:
    parts = text.split()
    try:
        recording, start, end = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise ValueError("<utt> <recording> <start s> <end s>") from None
    if len(parts) != 3 or not (0 <= start < end < math.inf):
        raise ValueError("<utt> <recording> <start s> <end s> with 0 <= start < end")
    return recording, start, end


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("a JSON value") from None


def _words(text: str) -> list[str]:
    if not text:
        raise ValueError("a speaker and its utterances")
    return text.split()


FILES: dict[str, FileSpec] = {
    "wav.scp": FileSpec("rec", _text, str, "audio file, ark offset or command ending in | (source only)"),
    "segments": FileSpec("utt", _segment, lambda v: f"{v[0]} {v[1]:.10g} {v[2]:.10g}", "part of a recording"),
    "utt2spk": FileSpec("utt", _token, str, "speaker"),
    "text": FileSpec("utt", _text, str, "transcript"),
    "text_no_norm": FileSpec("utt", _text, str, "transcript as the corpus writes it"),
    "phones": FileSpec("utt", _text, str, "transcript in phones, | between words"),
    "utt2dur": FileSpec("utt", _seconds, lambda v: f"{v:.10g}", "duration in seconds"),
    "utt2num_frames": FileSpec("utt", _count, str, "feature frames"),
    "utt2lang": FileSpec("utt", _language, str, "language"),
    "utt2emo": FileSpec("utt", _one_of(*EMOTIONS), str, "emotion"),
    "utt2uniq": FileSpec("utt", _token, str, "utterance before augmentation"),
    "utt2target": FileSpec("utt", _json, lambda v: json.dumps(v, sort_keys=True), "planned target (JSON)"),
    "feats.scp": FileSpec("utt", _text, str, "features (kaldiio)"),
    "vad.scp": FileSpec("utt", _text, str, "voice activity (kaldiio)"),
    "cmvn.scp": FileSpec("spk", _text, str, "feature statistics (kaldiio)"),
    "spk2gender": FileSpec("spk", _one_of("f", "m"), str, "gender"),
    "spk2fold": FileSpec("spk", _token, str, "cross-validation fold"),
    "spk2utt": FileSpec("spk", _words, " ".join, "utterances of a speaker (derived from utt2spk)"),
    "enrolls": FileSpec("list", _text, str, "utterances that enrol their speaker"),
}
DERIVED = ("spk2utt",)
# Not key-value tables: the trials have a reader of their own (data/trials.py), the meta data are YAML.
OTHER = ("trials", "meta.yaml", "frame_shift")
FOLDERS = re.compile(r"wav|conf|data|log|split\d+(utt)?")


def check_id(name: str) -> str | None:
    """What is wrong with an utterance or speaker id, or None.

    An utterance id becomes a file name, so it must not climb out of its directory or exceed a file name's length.
    """
    if "/" in name or "\\" in name or name.startswith("."):
        return "an id must not hold a slash or start with a dot (it becomes a file name)"
    if len(name.encode("utf-8")) > 200:
        return "an id must not be longer than 200 bytes (it becomes a file name)"
    if not name.isprintable():
        return "an id must be printable"
    return None

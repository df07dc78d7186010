"""Track 2 (multilingual) of the VoicePrivacy Challenge 2026: its 30 data directories, and its rule for MLS.

    {en,es,fr,de,cn,ja}_{dev,test}_{enrolls,trials_mixed}    enrolment; all speakers against all trial utterances
    emodata_track2_{dev,test}                                emotion
    train_{english,spanish,french,german}                    the attacker of each language

Read of the challenge's repository at e6810a4. English, Spanish, French and German are MLS and scored; Mandarin (`cn`,
AISHELL-3) and Japanese (`ja`, JVS) are anonymized and submitted, and no configuration of the challenge scores them.
Which speakers of AISHELL-3 and JVS were taken, which utterances train the attackers, and what the emotional sets hold
is not in the repository: those come from the organisers' prepared folders alone.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import Problems, UserError
from ..log import get_logger
from ..seed import generator
from .common import Recording, Sets, require_dir, tables, write_sets
from .trial_rule import cross_product
from .vpc_lists import read_sets, resolve_audio

log = get_logger(__name__)
LANGUAGES = {"en": "en", "es": "es", "fr": "fr", "de": "de", "cn": "cmn", "ja": "ja"}  # folder -> utt2lang
TRAINING = {"en": "english", "es": "spanish", "fr": "french", "de": "german"}  # scored; folder train_<name>
SHARE = 0.15  # of a speaker's utterances that enrol it, rounded up
_CORPORA = {"cn": "aishell3", "ja": "jvs"}  # the others are MLS


def _track2() -> dict[str, tuple[str, dict[str, Any]]]:
    """Folder -> its language (empty: several) and the fields of its meta.yaml."""
    out: dict[str, tuple[str, dict[str, Any]]] = {}
    for folder, code in LANGUAGES.items():
        for split in ("dev", "test"):
            meta = {"corpus": _CORPORA.get(folder, "mls"), "split": split}
            enrolls = f"{folder}_{split}_enrolls"
            out[enrolls] = code, meta | {"role": "enroll"}
            out[f"{folder}_{split}_trials_mixed"] = code, meta | {"role": "trial", "enroll": enrolls}
    for split in ("dev", "test"):
        out[f"emodata_track2_{split}"] = "", {"corpus": "emodata_track2", "split": split, "role": "utility"}
    for code, name in TRAINING.items():
        out[f"train_{name}"] = code, {"corpus": "mls", "split": "train", "role": "attack_train"}
    return out


TRACK2 = _track2()
OPTIONAL = {name for name, (code, _) in TRACK2.items() if code in ("cmn", "ja")}  # of a submission


def prepare(out: Path, *, root: Path) -> list[str]:
    """Write data directories from the folders that the organisers of track 2 hand out.

    Paths in their wav.scp are relative to the directory that holds `root`. Genders may be in upper case, as theirs are.

    Args:
        out: directory to hold the data directories.
        root: the organisers' `data/`, with some or all of the folders of `TRACK2`.

    Returns:
        Names of the sets.

    Raises:
        UserError: if none of the folders is there, one is malformed, or audio is missing; nothing has been written.
    """
    root = Path(root)
    require_dir(root, "the organisers' data folders of track 2")
    present = [name for name in TRACK2 if (root / name).is_dir()]
    if not present:
        raise UserError("none of the folders of track 2 is here", path=root, expected=", ".join(TRACK2))
    absent = [name for name in TRACK2 if name not in present]
    if absent:
        log.info("not in %s, left out: %s", root, ", ".join(absent))
    metas = {name: TRACK2[name][1] for name in present}
    problems = Problems()
    sets: Sets = {}
    with tempfile.TemporaryDirectory() as place:
        for name in present:
            _lower_genders(root / name, Path(place) / name)
        read = read_sets(Path(place), metas, ("utt2spk", "wav.scp"))
    for name, own in read.items():
        resolve_audio(own["wav.scp"], root / name / "wav.scp", root.resolve().parent, problems)
        if TRACK2[name][0]:
            own["utt2lang"] = dict.fromkeys(own["utt2spk"], TRACK2[name][0])
        sets[name] = own, metas[name] | {"notes": "as prepared by the organisers of VoicePrivacy 2026"}
    problems.raise_if_any()
    return write_sets(out, sets)


def _lower_genders(folder: Path, out: Path) -> None:
    """Links to the files of a folder; where its spk2gender has `F` and `M`, a copy with `f` and `m`."""
    out.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name == "spk2gender":
            text = file.read_text(encoding="utf-8", errors="surrogateescape")
            text = re.sub(r"(?m)([ \t])([FM])$", lambda m: m[1] + m[2].lower(), text)
            (out / file.name).write_text(text, encoding="utf-8", errors="surrogateescape")
        elif file.is_file():
            (out / file.name).symlink_to(file.resolve())


def mixed_sets(
    code: str, split: str, corpus: Mapping[str, Recording], genders: Mapping[str, str], seed: int
) -> Sets:
    """`<code>_<split>_enrolls` and `..._trials_mixed` of a part of MLS by the challenge's rule.

    15 % of each speaker's utterances, rounded up, enrol it; each of the others is a trial against every speaker, of
    both genders. The challenge draws with Python's `random.Random(123)`; our draws are the recipe's, so counts agree
    and lists do not.

    Raises:
        UserError: if no trials can be made.
    """
    own: dict[str, list[str]] = {}
    for utt in sorted(corpus):
        own.setdefault(corpus[utt].speaker, []).append(utt)
    enrolls: list[str] = []
    for speaker, utts in own.items():
        order = generator(seed, f"{code}_{split}", speaker, "enrolment").permutation(len(utts))
        enrolls += [utts[i] for i in order[: math.ceil(SHARE * len(utts))]]
    tried = {utt: corpus[utt].speaker for utt in sorted(set(corpus) - set(enrolls))}
    trials = cross_product(own, tried)
    stem = f"{code}_{split}"
    if not trials:
        raise UserError(f"no trials can be made for {stem}", expected="two speakers with two utterances each")
    meta = {
        "corpus": "mls",
        "split": split,
        "notes": "by the rule of VoicePrivacy 2026, track 2; draws of our own",
    }
    return {
        f"{stem}_enrolls": (
            tables(corpus, sorted(enrolls), genders, code) | {"enrolls": sorted(enrolls)},
            meta | {"role": "enroll"},
        ),
        f"{stem}_trials_mixed": (
            tables(corpus, list(tried), genders, code) | {"trials": trials},
            meta | {"role": "trial", "enroll": f"{stem}_enrolls"},
        ),
    }

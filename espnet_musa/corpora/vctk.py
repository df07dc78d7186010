"""VCTK 0.92 (Yamagishi et al., 2019; doi.org/10.7488/ds/2645): the VoicePrivacy Challenge 2022's sets, microphone 2.

    <root>/speaker-info.txt
    <root>/txt/<speaker>/<speaker>_<number>.txt
    <root>/wav48_silence_trimmed/<speaker>/<speaker>_<number>_mic2.flac

Sentences 1 to 24 are read by every speaker (rainbow passage, elicitation paragraph), the others by one. The
challenge has 15 women and 15 men in each split, enrols each with 20 sentences of their own, and tries the rest:

- `vctk_<split>_enrolls`
- `vctk_<split>_trials_<f|m>`: sentences of one speaker ("different")
- `vctk_<split>_trials_<f|m>_common`: sentences that all read

Where its lists are given, these sets are made exactly. Else by rule: the same speakers (public knowledge), 20 sentences
of each drawn to enrol, all others tried against every speaker of the gender. The challenge drew 15,000 of those pairs
for each "different" list; the rule has all of them (about 80,000), so its error rates rest on more.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problems, UserError
from ..log import get_logger, progress
from ..seed import generator
from . import common
from .common import Sets, check_genders, find_tree, read_genders, require_dir, write_sets
from .trial_rule import cross_product
from .vpc_lists import plain_text, read_sets

log = get_logger(__name__)

SPEAKERS = {  # of the 2022 challenge, as nii-yamagishilab/SSL-SAS publishes its file lists
    "dev": (
        "p234 p237 p238 p241 p245 p246 p247 p249 p252 p253 p255 p260 p261 p262 p263 "
        "p264 p265 p266 p271 p272 p275 p276 p277 p281 p282 p283 p284 p285 p288 p293"
    ).split(),
    "test": (
        "p225 p226 p227 p228 p229 p230 p231 p232 p233 p236 p239 p240 p243 p244 p250 "
        "p254 p256 p257 p258 p259 p267 p268 p269 p270 p273 p274 p278 p279 p286 p287"
    ).split(),
}
COMMON = 24  # sentences that every speaker reads: 1 to 24
ENROLL = 20  # utterances to enrol a speaker with
AUDIO = "wav48_silence_trimmed"
LAYOUT = f"{AUDIO}/<speaker>/<speaker>_<number>_mic2.flac"
_NAME = re.compile(r"([ps]\d+)_(\d{3})_mic2")


@dataclass(frozen=True)
class Recording(common.Recording):
    """One utterance; the transcript is as the corpus writes it, `sentence` is the number of its sentence."""

    sentence: int = 0


def _metas(split: str) -> dict[str, dict[str, Any]]:
    """What meta.yaml says of a split's sets; common and different sentences are two corpora in averages."""
    enrolls = f"vctk_{split}_enrolls"
    metas: dict[str, dict[str, Any]] = {enrolls: {"corpus": "vctk", "split": split, "role": "enroll"}}
    for tag in ("", "_common"):
        for sex in "fm":
            trial = {"corpus": f"vctk{tag}", "split": split, "role": "trial", "enroll": enrolls}
            metas[f"vctk_{split}_trials_{sex}{tag}"] = trial
    return metas


LISTS = {split: _metas(split) for split in SPEAKERS}


def prepare(out: Path, *, root: Path, vpc_lists: Path | None = None, seed: int = 0) -> list[str]:
    """Write the enrolment and trial sets of the 2022 challenge.

    Args:
        out: directory to hold the data directories.
        root: the corpus, or the directory that holds it as `VCTK-Corpus-0.92/`; speakers may be absent.
        vpc_lists: directory of the organisers' folders `vctk_<dev|test>_...` (lists, no audio); both splits or one.
        seed: draws the enrolment utterances, where no lists are given.

    Returns:
        Names of the sets.

    Raises:
        UserError: if the corpus, its speaker table, its transcripts or the lists are not as described; nothing has
            been written then.
    """
    tree = find_tree(
        Path(root), "VCTK 0.92", ["VCTK-Corpus-0.92"], [AUDIO], layout=LAYOUT,
        hint="get version 0.92 from https://doi.org/10.7488/ds/2645; older versions lack microphone 2",
    )  # fmt: skip
    gender = read_genders(tree / "speaker-info.txt", _row, "ID AGE GENDER (F or M) ...")
    sets: Sets = {}
    problems = Problems()
    if vpc_lists is not None:
        for listed in _read_lists(Path(vpc_lists)):
            speakers = {utt.split("_")[0] for tables in listed.values() for utt in tables["utt2spk"]}
            sets |= _listed_sets(listed, scan(tree, speakers, gender, problems), problems)
        problems.raise_if_any()
    else:
        for split, speakers in SPEAKERS.items():
            corpus = scan(tree, speakers, gender, problems)
            problems.raise_if_any()
            sets |= _rule_sets(split, corpus, gender, seed)
        if not sets:
            raise UserError("too few speakers and utterances for trials", path=tree, expected=LAYOUT)
    return write_sets(out, sets)


def _row(line: str) -> tuple[str, str] | None:
    """Speaker and gender in a line of the speaker table."""
    speaker, _, gender, *_ = line.split()
    return None if speaker == "ID" else (speaker, gender)


def scan(
    tree: Path, speakers: Collection[str], gender: dict[str, str], problems: Problems
) -> dict[str, Recording]:
    """Utterances of some speakers by id; absent speakers are left out, what is wrong goes to `problems`."""
    present = [spk for spk in sorted(speakers) if (tree / AUDIO / spk).is_dir()]
    if len(present) < len(speakers):
        log.info("a part of VCTK: %d of %d speakers", len(present), len(speakers))
    check_genders(present, gender, tree / "speaker-info.txt", problems)
    corpus: dict[str, Recording] = {}
    for spk in progress(present, total=len(present), desc="vctk"):
        for file in sorted((tree / AUDIO / spk).glob("*_mic2.flac")):
            match = _NAME.fullmatch(file.stem)
            if not match or match[1] != spk:
                problems.add("the file name does not agree with its folders", path=file, expected=LAYOUT)
                continue
            transcript = tree / "txt" / spk / f"{spk}_{match[2]}.txt"
            text = ""
            if transcript.is_file():
                text = " ".join(transcript.read_text(encoding="utf-8", errors="replace").split())
            if not plain_text(text):
                problems.add("no transcript", path=transcript, utt=file.stem)
            corpus[file.stem] = Recording(file, spk, text, sentence=int(match[2]))
        if not any(rec.speaker == spk for rec in corpus.values()):
            problems.add("no audio of microphone 2", path=tree / AUDIO / spk, expected=LAYOUT)
    return corpus


def _tables(corpus: dict[str, Recording], utts: list[str], gender: dict[str, str]) -> dict[str, Any]:
    """The Kaldi tables of some utterances."""
    return common.tables(corpus, utts, gender, "en") | {
        "text": {utt: plain_text(corpus[utt].text) for utt in utts},
        "text_no_norm": {utt: corpus[utt].text for utt in utts},
    }


def draw_enrolment(corpus: dict[str, Recording], seed: int) -> list[str]:
    """Enrolment utterances: `ENROLL` sentences of each speaker's own, at most half of them; sorted."""
    own: dict[str, list[str]] = {}
    for utt, rec in sorted(corpus.items()):
        if rec.sentence > COMMON:
            own.setdefault(rec.speaker, []).append(utt)
    enrolls = []
    for spk, utts in own.items():
        order = generator(seed, "vctk", spk, "enrolment").permutation(len(utts))
        enrolls += [utts[i] for i in order[: min(ENROLL, len(utts) // 2)]]
    return sorted(enrolls)


def _rule_sets(split: str, corpus: dict[str, Recording], gender: dict[str, str], seed: int) -> Sets:
    """The sets of a split by rule; none where no gender has target and non-target trials."""
    enrolls = draw_enrolment(corpus, seed)
    enrolled, rest = {corpus[utt].speaker for utt in enrolls}, corpus.keys() - set(enrolls)
    notes = {
        "notes": "by rule: speakers of VoicePrivacy 2022, enrolment utterances drawn, all pairs of a gender"
    }
    sets: Sets = {}
    for name, meta in LISTS[split].items():
        if meta["role"] == "enroll":
            continue
        sex, common = name.removesuffix("_common")[-1], name.endswith("_common")
        tried = {
            utt: corpus[utt].speaker
            for utt in sorted(rest)
            if gender[corpus[utt].speaker] == sex and (corpus[utt].sentence <= COMMON) == common
        }
        trials = cross_product([spk for spk in enrolled if gender[spk] == sex], tried)
        if trials:
            sets[name] = (_tables(corpus, list(tried), gender) | {"trials": trials}, meta | notes)
        else:
            log.info("%s: too few speakers or utterances, left out", name)
    if not sets:
        return {}
    used = {spk for tables, _ in sets.values() for spk, _, _ in tables["trials"]}
    kept = [utt for utt in enrolls if corpus[utt].speaker in used]
    name = f"vctk_{split}_enrolls"
    return {name: (_tables(corpus, kept, gender) | {"enrolls": kept}, LISTS[split][name] | notes)} | sets


def _read_lists(root: Path) -> list[dict[str, dict[str, Any]]]:
    """The organisers' folders of each split that is there."""
    require_dir(root, "the organisers' vctk_* list folders", "they come with the challenge's data")
    splits = [split for split, metas in LISTS.items() if any((root / name).is_dir() for name in metas)]
    if not splits:
        raise UserError(
            "none of the VCTK list folders is here", path=root,
            expected=", ".join(name for metas in LISTS.values() for name in metas),
        )  # fmt: skip
    return [read_sets(root, LISTS[split], ("utt2spk", "spk2gender", "text")) for split in splits]


def _listed_sets(listed: dict[str, dict[str, Any]], corpus: dict[str, Recording], problems: Problems) -> Sets:
    """The organisers' sets of a split, with this tree's audio."""
    metas = LISTS["dev"] | LISTS["test"]
    sets: Sets = {}
    for name, tables in listed.items():
        utts = tables["utt2spk"]
        for utt in sorted(utts.keys() - corpus.keys()):
            problems.add(f"the utterance of the list {name} has no audio in the corpus", utt=utt)
        scp = {utt: str(corpus[utt].path) for utt in utts if utt in corpus}
        tables = tables | {"wav.scp": scp, "utt2lang": dict.fromkeys(utts, "en")}
        sets[name] = (tables, metas[name] | {"notes": "official VoicePrivacy 2022 list"})
    return sets

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

from ..data.datadir import write_datadir
from ..errors import Problems, UserError
from ..log import get_logger, progress
from ..seed import generator
from .trial_rule import cross_product
from .vpc_lists import plain_text, read_sets, require_dir

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
class Recording:
    """One utterance: its file, speaker, number of its sentence, and transcript as the corpus writes it."""

    path: Path
    speaker: str
    sentence: int
    text: str


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
    tree = find_tree(Path(root))
    gender = read_speakers(tree / "speaker-info.txt")
    sets: dict[str, tuple[dict, dict]] = {}
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
    for name, (tables, meta) in sets.items():
        write_datadir(Path(out) / name, tables, meta)
    return list(sets)


def find_tree(root: Path) -> Path:
    """The directory with the audio: `root`, or `VCTK-Corpus-0.92/` in it.

    Raises:
        UserError: if there is none.
    """
    require_dir(root, "the VCTK corpus", "https://doi.org/10.7488/ds/2645")
    for tree in (root, root / "VCTK-Corpus-0.92"):
        if (tree / AUDIO).is_dir():
            return tree.resolve()
    raise UserError(
        "VCTK 0.92 is not here", path=root, expected=LAYOUT,
        hint="get version 0.92 from https://doi.org/10.7488/ds/2645; older versions lack microphone 2",
    )  # fmt: skip


def read_speakers(path: Path) -> dict[str, str]:
    """Gender of every speaker, `f` or `m`, from the corpus's table `ID AGE GENDER ACCENTS REGION COMMENTS`.

    Raises:
        UserError: if the table is missing, or a line is malformed or names a speaker again.
    """
    if not path.is_file():
        raise UserError("the speaker table is missing", path=path, hint="it comes with the corpus")
    problems = Problems()
    gender: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] == "ID":
            continue
        if len(fields) < 3 or fields[2] not in ("F", "M"):
            problems.add(f"bad line '{line}'", path=path, line=number, expected="ID AGE GENDER (F or M) ...")
        elif fields[0] in gender:
            problems.add(f"speaker {fields[0]} occurs twice", path=path, line=number)
        else:
            gender[fields[0]] = fields[2].lower()
    problems.raise_if_any()
    return gender


def scan(
    tree: Path, speakers: Collection[str], gender: dict[str, str], problems: Problems
) -> dict[str, Recording]:
    """Utterances of some speakers by id; absent speakers are left out, what is wrong goes to `problems`."""
    present = [spk for spk in sorted(speakers) if (tree / AUDIO / spk).is_dir()]
    if len(present) < len(speakers):
        log.info("a part of VCTK: %d of %d speakers", len(present), len(speakers))
    corpus: dict[str, Recording] = {}
    for spk in progress(present, total=len(present), desc="vctk"):
        if spk not in gender:
            problems.add(f"speaker {spk} has no gender", path=tree / "speaker-info.txt")
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
            corpus[file.stem] = Recording(file, spk, int(match[2]), text)
        if not any(rec.speaker == spk for rec in corpus.values()):
            problems.add("no audio of microphone 2", path=tree / AUDIO / spk, expected=LAYOUT)
    return corpus


def _tables(corpus: dict[str, Recording], utts: list[str], gender: dict[str, str]) -> dict[str, Any]:
    """The Kaldi tables of some utterances."""
    return {
        "wav.scp": {utt: str(corpus[utt].path) for utt in utts},
        "utt2spk": {utt: corpus[utt].speaker for utt in utts},
        "spk2gender": {corpus[utt].speaker: gender[corpus[utt].speaker] for utt in utts},
        "text": {utt: plain_text(corpus[utt].text) for utt in utts},
        "text_no_norm": {utt: corpus[utt].text for utt in utts},
        "utt2lang": dict.fromkeys(utts, "en"),
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


def _rule_sets(
    split: str, corpus: dict[str, Recording], gender: dict[str, str], seed: int
) -> dict[str, tuple[dict, dict]]:
    """The sets of a split by rule; none where no gender has target and non-target trials."""
    enrolls = draw_enrolment(corpus, seed)
    enrolled, rest = {corpus[utt].speaker for utt in enrolls}, corpus.keys() - set(enrolls)
    notes = {
        "notes": "by rule: speakers of VoicePrivacy 2022, enrolment utterances drawn, all pairs of a gender"
    }
    sets: dict[str, tuple[dict, dict]] = {}
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


def _listed_sets(
    listed: dict[str, dict[str, Any]], corpus: dict[str, Recording], problems: Problems
) -> dict[str, tuple[dict, dict]]:
    """The organisers' sets of a split, with this tree's audio."""
    metas = LISTS["dev"] | LISTS["test"]
    sets = {}
    for name, tables in listed.items():
        utts = tables["utt2spk"]
        for utt in sorted(utts.keys() - corpus.keys()):
            problems.add(f"the utterance of the list {name} has no audio in the corpus", utt=utt)
        scp = {utt: str(corpus[utt].path) for utt in utts if utt in corpus}
        tables = tables | {"wav.scp": scp, "utt2lang": dict.fromkeys(utts, "en")}
        sets[name] = (tables, metas[name] | {"notes": "official VoicePrivacy 2022 list"})
    return sets

"""LibriSpeech (Panayotov et al., ICASSP 2015; openslr.org/12) in its official layout, whole or in part.

    <root>/SPEAKERS.TXT
    <root>/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac and <speaker>-<chapter>.trans.txt

dev and test parts become enrolment and trial sets: the VoicePrivacy Challenge's own where their lists are given
(`vpc_lists`), else by the rule of `trial_rule`. Each train part becomes one set, one of them the attacker's.

The tree is read here and not through lhotse's recipe, which goes by the transcripts: it would leave out a part that
has none, and drop with a warning an utterance whose audio is missing. Stopping is what an evaluation needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import Problems, UserError, suggest
from ..log import get_logger
from . import common
from . import vpc_lists as vpc
from .common import Recording, Sets, Transcript

log = get_logger(__name__)

# part of the corpus -> split, and the stem of its sets' names
PARTS = {
    "dev-clean": ("dev", "libri_dev"),
    "dev-other": ("dev", "libri_dev_other"),
    "dev-clean-2": ("dev", "libri_dev_clean_2"),
    "test-clean": ("test", "libri_test"),
    "test-other": ("test", "libri_test_other"),
    "train-clean-5": ("train", "train-clean-5"),
    "train-clean-100": ("train", "train-clean-100"),
    "train-clean-360": ("train", "train-clean-360"),
    "train-other-500": ("train", "train-other-500"),
}
VPC_PARTS = {"dev-clean": "dev", "test-clean": "test"}  # part -> split of the VoicePrivacy lists made from it
VPC_ATTACK_TRAIN = "train-clean-360"  # what the VoicePrivacy Challenge trains its attacker with
LAYOUT = "<part>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac"
SPEAKERS = "ID | SEX (F or M) | SUBSET | MINUTES | NAME"
Corpus = dict[str, Recording]


def prepare(
    out: Path,
    *,
    root: Path,
    vpc_lists: Path | str | None = None,
    downloads: Path = Path("downloads"),
    parts: list[str] | None = None,
    train: list[str] | None = None,
    asv_train: str | None = None,
    seed: int = 0,
    enroll_seconds: float = 75.0,
    impostors: float = 0.25,
) -> list[str]:
    """Write Kaldi data directories for the parts of a LibriSpeech tree.

    Args:
        out: directory to hold one data directory per set.
        root: the tree, or the directory that holds it as `LibriSpeech/`.
        vpc_lists: directory of the six VoicePrivacy list folders; dev-clean and test-clean then become the official
            sets exactly. "download" fetches them at a pinned commit.
        downloads: where "download" puts them.
        parts: parts to prepare; all that are there by default.
        train: train parts for systems to learn from (role `train`), of which those that are there are taken; the
            attacker then gets none of them. By default all but the attacker's.
        asv_train: train part for the attacker; train-clean-360 by default, else the one with most utterances.
        seed: of the enrolment and trial rule, as are
        enroll_seconds: speech to enrol a speaker with, and
        impostors: share of each gender's speakers to leave unenrolled.

    Returns:
        Names of the sets, in the order written.

    Raises:
        UserError: if the tree, its speaker table, its transcripts or the lists are not as described; nothing has
            been written then.
    """
    found, genders = _scan(Path(root), parts)
    if str(vpc_lists) == "download":
        vpc_lists = vpc.fetch_lists(downloads / "vpc_lists")
    problems = Problems()
    sets: Sets = {}
    official = _official_parts(found, vpc_lists)
    for name, split in official.items():
        sets |= _official_sets(name, found[name], vpc.read_split(Path(vpc_lists), split), problems)
    problems.raise_if_any()
    for name, corpus in found.items():
        split, stem = PARTS[name]
        if split != "train" and name not in official:
            meta = {"corpus": "librispeech", "split": split, "notes": f"{name} by rule"}
            sets |= common.rule_sets(
                stem, corpus, genders, meta, language="en", seed=seed,
                enroll_seconds=enroll_seconds, impostors=impostors,
            )  # fmt: skip
    sets |= _train_sets(found, genders, common.listed(train), asv_train)
    return common.write_sets(out, sets)


def _scan(root: Path, parts: list[str] | None) -> tuple[dict[str, Corpus], dict[str, str]]:
    """The parts to prepare, and the gender of every reader."""
    tree = common.find_tree(
        root, "LibriSpeech", ["LibriSpeech"], PARTS, layout=f"{LAYOUT}, with <part> one of {', '.join(PARTS)}",
        hint="download parts from https://www.openslr.org/12 and unpack them in one place",
    )  # fmt: skip
    present = [name for name in PARTS if (tree / name).is_dir()]
    names = common.choose(parts, PARTS, present, "part of LibriSpeech", tree)
    genders = common.read_genders(tree / "SPEAKERS.TXT", common.piped, SPEAKERS)
    problems = Problems()
    found = {name: scan_part(tree / name, genders, problems) for name in names}
    _check_unique(found, problems)
    problems.raise_if_any()
    return found, genders


def scan_part(path: Path, genders: dict[str, str], problems: Problems) -> Corpus:
    """Audio and transcripts of a part; what is wrong goes to `problems`. A session is a chapter."""
    audio = common.find_files(path, (".flac",), "-", LAYOUT, problems)
    texts: dict[str, Transcript] = {}
    for file in sorted(path.glob("*/*/[!.]*.trans.txt")):
        prefix = "-".join(file.parts[-3:-1]) + "-"
        for utt in common.read_transcripts(file, texts, problems):
            if not utt.startswith(prefix):
                problems.add(
                    "the utterance is of another chapter", path=file, line=texts[utt].line, utt=utt,
                    expected=f"{prefix}...",
                )  # fmt: skip
    if not audio:
        problems.add("no audio in this part", path=path, expected=LAYOUT)
    corpus = {
        utt: Recording(
            file, utt.split("-")[0], texts[utt].text if utt in texts else "", utt.rsplit("-", 1)[0]
        )
        for utt, file in audio.items()
    }
    common.check_genders(
        (r.speaker for r in corpus.values()), genders, path.parent / "SPEAKERS.TXT", problems
    )
    if texts:
        common.compare(audio, texts, problems)
    elif audio:
        log.info("%s: no transcripts, so this set has no text", path.name)
    return corpus


def _check_unique(found: dict[str, Corpus], problems: Problems) -> None:
    """An utterance must be in one part only: it would be in training and test otherwise."""
    first: dict[str, Path] = {}
    for corpus in found.values():
        for utt, rec in corpus.items():
            if utt in first:
                problems.add(
                    f"also in {first[utt]}", path=rec.path, utt=utt, expected="an utterance in one part only"
                )
            first.setdefault(utt, rec.path)


def _official_parts(found: dict[str, Corpus], vpc_lists: Path | None) -> dict[str, str]:
    """{part: VoicePrivacy split} of the parts to make the official sets of."""
    if vpc_lists is None:
        return {}
    official = {part: split for part, split in VPC_PARTS.items() if part in found}
    if not official:
        raise UserError(
            "VoicePrivacy lists are given, but neither dev-clean nor test-clean is among the parts",
            path=vpc_lists,
            hint="download dev-clean.tar.gz and test-clean.tar.gz from https://www.openslr.org/12, "
            "or leave out the lists",
        )
    for part in VPC_PARTS.keys() - official.keys():
        log.info("%s is not here: the VoicePrivacy %s sets are left out", part, VPC_PARTS[part])
    return official


def _official_sets(part: str, corpus: Corpus, lists: dict[str, vpc.ListSet], problems: Problems) -> Sets:
    """The VoicePrivacy sets of one split, with this tree's audio."""
    sets: Sets = {}
    for name, entry in lists.items():
        utts = entry.tables["utt2spk"]
        for utt in sorted(utts.keys() - corpus.keys()):
            problems.add(f"the utterance of {entry.path} has no audio in {part}", utt=utt)
        scp = {utt: str(corpus[utt].path) for utt in utts if utt in corpus}
        own = entry.tables | {"wav.scp": scp, "utt2lang": dict.fromkeys(utts, "en")}
        meta = {"corpus": "librispeech", "notes": f"official VoicePrivacy list of {part}"}
        sets[name] = (own, entry.meta | meta)
    return sets


def _train_sets(
    found: dict[str, Corpus], genders: dict[str, str], wanted: list[str] | None, asv_train: str | None
) -> Sets:
    """A set for each train part that a system or the attacker is trained with."""
    parts = {name: corpus for name, corpus in found.items() if PARTS[name][0] == "train"}
    for name in wanted or []:
        if PARTS.get(name, ("",))[0] != "train":
            known = [part for part, (split, _) in PARTS.items() if split == "train"]
            raise UserError(f"train: unknown train part '{name}'{suggest(name, known)}")
    attack, why = _attackers_part(parts, wanted or [], asv_train)
    sets: Sets = {}
    for name, corpus in parts.items():
        meta: dict[str, Any] = {"corpus": "librispeech", "split": "train", "role": "train", "notes": ""}
        if name == attack:
            meta |= {"role": "attack_train", "notes": f"trains the attacker: {why}"}
            log.info("%s trains the attacker: %s", name, why)
        elif wanted is not None and name not in wanted:
            log.info("%s trains neither a system nor the attacker: left out", name)
            continue
        sets[name] = (common.tables(corpus, sorted(corpus), genders, "en"), meta)
    return sets


def _attackers_part(
    parts: dict[str, Corpus], taken: list[str], asv_train: str | None
) -> tuple[str | None, str]:
    """The train part for the attacker, if one is left, and why it is that."""
    free = {name: corpus for name, corpus in parts.items() if name not in taken}
    if asv_train is not None:
        if asv_train in taken:
            raise UserError(
                f"'{asv_train}' is among `train` and `asv_train`",
                expected="different parts: an attacker has not heard what the system was trained with",
            )
        if asv_train not in parts:
            raise UserError(f"asv_train: no train part '{asv_train}' is prepared{suggest(asv_train, parts)}")
        return asv_train, "asked for"
    if VPC_ATTACK_TRAIN in free:
        return VPC_ATTACK_TRAIN, "as in the VoicePrivacy Challenge"
    if not free:
        if parts:
            log.info("librispeech: no train part is left for an attacker")
        return None, ""
    largest = max(free, key=lambda name: (len(free[name]), name))
    return largest, f"{VPC_ATTACK_TRAIN} is not here and this is the largest train part"

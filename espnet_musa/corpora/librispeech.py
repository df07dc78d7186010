"""LibriSpeech (Panayotov et al., ICASSP 2015; openslr.org/12) in its official layout, whole or in part.

    <root>/SPEAKERS.TXT
    <root>/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac and <speaker>-<chapter>.trans.txt

dev and test parts become enrolment and trial sets: the VoicePrivacy Challenge's own where their lists are given
(`vpc_lists`), else by the rule of `trial_rule`. Each train part becomes one set, one of them the attacker's.

The tree is read here and not through lhotse's recipe, which goes by the transcripts: it would leave out a part that
has none, and drop with a warning an utterance whose audio is missing. Stopping is what an evaluation needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.audio import AudioFile
from ..data.datadir import write_datadir
from ..errors import Problems, UserError, suggest
from ..log import get_logger, progress
from . import vpc_lists as vpc
from .trial_rule import Utterance, select

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


@dataclass(frozen=True)
class Part:
    """One part of the tree: audio and transcripts by utterance id; `text` is empty where the part has none."""

    name: str
    audio: dict[str, Path]
    text: dict[str, str]

    def tables(self, utts: list[str], gender: dict[str, str]) -> dict[str, Any]:
        """Kaldi tables of some of the utterances; `gender` is by speaker."""
        utt2spk = {utt: speaker_of(utt) for utt in utts}
        tables: dict[str, Any] = {
            "wav.scp": {utt: str(self.audio[utt]) for utt in utts},
            "utt2spk": utt2spk,
            "spk2gender": {spk: gender[spk] for spk in utt2spk.values()},
            "utt2lang": dict.fromkeys(utts, "en"),
        }
        if self.text:
            tables["text"] = {utt: self.text[utt] for utt in utts}
        return tables


def speaker_of(utt: str) -> str:
    """The reader in a LibriSpeech utterance id, which is `<speaker>-<chapter>-<number>` by the corpus's definition."""
    return utt.split("-", 1)[0]


def prepare(
    out: Path,
    *,
    root: Path,
    vpc_lists: Path | str | None = None,
    downloads: Path = Path("downloads"),
    parts: list[str] | None = None,
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
    tree = find_tree(Path(root))
    if str(vpc_lists) == "download":
        vpc_lists = vpc.fetch_lists(downloads / "vpc_lists")
    names = _choose_parts(tree, parts)
    problems = Problems()
    gender = read_speakers(tree / "SPEAKERS.TXT")
    found = {name: scan_part(tree / name, gender, problems) for name in names}
    _check_unique(found, problems)
    problems.raise_if_any()

    sets: dict[str, tuple[dict, dict]] = {}
    official = _official_parts(found, vpc_lists)
    for name, split in official.items():
        sets |= _official_sets(found[name], vpc.read_split(Path(vpc_lists), split), problems)
    problems.raise_if_any()
    for name, part in found.items():
        if PARTS[name][0] != "train" and name not in official:
            sets |= _rule_sets(part, gender, seed, enroll_seconds, impostors)
    sets |= _train_sets(found, gender, asv_train)
    for name, (tables, meta) in sets.items():
        write_datadir(Path(out) / name, tables, meta)
    return list(sets)


def find_tree(root: Path) -> Path:
    """The directory with the parts: `root`, or `LibriSpeech/` in it.

    Raises:
        UserError: if there is none.
    """
    if not root.is_dir():
        near = suggest(root.name, (p.name for p in root.parent.iterdir())) if root.parent.is_dir() else ""
        raise UserError(f"no such directory{near}", path=root, expected="a LibriSpeech tree")
    for tree in (root, root / "LibriSpeech"):
        if any((tree / name).is_dir() for name in PARTS):
            return tree.resolve()
    raise UserError(
        "none of the parts of LibriSpeech is here",
        path=root,
        expected=f"{LAYOUT}, with <part> one of {', '.join(PARTS)}",
        hint="download parts from https://www.openslr.org/12 and unpack them in one place",
    )


def read_speakers(path: Path) -> dict[str, str]:
    """Gender of every reader, `f` or `m`, from the corpus's own table `ID | SEX | SUBSET | MINUTES | NAME`.

    Raises:
        UserError: if the table is missing, or a line is malformed or names a reader again.
    """
    if not path.is_file():
        raise UserError("the speaker table is missing", path=path, hint="it comes with every part's archive")
    problems = Problems()
    gender: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # names alone hold other letters
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";"):
            continue
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) < 3 or not fields[0].isdecimal():
            problems.add(
                f"bad line '{line}'", path=path, line=number, expected="ID | SEX | SUBSET | MINUTES | NAME"
            )
        elif fields[1] not in ("F", "M"):
            problems.add(
                f"speaker {fields[0]} has the gender '{fields[1]}'", path=path, line=number, expected="F or M"
            )
        elif fields[0] in gender:
            problems.add(f"speaker {fields[0]} occurs twice", path=path, line=number)
        else:
            gender[fields[0]] = fields[1].lower()
    problems.raise_if_any()
    return gender


def _choose_parts(tree: Path, parts: list[str] | None) -> list[str]:
    """The parts to prepare, in the order of `PARTS`."""
    present = [name for name in PARTS if (tree / name).is_dir()]
    for name in parts or []:
        if name not in PARTS:
            raise UserError(f"unknown part '{name}' of LibriSpeech{suggest(name, PARTS)}")
        if name not in present:
            raise UserError(
                f"the part '{name}' is not here", path=tree, expected=f"one of: {', '.join(present)}"
            )
    if parts is not None and not parts:
        raise UserError(
            "no part of LibriSpeech to prepare", path=tree, expected=f"some of: {', '.join(present)}"
        )
    return [name for name in present if parts is None or name in parts]


def scan_part(path: Path, gender: dict[str, str], problems: Problems) -> Part:
    """Find the audio and transcripts of a part; what is wrong goes to `problems`."""
    audio: dict[str, Path] = {}
    text: dict[str, str] = {}
    line_of: dict[str, tuple[Path, int]] = {}
    for file in progress(_files(path, problems), total=None, desc=path.name):
        prefix = "-".join(file.parts[-3:-1]) + "-"
        if file.name.endswith(".trans.txt"):
            _read_transcripts(file, prefix, text, line_of, problems)
        elif file.stem.startswith(prefix) and file.stem.removeprefix(prefix).isdecimal():
            audio[file.stem] = file
        else:
            problems.add("the file name does not agree with its folders", path=file, expected=LAYOUT)
    if not audio:
        problems.add("no audio in this part", path=path, expected=LAYOUT)
    for spk in sorted({speaker_of(utt) for utt in audio} - gender.keys()):
        problems.add(
            f"speaker {spk} has no gender",
            path=path.parent / "SPEAKERS.TXT",
            expected="a line for each speaker",
        )
    if text:
        for utt in sorted(audio.keys() - text.keys()):
            problems.add("audio without transcript", path=audio[utt], utt=utt)
        for utt in sorted(text.keys() - audio.keys()):
            where, line = line_of[utt]
            problems.add("transcript without audio", path=where, line=line, utt=utt)
    elif audio:
        log.info("%s: no transcripts, so this set has no text", path.name)
    return Part(path.name, audio, text)


def _files(path: Path, problems: Problems) -> Iterator[Path]:
    """Audio and transcript files of a part, sorted; those at another depth go to `problems`. Follows links."""
    for spk in sorted(path.iterdir()):
        if spk.suffix == ".flac":
            problems.add("audio outside a chapter's folder", path=spk, expected=LAYOUT)
        if not spk.is_dir() or spk.name.startswith("."):
            continue
        for chapter in sorted(spk.iterdir()):
            if chapter.suffix == ".flac":
                problems.add("audio outside a chapter's folder", path=chapter, expected=LAYOUT)
            if chapter.is_dir() and not chapter.name.startswith("."):
                files = (p for p in sorted(chapter.iterdir()) if p.name.endswith((".flac", ".trans.txt")))
                yield from (p for p in files if not p.name.startswith("."))


def _read_transcripts(
    path: Path, prefix: str, text: dict[str, str], line_of: dict[str, tuple[Path, int]], problems: Problems
) -> None:
    """Add the lines `<utt> WORD WORD ...` of one chapter to `text` and their places to `line_of`."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        utt, _, words = line.strip().partition(" ")
        if not utt:
            continue
        if not utt.startswith(prefix):
            problems.add(
                "the utterance is of another chapter",
                path=path,
                line=number,
                utt=utt,
                expected=prefix + "...",
            )
        elif utt in text:
            problems.add("the utterance has two transcripts", path=path, line=number, utt=utt)
        elif not words.strip():
            problems.add("the transcript is empty", path=path, line=number, utt=utt)
        text.setdefault(utt, " ".join(words.split()))
        line_of.setdefault(utt, (path, number))


def _check_unique(found: dict[str, Part], problems: Problems) -> None:
    """An utterance must be in one part only: it would be in training and test otherwise."""
    first: dict[str, Path] = {}
    for part in found.values():
        for utt, path in part.audio.items():
            if utt in first:
                problems.add(
                    f"also in {first[utt]}", path=path, utt=utt, expected="an utterance in one part only"
                )
            first.setdefault(utt, path)


def _official_parts(found: dict[str, Part], vpc_lists: Path | None) -> dict[str, str]:
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


def _official_sets(
    part: Part, lists: dict[str, vpc.ListSet], problems: Problems
) -> dict[str, tuple[dict, dict]]:
    """The VoicePrivacy sets of one split, with this tree's audio."""
    sets = {}
    for name, entry in lists.items():
        utts = entry.tables["utt2spk"]
        for utt in sorted(utts.keys() - part.audio.keys()):
            problems.add(f"the utterance of {entry.path} has no audio in {part.name}", utt=utt)
        scp = {utt: str(part.audio[utt]) for utt in utts if utt in part.audio}
        tables = entry.tables | {"wav.scp": scp, "utt2lang": dict.fromkeys(utts, "en")}
        sets[name] = (
            tables,
            entry.meta | {"corpus": "librispeech", "notes": f"official VoicePrivacy list of {part.name}"},
        )
    return sets


def _rule_sets(
    part: Part, gender: dict[str, str], seed: int, enroll_seconds: float, impostors: float
) -> dict[str, tuple[dict, dict]]:
    """Enrolment and trial sets of a dev or test part by rule; a session is a chapter."""
    split, stem = PARTS[part.name]
    utterances = [
        Utterance(utt, speaker_of(utt), gender[speaker_of(utt)], utt.rsplit("-", 1)[0], _seconds(path))
        for utt, path in progress(part.audio.items(), total=len(part.audio), desc=f"{part.name} durations")
    ]
    chosen = select(utterances, seed=seed, corpus=stem, enroll_seconds=enroll_seconds, impostors=impostors)
    for note in chosen.notes:
        log.info("%s: %s", part.name, note)
    if not chosen.trials:
        raise UserError(
            f"no trials can be made of {part.name}: {'; '.join(chosen.notes)}",
            hint="trials need two speakers of a gender, one of them with two utterances; name other parts",
        )
    common = {
        "corpus": "librispeech",
        "split": split,
        "notes": f"{part.name} by rule; " + "; ".join(chosen.notes),
    }
    enrolls = f"{stem}_enrolls"
    tables = part.tables(chosen.enrolls, gender) | {"enrolls": chosen.enrolls}
    sets = {enrolls: (tables, common | {"role": "enroll"})}
    for sex, trials in chosen.trials.items():
        tables = part.tables(chosen.trial_utts[sex], gender) | {"trials": trials}
        sets[f"{stem}_trials_{sex}"] = (tables, common | {"role": "trial", "enroll": enrolls})
    return sets


def _seconds(path: Path) -> float:
    """Duration by the header."""
    with AudioFile(path, channels="first") as file:  # what the audio must be is stage 2's to judge
        return file.frames / file.sample_rate


def _train_sets(
    found: dict[str, Part], gender: dict[str, str], asv_train: str | None
) -> dict[str, tuple[dict, dict]]:
    """One set for each train part; the attacker is trained with one of them."""
    train = {name: part for name, part in found.items() if PARTS[name][0] == "train"}
    if asv_train is not None and asv_train not in train:
        raise UserError(f"asv_train: no train part '{asv_train}' is prepared{suggest(asv_train, train)}")
    if not train:
        return {}
    largest = max(train, key=lambda name: (len(train[name].audio), name))
    attack = asv_train or (VPC_ATTACK_TRAIN if VPC_ATTACK_TRAIN in train else largest)
    why = (
        "asked for"
        if asv_train
        else "as in the VoicePrivacy Challenge"
        if attack == VPC_ATTACK_TRAIN
        else f"{VPC_ATTACK_TRAIN} is not here and this is the largest train part"
    )
    sets = {}
    for name, part in train.items():
        meta = {"corpus": "librispeech", "split": "train", "role": "train", "notes": ""}
        if name == attack:
            meta |= {"role": "attack_train", "notes": f"trains the attacker: {why}"}
            log.info("%s trains the attacker: %s", name, why)
        sets[name] = (part.tables(sorted(part.audio), gender), meta)
    return sets

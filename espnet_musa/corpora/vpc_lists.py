"""The VoicePrivacy Challenge's own sets: its lists for LibriSpeech, and the data folders it hands to participants.

Lists (VoicePrivacy 2020, 2022, 2024): six Kaldi folders without audio, which select from dev-clean and test-clean.
Prepared folders (VoicePrivacy 2024 `data.zip`): nine data directories with audio.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config
from ..data.datadir import DataDir
from ..data.trials import read_trials
from ..errors import Problems, UserError
from ..log import get_logger
from .common import require_dir, write_sets
from .download import fetch
from .trial_rule import Trial

log = get_logger(__name__)

# The lists as the organisers' colleagues publish them; the SHA-256 of the 36 files are in CHECKSUMS.
LISTS_URL = (
    "https://raw.githubusercontent.com/nii-yamagishilab/SSL-SAS/80707515530f99d68970f5727de24b3fb41de2ff/data"
)
CHECKSUMS = config.ROOT / "conf" / "checksums" / "vpc_lists.sha256"


def _trio(split: str) -> dict[str, dict[str, Any]]:
    """Enrolment and trial sets of a LibriSpeech split, with what meta.yaml says of them."""
    enrolls, common = f"libri_{split}_enrolls", {"corpus": "librispeech", "split": split}
    trials = {f"libri_{split}_trials_{sex}": common | {"role": "trial", "enroll": enrolls} for sex in "fm"}
    return {enrolls: common | {"role": "enroll"}} | trials


LISTS = {"dev": _trio("dev"), "test": _trio("test")}
PREPARED = {
    **LISTS["dev"],
    **LISTS["test"],
    "IEMOCAP_dev": {"corpus": "iemocap", "split": "dev", "role": "utility"},
    "IEMOCAP_test": {"corpus": "iemocap", "split": "test", "role": "utility"},
    "train-clean-360": {"corpus": "librispeech", "split": "train", "role": "attack_train"},
}
# What is taken from a folder; durations and the like are measured again.
TABLES = (
    "wav.scp", "segments", "utt2spk", "spk2gender", "text", "text_no_norm",
    "utt2lang", "utt2emo", "spk2fold", "enrolls",
)  # fmt: skip
_LISTED = {"enroll": ("enrolls",), "trial": ("trials",)}  # what a set of a role must list
_FLAC_PIPE = re.compile(r"flac\s+-c\s+-d\s+-s\s+(\S+)\s*\|")


@dataclass(frozen=True)
class ListSet:
    """One list folder: its tables (trials included, no wav.scp) and the fields of its meta.yaml."""

    path: Path
    tables: dict[str, Any]
    meta: dict[str, Any]


def fetch_lists(out: Path, *, url: str = LISTS_URL) -> Path:
    """Download the six list folders into `out`, checked by their SHA-256; files already there stay.

    Returns:
        `out`, for the option `vpc_lists` of the LibriSpeech preparer.

    Raises:
        UserError: see `download.fetch`.
    """
    for line in CHECKSUMS.read_text(encoding="utf-8").splitlines():
        checksum, name = line.split()
        fetch(f"{url}/{name}", Path(out) / name, checksum)
    return Path(out)


def read_split(root: Path, split: str) -> dict[str, ListSet]:
    """The three list folders of a split, `dev` or `test`, checked against each other.

    Raises:
        UserError: if a folder or file is missing or malformed, or enrolment and trials do not fit together.
    """
    require_dir(root, "the VoicePrivacy list folders", f"espnet_musa.corpora.vpc_lists.fetch_lists('{root}')")
    sets = read_sets(root, LISTS[split], ("utt2spk", "spk2gender", "text"))
    for tables in sets.values():
        tables.pop("wav.scp", None)  # names files of the organisers' machine
    return {name: ListSet(root / name, tables, LISTS[split][name]) for name, tables in sets.items()}


def plain_text(text: str) -> str:
    """A transcript as the organisers write it: `, ! ? .` become spaces, the rest upper case, single spaces."""
    return " ".join(re.sub(r"[,!?.]", " ", text).upper().split())


def read_sets(root: Path, metas: dict[str, dict], required: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The tables of some folders; trials are checked against their enrolment set.

    Args:
        root: holds the folders.
        metas: folder -> fields of its meta.yaml.
        required: files that every folder must hold.

    Raises:
        UserError: if a folder or file is missing or malformed, or enrolment and trials do not fit together.
    """
    dirs = {
        name: DataDir.read(root / name, required=(*required, *_LISTED.get(meta["role"], ())))
        for name, meta in metas.items()
    }
    sets = {}
    problems = Problems()
    for name, data in dirs.items():
        sets[name] = {table: data.table(table) for table in TABLES if table in data.tables}
        enroll = metas[name].get("enroll")
        if enroll is not None and enroll not in dirs:
            problems.add(f"the enrolment set {enroll} of these trials is not here", path=data.path)
        elif enroll is not None:
            sets[name]["trials"] = _trials(data, dirs[enroll], problems)
    problems.raise_if_any()
    return sets


def _trials(data: DataDir, enroll: DataDir, problems: Problems) -> list[Trial]:
    """The trials of a set; a wrong label and an utterance that also enrols go to `problems`."""
    utt2spk, enrolled = data.table("utt2spk"), enroll.table("utt2spk")
    path, speakers = data.path / "trials", sorted(set(enrolled.values()))
    for utt in sorted(utt2spk.keys() & enrolled.keys()):
        problems.add(
            f"also in {enroll.path}",
            path=data.path,
            utt=utt,
            expected="other utterances than the enrolment's",
        )
    read = read_trials(path, speakers, data.utts)
    table = [
        (speakers[spk], data.utts[utt], bool(target))
        for spk, utt, target in zip(read.enroll, read.trial, read.target, strict=True)
    ]
    for line, (spk, utt, target) in enumerate(table, start=1):
        if target != (utt2spk[utt] == spk):
            problems.add(f"the label contradicts utt2spk ({utt2spk[utt]})", path=path, line=line, utt=utt)
    return table


def prepare_vpc_data(out: Path, root: Path) -> list[str]:
    """Write data directories from the folders that the VoicePrivacy 2024 organisers hand out.

    Paths in their wav.scp are relative to the directory that holds `root` (they write `data/<set>/wav/...`).
    FLAC pipes become the plain path, as every reader here reads FLAC.

    Args:
        out: directory to hold the data directories.
        root: the organisers' `data/`, with some or all of the nine folders of `PREPARED`.

    Returns:
        Names of the sets.

    Raises:
        UserError: if none of the folders is there, one is malformed, or audio is missing; nothing has been written.
    """
    out, root = Path(out), Path(root)
    require_dir(root, "the organisers' data folders", "the VoicePrivacy organisers hand out data.zip")
    present = [name for name in PREPARED if (root / name).is_dir()]
    if not present:
        raise UserError(
            "none of the VoicePrivacy data folders is here", path=root, expected=", ".join(PREPARED)
        )
    for name in PREPARED.keys() - set(present):
        log.info("%s is not in %s: left out", name, root)
    sets = read_sets(root, {name: PREPARED[name] for name in present}, ("utt2spk", "wav.scp"))
    problems = Problems()
    for name, tables in sets.items():
        resolve_audio(tables["wav.scp"], root / name / "wav.scp", root.resolve().parent, problems)
        if PREPARED[name]["role"] == "attack_train":
            _undo_sessions(tables)
    problems.raise_if_any()
    notes = {"notes": "as prepared by the VoicePrivacy organisers"}
    return write_sets(out, {name: (own, PREPARED[name] | notes) for name, own in sets.items()})


def resolve_audio(scp: dict[str, str], path: Path, base: Path, problems: Problems) -> None:
    """Make the paths absolute and FLAC decoders plain paths, in place; another pipe stays as it is."""
    for key, value in scp.items():
        pipe = _FLAC_PIPE.fullmatch(value)
        if value.endswith("|") and not pipe:
            continue
        scp[key] = str(base / (pipe[1] if pipe else value))
        if not Path(scp[key]).is_file():
            problems.add(f"no such file: {scp[key]}", path=path, utt=key)


def _undo_sessions(tables: dict[str, Any]) -> None:
    """Replace `<speaker>-<chapter>` by the speaker.

    Kaldi's LibriSpeech recipe, and with it one of the two forms of train-clean-360, calls a chapter a speaker. An
    attacker trained so would tell chapters apart, not speakers.
    """
    speakers = tables["utt2spk"]
    if not all(utt.startswith(f"{spk}-") and "-" in spk for utt, spk in speakers.items()):
        return
    log.info("utt2spk names chapters: the speaker is the part before the hyphen")
    for name in ("spk2gender", "spk2fold"):
        if name in tables:
            tables[name] = {spk.split("-")[0]: value for spk, value in tables[name].items()}
    tables["utt2spk"] = {utt: spk.split("-")[0] for utt, spk in speakers.items()}

"""LibriTTS (Zen et al., Interspeech 2019; openslr.org/60) and LibriTTS-R (openslr.org/141), to train systems with.

    <root>/SPEAKERS.txt or speakers.tsv
    <root>/<part>/<speaker>/<chapter>/<speaker>_<chapter>_<paragraph>_<sentence>.wav and .normalized.txt

Speakers are named by their LibriVox numbers, as in LibriSpeech, so that a reader is one speaker in both.

Read here and not through lhotse's recipe, for the reason given in `librispeech`.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import Problems
from ..log import get_logger
from . import common
from .common import Recording, Sets, Transcript

log = get_logger(__name__)

PARTS = ("train-clean-100", "train-clean-360", "train-other-500")
# What VoicePrivacy's participants may train with. The speakers of train-clean-360 are those of the set of that name
# in LibriSpeech, which trains the attacker: it is taken only where it is asked for.
DEFAULT = ("train-clean-100", "train-other-500")
LAYOUT = "<part>/<speaker>/<chapter>/<speaker>_<chapter>_<paragraph>_<sentence>.wav"
BROKEN = {"1092_134562_000013_000004"}  # cannot be decoded in the published LibriTTS-R


def prepare(out: Path, *, root: Path, parts: list[str] | None = None) -> list[str]:
    """Write a data directory `libritts_<part>` with role `train` for each part.

    Args:
        out: directory to hold one data directory per set.
        root: the tree, or the directory that holds it as `LibriTTS/` or `LibriTTS_R/`.
        parts: parts to prepare; by default train-clean-100 and train-other-500, as far as they are there.

    Returns:
        Names of the sets.

    Raises:
        UserError: if the tree, its speaker table or its transcripts are not as described; nothing has been written
            then.
    """
    tree = common.find_tree(
        Path(root), "LibriTTS", ["LibriTTS", "LibriTTS_R"], PARTS,
        layout=f"{LAYOUT}, with <part> one of {', '.join(PARTS)}",
        hint="download parts from https://www.openslr.org/60 and unpack them in one place",
    )  # fmt: skip
    present = [name for name in PARTS if (tree / name).is_dir()]
    if parts is None:
        parts = [name for name in present if name in DEFAULT]
    names = common.choose(parts, PARTS, present, "part of LibriTTS", tree)
    tabbed = tree / "speakers.tsv"  # all that LibriTTS-R has
    table = tabbed if tabbed.is_file() else tree / "SPEAKERS.txt"
    genders = common.read_genders(table, _row, "READER, GENDER (F or M), SUBSET, ..., parted by tabs or |")
    problems = Problems()
    found = {name: scan_part(tree / name, problems) for name in names}
    for corpus in found.values():
        common.check_genders((rec.speaker for rec in corpus.values()), genders, table, problems)
    problems.raise_if_any()
    sets: Sets = {}
    for name, corpus in found.items():
        meta = {"corpus": "libritts", "split": "train", "role": "train"}
        sets[f"libritts_{name}"] = (common.tables(corpus, sorted(corpus), genders, "en"), meta)
    return common.write_sets(out, sets)


def _row(line: str) -> tuple[str, str] | None:
    """Reader and gender in a line of either speaker table."""
    return None if line.startswith("READER\t") else common.piped(line.replace("\t", "|"))


def scan_part(path: Path, problems: Problems) -> dict[str, Recording]:
    """Audio and normalized transcripts of a part; what is wrong goes to `problems`."""
    audio = common.find_files(path, (".wav",), "_", LAYOUT, problems)
    files = common.find_files(path, (".normalized.txt",), "_", LAYOUT, problems)
    texts: dict[str, Transcript] = {}
    for utt, file in files.items():
        words = file.read_text(encoding="utf-8", errors="replace").split()
        if not words:
            problems.add("the transcript is empty", path=file, utt=utt)
        texts[utt] = Transcript(" ".join(words), file, 1)
    for utt in BROKEN & audio.keys():
        log.info("%s: %s is left out, its published file is broken", path.name, utt)
        del audio[utt]
        texts.pop(utt, None)
    if not audio:
        problems.add("no audio in this part", path=path, expected=LAYOUT)
    common.compare(audio, texts, problems)
    return {
        utt: Recording(file, utt.split("_")[0], texts[utt].text if utt in texts else "")
        for utt, file in audio.items()
    }

"""AISHELL-3 (Shi et al., Interspeech 2021; openslr.org/93): Mandarin, as the language no system was trained on.

    <root>/spk-info.txt                                    <speaker> <age group> <male|female> <accent>
    <root>/test/content.txt                                <utt>.wav TAB <character> <pinyin> <character> <pinyin> ...
    <root>/test/wav/<speaker>/<speaker><number>.wav

The test part becomes `aishell3_test_enrolls` and `aishell3_test_trials_<f|m>` by the rule of `trial_rule`. The corpus
tells no recording sessions apart, so all trials are of the session of their enrolment.

Read here and not through lhotse's recipe, for the reason given in `librispeech`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import Problems
from . import common
from .common import Recording, Transcript

LAYOUT = "test/wav/<speaker>/<speaker><number>.wav"
_PINYIN = re.compile(r"[a-zü:]+[0-9]")
_HAN = re.compile(r"[㐀-䶿一-鿿]")


def prepare(
    out: Path, *, root: Path, seed: int = 0, enroll_seconds: float = 75.0, impostors: float = 0.25
) -> list[str]:
    """Write the enrolment and trial sets of the test part.

    Args:
        out: directory to hold one data directory per set.
        root: the corpus, or the directory that holds it as `AISHELL-3/` or `data_aishell3/`; `train/` is not needed.
        seed: of the enrolment and trial rule, as are
        enroll_seconds: speech to enrol a speaker with, and
        impostors: share of each gender's speakers to leave unenrolled.

    Returns:
        Names of the sets.

    Raises:
        UserError: if the corpus, its speaker table or its transcripts are not as described; nothing has been written
            then.
    """
    tree = common.find_tree(
        Path(root), "AISHELL-3", ["AISHELL-3", "data_aishell3"], ["test/wav"], layout=LAYOUT,
        hint="download https://www.openslr.org/93 and unpack it",
    )  # fmt: skip
    table = tree / "spk-info.txt"
    genders = common.read_genders(table, _row, "SPEAKER AGE GENDER (female or male) ACCENT")
    problems = Problems()
    audio = common.find_files(tree / "test" / "wav", (".wav",), "", LAYOUT, problems, depth=1)
    if not audio:
        problems.add("no audio in this part", path=tree / "test", expected=LAYOUT)
    texts = read_content(tree / "test" / "content.txt", problems)
    if texts:
        common.compare(audio, texts, problems)
    corpus = {
        utt: Recording(file, file.parent.name, texts[utt].text if utt in texts else "")
        for utt, file in audio.items()
    }
    common.check_genders((rec.speaker for rec in corpus.values()), genders, table, problems)
    problems.raise_if_any()
    meta = {"corpus": "aishell3", "split": "test", "notes": "test part by rule"}
    sets = common.rule_sets(
        "aishell3_test", corpus, genders, meta, language="cmn", seed=seed,
        enroll_seconds=enroll_seconds, impostors=impostors,
    )  # fmt: skip
    return common.write_sets(out, sets)


def _row(line: str) -> tuple[str, str] | None:
    """Speaker and gender in a line of spk-info.txt."""
    if line.startswith("#"):
        return None
    speaker, _, gender, *_ = line.split()
    return speaker, gender


def read_content(path: Path, problems: Problems) -> dict[str, Transcript]:
    """Transcripts in characters, without spaces and without pinyin; what is wrong goes to `problems`."""
    texts: dict[str, Transcript] = {}
    common.read_transcripts(path, texts, problems)
    characters: dict[str, Transcript] = {}
    for name, said in texts.items():
        text = "".join(token for token in said.text.split() if not _PINYIN.fullmatch(token))
        utt = name.removesuffix(".wav")
        if said.text and not _HAN.search(text):
            problems.add("no Chinese character", path=said.path, line=said.line, utt=utt)
        characters[utt] = said._replace(text=text)
    return characters

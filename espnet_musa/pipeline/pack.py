"""Stage 10, pack: a system's anonymized sets and scores -> exp/<system>/pack, in VoicePrivacy's layout.

    data/<set><suffix>/wav/<utterance>.wav, with the Kaldi files of the set beside `wav/`
    exp/results_summary/result_for_rank<suffix>, ...        (see `vpc_results`)
    result_for_submission<suffix>.zip                       what lies in exp/

Laid over a copy of the challenge's repository, its own evaluation finds the data. Original speech is never packed: not
as a system, and not in place of an anonymized file.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import config, stamp
from ..config import Recipe
from ..corpora.vpc2026 import OPTIONAL, TRACK2
from ..corpora.vpc_lists import PREPARED
from ..data.audio import AudioFile
from ..data.datadir import DataDir, list_sets, spk2utt
from ..data.table import write_table
from ..errors import Problems, UserError
from ..log import get_logger, progress
from .anonymize import BLOCK, RejectedOutput, spool
from .score import anonymized_copy, model_dir
from .vpc_results import Results, read_results, write_results

log = get_logger(__name__)
# The challenge's Kaldi files. What tells how an utterance was anonymized (utt2target) stays here.
TABLES = (
    "utt2spk", "spk2gender", "text", "text_no_norm", "utt2dur", "utt2emo", "spk2fold", "enrolls",
)  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of the files in the zip: the same content gives the same bytes


def pack(
    recipe: Recipe, root: Path, name: str, *, suffix: str | None = None, models: bool = False, force: bool
) -> Path:
    """Pack one system.

    Args:
        recipe: names sets and evaluators.
        root: the recipe's directory.
        name: the system.
        suffix: of the sets' names; `_<system>` if None.
        models: put the semi-informed attacker into the zip, as the challenge does.
        force: replace a pack of something else.

    Returns:
        the directory.

    Raises:
        UserError: if the system is the original speech, a set is not anonymized, belongs to another original,
            configuration or seed, or holds a copy of original speech; nothing is published then.
    """
    suffix = f"_{name}" if suffix is None else suffix
    if not re.fullmatch(r"_[A-Za-z0-9._-]+", suffix):
        raise UserError(f"suffix '{suffix}'", expected="an underscore, then letters, digits and . _ -")
    if "asr" in suffix:
        log.warning(
            "pack: the challenge's check of data directories skips names with 'asr', such as *%s", suffix
        )
    sets = _sets(recipe, root, name)
    scored = set(recipe.anonymize_roles)
    inputs = {o.name: [o.fingerprint, a.fingerprint] for o, a in sets if o.meta.role in scored}
    results = read_results(recipe, root, name, inputs)
    fields = {
        "suffix": suffix,
        "models": models,
        "sets": {original.name: anonymized.fingerprint for original, anonymized in sets},
        "scores": {role: one.digest for role, one in results.found.items()},
    }
    out = root / "exp" / name / "pack"
    partial = stamp.begin(out, "pack", fields, force=force)
    if partial is None:
        log.info("pack: %s is up to date", out)
        return out
    started = time.monotonic()
    _refuse_copies(sets)
    for original, anonymized in sets:
        _write_set(partial / "data", original, anonymized, suffix)
    _write_exp(recipe, root, name, partial / "exp", sets, results, suffix, models)
    _zip(partial / "exp", partial / f"result_for_submission{suffix}.zip")
    utterances = sum(len(original.utts) for original, _ in sets)
    stamp.finish(
        out, "pack", counts={"sets": len(sets), "utterances": utterances}, seconds=time.monotonic() - started
    )
    wanted = {"2024": set(PREPARED), "2026, track 2": TRACK2.keys() - OPTIONAL}
    for challenge, names in wanted.items():
        absent = sorted(names - fields["sets"].keys())
        if 0 < len(absent) < len(names):
            log.info("pack: %s lacks what a submission of %s needs: %s", out, challenge, ", ".join(absent))
    if not results.found:
        log.info("pack: %s is not scored, so %s holds no results", name, out)
    return out


def _sets(recipe: Recipe, root: Path, name: str) -> list[tuple[DataDir, DataDir]]:
    """Originals and anonymized copies: all that are to be anonymized, and the attacker's training set if it was."""
    system = config.load_system(recipe, name, root)
    if system.lower_bound:
        raise UserError(f"system '{name}' is the original speech and is never packed")
    wanted = {"system": config.digest(config.to_dict(system)), "seed": recipe.seed}
    roles = config.anonymized_roles(recipe, root)
    chosen = list_sets(root / "dump", roles)
    chosen += [
        path
        for path in list_sets(root / "dump", ["attack_train"])
        if path not in chosen and stamp.read(root / "exp" / name / "data" / path.name) is not None
    ]
    if not chosen:
        raise UserError("nothing to pack", path=root / "dump", hint="run stage 'format' first")
    sets, problems = [], Problems()
    for path in chosen:
        original = DataDir.read(path, "audio")
        anonymized = anonymized_copy(original, root, name)
        made = stamp.require(anonymized.path, "anonymize")["fields"]
        if changed := [field for field, value in wanted.items() if made.get(field) != value]:
            problems.add(f"not this recipe's: differs in {', '.join(changed)}", path=anonymized.path)
        sets.append((original, anonymized))
    problems.raise_if_any()
    return sets


def _refuse_copies(sets: list[tuple[DataDir, DataDir]]) -> None:
    """Compare all audio with its original once more, whoever made it."""
    problems = Problems()
    total = sum(len(original.utts) for original, _ in sets)
    pairs = ((original, anonymized, utt) for original, anonymized in sets for utt in original.utts)
    for original, anonymized, utt in progress(pairs, total=total, desc="pack: originals"):
        with AudioFile(original.audio_path(utt)) as source, AudioFile(anonymized.audio_path(utt)) as made:
            try:
                spool(_blocks(made), source, None, length=math.inf)
            except RejectedOutput as error:
                problems.add(str(error), path=anonymized.audio_path(utt), utt=utt)
    problems.raise_if_any()


def _blocks(file: AudioFile) -> Iterator[np.ndarray]:
    for start in range(0, file.frames, BLOCK):
        yield file.read(start, min(start + BLOCK, file.frames))


def _write_set(data: Path, original: DataDir, anonymized: DataDir, suffix: str) -> None:
    """One data directory: hard links where the file system has them, and Kaldi files with the challenge's paths."""
    name = f"{original.name}{suffix}"
    place = data / name
    (place / "wav").mkdir(parents=True, exist_ok=True)
    for utt in original.utts:
        target = place / "wav" / f"{utt}.wav"
        target.unlink(missing_ok=True)
        try:
            os.link(anonymized.audio_path(utt), target)
        except OSError:
            shutil.copyfile(anonymized.audio_path(utt), target)
    tables = {table: anonymized.table(table) for table in TABLES if table in anonymized.tables}
    tables["wav.scp"] = {utt: f"data/{name}/wav/{utt}.wav" for utt in original.utts}
    tables["spk2utt"] = spk2utt(original.table("utt2spk"))
    for table, values in tables.items():
        write_table(place / table, values)
    if original.has("trials"):
        shutil.copyfile(original.path / "trials", place / "trials")


def _write_exp(
    recipe: Recipe, root: Path, name: str, out: Path, sets: list[tuple[DataDir, DataDir]], results: Results,
    suffix: str, models: bool,
) -> None:  # fmt: skip
    """Results, scores and, if asked for, the attacker."""
    shutil.rmtree(out, ignore_errors=True)  # of a run that was killed
    out.mkdir()
    enroll_of = {original.name: original.meta.enroll for original, _ in sets if original.meta.enroll}
    system = config.to_dict(config.load_system(recipe, name, root))
    notes = {"anon_data_suffix": suffix, "system": {"name": name, **system}, "seed": recipe.seed}
    if results.found:
        write_results(out, results, enroll_of, suffix, notes)
    if models and results.asv_anon is not None:
        shutil.copytree(model_dir(root, results.asv_anon.name, name), out / f"asv_anon{suffix}" / "model")


def _zip(folder: Path, out: Path) -> None:
    """All files of a folder, as `<folder's name>/...`."""
    temporary = out.with_name(out.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(file.relative_to(folder.parent).as_posix(), _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            with file.open("rb") as stream, archive.open(info, "w", force_zip64=True) as entry:
                shutil.copyfileobj(stream, entry)
    temporary.replace(out)

"""Import: what another program anonymized, in VoicePrivacy's layout -> exp/<system>/data/<set>, ready to be scored.

    <source>/<set><suffix>/wav/<utterance>.wav     (or <source>/data/<set><suffix>/..., at any depth below)

Files are matched to the originals by utterance id, the file's stem; all facts (speakers, texts, trials) are the
original set's, so Kaldi files beside the audio are not needed. The same checks as after an anonymizer of our own apply.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf

from .. import config, stamp
from ..config import FormatConfig, Recipe, System
from ..data.audio import FULL_SCALE, AudioFile, write_pcm
from ..data.datadir import SAMPLE_RATE, DataDir, list_sets
from ..data.table import read_table, write_text
from ..errors import Problems, UserError
from ..log import get_logger
from . import format as formatting
from .anonymize import LENGTH, RejectedOutput, read_back, spool
from .sharding import begun, choose_sets, missing, work

log = get_logger(__name__)
ENDINGS = (".wav", ".flac")
VERB = "python -m espnet_musa.bin.import_submission"
DESCRIPTION = "Imported submission: anonymized elsewhere"


@dataclass(frozen=True)
class Options:
    """How foreign files are taken.

    Args:
        suffix: what follows a set's name in its folder's; None: the one that fits.
        convert: bring other rates, formats and encodings into ours (`format` of the recipe); else they are errors.
        length: largest relative difference in duration from the original.
        sets: names of the sets to import; all if empty.
        force: replace an import of something else.
    """

    suffix: str | None = None
    convert: bool = False
    length: float = LENGTH
    sets: str = ""
    force: bool = False


def import_submission(recipe: Recipe, root: Path, name: str, source: Path, options: Options) -> list[str]:
    """Check and copy a submission.

    Args:
        recipe: its formatted sets (`dump/`) are the originals.
        root: the recipe's directory.
        name: of a system with `anonymizer: imported`; its YAML is made if there is none.
        source: the folder of the submission.
        options: how.

    Returns:
        names of the sets that now are anonymized data directories.

    Raises:
        UserError: listing what is missing, extra, duplicate, of another format, too long or short, silent or a copy of
            the original; nothing is published then.
    """
    configured = _check_name(recipe, root, name)
    roles = config.anonymized_roles(recipe, root)
    originals = [DataDir.read(p, "audio") for p in choose_sets(root / "dump", roles, options.sets, "format")]
    folders = find_folders(source, [data.name for data in originals], options.suffix)
    problems = Problems()
    files = {data.name: match(data, folders[data.name], options.convert, problems) for data in originals}
    problems.raise_if_any()
    if not configured:
        _write_system(root, name)
    system = config.load_system(recipe, name, root)
    outs = {data.name: root / "exp" / name / "data" / data.name for data in originals}
    jobs = []
    for data in originals:
        jobs += _begin(recipe, system, data, files[data.name], outs[data.name], options)
    work(jobs, f"import {name}")
    for data in originals:
        if begun([outs[data.name]]):
            _finish(data, outs[data.name])
    config.save(system, root / "exp" / name / "system.yaml")
    return [data.name for data in originals]


def require(recipe: Recipe, root: Path, name: str) -> None:
    """Refuse to go on unless every set of an imported system is there and belongs to today's originals.

    Raises:
        UserError: naming the sets, and the command that imports them.
    """
    wanted = {
        "system": config.digest(config.to_dict(config.load_system(recipe, name, root))),
        "seed": recipe.seed,
    }
    problems = Problems()
    for path in list_sets(root / "dump", config.anonymized_roles(recipe, root)):
        place = root / "exp" / name / "data" / path.name
        made = stamp.read(place)
        fields = wanted | {"input": DataDir.read(path).fingerprint}
        if made is None:
            problems.add("not imported", path=place, hint=f"{VERB} --system {name} DIR")
        elif changed := [k for k, v in fields.items() if made["fields"].get(k) != v]:
            hint = f"{VERB} --system {name} --force true DIR"
            problems.add(f"imported for another {', '.join(changed)}", path=place, hint=hint)
    problems.raise_if_any()


def _check_name(recipe: Recipe, root: Path, name: str) -> bool:
    """Whether a system of that name is configured.

    Raises:
        UserError: if it is one that makes its own speech, or the name cannot be one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"'{name}' cannot name a system", expected="letters, digits and . _ -")
    if not any((base / "conf/systems" / f"{name}.yaml").is_file() for base in (root, config.ROOT)):
        return False
    if not config.load_system(recipe, name, root).imported:
        raise UserError(
            f"system '{name}' makes its own speech", expected=f"anonymizer: {config.IMPORTED}",
            hint="choose another name for the import",
        )  # fmt: skip
    return True


def _write_system(root: Path, name: str) -> None:
    """A system's YAML in the recipe's own `conf/systems`."""
    file = root / "conf" / "systems" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, f'description: "{DESCRIPTION}"\nreference: "-"\nanonymizer: {config.IMPORTED}\n')
    log.info("import: wrote %s; describe the system there", file)


def find_folders(source: Path, sets: list[str], suffix: str | None) -> dict[str, Path]:
    """The folder of every set: set -> folder.

    Args:
        source: the folder of the submission, or what holds it as `data/`.
        sets: names of the original sets.
        suffix: of the folders' names; None: the one that most sets have.

    Raises:
        UserError: if a set has no folder, or the suffix is not clear.
    """
    if not source.is_dir():
        raise UserError(
            "no such folder", path=source, expected="a submission: <set><suffix>/wav/<utterance>.wav"
        )
    places = [p for p in (source, source / "data") if p.is_dir()]
    names = {place: sorted(p.name for p in place.iterdir() if p.is_dir()) for place in places}
    known = {
        place: Counter(n[len(s) :] for n in names[place] for s in sets if n.startswith(s)) for place in places
    }
    place = max(places, key=lambda p: max(known[p].values(), default=0))
    if suffix is None:
        best = [found for found, count in known[place].items() if count == max(known[place].values())]
        if len(best) > 1:
            raise UserError(
                f"several suffixes: {', '.join(map(repr, sorted(best)))}",
                path=place,
                hint="--suffix <one of them>",
            )
        suffix = best[0] if best else ""
    problems = Problems()
    for name in sets:
        if f"{name}{suffix}" not in names[place]:
            problems.add(f"no folder '{name}{suffix}'", path=place, hint="--sets imports some sets only")
    problems.raise_if_any()
    for other in sorted(set(names[place]) - {f"{name}{suffix}" for name in sets}):
        log.info("import: %s is left out: not a set of this recipe", place / other)
    return {name: place / f"{name}{suffix}" for name in sets}


def match(original: DataDir, folder: Path, convert: bool, problems: Problems) -> dict[str, Path]:
    """Audio files of a set by utterance; what does not fit goes to `problems`."""
    files: dict[str, Path] = {}
    for file in sorted((folder / "wav" if (folder / "wav").is_dir() else folder).rglob("*")):
        if file.suffix.lower() not in ENDINGS or file.name.startswith("."):
            continue
        if file.stem in files:
            problems.add(
                f"also as {files[file.stem]}", path=file, utt=file.stem, expected="one file an utterance"
            )
        elif file.stem not in original.table("utt2spk"):
            problems.add(f"no utterance of {original.path}", path=file, utt=file.stem)
        elif not convert:
            _check_header(file, problems)
        files.setdefault(file.stem, file)
    for utt in original.utts:
        if utt not in files:
            problems.add("missing", path=folder, utt=utt)
    if (folder / "utt2spk").is_file():
        theirs = read_table(folder / "utt2spk", problems)
        for utt, spk in original.table("utt2spk").items():
            if theirs.get(utt, spk) != spk:
                problems.add(f"speaker '{theirs[utt]}', originally '{spk}'", path=folder / "utt2spk", utt=utt)
    return files


def _check_header(file: Path, problems: Problems) -> None:
    try:
        info = sf.info(str(file))
    except sf.LibsndfileError:
        problems.add("cannot be read as audio", path=file, utt=file.stem)
        return
    found = (info.samplerate, info.channels, info.subtype, info.format)
    if found != (SAMPLE_RATE, 1, "PCM_16", "WAV"):
        problems.add(
            "{} Hz, {} channels, {}, {}".format(*found), path=file, utt=file.stem,
            expected="16000 Hz, 1 channel, PCM_16, WAV", hint="--convert true brings it into this form",
        )  # fmt: skip


def _begin(
    recipe: Recipe, system: System, data: DataDir, files: dict[str, Path], out: Path, options: Options
) -> list[tuple[Path, str, Callable[[], None]]]:
    """Work to do for one set, for `sharding.work`; none if it is up to date."""
    settings = replace(
        recipe.format, max_clipped=1.0
    )  # what an anonymizer's output is like is not ours to refuse
    facts = {utt: (files[utt].stat().st_size, files[utt].stat().st_mtime_ns) for utt in data.utts}
    fields = {
        "system": config.digest(config.to_dict(system)),
        "seed": recipe.seed,
        "input": data.fingerprint,
        "files": config.digest(
            {"files": facts, "format": config.to_dict(settings), "length": options.length}
        ),
    }
    partial = stamp.begin(out, "import", fields, force=options.force)
    if partial is None:
        log.info("import: %s is up to date", out)
        return []
    (partial / "wav").mkdir(exist_ok=True)
    (partial / ".begun").touch()
    return [
        (made, utt, _job(files[utt], data.audio_path(utt), made, settings, options.length))
        for utt, made in ((utt, partial / "wav" / f"{utt}.wav") for utt in data.utts)
    ]


def _finish(data: DataDir, out: Path) -> None:
    """Publish a set that was begun, with the facts of its original."""
    partial = stamp.partial_of(out)
    missing(partial, data.utts)
    left_out = ("wav.scp", "utt2dur", "spk2utt")
    tables = {name: table for name, table in data.tables.items() if name not in left_out}
    formatting.publish(partial, out, tables, data, started=partial / ".begun", stage="import")


def _job(file: Path, original: Path, out: Path, settings: FormatConfig, length: float) -> Callable[[], None]:
    """Work that copies one file, sample by sample where it has our format, once it is found to be anonymized speech."""

    def make() -> None:
        with (
            AudioFile(file, channels=settings.channels) as made,
            AudioFile(original) as source,
            tempfile.SpooledTemporaryFile(max_size=1 << 24) as spooled,
        ):
            blocks = formatting.blocks(made, 0, made.frames, settings, str(file))
            try:
                spool((block.astype(np.float32) / FULL_SCALE for block in blocks), source, spooled, length)
            except RejectedOutput as error:
                raise UserError(str(error), path=file) from None
            write_pcm(out, read_back(spooled, 1.0, truncate=False), source.sample_rate)

    return make

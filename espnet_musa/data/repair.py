"""Repair of a source data directory: what `utils/fix_data_dir.sh` does.

Form is repaired (order, line ends, blank and repeated lines), and utterances that some file lacks are taken out of
the others. Values are never changed, a choice between two values is never made, audio is never touched.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from .. import stamp
from ..errors import Problems, UserError, suggest
from .datadir import DataDir, spk2utt
from .ops import Tables, select
from .schema import DERIVED, FILES, FOLDERS, OTHER, check_id
from .table import write_text

BACKUP = ".backup"


def fix(path: str | Path) -> list[str]:
    """Repair a data directory in place; files that change are first copied to `.backup/`.

    Returns:
        What was done, a line each; empty if there was nothing to do.

    Raises:
        UserError: if it cannot be repaired without choosing or losing everything, or is the output of a stage or
            an anonymized directory: a repair there would hide utterances that failed. Nothing is written then.
    """
    path = Path(path)
    problems, notes = Problems(), []
    lines = {file.name: _clean(file, problems, notes) for file in _files(path)}
    problems.raise_if_any()
    tables = {name: _parse(path / name, lines[name], problems) for name in lines if name not in DERIVED}
    problems.raise_if_any()
    utts = _common(tables, notes)
    if not utts:
        raise UserError("nothing would remain: no utterance is in all files", path=path, hint=notes[-1])
    kept = select(tables, utts)
    texts = {name: _render(path / name, lines[name], kept.get(name), notes) for name in tables}
    texts["spk2utt"] = "".join(f"{spk} {' '.join(own)}\n" for spk, own in spk2utt(kept["utt2spk"]).items())
    for name, text in texts.items():
        file = path / name
        old = file.read_bytes() if file.is_file() else None
        if old == text.encode():
            continue
        if old is not None:
            (path / BACKUP).mkdir(exist_ok=True)
            shutil.copy2(file, path / BACKUP / name)
        write_text(file, text)
        notes.append(f"{name}: written")
    DataDir.read(path, required=("utt2spk",))
    return notes


def _files(path: Path) -> list[Path]:
    """The tables of the directory, after refusing what must not be repaired."""
    if not path.is_dir():
        raise UserError("no such data directory", path=path)
    done = stamp.read(path)
    if done is not None:
        hint = "repair what it was made from, then run the stage again"
        raise UserError(f"is the output of stage '{done['stage']}' and is not repaired", path=path, hint=hint)
    if (path / "utt2target").exists():
        raise UserError("is an anonymized directory (utt2target) and is not repaired", path=path)
    if not (path / "utt2spk").is_file():
        raise UserError("file 'utt2spk' is missing", path=path)
    problems, files = Problems(), []
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or (file.is_dir() and FOLDERS.fullmatch(file.name)):
            continue
        if file.is_file() and (file.name in FILES or file.name == "trials"):
            files.append(file)
        elif file.name not in OTHER:
            near = suggest(file.name, [*FILES, *OTHER])
            problems.add(f"unknown file{near}", path=file, hint="move it out of the data directory")
    problems.raise_if_any()
    return files


def _clean(path: Path, problems: Problems, notes: list[str]) -> dict[str, str]:
    """Lines of a file as key -> rest without line ends, byte order mark, blank and repeated lines.

    The key of a trial is its speaker and utterance.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.add("not UTF-8", path=path, line=line, hint="convert the file, e.g. with iconv")
        return {}
    words = 2 if path.name == "trials" else 1
    found: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        parts = re.split(r"[ \t]+", line.strip(" \t\r"), maxsplit=words)
        key, rest = " ".join(parts[:words]), " ".join(parts[words:])
        if not key:
            continue
        if found.setdefault(key, rest) != rest:
            problems.add(f"'{key}' has another value than in line {first[key]}", path=path, line=number)
        elif key in first:
            notes.append(f"{path.name}: line {number} repeated line {first[key]}")
        first.setdefault(key, number)
    return found


def _parse(path: Path, lines: dict[str, str], problems: Problems) -> Any:
    """Cleaned lines as a table (see `ops.Tables`)."""
    if not lines:
        problems.add("empty file", path=path, hint="remove it")
    if path.name == "trials":
        for key, label in lines.items():
            if label not in ("target", "nontarget"):
                expected = "<enrolment speaker> <trial utterance> target|nontarget"
                problems.add(f"'{key} {label}'", path=path, expected=expected)
        return [(*key.partition(" ")[::2], label) for key, label in lines.items()]
    table = {}
    for key, rest in lines.items():
        bad = check_id(key)
        if bad:
            problems.add(f"key '{key}': {bad}", path=path)
        try:
            table[key] = True if FILES[path.name].key == "list" and not rest else FILES[path.name].parse(rest)
        except ValueError as error:
            problems.add(f"'{key} {rest}'", path=path, expected=str(error))
    return table


def _common(tables: Tables, notes: list[str]) -> set[str]:
    """Utterances that every file knows: by themselves, by their recording or by their speaker."""
    segments = tables.get("segments")
    utts = set()
    for utt, spk in tables["utt2spk"].items():
        known_as = {"utt": utt, "spk": spk, "rec": utt}
        if segments is not None:
            known_as["rec"] = segments.get(utt, [None])[0]
        lacking = [
            name
            for name, table in tables.items()
            if name != "trials" and FILES[name].key != "list" and known_as[FILES[name].key] not in table
        ]
        if lacking:
            notes.append(f"utterance '{utt}' removed: not in {', '.join(lacking)}")
        else:
            utts.add(utt)
    return utts


def _render(path: Path, lines: dict[str, str], kept: Any, notes: list[str]) -> str:
    """The text of a file with the lines that stay, values as they were."""
    if not kept:
        hint = "do its ids belong to this set? Remove the file if they do not"
        raise UserError("nothing would remain of it", path=path, hint=hint)
    keys = {f"{spk} {utt}" for spk, utt, _ in kept} if path.name == "trials" else set(kept)
    notes += [f"{path.name}: removed '{key}'" for key in lines if key not in keys]
    return "".join(f"{key} {lines[key]}".rstrip() + "\n" for key in sorted(keys))

"""Reading and writing one Kaldi table: `key value...` lines, UTF-8, sorted bytewise, keys unique."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..errors import Problems, suggest
from .schema import FILES, check_id

_SPLIT = re.compile(r"[ \t]+")


def decode(path: Path, problems: Problems) -> list[str] | None:
    """Lines of a text file without their ends; None after a problem that makes the rest unreadable."""
    raw = path.read_bytes()
    if not raw:
        problems.add("empty file", path=path, expected="at least one line")
        return None
    if raw.startswith(b"\xef\xbb\xbf"):
        problems.add("starts with a byte order mark", path=path, line=1, hint="utils/fix_data_dir.sh")
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.add("not UTF-8", path=path, line=line, hint="convert the file, e.g. with iconv")
        return None
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        problems.add("line ends with CR (Windows)", path=path, line=line, hint="utils/fix_data_dir.sh")
        return None
    if not text.endswith("\n"):
        problems.add("last line has no end: truncated?", path=path, line=text.count("\n") + 1)
        return None
    return text[:-1].split("\n")


def read_table(path: Path, problems: Problems) -> dict[str, Any]:
    """Parse `path` by the schema of its name; every problem is added with its line.

    Returns:
        key -> value in the file's order; for a list file, utterance -> True.
    """
    spec = FILES[path.name]
    lines = decode(path, problems)
    table: dict[str, Any] = {}
    seen: dict[str, int] = {}
    previous = ""
    for number, line in enumerate(lines or (), start=1):
        key, _, rest = line.strip(" \t").partition(" ") if "\t" not in line else _partition(line)
        if not key:
            problems.add("blank line", path=path, line=number, hint="utils/fix_data_dir.sh")
            continue
        if key in seen:
            problems.add(f"key '{key}' already stands in line {seen[key]}", path=path, line=number)
            continue
        if key < previous:  # code points and UTF-8 bytes sort alike
            problems.add(
                f"'{key}' comes after '{previous}': not sorted bytewise", path=path, line=number,
                hint="utils/fix_data_dir.sh",
            )  # fmt: skip
        seen[key], previous = number, key
        bad = check_id(key)
        if bad:
            problems.add(f"key '{key}': {bad}", path=path, line=number)
        if spec.key == "list":
            if rest:
                problems.add(f"'{line}'", path=path, line=number, expected="one utterance id a line")
            table[key] = True
            continue
        try:
            table[key] = spec.parse(rest.lstrip(" \t"))
        except ValueError as error:
            problems.add(f"'{line}'", path=path, line=number, expected=str(error))
    return table


def _partition(line: str) -> tuple[str, str, str]:
    parts = _SPLIT.split(line.strip(" \t"), maxsplit=1)
    return parts[0], " ", parts[1] if len(parts) > 1 else ""


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write a table sorted by key, atomically."""
    spec = FILES[path.name]
    if spec.key == "list":
        lines = [f"{key}\n" for key in sorted(table)]
    else:
        lines = [f"{key} {spec.format(table[key])}\n" for key in sorted(table)]
    write_text(path, "".join(lines))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def compare_keys(
    path: Path, found: set[str], wanted: set[str], other: Path, what: str, problems: Problems
) -> None:
    """Add a problem for every key of `path` that `other` lacks and the other way round."""
    for key in sorted(found - wanted):
        problems.add(f"{what} '{key}' is not in {other.name}{suggest(key, wanted)[:80]}", path=path)
    for key in sorted(wanted - found):
        problems.add(f"{what} '{key}' of {other.name} is missing", path=path, hint="utils/fix_data_dir.sh")

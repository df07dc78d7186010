"""One way of saying what is wrong: file, line, utterance, cause, expectation, remedy.

`UserError` is for everything a user can cause or cure (input, configuration, environment); a verb prints its
message and exits with code 2. Any other exception is a defect of ours and keeps its traceback (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SHOWN = 5  # problems printed before "... and N more"
KNOWN = 15  # names that a suggestion lists at most


def describe(
    message: str,
    *,
    path: str | Path | None = None,
    line: int | None = None,
    utt: str | None = None,
    expected: str | None = None,
    hint: str | None = None,
) -> str:
    """Render `path:line: utt 'x': message; expected ...; hint: ...` with the absent parts left out."""
    where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
    who = "" if utt is None else f"utt '{utt}': "
    want = "" if expected is None else f"; expected {expected}"
    remedy = "" if hint is None else f"; hint: {hint}"
    return f"{where}{who}{message}{want}{remedy}"


class UserError(Exception):
    """Bad input, configuration or environment: one clear message, exit code 2.

    Args:
        message: what is wrong.
        where: `path`, `line`, `utt`, `expected`, `hint` of `describe`.
    """

    def __init__(self, message: str, **where: Any) -> None:
        super().__init__(describe(message, **where))


class Problems:
    """Collects what is wrong, so that a user sees all of it at once instead of one error a run.

    Args:
        shown: keep and print so many texts (the count goes on).
    """

    def __init__(self, shown: int = SHOWN) -> None:
        self.texts: list[str] = []
        self.count = 0
        self._shown = shown

    def add(self, message: str, **where: Any) -> None:
        """Record one problem; the arguments are those of `UserError`."""
        self.count += 1
        if len(self.texts) < self._shown:
            self.texts.append(describe(message, **where))

    def __bool__(self) -> bool:
        return self.count > 0

    def raise_if_any(self) -> None:
        """Raise one `UserError` with the first problems and the total.

        Raises:
            UserError: if anything was added.
        """
        if not self.count:
            return
        lines = list(self.texts)
        if self.count > len(lines):
            lines.append(f"... and {self.count - len(lines)} more ({self.count} problems in all)")
        raise UserError("\n".join(lines))


def suggest(name: str, known: Iterable[str]) -> str:
    """Text to append to "unknown ...": the nearest known name, or the list of them.

    Returns:
        `; did you mean 'x'?`, `; known: a, b, c` (of many the first `KNOWN`), or nothing where nothing is known.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near or not known:
        return f"; did you mean '{near[0]}'?" if near else ""
    more = f", ... ({len(known)} in all)" if len(known) > KNOWN else ""
    return f"; known: {', '.join(known[:KNOWN])}{more}"

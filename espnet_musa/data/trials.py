"""Trial lists and score files of ten million lines in seconds.

    trials:  enroll_speaker trial_utt target|nontarget
    scores:  enroll_speaker trial_utt 0.123456789

Fields are separated by one space, lines end with a newline. Names become indices into the lists handed in, so that
everything after reading works on arrays. The passes over bytes are compiled; what they refuse is read again line by
line, only to name the first bad line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from ..errors import UserError

_BLOCK = 1 << 25  # bytes read or written at once
_LABELS = (b"target", b"nontarget")
_DECIMALS = (
    9  # of a score: float32 scores above 0.016 in size are read back bit for bit, smaller ones to 1e-9
)
_NEWLINE, _SPACE = 10, 32


@dataclass(frozen=True)
class Trials:
    """A list of N trials."""

    enroll: np.ndarray  # (N,) int32, index of the enrolled speaker
    trial: np.ndarray  # (N,) int32, index of the trial utterance
    target: np.ndarray  # (N,) bool, the utterance is by that speaker

    def __len__(self) -> int:
        return self.enroll.size


@dataclass(frozen=True)
class _Names:
    """Names as compiled code likes them: one string of bytes with offsets, and a hash table with open addressing."""

    text: np.ndarray  # (bytes,) uint8
    offset: np.ndarray  # (names + 1,) int64
    slots: np.ndarray  # (power of two,) int32, index of a name or -1

    @classmethod
    def build(cls, names: Sequence[str]) -> _Names:
        raw = [name.encode("utf-8") for name in names]
        text = np.frombuffer(b"".join(raw) or b" ", dtype=np.uint8)  # frombuffer refuses nothing at all
        offset = np.cumsum([0, *map(len, raw)], dtype=np.int64)
        slots = np.full(1 << max(4, (4 * len(raw)).bit_length()), -1, dtype=np.int32)
        _fill(text, offset, slots)
        return cls(text, offset, slots)


@njit(cache=True)
def _find(buffer, start, stop, text, offset, slots):  # pragma: no cover - compiled
    """Slot of the name buffer[start:stop]: the one that holds it, or the empty one where it would go."""
    code = np.uint64(14695981039346656037)  # FNV-1a
    for i in range(start, stop):
        code = (code ^ np.uint64(buffer[i])) * np.uint64(1099511628211)
    slot = np.int64(code & np.uint64(slots.size - 1))
    while slots[slot] >= 0:
        name = slots[slot]
        same = offset[name + 1] - offset[name] == stop - start
        i = 0
        while same and i < stop - start:
            same = text[offset[name] + i] == buffer[start + i]
            i += 1
        if same:
            break
        slot = (slot + 1) & (slots.size - 1)
    return slot


@njit(cache=True)
def _fill(text, offset, slots):  # pragma: no cover - compiled
    for name in range(offset.size - 1):
        slot = _find(text, offset[name], offset[name + 1], text, offset, slots)
        if slots[slot] < 0:
            slots[slot] = name


@njit(cache=True)
def _parse(
    buffer, a_text, a_offset, a_slots, b_text, b_offset, b_slots, a, b, third
):  # pragma: no cover - compiled
    """Read lines `name name field`; fills a, b (lines,) with indices and third (lines, 2) with bounds of the field.

    Returns the number of good lines: fewer than all of them if one is malformed or holds an unknown name.
    """
    line, i = 0, 0
    while i < buffer.size:
        start = i
        while buffer[i] > _SPACE:
            i += 1
        if buffer[i] != _SPACE:
            return line
        a[line] = a_slots[_find(buffer, start, i, a_text, a_offset, a_slots)]
        start = i = i + 1
        while buffer[i] > _SPACE:
            i += 1
        if buffer[i] != _SPACE:
            return line
        b[line] = b_slots[_find(buffer, start, i, b_text, b_offset, b_slots)]
        start = i = i + 1
        while buffer[i] > _SPACE:
            i += 1
        if buffer[i] != _NEWLINE or i == start or a[line] < 0 or b[line] < 0:
            return line
        third[line, 0] = start
        third[line, 1] = i
        line += 1
        i += 1
    return line


@njit(cache=True)
def _render(out, a, b, scores, a_text, a_offset, b_text, b_offset):  # pragma: no cover - compiled
    """Write lines `name name score` to out (bytes,); returns the number of bytes."""
    one = 10**_DECIMALS
    n = 0
    for line in range(a.size):
        for i in range(a_offset[a[line]], a_offset[a[line] + 1]):
            out[n] = a_text[i]
            n += 1
        out[n] = _SPACE
        n += 1
        for i in range(b_offset[b[line]], b_offset[b[line] + 1]):
            out[n] = b_text[i]
            n += 1
        out[n] = _SPACE
        n += 1
        value = np.int64(np.rint(abs(scores[line]) * one))
        if scores[line] < 0 and value > 0:
            out[n] = 45  # -
            n += 1
        whole, part = value // one, value % one
        digits = 1
        while whole >= 10**digits:
            digits += 1
        for i in range(digits - 1, -1, -1):
            out[n + i] = 48 + whole % 10
            whole //= 10
        n += digits
        out[n] = 46  # .
        for i in range(_DECIMALS, 0, -1):
            out[n + i] = 48 + part % 10
            part //= 10
        n += _DECIMALS + 1
        out[n] = _NEWLINE
        n += 1
    return n


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines of a file in blocks; a missing newline at the end is added."""
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(_BLOCK):
            chunk = rest + chunk
            cut = chunk.rfind(b"\n") + 1
            rest = chunk[cut:]
            if cut:
                yield chunk[:cut]
    if rest:
        yield rest + b"\n"


def _complain(
    path: Path, enroll: Sequence[str], utts: Sequence[str], field: str, is_field: Callable[[bytes], bool]
) -> None:
    """Read line by line and raise for the first bad line; returns if there is none.

    Args:
        path: a trials or scores file.
        enroll: known enrolled speakers.
        utts: known trial utterances.
        field: what the third field has to be.
        is_field: tells whether it is.
    """
    known_speakers, known_utts = ({name.encode("utf-8") for name in names} for names in (enroll, utts))
    first: dict[tuple[bytes, bytes], int] = {}
    form = f"'enroll_speaker trial_utt {field}', one space between"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\r\n"):
                raise UserError(
                    "Windows line end", path=path, line=number, expected="\\n", hint="run dos2unix"
                )
            parts = line.removesuffix(b"\n").split(b" ")
            shown = line.decode("utf-8", "replace").strip()[:100]
            if len(parts) != 3 or any(byte <= _SPACE for part in parts for byte in part) or not all(parts):
                raise UserError(
                    f"'{shown}' is not one of three fields", path=path, line=number, expected=form
                )
            speaker, utt, value = parts
            name = utt.decode("utf-8", "replace")
            if speaker not in known_speakers:
                raise UserError(
                    f"speaker '{speaker.decode('utf-8', 'replace')}' is not enrolled", path=path, line=number,
                    expected="a speaker of the enrolment set", hint="is this the trial list of another set?",
                )  # fmt: skip
            if utt not in known_utts:
                raise UserError(
                    "no such utterance", path=path, line=number, utt=name,
                    expected="an utterance of the trial set", hint="columns are speaker, utterance, label",
                )  # fmt: skip
            if not is_field(value):
                third = value.decode("utf-8", "replace")
                raise UserError(f"third field is '{third}'", path=path, line=number, expected=field)
            if (speaker, utt) in first:
                raise UserError(
                    f"trial repeats line {first[speaker, utt]}", path=path, line=number, utt=name,
                    expected="each trial once", hint="remove one of the two lines",
                )  # fmt: skip
            first[speaker, utt] = number


def _read(
    path: Path, enroll: Sequence[str], utts: Sequence[str], field: str, is_field, convert
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Enrolment index, utterance index and converted third field of every line, each (N,).

    `convert(block, bounds)` gives the third fields of a block of bytes as an array, or None if one is wrong.
    """
    if not path.is_file():
        raise UserError("no such file", path=path)
    speakers, utterances = _Names.build(enroll), _Names.build(utts)
    columns = []
    for block in _blocks(path):
        lines = block.count(b"\n")
        a, b = np.empty(lines, np.int32), np.empty(lines, np.int32)
        third = np.empty((lines, 2), np.int64)
        tables = (x for n in (speakers, utterances) for x in (n.text, n.offset, n.slots))
        good = _parse(np.frombuffer(block, np.uint8), *tables, a, b, third)
        values = convert(block, third) if good == lines else None
        if values is None:
            _complain(path, enroll, utts, field, is_field)
            raise AssertionError(f"{path}: the fast and the careful reader disagree")
        columns.append((a, b, values))
    if not columns:
        raise UserError("is empty", path=path, expected=f"lines 'enroll_speaker trial_utt {field}'")
    a, b, values = (np.concatenate(column) for column in zip(*columns, strict=True))
    key = np.sort(a * np.int64(len(utts)) + b)
    if (key[1:] == key[:-1]).any():
        _complain(path, enroll, utts, field, is_field)
    return a, b, values


def _labels(block: bytes, bounds: np.ndarray) -> np.ndarray | None:
    """True for "target", False for "nontarget"; None if a field is neither."""
    buffer = np.frombuffer(block, np.uint8)
    start, size = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
    target = size == len(_LABELS[0])
    for label, rows in zip(_LABELS, (start[target], start[~target]), strict=True):
        if any((buffer[np.minimum(rows + i, buffer.size - 1)] != byte).any() for i, byte in enumerate(label)):
            return None
    return target if (target | (size == len(_LABELS[1]))).all() else None


def _floats(block: bytes, bounds: np.ndarray) -> np.ndarray | None:
    """Scores (lines,) float32; None if a field is no finite number."""
    try:
        with np.errstate(over="ignore"):
            values = np.fromiter(map(float, block.split()[2::3]), dtype=np.float64).astype(np.float32)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _is_score(field: bytes) -> bool:
    try:
        return abs(float(field)) <= float(np.finfo(np.float32).max)
    except ValueError:
        return False


def read_trials(path: str | Path, enroll_speakers: Sequence[str], trial_utts: Sequence[str]) -> Trials:
    """Read a trial list.

    Args:
        path: file of lines `enroll_speaker trial_utt target|nontarget`.
        enroll_speakers: enrolled speakers; indices in the result point here.
        trial_utts: utterances of the trial set, likewise.

    Returns:
        the N trials in the order of the file.

    Raises:
        UserError: names the first bad line: not three fields, Windows line end, unknown speaker or utterance, another
            label, a trial that appears twice; also for a missing or empty file and a list with one kind of trial only.
    """
    path = Path(path)
    enroll, trial, target = _read(
        path, enroll_speakers, trial_utts, "target|nontarget", _LABELS.__contains__, _labels
    )
    if target.all() or not target.any():
        missing = "nontarget" if target.all() else "target"
        raise UserError(
            f"{target.size} trials, but no {missing} one", path=path, expected="trials of both kinds",
            hint="an equal error rate needs same-speaker and different-speaker trials",
        )  # fmt: skip
    return Trials(enroll, trial, target)


def read_scores(
    path: str | Path, enroll_speakers: Sequence[str], trial_utts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a score file of lines `enroll_speaker trial_utt score`.

    Returns:
        enrolment index (N,) int32, utterance index (N,) int32 and score (N,) float32, in the order of the file.

    Raises:
        UserError: as `read_trials`; a score has to be a finite number.
    """
    return _read(Path(path), enroll_speakers, trial_utts, "a finite number", _is_score, _floats)


def write_scores(
    path: str | Path,
    trials: Trials,
    enroll_names: Sequence[str],
    trial_names: Sequence[str],
    scores: np.ndarray,
) -> None:
    """Write `enroll_speaker trial_utt score` for each trial, under a temporary name that is then renamed.

    Args:
        path: the file; an old one is replaced.
        trials: N trials.
        enroll_names: names that `trials.enroll` points to.
        trial_names: names that `trials.trial` points to.
        scores: (N,) finite, below 9e9 in size; written with nine decimals.

    Raises:
        UserError: for a score that is NaN, infinite or too large, or another number of scores than trials.
    """
    path = Path(path)
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != trials.enroll.shape:
        raise UserError(f"{scores.size} scores for {len(trials)} trials", path=path)
    if not (np.abs(scores) < 9e9).all():  # also refuses NaN
        raise UserError("a score is NaN, infinite or above 9e9", path=path, expected="finite scores")
    a, b = _Names.build(enroll_names), _Names.build(trial_names)
    width = sum(int(np.diff(n.offset).max(initial=0)) for n in (a, b)) + 24
    rows = max(1, _BLOCK // width)
    out = np.empty(rows * width, np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for start in range(0, len(trials), rows):
                part = slice(start, start + rows)
                columns = (trials.enroll[part], trials.trial[part], scores[part])
                size = _render(out, *columns, a.text, a.offset, b.text, b.offset)
                file.write(out[:size].data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

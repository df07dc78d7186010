"""Subset, split, combine and rename data directories: pure functions from tables to tables.

`Tables` are what `DataDir.tables` holds, by file name, plus `trials` as a list of
(enrolment speaker, trial utterance, is target) if there is one. Every function goes by the schema, so a file it
forgets cannot exist; derived tables are left out, `write_datadir` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import seed
from ..errors import Problems, UserError, suggest
from .datadir import Meta, spk2utt
from .schema import DERIVED, FILES, check_id
from .table import decode

Tables = dict[str, Any]
_PARTIAL = ("list", "trials")  # kinds of files that need not mention every utterance


def read_trials(path: Path) -> list[tuple[str, str, bool]]:
    """The lines of a trial list as (enrolment speaker, trial utterance, is target), whoever they are.

    `data.trials` reads faster, but needs to know the names beforehand.

    Raises:
        UserError: for lines of another form.
    """
    problems = Problems()
    trials = []
    for number, line in enumerate(decode(path, problems) or (), start=1):
        parts = line.split(" ")
        if len(parts) == 3 and parts[2] in ("target", "nontarget"):
            trials.append((parts[0], parts[1], parts[2] == "target"))
        else:
            expected = "<enrolment speaker> <trial utterance> target|nontarget"
            problems.add(f"'{line[:100]}'", path=path, line=number, expected=expected)
    problems.raise_if_any()
    return trials


def _kind(name: str) -> str:
    return "trials" if name == "trials" else FILES[name].key


# ----------------------------------------------------------------------------------------------------------
# A part of a directory


def select(tables: Tables, utts: Iterable[str]) -> Tables:
    """What the tables say about some utterances, their speakers and their recordings.

    Trials stay if their trial utterance does; whom it is compared with belongs to another directory. A list or a
    trial list that keeps nothing is left out.
    """
    utts = set(utts)
    speakers = {spk for utt, spk in tables["utt2spk"].items() if utt in utts}
    recordings = utts
    if "segments" in tables:
        recordings = {segment[0] for utt, segment in tables["segments"].items() if utt in utts}
    keys = {"utt": utts, "list": utts, "spk": speakers, "rec": recordings}
    out: Tables = {}
    for name, table in tables.items():
        if name in DERIVED:
            continue
        kind = _kind(name)
        if kind == "trials":
            kept = [trial for trial in table if trial[1] in utts]
        else:
            kept = {key: value for key, value in table.items() if key in keys[kind]}
        if kept or kind not in _PARTIAL:
            out[name] = kept
    return out


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items at equal distances: a subset that needs no randomness and keeps their order."""
    return [items[i * len(items) // count] for i in range(count)]


def choose(tables: Tables, count: int, how: str = "spread") -> list[str]:
    """Utterances for a subset, sorted.

    Args:
        tables: of the directory; `shortest` needs utt2dur or utt2num_frames.
        count: how many utterances; with `per-spk` of each speaker who has as many (all of the others); with
            `speakers` the least number, reached with whole speakers in random order.
        how: spread, first, last, shortest, per-spk or speakers.

    Raises:
        UserError: if there are not so many, or no durations.
    """
    utts = sorted(tables["utt2spk"])
    speakers = spk2utt(tables["utt2spk"])
    if count < 1:
        raise UserError(f"a subset of {count} utterances", expected="1 or more")
    if how == "per-spk":
        return sorted(u for own in speakers.values() for u in spread(own, min(count, len(own))))
    if count > len(utts):
        raise UserError(f"a subset of {count} utterances was asked for, but there are {len(utts)}")
    if how == "speakers":
        chosen: list[str] = []
        # every speaker draws its own place, so that the order does not depend on who else is there
        for spk in sorted(speakers, key=lambda spk: seed.generator(0, "subset", spk, "order").random()):
            if len(chosen) < count:
                chosen += speakers[spk]
        return sorted(chosen)
    if how == "shortest":
        lengths = tables.get("utt2dur") or tables.get("utt2num_frames")
        if not lengths:
            raise UserError("the shortest utterances are not known", expected="a file 'utt2dur'")
        return sorted(sorted(utts, key=lambda utt: (lengths[utt], utt))[:count])
    return {"first": utts[:count], "last": utts[-count:]}.get(how) or spread(utts, count)


def shares(tables: Tables, count: int, *, per_utt: bool = False) -> list[list[str]]:
    """Utterances in `count` consecutive shares of nearly equal size.

    Args:
        tables: of the directory.
        count: number of shares.
        per_utt: shares may divide a speaker; otherwise each speaker stays in one share.

    Raises:
        UserError: if a share would be empty.
    """
    utt2spk = tables["utt2spk"]
    groups = [[utt] for utt in sorted(utt2spk)] if per_utt else list(spk2utt(utt2spk).values())
    if not 1 <= count <= len(groups):
        what = "utterances" if per_utt else "speakers"
        hint = None if per_utt or count > len(utt2spk) or count < 1 else "--per-utt divides speakers"
        raise UserError(f"{count} shares of {len(groups)} {what}", expected=f"1 to {len(groups)}", hint=hint)
    out: list[list[str]] = []
    done = taken = 0  # utterances and groups in finished shares
    for left in range(count, 0, -1):
        goal = (len(utt2spk) - done) / left
        share = list(groups[taken])
        taken += 1
        # take the next group while that brings the share nearer to its goal and leaves one for each to come
        while len(groups) - taken > left - 1 and (
            left == 1 or goal - len(share) > len(share) + len(groups[taken]) - goal
        ):
            share += groups[taken]
            taken += 1
        done += len(share)
        out.append(sorted(share))
    return out


# ----------------------------------------------------------------------------------------------------------
# Several directories


def combine(parts: Sequence[tuple[Path, Tables]]) -> tuple[Tables, list[str]]:
    """The union of directories.

    Args:
        parts: path (for messages) and tables of each.

    Returns:
        the tables, and a line for each file left out because some directory lacks it.

    Raises:
        UserError: if a key has two values (naming files and lines), or some but not all have segments.
    """
    names = sorted({name for _, tables in parts for name in tables if name not in DERIVED})
    problems = Problems()
    out: Tables = {name: _union(name, parts, problems) for name in names}
    problems.raise_if_any()
    notes = []
    for name in names:
        lacking = [str(path) for path, tables in parts if name not in tables]
        if not lacking or _kind(name) in _PARTIAL:
            continue
        if name == "segments":
            raise UserError(
                "has no segments, others have",
                path=lacking[0],
                hint="run stage 'format' on all of them first",
            )
        if _kind(name) != "spk" or not set(out["utt2spk"].values()) <= set(out[name]):
            del out[name]
            notes.append(f"{name} is left out: {', '.join(lacking)} has none")
    return out, notes


def _union(name: str, parts: Sequence[tuple[Path, Tables]], problems: Problems) -> Any:
    first: dict[Any, tuple[Path, int, Any]] = {}
    for path, tables in parts:
        table = tables.get(name, {})
        items = (
            {(spk, utt): target for spk, utt, target in table}.items() if name == "trials" else table.items()
        )
        for line, (key, value) in enumerate(items, start=1):  # files are sorted, so position and line are one
            where, other, known = first.setdefault(key, (path / name, line, value))
            if known != value:
                key = " ".join(key) if name == "trials" else key
                problems.add(f"'{key}' differs from {where}:{other}", path=path / name, line=line)
    if name == "trials":
        return [(*key, value) for key, (_, _, value) in first.items()]
    return {key: value for key, (_, _, value) in first.items()}


def combine_meta(parts: Sequence[tuple[str, Meta]]) -> Meta:
    """The meta data of a union of (name, meta): what differs is joined with `+`, several roles become `utility`.

    Raises:
        UserError: if trial sets have different enrolment sets.
    """
    metas = [meta for _, meta in parts]
    roles = {meta.role for meta in metas}
    enrolls = {meta.enroll for meta in metas}
    if roles == {"trial"} and len(enrolls) > 1:
        raise UserError(f"trial sets with different enrolment sets: {', '.join(sorted(map(str, enrolls)))}")
    return Meta(
        corpus="+".join(sorted({meta.corpus for meta in metas})),
        role=roles.pop() if len(roles) == 1 else "utility",
        split="+".join(sorted({meta.split for meta in metas})),
        enroll=enrolls.pop() if len(enrolls) == 1 else None,
        notes=f"combined: {', '.join(name for name, _ in parts)}",
    )


# ----------------------------------------------------------------------------------------------------------
# Other names


def rename(tables: Tables, utt: Callable[[str], str], spk: Callable[[str], str]) -> Tables:
    """The same directory with other utterance and speaker ids.

    If utterances change their names and there is no utt2uniq, it is made: new id -> old id (as Kaldi does, so that
    copies of one utterance can be told). Recordings keep their names where segments name them.

    Raises:
        UserError: if a new id is not allowed, or two ids become one.
    """
    same = {key: key for key in tables.get("wav.scp", {})}
    utts = {old: utt(old) for old in tables["utt2spk"]}
    speakers = {old: spk(old) for old in tables["utt2spk"].values()}
    for old, new in [*utts.items(), *speakers.items()]:
        if check_id(new):
            raise UserError(f"'{old}' would become '{new}': {check_id(new)}")
    for names in (utts, speakers):
        if len(set(names.values())) < len(names):
            raise UserError("two ids would become one")
    maps = {"utt": utts, "list": utts, "spk": speakers, "rec": same if "segments" in tables else utts}
    out: Tables = {}
    for name, table in tables.items():
        if name == "trials":
            out[name] = [(spk(speaker), utts[trial], target) for speaker, trial, target in table]
        elif name not in DERIVED:
            out[name] = {maps[_kind(name)][key]: value for key, value in table.items()}
    out["utt2spk"] = {key: speakers[value] for key, value in out["utt2spk"].items()}
    if "utt2uniq" not in out and any(old != new for old, new in utts.items()):
        out["utt2uniq"] = {new: old for old, new in utts.items()}
    return out


def from_list(path: Path, known: Iterable[str], what: str) -> list[str]:
    """Ids of a list file (the first word of each line).

    Raises:
        UserError: for a missing file, and for ids that the directory does not have, with their lines.
    """
    if not path.is_file():
        raise UserError("no such file", path=path)
    problems, known = Problems(), set(known)
    ids = [line.split()[0] if line.split() else "" for line in decode(path, problems) or ()]
    for line, name in enumerate(ids, start=1):
        if name not in known:
            problems.add(f"unknown {what} '{name}'{suggest(name, known)[:80]}", path=path, line=line)
    problems.raise_if_any()
    return sorted(set(ids))

"""Publishing a directory of utterances in three steps: plan, shards (any number, any order, any machine), finish."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from .. import stamp
from ..config import EvaluatorConfig
from ..data.datadir import DataDir, list_sets
from ..errors import Problems, UserError, suggest
from ..log import get_logger, progress

T = TypeVar("T")
log = get_logger(__name__)


def share(items: list[T], shard: tuple[int, int]) -> list[T]:
    """The items of job `shard[0]` (from 1) of `shard[1]`."""
    return items[shard[0] - 1 :: shard[1]]


def choose_sets(root: Path, roles: Iterable[str], names: str, stage: str) -> list[Path]:
    """Data directories below `root` with one of the roles, or those named.

    Raises:
        UserError: if there is none, or a name is unknown; names the stage that makes them.
    """
    found = {p.name: p for p in list_sets(root, roles)}
    if not found:
        raise UserError(
            f"no data directory with role {', '.join(roles)}", path=root, hint=f"run stage '{stage}' first"
        )
    for name in names.split():
        if name not in found:
            raise UserError(f"no set '{name}'{suggest(name, found)}", path=root)
    return [found[n] for n in (names.split() or found)]


def training_set(root: Path) -> Path:
    """The formatted set that attackers are trained on.

    Raises:
        UserError: if there is not exactly one set with role `attack_train`.
    """
    found = list_sets(root / "dump", ["attack_train"])
    if len(found) != 1:
        raise UserError(
            f"{len(found)} sets have the role attack_train", path=root / "dump", expected="exactly one",
            hint="run stage 'format' first, or set the roles in meta.yaml",
        )  # fmt: skip
    return found[0]


def training_sets(root: Path, settings: EvaluatorConfig) -> dict[str, Path]:
    """The sets that an evaluator's attackers are trained on: one for each language if it is `by_language`, else `""`.

    Raises:
        UserError: if there is not exactly one, or with `by_language` not exactly one in each language that there is.
    """
    if not settings.by_language:
        return {"": training_set(root)}
    out: dict[str, Path] = {}
    problems = Problems()
    for path in list_sets(root / "dump", ["attack_train"]):
        code = language_of(DataDir.read(path))
        if code is None:
            problems.add("in several languages, or in none", path=path, expected="utt2lang with one language")
        elif code in out:
            problems.add(f"also in '{code}', as {out[code].name}", path=path, expected="one set a language")
        out.setdefault(code or path.name, path)
    if not out:
        problems.add("no set has the role attack_train", path=root / "dump", hint="run stage 'format' first")
    problems.raise_if_any()
    return out


def language_of(data: DataDir) -> str | None:
    """The language that all utterances of a set are in, None if there is no such."""
    spoken = {data.tables.get("utt2lang", {}).get(utt) for utt in data.utts}
    return spoken.pop() if len(spoken) == 1 else None


def begun(outs: Iterable[Path]) -> list[Path]:
    """Those outputs that were planned and are not published yet."""
    return [out for out in outs if (stamp.partial_of(out) / stamp.PLAN).is_file()]


def work(jobs: list[tuple[Path, str, Callable[[], None]]], desc: str) -> None:
    """Do the jobs whose file is missing; go on after a failure and report all failures at the end.

    Args:
        jobs: (file to make, utterance, function that makes it atomically).
        desc: for the progress.

    Raises:
        UserError: if every failure was a `UserError` (bad input).
        RuntimeError: if any failure was a defect.
    """
    problems, defects = Problems(), 0
    todo = [job for job in jobs if not job[0].exists()]
    if len(todo) < len(jobs):
        log.info("%s: %d of %d are done already", desc, len(jobs) - len(todo), len(jobs))
    for _, utt, make in progress(todo, total=len(todo), desc=desc):
        try:
            make()
        except UserError as error:
            problems.add(str(error), utt=utt)
        except (OSError, MemoryError):
            raise  # the machine's trouble, not this utterance's
        except Exception as error:
            defects += 1
            log.exception("utterance '%s' failed", utt)
            problems.add(f"{type(error).__name__}: {error}", utt=utt)
    if defects:
        try:
            problems.raise_if_any()
        except UserError as error:
            raise RuntimeError(
                f"{problems.count} utterances failed; nothing was published\n{error}"
            ) from None
    problems.raise_if_any()


def missing(partial: Path, utts: list[str]) -> None:
    """Refuse to publish while utterances are missing.

    Raises:
        UserError: naming the first five.
    """
    wanted = {f"{utt}.wav" for utt in utts}
    there = set(os.listdir(partial / "wav"))
    problems = Problems()
    for utt in utts:
        if f"{utt}.wav" not in there:
            problems.add(
                "not made", utt=utt, path=partial, hint="see the logs of the shards; run the stage again"
            )
    problems.raise_if_any()
    for name in there - wanted:  # temporary files of killed jobs, utterances of an older input
        (partial / "wav" / name).unlink()

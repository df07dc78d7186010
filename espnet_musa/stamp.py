"""Outputs that exist whole or not at all.

A stage writes into `<out>.partial/`, then puts `.done.json` into it and renames it to `<out>`. Killed at any
instant, it leaves the old output or the new one, and a partial directory from which the next run goes on.
`.done.json` holds the fingerprint (configuration, inputs): equal on the next run means up to date; different means
an error that names the changed field, unless the user says `--force`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from . import __version__
from .errors import UserError

DONE = ".done.json"
PLAN = ".plan.json"
_KEEP_BOTH = {"anonymize": "; a new system name keeps both", "score": "; a new evaluator name keeps both"}


def partial_of(out: Path) -> Path:
    """Where the output is made before it is published."""
    return out.with_name(out.name + ".partial")


def _old_of(out: Path) -> Path:
    return out.with_name(out.name + ".old")


def read(out: Path) -> dict[str, Any] | None:
    """The stamp of a published output, or None.

    Raises:
        UserError: if there is a stamp that cannot be read.
    """
    try:
        return read_json(out / DONE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise UserError(
            "damaged stamp", path=out / DONE, hint=f"remove {out} and run its stage again"
        ) from None


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically: to a temporary name, synced, then renamed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(data, stream, indent=1, sort_keys=True, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def recover(out: Path) -> None:
    """Finish or undo a replacement (`--force`) that was killed between its two renames."""
    old = _old_of(out)
    if not old.exists():
        return
    if out.exists():
        shutil.rmtree(old)
    else:
        old.rename(out)


def begin(out: Path, stage: str, fields: dict[str, Any], *, force: bool = False) -> Path | None:
    """Start or resume making `out`.

    Args:
        out: the directory to publish.
        stage: name of the stage, for messages and the stamp.
        fields: the fingerprint: everything that the output depends on, as plain data.
        force: replace an output that was made from something else.

    Returns:
        the partial directory to write into, or None if `out` is up to date.

    Raises:
        UserError: if `out` was made from something else and `force` is off.
    """
    recover(out)
    fields = json.loads(json.dumps(fields))
    partial = partial_of(out)
    stamp = read(out)
    if stamp is not None:
        if stamp["fields"] == fields:
            shutil.rmtree(partial, ignore_errors=True)
            return None
        if not force:
            changed = sorted(
                k for k in {*fields, *stamp["fields"]} if fields.get(k) != stamp["fields"].get(k)
            )
            what = ", ".join(_change(k, stamp["fields"].get(k), fields.get(k)) for k in changed)
            raise UserError(
                f"stage '{stage}' made this from something else; changed: {what}",
                path=out,
                hint="--force true makes it anew" + _KEEP_BOTH.get(stage, ""),
            )
    elif out.exists():
        raise UserError(
            f"exists without a stamp, so stage '{stage}' did not make it", path=out, hint="move it away"
        )
    plan = partial / PLAN
    try:
        resumable = read_json(plan) == fields
    except (FileNotFoundError, ValueError):
        resumable = False
    if not resumable:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(plan, fields)
    return partial


def _change(name: str, old: Any, new: Any, most: int = 5) -> str:
    """`name (old -> new)`; of mappings the names of the entries that differ."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{name} ({old} -> {new})"
    differing = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    more = f" and {len(differing) - most} more" if len(differing) > most else ""
    return f"{name} ({', '.join(differing[:most])}{more})"


def finish(
    out: Path, stage: str, *, counts: dict[str, int], seconds: float, commit: str | None = None
) -> None:
    """Publish the partial directory of `out`: stamp it, then rename.

    Args:
        out: the directory to publish; its partial must have been begun.
        stage: name of the stage.
        counts: what the output holds (utterances, ...).
        seconds: wall time that it took; the one entry that differs between two equal runs.
        commit: of the code that made it, where that is worth keeping; see `config.commit`.
    """
    partial = partial_of(out)
    plan = partial / PLAN
    write_json(
        partial / DONE,
        {
            "stage": stage,
            "fields": read_json(plan),
            "counts": counts,
            "seconds": round(seconds, 1),
            "version": __version__,
            **({} if commit is None else {"commit": commit}),
        },
    )
    for left in partial.rglob("*.tmp"):  # of killed jobs
        left.unlink()
    plan.unlink()
    if out.exists():
        out.rename(_old_of(out))
    partial.rename(out)
    shutil.rmtree(_old_of(out), ignore_errors=True)


def require(out: Path, stage: str) -> dict[str, Any]:
    """The stamp of an input.

    Raises:
        UserError: if `out` has not been published, naming the stage that makes it.
    """
    recover(out)
    stamp = read(out)
    if stamp is None:
        raise UserError("not there, or not finished", path=out, hint=f"run stage '{stage}' first")
    return stamp

"""Stage 1, data: corpora -> data/<set>, each set published whole."""

from __future__ import annotations

import inspect
import shutil
import time
from pathlib import Path
from typing import Any

from .. import registry, stamp
from ..config import Recipe
from ..data.datadir import DataDir
from ..errors import UserError, suggest
from ..log import get_logger

log = get_logger(__name__)
LENT = {
    "out",
    "audio",
    "downloads",
    "jobs",
    "seed",
}  # arguments of a preparer that are the pipeline's, not the user's

DOWNLOAD = "download"  # value of a path option that a preparer can fetch by itself


class NoCorpus(UserError):
    """No corpus is given; what is in data/ already may do."""


def chosen(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Corpora of the recipe that are to be prepared: those whose `root` is given, or that need none.

    Raises:
        UserError: for an unknown corpus or option.
        NoCorpus: if no corpus is left.
    """
    out, wanted = {}, []
    for name, options in recipe.corpora.items():
        accepted = inspect.signature(registry.resolve(registry.CORPORA, "corpus", name)).parameters
        known = set(accepted) - LENT
        for option in options:
            if option not in known:
                raise UserError(f"corpus '{name}' has no option '{option}'{suggest(option, known)}")
        if "root" in known and options.get("root") is None:
            wanted.append(option_of(recipe, name, "root") + " DIR")
        else:
            out[name] = {k: v for k, v in options.items() if v is not None}
    if not out:
        hint = "data directories of your own go into data/: start with --stage format"
        raise NoCorpus("no corpus is given", hint=f"one of {', '.join(wanted)}" if wanted else hint)
    return out


def option_of(recipe: Recipe, corpus: str, key: str) -> str:
    """What to type to set an option of a corpus: the recipe's own `--librispeech`, else `--set corpora...=`."""
    path = f"corpora.{corpus}.{key}"
    return next((f"--{name}" for name, sets in recipe.options.items() if sets == path), f"--set {path}=")


def prepare(recipe: Recipe, root: Path, *, jobs: int, force: bool) -> None:
    """Prepare every chosen corpus that is not up to date.

    Args:
        recipe: names the corpora and their options.
        root: the recipe's directory.
        jobs: processes, for preparers that generate audio.
        force: replace sets that were made from something else.
    """
    for name, options in chosen(recipe).items():
        _prepare_corpus(recipe, root, name, options, jobs, force)


def _prepare_corpus(recipe: Recipe, root: Path, name: str, options: dict, jobs: int, force: bool) -> None:
    function = registry.resolve(registry.CORPORA, "corpus", name)
    accepted = inspect.signature(function).parameters
    options = {k: Path(v) if k in path_options(name) and v != DOWNLOAD else v for k, v in options.items()}
    lent = {
        "audio": root / "downloads" / name,
        "downloads": root / "downloads",
        "seed": recipe.seed,
        "jobs": jobs,
    }
    fields = {"corpus": name, "options": {k: str(v) for k, v in options.items()}, "seed": recipe.seed}
    marker = root / "data" / f".{name}.json"
    before: list[str] = []
    if marker.is_file():
        done = stamp.read_json(marker)
        before = done["sets"]
        if done["fields"] == fields and all(stamp.read(root / "data" / s) for s in before) and not force:
            log.info("data: %s is up to date (%s)", name, ", ".join(done["sets"]))
            return
    started = time.monotonic()
    scratch = root / "data" / f".{name}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    sets = function(scratch, **options, **{k: v for k, v in lent.items() if k in accepted})
    for one in sets:
        data = DataDir.read(scratch / one, "source")
        out = root / "data" / one
        content = {**fields, "content": data.fingerprint}
        partial = stamp.begin(out, "data", content, force=force)
        if partial is not None:
            plan = (partial / stamp.PLAN).read_bytes()
            shutil.rmtree(partial)
            (scratch / one / stamp.PLAN).write_bytes(plan)
            (scratch / one).rename(partial)
            stamp.finish(
                out, "data", counts={"utterances": len(data.utts)}, seconds=time.monotonic() - started
            )
        log.info("data: %s, %s, %d utterances", one, data.meta.role, len(data.utts))
    for gone in sorted({*before} - {*sets}):
        shutil.rmtree(root / "data" / gone)
        log.info("data: %s is no longer part of corpus %s: removed", gone, name)
    stamp.write_json(marker, {"fields": fields, "sets": sets})
    shutil.rmtree(scratch)


def path_options(corpus: str) -> set[str]:
    """Options of a corpus that are paths."""
    parameters = inspect.signature(registry.resolve(registry.CORPORA, "corpus", corpus)).parameters
    return {k for k, p in parameters.items() if "Path" in str(p.annotation)} - LENT

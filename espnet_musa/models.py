"""Published checkpoints by name: where they are expected, and what to fetch if they are not there.

`conf/models.yaml` is the one list. Nothing is downloaded: a stage neither opens the network nor repairs anything.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from . import config
from .config import ROOT
from .errors import UserError, suggest

ENVIRONMENT = "ESPNET_MUSA_MODELS"  # the environment variable that moves the folder of all checkpoints


@dataclass(frozen=True)
class Model:
    """A published checkpoint."""

    about: str
    url: str  # page that offers the files
    licence: str
    files: tuple[str, ...]  # all of them are needed; none: the reader of the model checks its directory


@dataclass(frozen=True)
class _List:
    folder: str
    models: dict[str, dict]


def known() -> dict[str, Model]:
    """All models of `conf/models.yaml`."""
    path = ROOT / "conf" / "models.yaml"
    data, lines = config.load_yaml(path)
    listed: _List = config.from_dict(_List, data, path, lines)
    return {
        name: config.from_dict(Model, values, path, lines, ("models", name))
        for name, values in listed.models.items()
    }


def folder() -> Path:
    """The directory that holds a directory for each model."""
    moved = os.environ.get(ENVIRONMENT)
    return Path(moved) if moved else ROOT / config.load(_List, ROOT / "conf" / "models.yaml").folder


def find(name: str) -> Path:
    """The directory of a model.

    Args:
        name: a model of `conf/models.yaml`, or the path of a directory, which is returned as it is.

    Raises:
        UserError: if the name is unknown or a file is missing: what to fetch, under which licence, where to put it.
    """
    if "/" in name:
        if not Path(name).is_dir():
            raise UserError("no such directory of a model", path=name)
        return Path(name)
    models = known()
    if name not in models:
        raise UserError(f"unknown model '{name}'{suggest(name, models)}")
    model, place = models[name], folder() / name
    missing = [file for file in model.files if not (place / file).is_file()]
    if missing or not place.is_dir():
        raise UserError(
            f"model '{name}' ({model.about}) lacks {', '.join(missing) or 'its directory'}",
            path=place,
            hint=f"fetch from {model.url} (licence {model.licence}) into this directory",
        )
    return place


def fingerprint(name: str) -> str:
    """Hash of the names, sizes and times of a model's files; `name` and the errors are those of `find`."""
    place, digest = find(name), hashlib.sha256()
    for file in sorted(p for p in place.rglob("*") if p.is_file()):
        facts = file.stat()
        digest.update(f"{file.relative_to(place)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]

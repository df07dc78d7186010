"""What the preparers' tests share: audio for trees in the official layouts, and how a preparer is called on them."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError


def noise(path: Path, rate: int = 16000, seconds: float = 0.1) -> Path:
    """Write noise to `path` in the format of its suffix; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(path.suffix, rate, seconds))
    return path


@cache
def _encoded(suffix: str, rate: int, seconds: float) -> bytes:
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * rate))
    form = {".opus": ("OGG", "OPUS"), ".flac": ("FLAC", None), ".wav": ("WAV", None)}[suffix]
    file = io.BytesIO()
    soundfile.write(file, wav, rate, format=form[0], subtype=form[1])
    return file.getvalue()


def prepared(preparer: Callable, out: Path, **options) -> dict[str, DataDir]:
    """The sets that a preparer writes, by name and in its order."""
    return {name: DataDir.read(out / name) for name in preparer(out, **options)}


def refused(preparer: Callable, out: Path, message: str, **options) -> str:
    """The error of a preparer, after checking that it matches and that nothing was written."""
    with pytest.raises(UserError, match=message) as caught:
        preparer(out, **options)
    assert not out.exists()
    return str(caught.value)


def trials_of(place: Path) -> list[tuple[str, str, bool]]:
    """The trials of a data directory: enrolled speaker, utterance, whether it is theirs."""
    lines = (place / "trials").read_text(encoding="utf-8").splitlines()
    return [(spk, utt, label == "target") for spk, utt, label in map(str.split, lines)]

"""Published checkpoints: where they are looked for, and the one error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_musa import models
from espnet_musa.errors import UserError


def test_every_model_says_what_it_is():
    for name, model in models.known().items():
        assert model.url.startswith("https://") and model.licence and model.about, name
        assert model.files or "folders" in model.about, name


def test_a_missing_model_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(models.ENVIRONMENT, str(tmp_path))
    place = tmp_path / "asr_wav2vec2_librispeech"
    place.mkdir()
    (place / "asr.ckpt").touch()
    with pytest.raises(UserError) as error:
        models.find("asr_wav2vec2_librispeech")
    for part in (
        str(place),
        "wav2vec2.ckpt, tokenizer.ckpt",
        "https://huggingface.co/speechbrain",
        "Apache-2.0",
    ):
        assert part in str(error.value)
    for name in ("wav2vec2.ckpt", "tokenizer.ckpt"):
        (place / name).touch()
    assert models.find("asr_wav2vec2_librispeech") == place


def test_directories_and_unknown_names(tmp_path: Path):
    assert models.find(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match="no such directory"):
        models.find(str(tmp_path / "gone"))
    with pytest.raises(UserError, match="did you mean 'whisper_large_v3'"):
        models.find("whisper_large_v2")

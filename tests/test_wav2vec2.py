"""wav2vec 2.0 from checkpoints: every spelling gives what the paper says, and nothing else is loaded."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_wav2vec2 import fairseq_state, forward, hugging_face_state

from espnet_musa.errors import UserError
from espnet_musa.evaluators.wav2vec2 import below, build, parts, read_weights

STATE = fairseq_state()
SPELLINGS = {
    "fairseq": STATE,
    "hugging_face": hugging_face_state(STATE),
    "parametrized": hugging_face_state(STATE, parametrized=True),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("samples", [400, 4001, 16000])
def test_every_spelling_computes_the_paper(spelling, samples):
    wav = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    model = build(dict(SPELLINGS[spelling]), Path("tiny"))
    with torch.inference_mode():
        found = model(wav[None])[0][0]
    expected = forward(STATE, wav)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)


def test_hugging_face_names_are_those_of_transformers():
    names = set(SPELLINGS["hugging_face"])
    assert {
        "feature_extractor.conv_layers.0.conv.weight",
        "feature_extractor.conv_layers.0.layer_norm.weight",
        "feature_projection.layer_norm.weight",
        "feature_projection.projection.weight",
        "encoder.pos_conv_embed.conv.weight_g",
        "encoder.layer_norm.weight",
        "encoder.layers.1.attention.q_proj.weight",
        "encoder.layers.1.layer_norm.weight",
        "encoder.layers.1.feed_forward.intermediate_dense.bias",
        "encoder.layers.1.final_layer_norm.weight",
    } <= names


def test_wrong_weights_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="not the weights of a wav2vec"):
        build({"some.weight": torch.zeros(2, 2)}, tmp_path)
    broken = dict(STATE)
    del broken["encoder.layers.0.fc1.bias"]
    with pytest.raises(UserError, match="not the weights of a wav2vec"):
        build(broken, tmp_path)


def test_files_hold_weights_and_nothing_that_runs(tmp_path: Path):
    with pytest.raises(UserError, match="hint: fetch it"):
        read_weights(tmp_path / "absent.ckpt", "fetch it")
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(UserError, match=r"empty\.ckpt: not a checkpoint: .*hint: fetch it"):
        read_weights(tmp_path / "empty.ckpt", "fetch it")
    (tmp_path / "code.ckpt").write_bytes(pickle.dumps({"x": Path}, protocol=2))
    with pytest.raises(UserError, match="not a checkpoint"):
        read_weights(tmp_path / "code.ckpt", "fetch it")
    torch.save({"x": [1, 2]}, tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of weights alone"):
        read_weights(tmp_path / "list.ckpt", "fetch it")
    torch.save({"model.a": torch.ones(1), "b": torch.zeros(1)}, tmp_path / "good.ckpt")
    assert set(below(read_weights(tmp_path / "good.ckpt", ""), "model.")) == {"a"}


def test_long_recordings_are_parted_and_short_ones_refused():
    assert [p.shape[1] for p in parts(np.zeros(16000, np.float32))] == [16000]
    assert [p.shape[1] for p in parts(np.zeros(16000 * 121, np.float32))] == [645334, 645333, 645333]
    with pytest.raises(UserError, match="too short"):
        parts(np.zeros(399, np.float32))

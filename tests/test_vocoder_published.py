"""Public checkpoints of B5 and B6: tiny ones in the layout that the specification gives, with names of no meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from conftest import voice

from espnet_musa.anonymizers.vqbn import VqBn
from espnet_musa.codec import vocoder_published
from espnet_musa.codec.vocoder import Vocoder
from espnet_musa.codec.vocoder_published import Layout, load
from espnet_musa.errors import UserError
from espnet_musa.tokenizer.config import VqBottleneckConfig
from espnet_musa.tokenizer.vq_bottleneck import VqBottleneck

DECODER = {"channels": 64, "resblock_kernel_sizes": [3, 5], "resblock_dilations": [[1, 3], [1, 2]]}
SMALL = {"codebook_size": 12, "code_dim": 20, "channels": 36, "bottleneck": 6}
FRONT = vocoder_published.B5.front | {
    "encoder_embed_dim": 32, "encoder_num_layers": 2, "encoder_num_heads": 2, "encoder_ff_interm_features": 48,
    "extractor_conv_layer_config": [(16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2],
    "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 2,
}  # fmt: skip
LAYOUTS = (
    Layout(DECODER, VqBottleneckConfig(**SMALL, encoder=(3, 3), halving=0), FRONT),
    Layout(DECODER, VqBottleneckConfig(**SMALL, encoder=(3, 3, 1, 3), halving=3), None),
)
UTT2SPK = {"u1": "6081", "u2": "103", "u3": "1034", "u4": "103"}


def acoustic_state(layout: Layout, dimension: int) -> tuple[dict[str, torch.Tensor], VqBottleneck]:
    """Weights of an acoustic model with its heads, matrices over spliced frames in rows, and our model of the same."""
    ours = VqBottleneck(dimension, layout.bottleneck).eval()
    wide, narrow, code_dim = 36, 6, 20
    state, units = {}, []
    for unit in ours.units:
        torch.nn.init.uniform_(unit.widen.norm.running_mean, -0.1, 0.1)
        torch.nn.init.uniform_(unit.widen.norm.running_var, 0.5, 1.5)
        rows = unit.narrow.weight.transpose(1, 2).flatten(1)  # frame by frame
        units.append((rows, unit.widen.affine.weight[:, :, 0], unit.widen.affine.bias, unit.widen.norm))
    for i, (rows, matrix, bias, norm) in enumerate(units):
        state |= {f"x.{i}.b.weight": rows, f"x.{i}.a.weight": matrix, f"x.{i}.a.bias": bias,
                  f"x.{i}.n.running_mean": norm.running_mean, f"x.{i}.n.running_var": norm.running_var,
                  f"x.{i}.n.num_batches_tracked": torch.tensor(3)}  # fmt: skip
    torch.nn.init.normal_(ours.codebook)
    state |= {
        "x.vq.embedding": ours.codebook,
        "x.vq.ema_w": torch.randn(12, code_dim),
        "x.vq.ema_size": torch.ones(12),
    }
    state["x.last.b.weight"] = ours.narrow.weight.transpose(1, 2).flatten(1)
    sizes = [("last", None, code_dim)] + [
        (f"h{i}", k * wide, narrow) for i, k in enumerate(layout.bottleneck.head)
    ]
    sizes += [("chain", wide, 2 * narrow), ("xent", wide, 2 * narrow)]
    for name, inputs, inner in sizes:
        if inputs:
            state[f"x.{name}.b.weight"] = torch.randn(inner, inputs)
        state |= {f"x.{name}.a.weight": torch.randn(wide, inner), f"x.{name}.a.bias": torch.randn(wide)}
        state |= {f"x.{name}.n.running_mean": torch.randn(wide), f"x.{name}.n.running_var": torch.rand(wide)}
    state |= {
        f"x.out{i}.{n}": torch.randn(*s)
        for i in range(2)
        for n, s in (("weight", (99, wide)), ("bias", (99,)))
    }
    return state, ours


def vocoder_state() -> tuple[dict[str, torch.Tensor], Vocoder]:
    """Weights of a vocoder with the old names of its norms, and our vocoder of the same."""
    ours = Vocoder(n_codes=12, code_dim=20, n_speakers=3, decoder_conf=DECODER).eval()
    state = {}
    for i, module in enumerate(m for m in ours.decoder.modules() if hasattr(m, "parametrizations")):
        original = module.parametrizations.weight
        torch.nn.init.uniform_(original.original0, 0.1, 0.6)
        state |= {
            f"g.{i}.bias": module.bias,
            f"g.{i}.weight_g": original.original0,
            f"g.{i}.weight_v": original.original1,
        }
    return state, ours


def published(place: Path, number: int, **change) -> tuple[Vocoder, VqBottleneck]:
    """final.pt of B5 (0) or B6 (1)."""
    torch.manual_seed(number)
    state, tokenizer = acoustic_state(LAYOUTS[number], (32, 160)[number])
    more, vocoder = vocoder_state()
    vocoder.codebook.copy_(tokenizer.codebook)
    if number == 0:
        front = torchaudio.models.wav2vec2_model(**FRONT)
        state |= {f"x.front.{name}": x for name, x in front.state_dict().items()}
    state = {name: x.detach().clone() for name, x in (state | more).items()} | change
    torch.save({"state": {k: v for k, v in state.items() if v is not None}, "path": "a/b.py",
                "args": {"utt2spk": UTT2SPK, "lr": 1.0}}, place / "final.pt")  # fmt: skip
    return vocoder, tokenizer


@pytest.mark.parametrize("number", [0, 1])
def test_every_weight_finds_its_place(tmp_path, number):
    vocoder, tokenizer = published(tmp_path, number)
    own_vocoder, facts, teacher, own_tokenizer = load(tmp_path, "cpu", LAYOUTS)
    assert list(facts.speakers) == ["103", "1034", "6081"] and facts.peak == 0.95
    x = torch.randn(1, (32, 160)[number], 40)
    assert torch.allclose(own_tokenizer.frames(x), tokenizer.frames(x), atol=1e-5)
    assert torch.equal(own_tokenizer.encode(x), tokenizer.encode(x))
    given = torch.randint(12, (2, 30)), torch.randn(2, 30), torch.tensor([0, 2])
    assert torch.allclose(own_vocoder(*given), vocoder(*given), atol=1e-5)
    assert torch.equal(own_vocoder.codebook, own_tokenizer.codebook)
    features = teacher.features([voice(0, 0.5)])[0]
    assert features.shape == ((25, 32), (24, 160))[number]


def test_a_system_speaks(tmp_path, monkeypatch):
    published(tmp_path, 0)
    monkeypatch.setattr(vocoder_published.load, "__defaults__", ("cpu", LAYOUTS))
    anonymizer = VqBn(model=str(tmp_path), tracker="dio")
    anonymizer.prepare("cpu")
    made = anonymizer.convert(voice(1), "6081", np.random.default_rng(0))
    assert made.shape == (16000,) and np.abs(made).max() > 0
    with pytest.raises(UserError, match="the model holds no speaker of gender 'f'; expected one of unknown"):
        anonymizer.convert(voice(1), {"speaker": 0.2, "gender": "f"}, np.random.default_rng(0))


def test_the_acoustic_model_may_lie_apart(tmp_path):
    _, tokenizer = published(tmp_path, 1)
    content = torch.load(tmp_path / "final.pt", weights_only=True)
    parts = {key: {n: x for n, x in content["state"].items() if n[0] == key} for key in "xg"}
    torch.save(content | {"state": parts["g"]}, tmp_path / "final.pt")
    with pytest.raises(
        UserError, match=r"0 tensors could be the codebook.*put its final.pt beside as extractor.pt"
    ):
        load(tmp_path, "cpu", LAYOUTS)
    torch.save(parts["x"], tmp_path / "extractor.pt")
    x = torch.randn(1, 160, 20)
    assert torch.equal(load(tmp_path, "cpu", LAYOUTS)[3].encode(x), tokenizer.encode(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g.3.bias": None}, "the vocoder lacks a layer of shape"),
        ({"x.1.b.weight": torch.zeros(6, 100)}, r"the acoustic model lacks a layer of shape \(6, 36, 3\) or"),
        ({"y.weight": torch.zeros(2, 2)}, "1 layers have no place in B5 or B6: y"),
        ({"y.strange": torch.zeros(2, 2)}, "'y.' is no layer that is known: strange"),
        ({"x.vq.embedding": None}, "0 tensors could be the codebook"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    published(tmp_path, 1, **change)
    with pytest.raises(UserError, match=message):
        load(tmp_path, "cpu", LAYOUTS)


def test_a_front_end_of_another_size(tmp_path):
    published(tmp_path, 0, **{"x.front.encoder.transformer.layer_norm.weight": torch.zeros(7)})
    with pytest.raises(UserError, match="the front end does not fit: 1 weights differ"):
        load(tmp_path, "cpu", LAYOUTS)


def test_nothing_in_a_checkpoint_runs(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"state": {"a.weight": torch.zeros(1)}, "more": Harm()}, tmp_path / "final.pt")
    with pytest.raises(UserError, match=r"not read: .*nothing that runs code is loaded"):
        load(tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"args": {}}, "holds no weights"),
        ({"s": {"a.weight": torch.zeros(1)}}, "does not say which speakers"),
    ],
)
def test_other_files(tmp_path, content, message):
    torch.save(content, tmp_path / "final.pt")
    with pytest.raises(UserError, match=message):
        load(tmp_path)

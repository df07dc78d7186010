"""TDNN-F units, the acoustic model with its bottleneck, and the filter bank that they hear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import voice
from tiny_sets import tone

from espnet_musa import config
from espnet_musa.errors import UserError
from espnet_musa.tokenizer import store
from espnet_musa.tokenizer.config import BOTTLENECK, TokensConfig, VqBottleneckConfig
from espnet_musa.tokenizer.fbank import Fbank
from espnet_musa.tokenizer.tdnnf import MaskedBatchNorm, SemiOrthogonal, Unit, replicate, strided
from espnet_musa.tokenizer.teachers import n_frames
from espnet_musa.tokenizer.vq_bottleneck import AcousticHead, VqBottleneck

SMALL = {
    "channels": 24,
    "bottleneck": 8,
    "code_dim": 16,
    "codebook_size": 8,
    "encoder": (3, 1, 3),
    "halving": 2,
}


def model(**changes) -> VqBottleneck:
    """Random weights, and statistics and codes of a batch."""
    torch.manual_seed(0)
    made = VqBottleneck(12, VqBottleneckConfig(**SMALL | {"dropout": 0.0} | changes))
    made.train()(torch.randn(4, 12, 40))
    return made.eval()


@pytest.mark.parametrize(
    "encoder", [{}, {"encoder": (3, 3), "halving": 0}, {"encoder": (3, 5), "halving": 1}]
)
def test_a_batch_gives_what_its_utterances_give_alone(encoder):
    made, lengths = model(**encoder), torch.tensor([23, 40, 1, 8])
    x = torch.randn(4, 12, 40)
    together = made.frames(x, lengths)
    assert together.shape == (4, 16, 40)
    codes = made.encode(x, lengths)
    for b, n in enumerate(lengths.tolist()):
        alone = made.frames(x[b : b + 1, :, :n])
        torch.testing.assert_close(together[b : b + 1, :, :n], alone, rtol=1e-4, atol=1e-5)
        assert codes[b, :n].tolist() == made.encode(x[b : b + 1, :, :n])[0].tolist()
    flawed = model(**encoder, compat=True)
    differ = flawed.frames(x, lengths)[0, :, :23] - flawed.frames(x[:1, :, :23])[0]
    assert differ.abs().max().item() > 1e-3  # the reference hears the padding


def test_context_and_rates_are_those_of_the_published_models():
    full = VqBottleneckConfig(channels=8, bottleneck=4, code_dim=8)
    b6 = VqBottleneck(160, full)
    b5 = VqBottleneck(16, VqBottleneckConfig(**vars(full) | {"encoder": (3, 3), "halving": 0}))
    assert (b6.margin, b5.margin) == (19, 3)  # frames of padding to each side
    head = AcousticHead(full, 5, ("main",))
    assert head.margin == 4 and head.lengths(torch.tensor([100, 1])).tolist() == [66, 0]  # of 2 s, of 20 ms
    made, lengths = head.eval()(torch.randn(2, 8, 100), torch.tensor([100, 61]))
    assert made["main"].shape == (2, 66, 5) and lengths.tolist() == [66, head.lengths(torch.tensor(61))]
    for net, dimension, reach in ((b6, 160, 10), (b5, 16, 3)):
        x = torch.randn(1, dimension, 60)
        changed = x.clone()
        changed[:, :, 30] += 1
        net.eval()
        moved = (net.frames(x) != net.frames(changed)).any(dim=1)[0].nonzero()[:, 0]
        assert int(moved.min()) >= 30 - reach and int(moved.max()) <= 30 + reach
    sizes = {
        name: tuple(value.shape)
        for name, value in VqBottleneck(160, VqBottleneckConfig()).state_dict().items()
    }
    assert sizes["units.0.narrow.weight"] == (128, 80, 3) and sizes["units.3.narrow.weight"] == (128, 1024, 1)
    assert sizes["narrow.weight"] == (256, 1024, 3) and sizes["quantizer.layers.0.embed"] == (48, 256)
    assert len([name for name in sizes if name.endswith("affine.weight")]) == 11


def test_head_depends_on_no_padding():
    torch.manual_seed(1)
    head = AcousticHead(VqBottleneckConfig(**SMALL), 5, ("main", "xent"))
    for _, last in head.branches.values():
        torch.nn.init.normal_(last.weight)
    head.eval()
    z, lengths = torch.randn(2, 16, 30), torch.tensor([30, 17])
    together, frames = head(z, lengths)
    alone, own = head(z[1:, :, :17], lengths[1:])
    assert int(own[0]) == int(frames[1])
    for name in ("main", "xent"):
        torch.testing.assert_close(together[name][1:, : own[0]], alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 20, 3), (30, 6, 1)])
def test_constraint_makes_the_shorter_side_orthogonal(shape):
    torch.manual_seed(2)
    layer = SemiOrthogonal(shape[1], shape[0], shape[2])
    torch.nn.init.normal_(layer.weight, mean=0.02, std=0.3)
    for _ in range(60):
        layer.constrain()
    m = layer.weight.flatten(1)
    m = m if m.shape[0] < m.shape[1] else m.T
    product = m @ m.T
    scale = product.trace() / len(product)
    torch.testing.assert_close(product / scale, torch.eye(len(product)), atol=1e-3, rtol=0)
    assert 0.1 < float(scale)  # floating: not pulled to 1 or 0


def test_unit_by_hand():
    """Splice, two matrices, bypass and ReLU, with statistics that change nothing."""
    torch.manual_seed(3)
    unit = Unit(4, 4, 2, 3, 1.0, 0.66, 0.0).eval()
    unit.widen.norm.epsilon = 0.0
    torch.nn.init.normal_(unit.widen.affine.bias)
    x = torch.randn(1, 4, 7)
    made, _ = unit(x, None)
    b, a = unit.narrow.weight.flatten(1), unit.widen.affine.weight[:, :, 0]
    for t in range(5):
        wanted = a @ (b @ x[0, :, t : t + 3].flatten()) + unit.widen.affine.bias + 0.66 * x[0, :, t + 1]
        torch.testing.assert_close(made[0, :, t], wanted.clamp(min=0))
    assert Unit(4, 5, 2, 3, 1.0, 0.66, 0.0).bypass == 0
    assert strided(torch.arange(7.0)[None, None], 1.5)[0, 0].tolist() == [0, 1, 3, 4, 6]


def test_statistics_leave_padding_out():
    norm, x = MaskedBatchNorm(3), torch.randn(2, 3, 10) * 2 + 1
    mask = torch.arange(10) < torch.tensor([10, 4])[:, None]
    x[1, :, 4:] = 1e3
    own = torch.cat([x[0], x[1, :, :4]], dim=1)
    made = norm(x, mask)
    wanted = (own - own.mean(1, keepdim=True)) / (own.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(torch.cat([made[0], made[1, :, :4]], dim=1), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, 0.1 * own.mean(1))
    assert replicate(torch.tensor([[[1.0, 2.0, 9.0]]]), torch.tensor([2]), 1, 1)[0, 0].tolist() == [
        1,
        1,
        2,
        2,
        2,
    ]


def test_frozen_units_stand_still():
    made = model(dropout=0.5)
    made.freeze(2)
    made.train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(torch.randn(4, 12, 40)).z.sum().backward()
    moved = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith(("units.0", "units.1"))}
    assert "units.2.widen.norm.running_mean" in moved and "narrow.weight" in moved
    assert made.units[0].narrow.weight.grad is None and made.units[2].narrow.weight.grad is not None


def test_codes_come_in_when_they_are_wanted():
    made = model()
    made.train()
    made.quantizer.layers[0].initialized.zero_()
    x = torch.randn(4, 12, 40)
    plain = made(x, quantize=False)
    assert plain.codes is None and float(plain.commitment) == 0 and not made.quantizer.layers[0].initialized
    coded = made(x)
    assert coded.codes.shape == (4, 40) and float(coded.commitment) > 0
    assert made.quantizer.layers[0].initialized
    x.requires_grad_()
    made(x).z.square().sum().backward()
    assert float(x.grad.abs().sum()) > 0  # straight through
    assert made.codebook.shape == (8, 16)


def test_saved_and_loaded(tmp_path):
    made = model(encoder=(3, 3), halving=0)
    tokens = TokensConfig("x", "y", "mfcc", tokenizer=BOTTLENECK, params={}, train="t")
    store.save(tmp_path, tokens, made)
    found, x = store.load(tmp_path, "cpu"), torch.randn(2, 12, 9)
    assert isinstance(found, VqBottleneck) and found.config == made.config
    assert (found.n_tokens, found.dimension, found.codebook.shape) == (8, 12, (8, 16))
    assert torch.equal(found.encode(x), made.encode(x))
    with pytest.raises(UserError, match="13 dimensions are not two stacked frames"):
        VqBottleneck(13, VqBottleneckConfig())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"encoder": [3, 4]}, "units that see an odd number"), ({"halving": 12}, "halving is 12"),
        ({"head_stride": 3.0}, "head_stride is 3.0"), ({"units": {"kind": "phone"}}, "did you mean 'phones'"),
        ({"units": {"kind": "lexicon"}}, "a path for a lexicon only"), ({"chanels": 3}, "did you mean 'channels'"),
    ],
)  # fmt: skip
def test_bad_configurations(params, message, tmp_path):
    with pytest.raises(UserError, match=message):
        config.from_dict(VqBottleneckConfig, params, tmp_path, {})


def test_fbank_is_kaldis():
    """Against the definition, frame by frame."""
    wav = voice(3, 0.4)
    features = Fbank(bands=23).features([wav])[0]
    assert features.shape == (n_frames(len(wav)), 46)
    edges = np.linspace(*(1127 * np.log(1 + np.array([20, 8000]) / 700)), 25)
    mel = 1127 * np.log(1 + np.arange(256) * 31.25 / 700)
    bank = np.array([
        np.clip(np.minimum((mel - low) / (mid - low), (high - mel) / (high - mid)), 0, None)
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False)
    ])  # fmt: skip
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    mirrored = np.concatenate([wav[119::-1], wav, wav[:-300:-1]]).astype(np.float64) * 32768
    rows = []
    for k in range((len(wav) + 80) // 160):
        frame = mirrored[160 * k : 160 * k + 400]
        frame = frame - frame.mean()
        frame = window * (frame - 0.97 * np.concatenate([frame[:1], frame[:-1]]))
        rows.append(np.log(bank @ (np.abs(np.fft.rfft(frame, 512)) ** 2)[:256]))
    rows = np.array(rows) - np.mean(rows, axis=0)
    np.testing.assert_allclose(features.numpy(), rows[: 2 * len(features)].reshape(-1, 46), atol=2e-3)


def test_fbank_of_any_length_and_batch():
    teacher = Fbank()
    assert teacher.dimension == 160
    wavs = [tone(1.0, 200.0)[:n] for n in (400, 719, 720, 9999)]
    made = teacher.features(wavs)
    assert [len(x) for x in made] == [n_frames(len(wav)) for wav in wavs] == [1, 1, 2, 30]
    assert torch.equal(made[3], teacher.features(wavs[3:])[0])
    silent = teacher.features([np.zeros(4000, dtype=np.float32)])[0]
    assert bool(torch.isfinite(silent).all())
    with pytest.raises(UserError, match="bands is 0"):
        Fbank(bands=0)

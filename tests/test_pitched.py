"""The decoder that renders the F0 it finds, what its encoder hears in training, and the centre of the speakers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_codec_generator import generator, speech

from espnet_musa.codec.musa import MusaCodec
from espnet_musa.codec.pitched import TABLE, PitchedDecoder, hertz
from espnet_musa.codec.remedies import Perturbation, stretched
from espnet_musa.codec.source_filter import _minimum_phase
from espnet_musa.errors import UserError
from espnet_musa.f0.extract import extract

RATE = 16000


def decoder(**more) -> PitchedDecoder:
    torch.manual_seed(0)
    net = PitchedDecoder(16, channels=24, layers=2, pitch_channels=16, pitch_layers=2, **more).eval()
    with torch.no_grad():  # so that some frames are voiced, and the pitch moves
        net.finder.out.weight.mul_(40)
        net.filter.backbone.out.weight.mul_(10)
    return net


def frames(count: int, seed: int = 1, batch: int = 1) -> torch.Tensor:
    x = torch.randn(batch, 16, count, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool1d(x, 9, 1, 4)


@pytest.mark.parametrize("blocks", [[400], [1, 2, 3, 0, 50, 344], [7] * 57 + [1]])
@torch.inference_mode()
def test_a_stream_is_the_whole(blocks):
    net, x = decoder(), frames(400)
    whole = net(x)
    voiced = (hertz(net.find(x)) > 0).float().mean()
    assert 0.2 < voiced < 0.98
    stream, made, at = net.stream(), [], 0
    for i, n in enumerate(blocks):
        out = stream.push(x[:, :, at : at + n], i == len(blocks) - 1)
        made, at = [*made, out.flatten()], at + n
    joined = torch.cat(made)
    assert at == 400 and joined.shape == (400 * 320,)
    assert (joined - whole[0, 0]).abs().max() < 1e-3 * whole.abs().max()


@torch.inference_mode()
def test_noise_lies_where_it_lies():
    """Beyond the table's end it begins anew: by the place in the recording, whatever the block."""
    net = decoder()
    x = frames(5)
    assert torch.equal(net.noise_at(TABLE - 2, x)[:, :, 2:], net.noise_at(0, x)[:, :, :3])
    assert torch.equal(decoder().noise, net.noise)


@torch.inference_mode()
def test_the_given_pitch_is_rendered():
    net, hz = decoder(), torch.linspace(110, 220, 100)[None]
    with torch.no_grad():
        net.filter.backbone.out.weight.zero_()
        net.filter.backbone.out.bias.copy_(torch.tensor([-1.0, -9.0]).repeat_interleave(80))
    wav = net.rendered(frames(100), hz)[0, 0].numpy().astype(np.float64)
    found = extract(wav, RATE, tracker="dio", hop_ms=20.0, floor=60.0, ceiling=400.0)[5:95]
    assert np.abs(found / hz[0, 5:95].numpy() - 1).max() < 0.03
    assert np.abs(net.rendered(frames(100), torch.zeros(1, 100)).numpy()).max() < 0.05 * np.abs(wav).max()


def test_minimum_phase():
    """The magnitude is kept, and nothing comes before the pulse, unlike with a filter without phase."""
    torch.manual_seed(0)
    level = torch.nn.functional.avg_pool1d(torch.randn(1, 1, 481 + 80), 81, 1)[0, 0] * 5
    made = _minimum_phase(level).exp()
    assert torch.allclose(made.abs().log(), level, atol=1e-3)
    ours, zero = (torch.fft.irfft(x, n=960).square() for x in (made, level.exp()))
    assert ours[480:].sum() < 1e-4 * ours.sum() and zero[480:].sum() > 0.1 * zero.sum()


def test_stretching():
    x = torch.zeros(2, 1, 101)
    x[:, :, 40] = 1
    out = stretched(x, torch.tensor([0.5, 2.0]))
    assert out[0, 0].argmax() == 20 and out[1, 0].argmax() == 80
    assert torch.equal(stretched(x, torch.ones(2)), x)


def test_perturbation_moves_pitch_and_formants_each_by_its_own():
    bins = 641
    hz = torch.linspace(0, 8000, bins)
    envelope = torch.exp(-(((hz - 1500) / 500) ** 2)) + 1e-3
    harmonics = sum(torch.exp(-(((hz - 150 * k) / 15) ** 2)) for k in range(1, 53))
    voice = (envelope * (harmonics + 1e-3)).expand(64, 1, bins)

    def pitch(x):  # of the strongest periodicity of the spectrum
        spectrum = torch.fft.irfft((x + 1e-4).log(), n=1280)
        return 16000 / (40 + spectrum[..., 40:200].argmax(-1))

    torch.manual_seed(0)
    both = Perturbation(pitch=6.0)(voice, RATE)
    moved = pitch(both)[:, 0] / 150
    assert moved.min() < 0.8 and moved.max() > 1.25 and moved.min() > 0.69 and moved.max() < 1.45
    centroid = (both * hz).sum(-1) / both.sum(-1) / ((voice * hz).sum(-1) / voice.sum(-1))
    assert (centroid - 1).abs().mean() < 0.5 * (moved - 1).abs().mean()  # formants stay where they were
    assert torch.allclose(Perturbation()(voice, RATE), voice, atol=1e-4)
    torch.manual_seed(0)
    first = Perturbation(6.0, 0.3, 3.0, 6.0)(voice, RATE)
    torch.manual_seed(0)
    assert torch.equal(first, Perturbation(6.0, 0.3, 3.0, 6.0)(voice, RATE)) and first.isfinite().all()
    with pytest.raises(UserError, match="ranges from 0"):
        Perturbation(pitch=-1.0)


def test_only_training_hears_other_voices():
    net = generator(perturbation={"pitch": 6.0})
    assert not torch.equal(
        net(speech(), speech()).quantized.codes, net.eval()(speech(), speech()).quantized.codes
    )
    assert torch.equal(net(speech(), speech()).quantized.codes, net(speech(), speech()).quantized.codes)
    with pytest.raises(UserError, match="seanet"):
        generator("seanet", perturbation={"pitch": 6.0})
    with pytest.raises(UserError, match="perturbation"):
        generator(perturbation={"pich": 6.0})


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_the_centre_changes_nothing_but_the_zero_vector(norm, fusion):
    plain = generator(centered=True, instance_norm=norm, speaker_fusion=fusion).eval()
    codes, s = plain.encode(speech())
    before, mean = plain.decode(codes, s), s.mean(0)
    plain.recenter(mean)
    codes_, s_ = plain.encode(speech())
    assert torch.equal(codes, codes_) and torch.allclose(s_, s - mean, atol=1e-6)
    assert torch.allclose(plain.decode(codes_, s_), before, atol=1e-5)
    plain.recenter(-mean)
    average = plain.decode(codes, mean.expand_as(s))
    plain.recenter(mean)
    assert torch.allclose(plain.decode(codes_), average, atol=1e-5)


def test_losses_of_pitch():
    conf = {"backbone": "source_filter", "dimension": 16, "encoder_conf": {"channels": 24, "layers": 2},
            "decoder_conf": {"channels": 24, "layers": 2}, "speaker_conf": {"hidden": 16},
            "quantizer_conf": {"n_quantizers": 2, "codebook_size": 16}}  # fmt: skip
    torch.manual_seed(0)
    codec = MusaCodec(generator_conf=conf, lambda_adv=0.0, lambda_fm=0.0, n_speakers=2, n_tokens=3)
    assert codec.config.sourced
    f0 = torch.full((3, 20), 220.0)
    batch = {"audio": speech(), "audio2": speech(), "sids": torch.zeros(3, 1, dtype=torch.long)}
    out = codec(True, f0=f0, **batch)
    assert {"f0", "voiced"} <= set(out["stats"])
    optimizer = torch.optim.Adam(codec.generator.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        last = codec(True, f0=f0, **batch)
        last["loss"].backward()
        optimizer.step()
    assert last["stats"]["f0"] < 0.5 * out["stats"]["f0"] + 0.02 and last["stats"]["voiced"] < 0.3


def test_any_number_of_quantizers_is_learnt():
    net = generator(quantizer_conf={"n_quantizers": 3, "codebook_size": 8, "dropout": 1.0})
    x = torch.randn(40, 16, 5)
    out = net.quantizer(x)
    sums = torch.stack([net.quantizer.decode(out.codes[:n]) for n in (1, 2, 3)])
    chosen = [int((sums - out.q[i].detach()).abs().amax(dim=(2, 3))[:, i].argmin()) + 1 for i in range(40)]
    assert set(chosen) == {1, 2}
    net.eval()
    assert torch.allclose(net.quantizer(x).q, net.quantizer.decode(net.quantizer.encode(x)), atol=1e-5)
    with pytest.raises(UserError, match="dropout"):
        generator(quantizer_conf={"n_quantizers": 3, "dropout": 1.5})

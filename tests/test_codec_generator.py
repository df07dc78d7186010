"""The generator: what reaches the speaker encoder, codes and embeddings, remedies, heads, bad configurations."""

from __future__ import annotations

import pytest
import torch

from espnet_musa.codec.generator import MusaGenerator
from espnet_musa.codec.remedies import FrameStatistics, InstanceNorm, reverse_gradient, warp_formants
from espnet_musa.errors import UserError

SIZES = {
    "seanet": {"channels": 4, "lstm_layers": 1},
    "spectral": {"channels": 24, "layers": 2},
    "source_filter": {"channels": 24, "layers": 2},
}
# Rounding errors of F0 add up in the phase of the pulses.
TOLERANCE = {"seanet": 1e-5, "spectral": 1e-5, "source_filter": 1e-3}


def generator(backbone: str = "spectral", **more) -> MusaGenerator:
    torch.manual_seed(0)
    conf = {
        "backbone": backbone, "encoder_conf": SIZES.get(backbone), "decoder_conf": SIZES.get(backbone), "dimension": 16,
        "quantizer_conf": {"n_quantizers": 3, "codebook_size": [16, 8, 8]},
        "speaker_conf": {"hidden": 16}, "n_speakers": 5, "n_tokens": 7,
    }  # fmt: skip
    return MusaGenerator(**{**conf, **more})


def speech(batch: int = 3, samples: int = 6400, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", list(SIZES))
@pytest.mark.parametrize("fusion", ["add", "concat", "none"])
def test_training_step_and_inference(backbone, fusion):
    net = generator(backbone, speaker_fusion=fusion)
    out = net(speech(), speech(seed=2))
    assert out.wav.shape == (3, 6400) and out.s1.shape == out.s2.shape == (3, 16)
    assert out.quantized.codes.shape == (3, 3, 20) and out.token_logits.shape == (3, 7, 20)
    assert (
        (out.speaker_logits is None) == (fusion == "none") and out.reversal_logits is None and out.kept.all()
    )
    net.eval()
    out = net(speech(), speech(seed=2))
    codes, s = net.encode(speech())
    assert torch.equal(codes, out.quantized.codes) and torch.allclose(s, out.s1, atol=1e-6)
    assert torch.allclose(net.decode(codes, s), out.wav, atol=TOLERANCE[backbone])
    anonymized = net.decode(codes)
    assert torch.equal(anonymized, net.decode(codes, torch.zeros_like(s)))
    assert torch.allclose(anonymized, net.decode(codes, s), atol=1e-7) == (fusion == "none")


@pytest.mark.parametrize("backbone", list(SIZES))
@pytest.mark.parametrize("samples", [1, 319, 320, 321, 16000])
def test_every_length(backbone, samples):
    net = generator(backbone).eval()
    codes, s = net.encode(speech(2, samples))
    assert codes.shape == (3, 2, -(-samples // 320)) and s.shape == (2, 16)
    for n in range(4):
        wav = net.decode(codes[:n], s)
        assert wav.shape == (2, codes.shape[2] * 320) and wav.isfinite().all()


@pytest.mark.parametrize("backbone", list(SIZES))
def test_a_padded_batch_gives_what_each_recording_gives(backbone):
    net = generator(backbone, instance_norm=True).eval()
    lengths = torch.tensor([6400, 3000, 1])
    wav = speech()
    codes, s = net.encode(wav, lengths)
    frames = net.frame_lengths(lengths)
    decoded = net.decode(codes, s, frames)
    for i, (samples, count) in enumerate(zip(lengths, frames, strict=True)):
        own, embedding = net.encode(wav[i : i + 1, :samples])
        assert torch.allclose(embedding[0], s[i], atol=1e-5)
        assert torch.equal(own[:, 0], codes[:, i, :count])
        made = net.decode(own, embedding)[0]
        assert torch.allclose(made, decoded[i, : count * 320], atol=TOLERANCE[backbone])


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_what_reaches_the_speaker_encoder(fusion):
    """Section 1.2: straight-through plus addition cancels, concatenation does not; L_sem and L_com reach it."""
    net = generator(speaker_fusion=fusion)
    out = net(speech(), speech(seed=2))
    (by_wave,) = torch.autograd.grad(out.wav.square().sum(), out.s1, retain_graph=True)
    assert bool(by_wave.any()) == (fusion == "concat")
    for loss in (out.token_logits.square().sum(), out.quantized.commitment):
        (gradient,) = torch.autograd.grad(loss, out.s1, retain_graph=True)
        assert gradient.any()


def test_a_detached_speaker_learns_from_the_speaker_losses_alone():
    net = generator(detach_speaker=True, speaker_fusion="concat")
    out = net(speech(), speech(seed=2))
    loss = out.wav.square().sum() + out.token_logits.square().sum() + out.quantized.commitment
    assert torch.autograd.grad(loss, out.s1, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(out.speaker_logits.square().sum(), out.s1)[0].any()


def test_speaker_dropout():
    net = generator(speaker_dropout_prob=0.5)
    kept = torch.cat([net(speech(8), speech(8, seed=2)).kept for _ in range(5)])
    assert 5 < int(kept.sum()) < 35
    assert net.eval()(speech(8), speech(8)).kept.all()
    never = generator(speaker_dropout_prob=1.0)
    out = never(speech(), speech(seed=2))
    plain = generator()(speech(), speech(seed=2))
    assert not torch.allclose(out.wav, plain.wav, atol=1e-7)
    fused = never.decoder(never.fuse(out.quantized.q, None))[:, 0]
    assert torch.allclose(out.wav, fused, atol=1e-6)


def test_remedies_act_in_training_and_inference_as_stated():
    warped, plain = generator(warp_range=0.2), generator()
    assert not torch.equal(
        warped(speech(), speech()).quantized.codes, plain(speech(), speech()).quantized.codes
    )
    plain.eval().load_state_dict(warped.eval().state_dict())
    assert torch.equal(warped.encode(speech())[0], plain.encode(speech())[0])  # in training only
    reversed_ = generator(gradient_reversal=0.5)
    out = reversed_(speech(), speech(seed=2))
    assert out.reversal_logits.shape == (3, 5)


def test_gradient_reversal():
    x = torch.randn(4, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.full((4,), -0.3))


def test_instance_norm():
    x = 3 + 2 * torch.randn(2, 4, 50)
    y = InstanceNorm()(x)
    assert torch.allclose(y, torch.nn.functional.instance_norm(x), atol=1e-5)
    statistics = FrameStatistics()
    for part in (x[..., :7], x[..., :0], x[..., 7:]):
        statistics.add(part)
    assert torch.allclose(InstanceNorm()(x[..., 5:9], statistics=statistics.result()), y[..., 5:9], atol=1e-5)


def vowel(f0: int, formant: float) -> torch.Tensor:
    """A second of pulses of f0 through one resonance, both in Hz: (1, 16000)."""
    time = torch.arange(800) / 16000
    resonance = torch.exp(-torch.pi * 100 * time) * torch.sin(2 * torch.pi * formant * time)
    pulses = torch.zeros(1, 1, 16000)
    pulses[..., :: 16000 // f0] = 1
    return torch.nn.functional.conv1d(pulses, resonance.flip(0)[None, None], padding=799)[0, :, :16000]


@pytest.mark.parametrize("f0", [100, 160, 250])
def test_warped_formants_move_and_the_pitch_stays(f0):
    hertz = torch.arange(6001) * 16000 / 12000
    near_formant = (hertz > 500) & (hertz < 3500)
    harmonic = ((hertz / f0 + 0.5) % 1 - 0.5).abs() * f0 < 8

    def power(wav: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(wav[0, 2000:14000] * torch.hann_window(12000)).abs().square()

    def centroid(wav: torch.Tensor) -> float:
        return float((power(wav) * hertz)[near_formant].sum() / power(wav)[near_formant].sum())

    plain, factors = vowel(f0, 1500), []
    for seed in range(6):
        torch.manual_seed(seed)
        factor = 1 + 0.2 * (2 * float(torch.rand(1)) - 1)
        torch.manual_seed(seed)
        warped = warp_formants(plain, 0.2)
        moved = centroid(warped) / centroid(plain)
        assert moved == pytest.approx(centroid(vowel(f0, 1500 * factor)) / centroid(plain), abs=0.05)
        assert power(warped)[harmonic].sum() > 0.98 * power(warped).sum()
        factors.append(moved)
    assert max(factors) - min(factors) > 0.1


def test_same_seed_same_step():
    def step() -> tuple:
        net = generator(warp_range=0.1, speaker_dropout_prob=0.3, gradient_reversal=0.1)
        out = net(speech(), speech(seed=2))
        out.wav.square().sum().backward()
        return out.wav, net.quantizer.layers[0].embed, [p.grad for p in net.parameters()]

    (wav, embed, grads), (wav_, embed_, grads_) = step(), step()
    assert torch.equal(wav, wav_) and torch.equal(embed, embed_)
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(grads, grads_, strict=True))


def test_mixed_precision():
    net = generator("seanet")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(speech(), speech(seed=2))
        loss = out.wav.abs().mean() + out.quantized.commitment
    loss.backward()
    assert out.wav.dtype == torch.float32 and out.wav.isfinite().all()


def test_without_heads():
    out = generator(n_speakers=0, n_tokens=0)(speech(), speech())
    assert out.speaker_logits is None and out.token_logits is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": "seanet "}, "did you mean 'seanet'"), ({"speaker_fusion": "sum"}, "known: add, concat, none"),
        ({"encoder_conf": {"chanels": 3}}, "encoder_conf: .*chanels"), ({"warp_range": 1.5}, "warp_range"),
        ({"decoder_conf": {"hop": 256, "n_fft": 1024}}, "hop is 320, the decoder's 256"),
        ({"gradient_reversal": 0.1, "n_speakers": 0}, "without speakers"),
        ({"quantizer_conf": {"codebook": 3}}, "quantizer_conf"), ({"speaker_conf": {"width": 3}}, "speaker_conf"),
    ],
)  # fmt: skip
def test_bad_configurations(wrong, message):
    with pytest.raises(UserError, match=message):
        generator(**wrong)

"""Discriminators and losses: published numbers, shapes at any size and length, values by hand."""

from __future__ import annotations

import pytest
import torch
from codec_parity import fill, load_regen, parity_place

from espnet_musa.codec.discriminators import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
    MusaDiscriminator,
)
from espnet_musa.codec.losses import (
    ReconstructionLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from espnet_musa.errors import UserError

N_FFTS = [1024, 2048, 512, 256, 128]
SMALL = {"stft_channels": 4, "period_channels": 2, "scale_channels": 16}


def build(tag: str):
    if tag == "mstftd":
        return MultiScaleSTFTDiscriminator(
            32, n_ffts=N_FFTS, hop_lengths=[n // 4 for n in N_FFTS], win_lengths=N_FFTS
        )
    return {"mpd": MultiPeriodDiscriminator, "msd": MultiScaleDiscriminator}[tag]()


def leading_singular_pairs(msd: MultiScaleDiscriminator) -> None:
    """The state of spectral normalisation after its power iteration has converged."""
    first = msd.discriminators[0]
    for conv in [*first.convs, first.conv_post]:
        u, _, v = torch.linalg.svd(conv.weight_orig.detach().flatten(1), full_matrices=False)
        conv.weight_u.copy_(u[:, 0])
        conv.weight_v.copy_(v[0])


@pytest.mark.parametrize("tag", ["mpd", "msd", "mstftd"])
@torch.inference_mode()
def test_published_numbers(tag, real_speech):
    place = parity_place(real_speech)
    published = torch.load(place / "hificodec_disc_io.pt", weights_only=True)
    with torch.inference_mode(False):
        net = fill(build(tag), tag, load_regen(place))
        if tag == "msd":
            leading_singular_pairs(net)
    real, fake, numbers = net(published["real"]), net(published["fake"]), published[tag]
    for outputs, logits in ((real, numbers["logits_real"]), (fake, numbers["logits_fake"])):
        for layers, logit in zip(outputs, logits, strict=True):
            assert torch.allclose(layers[-1].flatten(), logit.flatten(), atol=1e-5)
    # Theirs has all features and, but for the MS-STFT discriminator, the logits; and a factor of two.
    matched = [tag != "mstftd"] * len(real)
    assert float(sum(discriminator_loss(real, fake))) == pytest.approx(numbers["disc_loss"], abs=1e-5)
    assert float(adversarial_loss(fake)) == pytest.approx(numbers["gen_loss"], abs=1e-5)
    assert 2 * float(feature_matching_loss(real, fake, matched)) == pytest.approx(
        numbers["feat_loss"], abs=1e-5
    )


def test_paper_size():
    net = MusaDiscriminator()
    sizes = [sum(p.numel() for p in part.parameters()) for part in (net.mstftd, net.mpd, net.msd)]
    assert sizes == [472330, 41105770, 29618821]


@pytest.mark.parametrize("samples", [1, 319, 4001])
def test_every_length(samples):
    torch.manual_seed(0)
    net = MusaDiscriminator(**SMALL)
    outputs = net(torch.randn(2, 1, samples))
    assert len(outputs) == len(net.logits_matched) == 13
    assert [len(layers) for layers in outputs] == [6] * 10 + [8] * 3
    assert all(t.isfinite().all() and len(t) == 2 for layers in outputs for t in layers)


@pytest.mark.parametrize(
    ("parts", "count"),
    [({"periods": (), "scales": 0, "stft_n_ffts": (256,)}, 1), ({"stft_n_ffts": (), "scales": 1}, 6)],
)
def test_parts_can_be_left_out(parts, count):
    net = MusaDiscriminator(**SMALL, **parts)
    outputs = net(torch.randn(1, 1, 2000))
    assert len(outputs) == count
    adversarial_loss(outputs).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_bad_settings():
    with pytest.raises(UserError, match="without parts"):
        MusaDiscriminator(stft_n_ffts=(), periods=(), scales=0)
    with pytest.raises(UserError, match="multiple of 16"):
        MusaDiscriminator(scale_channels=20)


def test_adversarial_losses_by_hand():
    real = [[torch.zeros(3), torch.tensor([1.0, 0.5])], [torch.zeros(1), torch.tensor([0.0])]]
    fake = [[torch.ones(3), torch.tensor([0.0, 1.0])], [torch.tensor([-2.0]), torch.tensor([2.0])]]
    assert [float(x) for x in discriminator_loss(real, fake)] == pytest.approx([0.125 + 1, 0.5 + 4])
    assert float(adversarial_loss(fake)) == pytest.approx(0.5 + 1)
    assert float(feature_matching_loss(real, fake, [True, False])) == pytest.approx(1 + 0.75 + 2)


def test_feature_matching_trains_the_fake_side_alone():
    real, fake = ([[torch.randn(3, requires_grad=True), torch.randn(1)]] for _ in range(2))
    feature_matching_loss(real, fake, [False]).backward()
    assert real[0][0].grad is None and fake[0][0].grad is not None


def test_reconstruction():
    torch.manual_seed(0)
    loss, wav = ReconstructionLoss(), 0.1 * torch.randn(2, 8000)
    assert [float(x) for x in loss(wav, wav)] == [0, 0, 0, 0]
    louder = loss(
        2 * wav, wav
    )  # the logarithm of the magnitudes rises by ln 2 wherever it is above the floor
    assert float(louder.wave) == pytest.approx(float(wav.abs().mean()))
    assert float(louder.mel) == pytest.approx(0.6931, abs=1e-3)
    assert float(louder.mel_square) == pytest.approx(0.6931**2, abs=1e-3)
    assert float(louder.total) == pytest.approx(float(louder.wave + louder.mel + louder.mel_square))
    several = ReconstructionLoss(scales=((1024, 256, 80), (256, 64, 20)), wave_weight=0, mel_square_weight=2)
    terms = several(2 * wav, wav)
    assert float(terms.total) == pytest.approx(float(terms.mel + 2 * terms.mel_square))


def test_reconstruction_has_finite_gradients_in_silence():
    fake = torch.zeros(1, 4000, requires_grad=True)
    ReconstructionLoss()(fake, torch.zeros(1, 4000)).total.backward()
    assert fake.grad.isfinite().all()

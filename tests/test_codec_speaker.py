"""The speaker encoder: published numbers, padding, windows of long recordings."""

from __future__ import annotations

import pytest
import torch
from codec_parity import fill, load_regen, parity_place

from espnet_musa.codec.speaker import LogMel, MelStyleEncoder, SpeakerEncoder
from espnet_musa.errors import UserError


@pytest.fixture(scope="module", params=["128", "512"])
def published(request, real_speech):
    place = parity_place(real_speech)
    numbers = torch.load(place / "melstyle_io.pt", weights_only=True)
    return numbers[request.param], f"melstyle_{request.param}", load_regen(place)


@torch.inference_mode()
def test_published_numbers(published):
    numbers, tag, regen = published
    dim = numbers["style"].shape[1]
    assert torch.allclose(LogMel()(numbers["wave"]), numbers["mel"], atol=1e-5)
    ours, theirs = (fill(MelStyleEncoder(dim=dim, mask_convolutions=m), tag, regen) for m in (True, False))
    batch = numbers["batch"]
    for net in (ours, theirs):
        assert torch.allclose(net(numbers["mel"]), numbers["style"], atol=1e-5)
    assert torch.allclose(theirs(batch["mel"], batch["mask"]), batch["style"], atol=1e-5)
    alone = numbers["style_b_first40_unpadded"][0]
    assert torch.allclose(ours(batch["mel"], batch["mask"])[1], alone, atol=1e-5)
    assert not torch.allclose(batch["style"][1], alone, atol=1e-3)  # what mask_convolutions repairs


@torch.inference_mode()
def test_a_batch_changes_no_embedding():
    torch.manual_seed(0)
    encoder = SpeakerEncoder(dim=16, hidden=32, window_s=0.5).eval()
    lengths = torch.tensor(
        [1, 700, 9000, 20000]
    )  # one sample, less than a window of the STFT, 2 and 3 windows
    wav = torch.randn(4, 20000)
    together = encoder(wav, lengths)
    for row, samples, embedding in zip(wav, lengths, together, strict=True):
        assert torch.allclose(encoder(row[None, :samples])[0], embedding, atol=1e-5)


@torch.inference_mode()
def test_a_long_recording_is_the_mean_of_its_windows():
    torch.manual_seed(0)
    encoder = SpeakerEncoder(dim=8, hidden=16, window_s=1.0).eval()
    wav = torch.randn(1, 40000)
    parts = [encoder(wav[:, i : i + 16000]) for i in (0, 16000, 32000)]
    mean = (16000 * parts[0] + 16000 * parts[1] + 8000 * parts[2]) / 40000
    assert torch.allclose(encoder(wav), mean, atol=1e-6)


def test_dropout_works_in_training_only():
    torch.manual_seed(0)
    net, mel = MelStyleEncoder(dim=8), torch.randn(1, 30, 80)
    assert not torch.equal(net(mel), net(mel))
    net.eval()
    assert torch.equal(net(mel), net(mel))


def test_bad_sizes():
    with pytest.raises(UserError, match="hidden 100, heads 3"):
        MelStyleEncoder(hidden=100, heads=3)

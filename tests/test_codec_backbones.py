"""Both backbones: lengths, blocks equal the whole, batches equal single recordings; SEANet equals ESPnet's."""

from __future__ import annotations

import pytest
import torch

from espnet_musa.codec.mel import reflect_pad
from espnet_musa.codec.seanet import SeanetDecoder, SeanetEncoder
from espnet_musa.codec.spectral import SpectralDecoder, SpectralEncoder
from espnet_musa.errors import UserError

HOP = 320
LENGTHS = [1, 319, 320, 321, 16000, 48123]


@pytest.fixture(scope="module", params=["seanet", "seanet_deep", "spectral"])
def pair(request):
    """An encoder and a decoder, the weights large enough that every neighbour matters."""
    torch.manual_seed(0)
    if request.param == "spectral":
        nets = [part(16, channels=24, layers=2) for part in (SpectralEncoder, SpectralDecoder)]
        with torch.no_grad():
            for parameter in (p for net in nets for p in net.parameters()):
                parameter += 0.1 * torch.randn_like(parameter)
    else:
        more = {"residual_layers": 2, "true_skip": False, "compress": 2} if "deep" in request.param else {}
        nets = [part(16, channels=4, **more) for part in (SeanetEncoder, SeanetDecoder)]
    return [net.eval() for net in nets]


@pytest.mark.parametrize("samples", LENGTHS)
@torch.inference_mode()
def test_lengths(pair, samples):
    encoder, decoder = pair
    frames = encoder(torch.randn(2, 1, samples))
    assert frames.shape == (2, 16, -(-samples // HOP))
    wav = decoder(frames)
    assert wav.shape == (2, 1, frames.shape[2] * HOP) and wav.isfinite().all()


def through(stream, whole: torch.Tensor, block: int) -> torch.Tensor:
    parts = [stream.push(whole[..., i : i + block], last=False) for i in range(0, whole.shape[-1], block)]
    parts.append(stream.push(whole[..., :0], last=True))
    return torch.cat([part for part in parts if part.numel()], dim=2)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("block", [997, 9600])
@torch.inference_mode()
def test_blocks_equal_the_whole(pair, samples, block):
    encoder, decoder = pair
    wav = torch.randn(1, 1, samples)
    frames = encoder(wav)
    assert torch.allclose(through(encoder.stream(), wav, block), frames, atol=1e-4)
    assert torch.allclose(through(decoder.stream(), frames, 1 + block // HOP), decoder(frames), atol=1e-4)


@torch.inference_mode()
def test_streams_keep_no_more_than_their_context(pair):
    encoder, _ = pair
    stream = encoder.stream()
    held = []
    for _ in range(20):
        stream.push(torch.randn(1, 1, 30 * HOP), last=False)
        held.append(sum(t.numel() for t in tensors(stream)))
    assert held[3] == held[19] < (2 * encoder.context + 1) * HOP + 16 * 64 * 8


def tensors(thing) -> list[torch.Tensor]:
    """All tensors that a stream holds between two blocks."""
    if isinstance(thing, torch.Tensor):
        return [thing]
    if isinstance(thing, (list, tuple)):
        return [t for item in thing for t in tensors(item)]
    kept = {k: v for k, v in getattr(thing, "__dict__", {}).items() if k in ("_streams", "_buffer", "_state")}
    return tensors(list(kept.values()))


@torch.inference_mode()
def test_the_context_is_needed(pair):
    """Frames farther away than `context` change nothing (the LSTM apart: without it); nearer ones do."""
    encoder, _ = pair
    lstm, encoder.lstm = getattr(encoder, "lstm", None), None
    try:
        wav = torch.randn(1, 1, 60 * HOP)
        changed = wav.clone()
        changed[..., 30 * HOP : 31 * HOP] += 1
        differs = (encoder(wav) - encoder(changed)).abs().amax(dim=1)[0] > 1e-6
    finally:
        if lstm is not None:
            encoder.lstm = lstm
        else:
            del encoder.lstm
    places = differs.nonzero()[:, 0]
    assert places.min() >= 30 - encoder.context and places.max() <= 30 + encoder.context
    assert places.max() - places.min() >= encoder.context  # not wastefully large


@torch.inference_mode()
def test_a_batch_changes_nothing(pair):
    encoder, decoder = pair
    samples = torch.tensor([1, 400, 3200, 5000])
    wav = torch.randn(4, 1, 5000)
    for row, count in zip(wav, samples, strict=True):
        row[:, count:] = 0
    lengths = -(-samples // HOP)
    frames = encoder(wav, lengths)
    out = decoder(frames, lengths)
    for i, (count, length) in enumerate(zip(samples, lengths, strict=True)):
        alone = encoder(wav[i : i + 1, :, :count])
        assert torch.allclose(frames[i : i + 1, :, :length], alone, atol=1e-5)
        assert torch.allclose(out[i : i + 1, :, : length * HOP], decoder(alone), atol=1e-5)
        assert not out[i, :, length * HOP :].any()


def test_reflection_by_hand():
    x = torch.arange(1.0, 9.0).reshape(2, 1, 4)
    padded = reflect_pad(x, 2, 3, torch.tensor([4, 2]))
    assert padded[0, 0].tolist() == [3, 2, 1, 2, 3, 4, 3, 2, 1]
    assert padded[1, 0, :7].tolist() == [5, 6, 5, 6, 5, 6, 5]  # back and forth
    assert reflect_pad(torch.ones(1, 1, 1), 3, 3).tolist() == [[[1.0] * 7]]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@torch.inference_mode()
def test_equal_to_espnet(kind):
    """With ESPnet's residual units, and its weights, the same numbers."""
    from espnet2.gan_codec.shared.decoder.seanet import SEANetDecoder
    from espnet2.gan_codec.shared.encoder.seanet import SEANetEncoder

    torch.manual_seed(0)
    size = {"dimension": 12, "compress": 2, "true_skip": False}
    x = torch.randn(2, 1, 3200) if kind == "encoder" else torch.randn(2, 12, 10)
    ours, theirs = {
        "encoder": (SeanetEncoder, SEANetEncoder), "decoder": (SeanetDecoder, SEANetDecoder)
    }[kind]  # fmt: skip
    theirs = theirs(n_filters=4, ratios=[8, 5, 4, 2], **size)
    ours = ours(channels=4, residual_kernel_sizes=[3, 1], **size)
    with_weights(ours, theirs)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def with_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Copy theirs into ours, matched by the order in which the layers run."""

    def layers(net: torch.nn.Module, x: torch.Tensor) -> list[torch.nn.Module]:
        order: list[torch.nn.Module] = []
        kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d, torch.nn.LSTM)
        hooks = [
            m.register_forward_hook(lambda module, *_: order.append(module))
            for m in net.modules()
            if isinstance(m, kinds)
        ]
        net(x)
        for hook in hooks:
            hook.remove()
        return order

    encoder = isinstance(ours, SeanetEncoder)
    x = torch.randn(1, 1, 3200) if encoder else torch.randn(1, 12, 10)
    pairs = [layers(net, x) for net in (ours, theirs)]
    for a, b in zip(*(sorted(p, key=shape) for p in pairs), strict=True):
        a.load_state_dict(b.state_dict())


def shape(module: torch.nn.Module) -> list:
    return [str(p.shape) for p in module.parameters()]


def test_paper_sizes():
    """O2: 8.89 M parameters each with ESPnet's units at 32 channels, 0.17 M more with two kernels of 3."""
    encoder, decoder = SeanetEncoder(), SeanetDecoder()
    for net in (encoder, decoder):
        assert net.hop == HOP
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(9.06e6, rel=2e-3)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (SpectralEncoder, {"n_fft": 1000}), (SpectralDecoder, {"kernel_size": 4}), (SpectralDecoder, {"layers": 0}),
        (SeanetEncoder, {"strides": []}), (SeanetDecoder, {"residual_kernel_sizes": [2, 3]}),
        (SeanetEncoder, {"compress": 3}),
    ],
)  # fmt: skip
def test_bad_settings(part, wrong):
    with pytest.raises(UserError, match="expected"):
        part(**wrong)

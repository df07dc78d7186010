"""A vocoder of random weights with an acoustic model of random weights, small enough to be made within a test."""

from __future__ import annotations

from pathlib import Path

import torch

from espnet_musa import config
from espnet_musa.codec import vocoder_archive
from espnet_musa.codec.vocoder import Vocoder
from espnet_musa.tokenizer import store
from espnet_musa.tokenizer.config import BOTTLENECK, TokensConfig
from espnet_musa.tokenizer.vq_bottleneck import VqBottleneck

SPEAKERS = {"alto": "f", "bass": "m", "mezzo": "f", "tenor": "m"}
F0_MEAN, F0_SD = (190.0, 110.0, 230.0, 140.0), (20.0, 12.0, 30.0, 16.0)  # Hz, of a vocoder with a source
SIZES = {
    "codebook_size": 12,
    "code_dim": 16,
    "channels": 24,
    "bottleneck": 8,
    "encoder": [3, 1, 3],
    "halving": 2,
}
DECODERS = {
    "spectral": {"channels": 24, "layers": 2, "expansion": 2},
    "source_filter": {"channels": 24, "layers": 2, "expansion": 2, "bands": 20},
    "hifigan": {"channels": 32, "resblock_kernel_sizes": [3, 5], "resblock_dilations": [[1, 3], [1, 2]]},
}
TOKENS = TokensConfig(
    description="-", reference="-", teacher="fbank", tokenizer=BOTTLENECK, params=SIZES, train="tiny_am"
)


def tiny_acoustic(seed: int = 0) -> VqBottleneck:
    """An acoustic model whose codes vary with its input."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = store.build(BOTTLENECK, SIZES, 160).eval()
        frames = model.frames(3 * torch.randn(1, 160, 400))[0].T
        model.codebook.copy_(frames[torch.randperm(len(frames))[: model.n_tokens]])
        model.quantizer.layers[0].initialized.fill_(1)
    return model


def tiny_conf(backbone: str = "spectral") -> dict:
    """Keyword arguments of a small `Vocoder`."""
    return {
        "backbone": backbone, "decoder_conf": DECODERS[backbone], "n_codes": SIZES["codebook_size"],
        "code_dim": SIZES["code_dim"], "n_speakers": len(SPEAKERS),
    }  # fmt: skip


def tiny_vocoder(backbone: str = "spectral", seed: int = 0) -> Vocoder:
    """A vocoder that can be heard and depends on all of its inputs."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        vocoder = Vocoder(**tiny_conf(backbone)).eval()
        vocoder.codebook.copy_(tiny_acoustic(seed).codebook)
        if vocoder.sourced:
            vocoder.f0_mean.copy_(torch.tensor(F0_MEAN))
            vocoder.f0_sd.copy_(torch.tensor(F0_SD))
            vocoder.decoder.backbone.out.weight.mul_(5)
            return vocoder
        made = vocoder(torch.randint(12, (1, 200)), torch.randn(1, 200), torch.tensor([1]))
        if backbone == "spectral":
            out = vocoder.decoder.backbone.out
            out.weight.mul_(20)  # a phase that moves
            out.bias[: len(out.bias) // 2] += (0.05 / made.std()).log() - 1
        else:
            vocoder.decoder.output_conv[1].parametrizations.weight.original0.mul_(0.1 / made.std())
    return vocoder


def tiny_archive(place: Path, backbone: str = "spectral", seed: int = 0) -> Path:
    """What stage 4 leaves behind."""
    facts = {"speakers": SPEAKERS, "f0": {"tracker": "dio", "floor": 60.0, "ceiling": 400.0}, "peak": 0.95}
    vocoder_archive.save(
        place,
        generator_conf=tiny_conf(backbone),
        state=tiny_vocoder(backbone, seed).state_dict(),
        facts=facts,
    )
    acoustic = place / vocoder_archive.ACOUSTIC
    acoustic.mkdir(exist_ok=True)
    store.save(acoustic, TOKENS, tiny_acoustic(seed))
    assert config.load(store.Facts, acoustic / store.CONFIG).tokenizer == BOTTLENECK
    return place

"""Speed of the codec's modules: both backbones, ESPnet's SEANet and residual quantizer, a training step of full size.

The profile in the first line says where the seconds of analysis and synthesis go; `rtf` is seconds of work for a second
of speech.

python benchmarks/bench_codec.py [--repeats 3] [--threads 2] [--seconds 10] [--step]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable

import torch

from espnet_musa.codec.discriminators import MusaDiscriminator
from espnet_musa.codec.generator import MusaGenerator
from espnet_musa.codec.losses import (
    ReconstructionLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from espnet_musa.codec.seanet import SeanetDecoder, SeanetEncoder


def compare(what: str, runs: list[Callable[[], object]], repeats: int, **more: object) -> None:
    """Alternate ours and the baseline, keep the best of each, print one JSON line; the first call is not measured."""
    best = [float("inf"), float("inf")]
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    line = {"what": what, "ours_s": round(best[0], 4), "baseline_s": round(best[1], 4)}
    print(json.dumps({**line, "ratio": round(best[1] / best[0], 2), **more}), flush=True)


def profile(net: MusaGenerator, wav: torch.Tensor, repeats: int) -> dict[str, float]:
    """Best seconds of each part of analysis and synthesis."""
    s, x = net.speaker(wav), net.frames(wav)
    codes = net.quantizer.encode(net.without_speaker(x, s))
    fused = net.fuse(net.quantizer.decode(codes), s)
    parts: dict[str, Callable[[], object]] = {
        "encoder": lambda: net.frames(wav),
        "speaker": lambda: net.speaker(wav),
        "quantizer": lambda: net.quantizer.decode(net.quantizer.encode(net.without_speaker(x, s))),
        "decoder": lambda: net.decoder(fused),
    }
    best = {}
    for name, part in parts.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            part()
            seconds.append(time.perf_counter() - start)
        best[name] = min(seconds)
    return best


@torch.inference_mode()
def inference(seconds: float, repeats: int) -> None:
    """The two backbones, whole and in parts, and ESPnet's modules of the same size."""
    from espnet2.gan_codec.shared.decoder.seanet import SEANetDecoder
    from espnet2.gan_codec.shared.encoder.seanet import SEANetEncoder
    from espnet2.gan_codec.shared.quantizer.residual_vq import ResidualVectorQuantizer

    torch.manual_seed(0)
    wav = 0.1 * torch.randn(1, round(16000 * seconds))
    nets = [MusaGenerator(backbone=name).eval() for name in ("spectral", "seanet")]
    runs = [lambda net=net: net.decode(net.encode(wav)[0]) for net in nets]
    details = {}
    for name, net in zip(("spectral", "seanet"), nets, strict=True):
        best = profile(net, wav, repeats)
        details[f"{name}_rtf"] = round(sum(best.values()) / seconds, 4)
        details[f"{name}_shares"] = {k: round(v / sum(best.values()), 3) for k, v in best.items()}
    compare(f"analysis and synthesis of {seconds:g} s: spectral, seanet", runs, repeats, **details)

    size = {"residual_kernel_sizes": (3, 1), "dimension": 512}
    ours = SeanetEncoder(**size).eval(), SeanetDecoder(**size).eval()
    same = {"dimension": 512, "compress": 1, "true_skip": True}
    theirs = SEANetEncoder(**same).eval(), SEANetDecoder(**same).eval()
    runs = [lambda e=e, d=d: d(e(wav[:, None])) for e, d in (ours, theirs)]
    compare("SEANet encoder and decoder: ours, ESPnet's of the same layers", runs, repeats)

    frames = torch.randn(1, 512, round(50 * seconds))
    rvq = ResidualVectorQuantizer(dimension=512, codebook_dim=512, kmeans_init=False).eval()
    ours_rvq = nets[1].quantizer
    runs = [
        lambda: ours_rvq.decode(ours_rvq.encode(frames)),
        lambda: rvq.decode(rvq.encode(frames, 50)),
    ]
    compare("residual quantizer, 8 x 1024 codes: ours, ESPnet's", runs, repeats)


def training_step(repeats: int) -> None:
    """Discriminator and generator turn of full size on one segment of 1 s: with and without the extras of MUSA."""
    torch.manual_seed(0)
    net, judge, loss = (
        MusaGenerator(n_speakers=1417, n_tokens=1024),
        MusaDiscriminator(),
        ReconstructionLoss(),
    )
    wav, other = 0.1 * torch.randn(1, 16000), 0.1 * torch.randn(1, 16000)
    sids, tokens = torch.zeros(2, dtype=torch.long), torch.zeros(1, 50, dtype=torch.long)

    def turns(fake: torch.Tensor, extras: torch.Tensor | float) -> None:
        sum(discriminator_loss(judge(wav[:, None]), judge(fake.detach()[:, None]))).backward()
        real, made = judge(wav[:, None]), judge(fake[:, None])
        total = 45 * loss(fake, wav).total + adversarial_loss(made)
        (total + feature_matching_loss(real, made, judge.logits_matched) + extras).backward()

    def musa() -> None:
        out = net(wav, other)
        speaker = torch.nn.functional.cross_entropy(out.speaker_logits, sids)
        consistency = torch.nn.functional.cosine_similarity(out.s1, out.s2).mean()
        semantic = torch.nn.functional.cross_entropy(out.token_logits, tokens)
        turns(out.wav, 0.1 * out.quantized.commitment + speaker - consistency + semantic)

    def plain() -> None:
        quantized = net.quantizer(net.frames(wav))
        turns(net.decoder(quantized.q)[:, 0], 0.1 * quantized.commitment)

    compare("training step, full size, 1 s on a CPU: MUSA, the codec alone", [musa, plain], repeats)


def main() -> None:
    """Print one JSON line per comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of speech to code")
    parser.add_argument(
        "--step", action="store_true", help="a training step of full size as well (half a minute)"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    inference(args.seconds, args.repeats)
    if args.step:
        training_step(args.repeats)


if __name__ == "__main__":
    main()

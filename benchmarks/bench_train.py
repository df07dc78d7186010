"""A training step of MUSA: against ESPnet's own codec of the same size, and against itself without what MUSA adds.

ESPnet's `SoundStream` gets MUSA's widths, strides, LSTM, quantizers and discriminators, one mel resolution, no second
decoder pass, and its cache (without it, its generator runs twice a step). Both run the two turns that ESPnet's trainer
takes for a batch, with AdamW. What MUSA adds: the speaker encoder on two segments, its classifier, the semantic head.
What it saves: gradients of the discriminators' weights in the generator's turn, which ESPnet computes and discards.

Seconds are the process's CPU time, so that other work on the machine does not count; ratio: baseline / ours.

python benchmarks/bench_train.py [--repeats 3] [--threads 1] [--channels 16] [--batch 2]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable

import torch
from espnet2.gan_codec.soundstream.soundstream import SoundStream
from torch import Tensor, nn

from espnet_musa.codec.discriminators import MusaDiscriminator
from espnet_musa.codec.musa import MusaCodec

SECONDS, RATE, HOP = 1.0, 16000, 320
SPEAKERS, TOKENS = 1417, 1024
DISCRIMINATOR = {"stft_channels": 8, "period_channels": 8, "scale_channels": 32}


def musa(channels: int, **conf) -> MusaCodec:
    """The paper's generator with so many base channels, reduced discriminators."""
    size = {"channels": channels, "residual_kernel_sizes": [3, 1]}
    generator = {"encoder_conf": size, "decoder_conf": size} | conf.pop("generator_conf", {})
    given = {"n_speakers": SPEAKERS, "n_tokens": TOKENS, "discriminator_conf": DISCRIMINATOR}
    return MusaCodec(generator_conf=generator, **given | conf)


def soundstream(channels: int) -> SoundStream:
    """ESPnet's codec of the same size."""
    codec = SoundStream(
        sampling_rate=RATE,
        generator_params={
            "hidden_dim": 512, "encdec_n_filters": channels, "encdec_ratios": [8, 5, 4, 2], "encdec_compress": 1,
            "encdec_residual_kernel_size": 3, "encdec_true_skip": True, "encdec_lstm": 2, "quantizer_n_q": 8,
            "quantizer_bins": 1024, "quantizer_target_bandwidth": [4.0],
        },
        mel_loss_params={
            "range_start": 10, "range_end": 11, "window": "hann", "n_mels": 80, "fmin": 0, "fmax": None,
            "log_base": None,
        },
        use_dual_decoder=False, cache_generator_outputs=True,
    )  # fmt: skip
    codec.discriminator = MusaDiscriminator(**DISCRIMINATOR)
    return codec


def stepper(codec: nn.Module, batch: dict[str, Tensor]) -> Callable[[], None]:
    """What to call for a step: both turns."""
    optimizers = {
        name: torch.optim.AdamW(
            getattr(codec, name).parameters(), lr=2e-4, betas=(0.8, 0.99), weight_decay=0.01
        )
        for name in ("discriminator", "generator")
    }

    def step() -> None:
        for name, optimizer in optimizers.items():
            codec(forward_generator=name == "generator", **batch)["loss"].backward()
            optimizer.step()
            for other in optimizers.values():
                other.zero_grad()

    return step


def best(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Least CPU seconds of each, alternating, after one that does not count (k-means)."""
    shortest = dict.fromkeys(steps, float("inf"))
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if repeat:
                shortest[name] = min(shortest[name], time.process_time() - start)
    return shortest


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, default=16, help="base channels; full size: 32")
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    audio, audio2 = 0.1 * torch.randn(2, args.batch, round(SECONDS * RATE))
    labels = {
        "audio2": audio2,
        "sids": torch.randint(SPEAKERS, (args.batch, 1)),
        "semantic": torch.randint(TOKENS, (args.batch, audio.shape[1] // HOP)),
    }
    bare = musa(args.channels, generator_conf={"speaker_fusion": "none"}, lambda_spk=0.0, lambda_sem=0.0)
    steps = {
        "musa": stepper(musa(args.channels), {"audio": audio, **labels}),
        "soundstream": stepper(soundstream(args.channels), {"audio": audio}),
        "bare": stepper(bare, {"audio": audio, **labels}),
    }
    seconds = best(steps, args.repeats)
    for other, what in (
        ("soundstream", "training step, MUSA against ESPnet's SoundStream of the same size"),
        ("bare", "training step, MUSA against MUSA without speaker and semantic distillation"),
    ):
        ratio = seconds[other] / seconds["musa"]
        line = {"what": what, "ours_s": round(seconds["musa"], 4), "baseline_s": round(seconds[other], 4)}
        print(json.dumps(line | {"ratio": round(ratio, 3)}), flush=True)


if __name__ == "__main__":
    main()

"""MUSA's inference: against the bare networks, in batches, real-time factors, where the time goes, memory.

python benchmarks/bench_musa_infer.py [--models musa_en musa_en_spectral musa_mini] [--minutes 10] [--device cpu]

Weights are random: times do not depend on them. Threads: as many as the environment says (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import voice  # noqa: E402

from espnet_musa.anonymizers.musa import Musa  # noqa: E402
from espnet_musa.codec import archive  # noqa: E402
from espnet_musa.codec.generator import MusaGenerator  # noqa: E402
from espnet_musa.config import load_yaml  # noqa: E402
from espnet_musa.data.audio import to_int16, write_pcm  # noqa: E402
from espnet_musa.pipeline.batching import plan  # noqa: E402

RNG = np.random.default_rng(0)


def seconds(calls: list[Callable[[], object]], device: str, rounds: int = 3) -> list[float]:
    """The best time of each call, all of them alternated."""
    best = [float("inf")] * len(calls)
    for round_ in range(rounds + 1):
        for i, call in enumerate(calls):
            begun = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            if round_:  # the first is for warming up
                best[i] = min(best[i], time.perf_counter() - begun)
    return best


def say(what: str, ours: float, baseline: float, **more: object) -> None:
    """One comparison."""
    line = {
        "what": what,
        "ours_s": round(ours, 4),
        "baseline_s": round(baseline, 4),
        "ratio": round(ours / baseline, 3),
    }
    print(json.dumps({**line, **more}), flush=True)


def make(name: str, place: Path) -> Path:
    """An archive of a training configuration with random weights."""
    conf = load_yaml(ROOT / f"conf/train/{name}.yaml")[0]["codec_conf"]["generator_conf"]
    torch.manual_seed(0)
    state = MusaGenerator(**conf).state_dict()
    archive.save(place, generator_conf=conf, state=state, facts={"sample_rate": 16000})
    return place


def networks(name: str, place: Path, device: str) -> None:
    """Ours against the bare networks, the parts of it, and batches."""
    musa = Musa.from_pretrained(str(place), device=device)
    generator = musa._generator
    wav = voice(0, 10.0)
    tensor = torch.from_numpy(wav)[None].to(device)

    @torch.inference_mode()
    def bare(speaker: bool) -> np.ndarray:
        x = generator.encoder(tensor[:, None])
        if speaker:
            x = generator.without_speaker(x, generator.speaker(tensor))
        return (
            generator.decoder(generator.quantizer.decode(generator.quantizer.encode(x)))[0, 0].cpu().numpy()
        )

    calls = [lambda: musa.convert(wav, None, RNG), lambda: bare(True), lambda: bare(False)]
    ours, baseline, without = seconds(calls, device)
    more = {"real_time_factor": round(ours / 10, 4), "threads": torch.get_num_threads()}
    say(f"{name}, 10 s anonymized, against the bare encoders, quantizer and decoder", ours, baseline, **more)
    say(f"{name}, the same against the bare networks without the speaker encoder", ours, without)

    with torch.inference_mode():
        x = generator.encoder(tensor[:, None])
        codes = generator.quantizer.encode(x)
        q = generator.quantizer.decode(codes)
        parts: dict[str, Callable[[], object]] = {
            "speech encoder": lambda: generator.encoder(tensor[:, None]),
            "speaker encoder": lambda: generator.speaker(tensor),
            "quantizer": lambda: generator.quantizer.decode(generator.quantizer.encode(x)),
            "decoder": lambda: generator.decoder(q),
        }
        for network, part in ((generator.encoder, "speech encoder"), (generator.decoder, "decoder")):
            if getattr(network, "lstm", None) is not None:
                frames = torch.zeros(1, network.lstm.lstm.input_size, x.shape[2], device=device)
                parts[f"LSTM of the {part}"] = lambda network=network, frames=frames: network.lstm(frames)
        times = dict(zip(parts, seconds(list(parts.values()), device), strict=True))
    print(json.dumps({"what": f"{name}, seconds of each part (the LSTMs are parts of the others)",
                      **{part: round(value, 4) for part, value in times.items()}}))  # fmt: skip

    wavs = {f"u{i}": voice(i, length) for i, length in enumerate(np.linspace(2.0, 2.4, 12))}
    batches = plan({utt: len(wav) for utt, wav in wavs.items()}, musa)

    def batched() -> None:
        for utts in batches:
            musa.convert_batch([wavs[utt] for utt in utts], [None] * len(utts), [RNG] * len(utts))

    both = [batched, lambda: [musa.convert(wav, None, RNG) for wav in wavs.values()]]
    sizes = [len(utts) for utts in batches]
    say(f"{name}, 12 utterances of 2.0 to 2.4 s in batches of {sizes}, one by one", *seconds(both, device))


def memory(name: str, place: Path, minutes: float, scratch: Path) -> tuple[float, float]:
    """Peak resident memory (MB) and seconds of anonymizing a long file in a process of its own."""
    voices = [to_int16(voice(i, 10.0, 110 + 10 * i)) for i in range(6)]
    write_pcm(scratch / "in.wav", (voices[i % 6] for i in range(round(6 * minutes))), 16000)
    code = (  # the peak of this process alone; ru_maxrss would count what its parent held when it forked
        "import re, sys; from espnet_musa.bin.anonymize import main; main(sys.argv[1:]); "
        "print(re.search('VmHWM: *(\\\\d+)', open('/proc/self/status').read().replace(chr(9), ' '))[1])"
    )
    words = ["--system", name, "--set", f"{name}.params.model={place}", "--force", "true"]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words, scratch / "in.wav", scratch / "out.wav"],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 1024, time.perf_counter() - begun


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=["musa_en", "musa_mini"])
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long file, for the last model")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in args.models:
            networks(name, make(name, scratch / name), args.device)
        name = args.models[-1]
        short, _ = memory(name, scratch / name, 1.0, scratch)
        long, spent = memory(name, scratch / name, args.minutes, scratch)
        print(json.dumps({
            "what": f"{name}, peak memory (MB) of {args.minutes:g} minutes against 1 minute",
            "ours_mb": round(long), "baseline_mb": round(short), "ratio": round(long / short, 2),
            "real_time_factor": round(spent / (60 * args.minutes), 4),
        }))  # fmt: skip


if __name__ == "__main__":
    main()

"""How stages scale with jobs, and whether memory grows with the length of a file or the number of files.

python benchmarks/bench_pipeline.py [--minutes 60] [--utterances 160]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import voice  # noqa: E402

from espnet_musa.data.audio import to_int16, write_pcm, write_wav  # noqa: E402
from espnet_musa.data.datadir import write_datadir  # noqa: E402

RECIPE = (
    "name: bench\nsystems: [b2_mcadams]\nevaluators: []\ncorpora: {mini: {}}\nformat: {roles: [utility]}\n"
)


def make(root: Path, utterances: int) -> None:
    """A recipe directory with data/s: utterances of 10 s at 22.05 kHz."""
    (root / "conf").mkdir(parents=True)
    (root / "conf/recipe.yaml").write_text(RECIPE)
    (root / "audio").mkdir()
    names = [f"u{i:04d}" for i in range(utterances)]
    for i, name in enumerate(names):
        write_wav(root / "audio" / f"{name}.wav", voice(i % 20, 10.0, 100 + i % 90, 22050), 22050)
    scp = {name: str(root / "audio" / f"{name}.wav") for name in names}
    write_datadir(root / "data" / "s", {"wav.scp": scp, "utt2spk": dict.fromkeys(names, "k")}, {})


def stage(root: Path, name: str, nj: int) -> float:
    """Seconds of one stage through the driver; its outputs are removed first."""
    out = root / ("dump" if name == "format" else "exp/b2_mcadams")
    subprocess.run(["rm", "-rf", out], check=True)
    command = [
        ROOT / "run.sh",
        "--config",
        "conf/recipe.yaml",
        "--stage",
        name,
        "--stop-stage",
        name,
        "--nj",
        str(nj),
    ]
    begun = time.perf_counter()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def memory(system: str, source: Path, out: Path) -> float:
    """Peak resident memory (MB) of anonymizing a file in a process of its own."""
    code = (
        "import resource, sys; from espnet_musa.bin.anonymize import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--system", system, source, out, "--force", "true"],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 1024


def long_file(path: Path, minutes: float) -> None:
    """A recording of many minutes, made of short voices."""
    voices = [to_int16(voice(i, 10.0, 110 + 10 * i)) for i in range(6)]
    write_pcm(path, (voices[i % 6] for i in range(int(minutes * 6))), 16000)


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--utterances", type=int, default=160)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "recipe"
        make(root, args.utterances)
        for name in ("format", "anonymize"):
            times = {nj: min(stage(root, name, nj) for _ in range(2)) for nj in (1, cores)}
            print(json.dumps({
                "what": f"stage {name}, {args.utterances} utterances of 10 s, nj={cores} against nj=1",
                "ours_s": round(times[cores], 2), "baseline_s": round(times[1], 2),
                "ratio": round(times[1] / times[cores], 2),
            }))  # fmt: skip
        short, long = Path(scratch) / "short.wav", Path(scratch) / "long.wav"
        long_file(short, 1)
        long_file(long, args.minutes)
        for system in ("b2_mcadams", "dsp_f0"):
            peaks = []
            for path in (short, long):
                begun = time.perf_counter()
                peaks.append(memory(system, path, Path(scratch) / "out.wav"))
                seconds = time.perf_counter() - begun
            print(json.dumps({
                "what": f"{system}, peak memory (MB) of {args.minutes:g} minutes against 1 minute",
                "ours_mb": round(peaks[1]), "baseline_mb": round(peaks[0]), "ratio": round(peaks[1] / peaks[0], 2),
                "real_time_factor": round(seconds / (60 * args.minutes), 4),
            }))  # fmt: skip


if __name__ == "__main__":
    main()

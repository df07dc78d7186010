"""Speed of F0 trackers on the same audio, one core, and how far YAAPT agrees with AMFM_decompy, the maintained package.

python benchmarks/bench_f0.py [--audio DIRECTORY] [--seconds 30] [--repeats 3]
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from conftest import voice  # noqa: E402 - the paths come first

from espnet_musa.data.audio import read_audio  # noqa: E402
from espnet_musa.f0.extract import extract, extract_batch  # noqa: E402
from espnet_musa.f0.yaapt import Yaapt, track  # noqa: E402

RATE = 16000
RANGE = {"floor": 60.0, "ceiling": 400.0}  # Hz, YAAPT's defaults


def recordings(folder: Path | None, seconds: float) -> list[np.ndarray]:
    """Utterances of up to 10 s, `seconds` of audio in all: real ones from all over a folder, or generated ones."""
    if folder is None:
        return [voice(n, 5.0, 100.0 + 25 * n) for n in range(round(seconds / 5))]
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".wav"))
    step = max(1, len(files) // max(1, round(seconds / 8)))
    wavs = (read_audio(file) for file in files[::step])
    wavs = list(islice((wav[: 10 * RATE] for wav, rate in wavs if rate == RATE), round(seconds / 8)))
    if not wavs:
        sys.exit(f"{folder} holds no WAV or FLAC file of {RATE} Hz")
    return wavs


def package(wavs: list[np.ndarray]) -> list[np.ndarray]:
    """The tracks of AMFM_decompy."""
    from amfm_decompy.basic_tools import SignalObj
    from amfm_decompy.pYAAPT import yaapt

    return [yaapt(SignalObj(wav.astype(np.float64), RATE)).samp_values for wav in wavs]


def agreement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float]:
    """In cents over frames voiced in both, and in voicing."""
    a, b = np.concatenate(ours), np.concatenate(theirs)
    both = (a > 0) & (b > 0)
    cents = 1200 * np.log2(a[both] / b[both])
    return {
        "median_cents": round(float(np.median(cents)), 2),
        "median_absolute_cents": round(float(np.median(np.abs(cents))), 2),
        "share_over_50_cents": round(float((np.abs(cents) > 50).mean()), 5),
        "voicing_errors": round(float(((a > 0) != (b > 0)).mean()), 5),
        "same_within_1_cent": round(
            float((((a == 0) & (b == 0)).sum() + (np.abs(cents) < 1).sum()) / a.size), 5
        ),
    }


def main() -> None:
    """Alternate all, keep the best of each; one JSON line a comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, help="folder of recordings; without it speech-like signals are made"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of audio, about")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    wavs = recordings(args.audio, args.seconds)
    length = sum(map(len, wavs)) / RATE

    def one_by_one(tracker: str) -> Callable[[], list[np.ndarray]]:
        return lambda: [extract(wav, RATE, tracker=tracker, **RANGE) for wav in wavs]

    padded = [np.pad(wav.astype(np.float64), (280 - 75, 1000)) for wav in wavs]  # frames where ours are
    runs = {
        "AMFM_decompy": lambda: package(wavs),
        "yaapt, compat": lambda: [track(wav, RATE, Yaapt(compat=True)) for wav in wavs],
        "yaapt": one_by_one("yaapt"),
        "yaapt, extract_batch": lambda: extract_batch(wavs, RATE, tracker="yaapt", **RANGE),
        "harvest": one_by_one("harvest"),
        "dio": one_by_one("dio"),
    }
    if find_spec("parselmouth") is not None:
        runs["praat"] = one_by_one("praat")
    extract(wavs[0][:RATE], RATE, tracker="yaapt")  # compiles
    times = dict.fromkeys(runs, np.inf)
    tracks = {}
    for repeat in range(args.repeats):
        for name, run in runs.items():
            if name == "harvest" and repeat:  # once is long enough
                continue
            start = time.perf_counter()
            tracks[name] = run()
            times[name] = min(times[name], time.perf_counter() - start)
    aligned = [own[: len(ours)] for own, ours in zip(package(padded), tracks["yaapt"], strict=True)]
    extra = {
        "yaapt, compat": agreement(tracks["yaapt, compat"], tracks["AMFM_decompy"]),
        "yaapt": agreement(tracks["yaapt"], aligned),
        "yaapt, extract_batch": {
            "equal": all(map(np.array_equal, tracks["yaapt, extract_batch"], tracks["yaapt"]))
        },
    }
    for name in list(runs)[1:]:
        line = {
            "what": f"F0 by {name} against AMFM_decompy, {len(wavs)} utterances, {length:.0f} s, one core",
            "ours_s": round(times[name], 4),
            "baseline_s": round(times["AMFM_decompy"], 4),
            "ratio": round(times["AMFM_decompy"] / times[name], 2),
            "ours_s_per_audio_s": round(times[name] / length, 5),
        }
        print(json.dumps(line | extra.get(name, {})))


if __name__ == "__main__":
    main()

"""Speech recognition batched against one utterance after the other: same texts, less time.

    python benchmarks/bench_asr.py

Random weights: recognizing nothing takes as long as recognizing something.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import asr_models
from tiny_sets import GENDERS, make_set, tone

from espnet_musa.data.datadir import DataDir
from espnet_musa.evaluators.asr_backends import length_batches
from espnet_musa.evaluators.asr_backends.recipe import AsrTrainConfig, RecipeCtc
from espnet_musa.evaluators.asr_backends.recipe_train import train
from espnet_musa.evaluators.asr_backends.sphinx import Pocketsphinx
from espnet_musa.evaluators.asr_backends.wav2vec2_ctc import Wav2vec2Ctc


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def batched(recognizer, wavs: list[np.ndarray]) -> list[str]:
    """As the evaluator does: sorted by length, batches of limited padded duration."""
    texts = [""] * len(wavs)
    for batch in length_batches([len(wav) / 16000 for wav in wavs], recognizer.batch_s):
        heard = recognizer.transcribe([wavs[i] for i in batch], ["en"] * len(batch))
        for i, text in zip(batch, heard, strict=True):
            texts[i] = text
    return texts


def compare(what: str, ours, baseline, wavs: list[np.ndarray], repeats: int) -> None:
    """Alternate the two, keep the best of each, print one JSON line; texts must agree."""

    def one_by_one() -> list[str]:
        return [baseline.transcribe([wav], ["en"])[0] for wav in wavs]

    assert batched(ours, wavs) == one_by_one()
    times = np.array(
        [(seconds(lambda: batched(ours, wavs)), seconds(one_by_one)) for _ in range(repeats)]
    ).min(0)
    row = {"what": what, "ours_s": round(times[0], 3), "baseline_s": round(times[1], 3)}
    print(json.dumps(row | {"ratio": round(times[1] / times[0], 2)}), flush=True)


def main() -> None:
    rng = np.random.default_rng(0)
    wavs = [tone(length, 120.0, i) for i, length in enumerate(rng.uniform(1.0, 5.0, 48))]
    with tempfile.TemporaryDirectory() as place:
        names = {f"a-{i}": "red green blue" for i in range(4)}
        path = make_set(Path(place) / "set", {u: tone(1.0, 99.0) for u in names}, GENDERS, {}, text=names)
        sizes = {"num_layers": 2, "hidden_size": 160, "output_size": 160, "subsample": [1, 1]}  # asr_mini
        train(
            DataDir.read(path, "audio"),
            Path(place) / "recipe",
            AsrTrainConfig(encoder_conf=sizes, epochs=1),
            0,
        )
        recipe = RecipeCtc(Path(place) / "recipe")
        compare("recipe CTC, 48 utterances: batched / one by one", recipe, recipe, wavs, 3)
        asr_models.wav2vec2(Path(place) / "wav2vec2", layers=4, width=256)
        wav2vec2 = Wav2vec2Ctc(str(Path(place) / "wav2vec2"))
        compare("small wav2vec 2.0 CTC, 48 utterances: batched / one by one", wav2vec2, wav2vec2, wavs, 3)
    short = [wav[: len(wav) // 4] for wav in wavs[:8]]
    pair = Pocketsphinx(jobs=2), Pocketsphinx()
    compare("PocketSphinx, 8 utterances: two processes / one", *pair, short, 2)


if __name__ == "__main__":
    main()

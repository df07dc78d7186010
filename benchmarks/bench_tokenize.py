"""Stage 3's token pass against the teacher's bare forward pass, and against the same in padded batches.

    python benchmarks/bench_tokenize.py

Random weights of a middle size: the proportions of convolutions, transformer and tokenizer are about XLS-R's.
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
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from tiny_sets import GENDERS, make_set, tone
from tiny_teacher import save_teacher

from espnet_musa import stamp
from espnet_musa.config import Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.pipeline.tokenize import ModelRun, TokensRun
from espnet_musa.tokenizer import store
from espnet_musa.tokenizer.config import FeatureCodecConfig, load
from espnet_musa.tokenizer.feature_codec import FeatureCodec

SIZES = {
    "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
    "conv_dim": [512] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
}  # fmt: skip
UTTERANCES, BATCH_S = 10, 8.0


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(what: str, ours: Callable[[], object], baseline: Callable[[], object], repeats: int) -> None:
    """Alternate the two, keep the best of each, print one JSON line."""
    times = np.array([(seconds(ours), seconds(baseline)) for _ in range(repeats)]).min(0)
    row = {"what": what, "ours_s": round(times[0], 3), "baseline_s": round(times[1], 3)}
    print(json.dumps(row | {"ratio": round(times[1] / times[0], 2)}), flush=True)


def prepare(root: Path) -> tuple[Recipe, DataDir]:
    """A recipe directory with a teacher, a ready tokenizer and a training set."""
    teacher = save_teacher(root / "teacher", **SIZES)
    codec = FeatureCodec(512, FeatureCodecConfig())
    torch.save({"model": {"repcodec": codec.state_dict()}}, root / "codec.pkl")
    tokens = {
        "description": "x", "reference": "y", "teacher": "wav2vec2", "checkpoint": str(root / "codec.pkl"),
        "teacher_params": {"model": str(teacher), "batch_s": BATCH_S},
    }  # fmt: skip
    system = {"description": "x", "reference": "y", "anonymizer": "mcadams", "train": "m", "tokens": "t"}
    for kind, own in (("tokens", tokens), ("systems", system)):
        (root / "conf" / kind).mkdir(parents=True)
        (root / "conf" / kind / "t.yaml").write_text(yaml.safe_dump(own))
    lengths = np.random.default_rng(0).uniform(0.8, 2.4, UTTERANCES)
    wavs = {f"{'abc'[i % 3]}-{i}": tone(length, 120.0, i) for i, length in enumerate(lengths)}
    make_set(root / "dump" / "train", wavs, GENDERS, {"role": "train"})
    return Recipe(name="r", systems=("t",), evaluators=(), corpora={}), DataDir.read(
        root / "dump" / "train", "audio"
    )


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recipe, data = prepare(root)
        model = ModelRun(recipe, root)
        model.plan(force=False)
        model.finish("cpu")
        run = TokensRun(recipe, root)
        run.plan(force=False)
        place = root / "exp" / "tokens" / "t"
        teacher = store.load_teacher(place / "model", load(recipe, "t", root), "cpu")
        tokenizer = store.load(place / "model", "cpu")
        store.load_teacher = lambda *_: teacher  # loading is no part of the comparison
        store.load = lambda *_: tokenizer
        wavs = {utt: data.load(utt) for utt in data.utts}
        groups = teacher.groups({utt: len(wav) for utt, wav in wavs.items()}, data.table("utt2spk"))
        scaled = [teacher._scaled(wavs[utt]) for group in groups for utt in group]

        def whole() -> None:
            for part in (stamp.partial_of(place / "train") / "parts").glob("*"):
                part.unlink()
            run.shard((1, 1), "cpu")

        def bare() -> None:
            with torch.inference_mode():
                for wav in scaled:
                    teacher._forward([wav])

        def batched() -> None:
            teacher.batch = round(BATCH_S * 16000)
            whole()
            teacher.batch = 0

        bare()
        compare(
            "token pass (read, teacher, tokenizer, write) / the teacher's forward pass alone", whole, bare, 2
        )
        compare(
            f"token pass: one utterance after the other (CPU) / in batches of {BATCH_S:g} s",
            whole,
            batched,
            2,
        )


if __name__ == "__main__":
    main()

"""What tokens tell, the sentence or who says it: generated speech of twelve speakers, the same eight sentences each.

    python benchmarks/measure_tokens.py [names of conf/tokens]

One JSON line for each kind of tokens: normalised edit distance between tokens (repetitions made one) of the same
sentence by two speakers, and of two sentences by the same speaker; share of utterances whose speaker the most similar
histogram of tokens gives away (leave one out; chance is 8).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from itertools import groupby
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml
from rapidfuzz.distance.Levenshtein import normalized_distance

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from tiny_sets import make_set

from espnet_musa import config
from espnet_musa.config import Recipe
from espnet_musa.corpora import mini
from espnet_musa.corpora.espeak import Espeak
from espnet_musa.pipeline.tokenize import ModelRun, TokensRun
from espnet_musa.tokenizer import store

SENTENCES, SPEAKERS = 8, 12
KMEANS = {"tokenizer": "kmeans", "params": {"codebook_size": 100}}
KINDS = {
    "mfcc normalised by utterance, k-means": {"teacher_params": {"vtln": False, "per": "utterance"}},
    "mfcc normalised by speaker, k-means": {"teacher_params": {"vtln": False}},
}  # fmt: skip


def speak(root: Path) -> None:
    """A formatted training set; utterances are <speaker>-<number of the sentence>."""
    sentences = mini._sentences("en", "train")[:SENTENCES]
    voices = mini._cast(3, "train", 1, SPEAKERS // 2, 0)
    with Espeak() as espeak:
        wavs = {}
        for voice in voices:
            for i, text in enumerate(sentences):
                line = mini.Line(
                    f"{voice.name}-{i}", voice.name, voice.gender, "en", "neu", text, voice.voice
                )
                wavs[line.utt] = mini.render(espeak, line, 0)
    make_set(root / "dump" / "train", wavs, {voice.name: voice.gender for voice in voices}, {"role": "train"})


def tokens_of(root: Path, name: str, tokens: dict) -> dict[str, np.ndarray]:
    """Stage 3 with a configuration of tokens."""
    system = {"description": "x", "reference": "y", "anonymizer": "mcadams", "train": "m", "tokens": name}
    for kind, own in (("tokens", tokens), ("systems", system)):
        (root / "conf" / kind).mkdir(parents=True, exist_ok=True)
        (root / "conf" / kind / f"{name}.yaml").write_text(yaml.safe_dump(own))
    recipe = Recipe(name="r", systems=(name,), evaluators=(), corpora={})
    model = ModelRun(recipe, root)
    model.plan(force=False)
    model.shard((1, 1), "cpu")
    model.finish("cpu")
    run = TokensRun(recipe, root)
    run.plan(force=False)
    run.shard((1, 1), "cpu")
    run.finish()
    return dict(store.load_tokens(root / "exp" / "tokens" / name / "train"))


def measure(tokens: dict[str, np.ndarray]) -> dict[str, float]:
    """Distances, and how well histograms give the speaker away."""
    short = {utt: [int(token) for token, _ in groupby(codes)] for utt, codes in tokens.items()}
    apart: dict[bool, list[float]] = {True: [], False: []}
    for a in short:
        for b in short:
            same_speaker, same_sentence = (x == y for x, y in zip(a.split("-"), b.split("-"), strict=True))
            if same_speaker != same_sentence:
                apart[same_sentence].append(normalized_distance(short[a], short[b]))
    size = 1 + max(int(codes.max()) for codes in tokens.values())
    counts = {utt: np.bincount(codes, minlength=size) for utt, codes in tokens.items()}
    speakers = sorted({utt.split("-")[0] for utt in tokens})
    right = 0
    for utt, count in counts.items():
        model = {
            s: 0.5 + sum(c for u, c in counts.items() if u != utt and u.split("-")[0] == s) for s in speakers
        }
        scores = {s: float(count @ np.log(c / c.sum())) for s, c in model.items()}
        right += max(scores, key=scores.get) == utt.split("-")[0]
    return {
        "same_sentence": round(float(np.mean(apart[True])), 3),
        "same_speaker": round(float(np.mean(apart[False])), 3),
        "speakers_found_percent": round(100 * right / len(counts), 1),
    }


def main() -> None:
    chosen = sys.argv[1:] or ["mfcc_mini", "mfcc_codec_mini"]
    kinds = {
        what: {"description": "x", "reference": "y", "teacher": "mfcc"} | KMEANS | own
        for what, own in KINDS.items()
    }
    kinds |= {name: config.load_yaml(config.conf_file(config.ROOT, "tokens", name))[0] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        speak(root)
        for number, (what, tokens) in enumerate(kinds.items()):
            row = measure(tokens_of(root, f"t{number}", tokens))
            print(json.dumps({"what": what} | row), flush=True)


if __name__ == "__main__":
    main()

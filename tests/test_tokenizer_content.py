"""Tokens tell what is said and not who says it: measured on generated speech."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rapidfuzz.distance.Levenshtein import normalized_distance as distance

from espnet_musa.corpora import mini
from espnet_musa.corpora.espeak import Espeak
from espnet_musa.pipeline.tokenize import encode
from espnet_musa.tokenizer.config import KMeansConfig
from espnet_musa.tokenizer.kmeans import KMeans
from espnet_musa.tokenizer.mfcc import Mfcc

SENTENCES, SPEAKERS = 5, 6


@pytest.fixture(scope="module")
def speech() -> dict[tuple[str, str], np.ndarray]:
    """The same five sentences by three women and three men: (speaker, sentence) -> (T,)."""
    pytest.importorskip("espeakng_loader")
    sentences = mini._sentences("en", "train")[:SENTENCES]
    voices = mini._cast(3, "train", 1, SPEAKERS // 2, 0)
    with Espeak() as espeak:
        return {
            (v.name, text): mini.render(
                espeak, mini.Line(f"{v.name}-{i}", v.name, v.gender, "en", "neu", text, v.voice), 0
            )
            for v in voices
            for i, text in enumerate(sentences)
        }


def tokens_of(teacher: Mfcc, speech: dict[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], list[int]]:
    """64 k-means tokens of every utterance, repetitions made one."""
    teacher.prepare("cpu")
    speakers = sorted({speaker for speaker, _ in speech})
    groups = {s: [key for key in speech if key[0] == s] for s in speakers}
    teacher.fit(([speech[key] for key in keys] for keys in groups.values()), seed=0)
    features = {}
    for keys in groups.values():
        features |= dict(zip(keys, teacher.features([speech[key] for key in keys]), strict=True))
    kmeans = KMeans(teacher.dimension, KMeansConfig(codebook_size=64))
    kmeans.fit(torch.cat(list(features.values())).numpy(), seed=0)
    codes = dict(zip(features, encode(kmeans, list(features.values())), strict=True))
    return {
        key: [int(c) for i, c in enumerate(row) if i == 0 or c != row[i - 1]] for key, row in codes.items()
    }


def shares(near: dict[tuple[str, str], tuple[str, str]]) -> tuple[float, float]:
    """How often an utterance and its nearest one have the sentence, and the speaker, in common."""
    return (
        float(np.mean([key[1] == other[1] for key, other in near.items()])),
        float(np.mean([key[0] == other[0] for key, other in near.items()])),
    )


def test_tokens_carry_the_sentence_and_raw_features_the_speaker(speech):
    codes = tokens_of(Mfcc(), speech)
    near = {
        key: min((o for o in codes if o != key), key=lambda o: distance(codes[key], codes[o]))
        for key in codes
    }
    sentence, speaker = shares(near)
    raw = Mfcc(vtln=False)
    raw.prepare("cpu")
    means = {key: raw._cepstra(raw._power(wav), raw._banks[5:6])[0].mean(0) for key, wav in speech.items()}
    near = {
        key: min((o for o in means if o != key), key=lambda o: float((means[key] - means[o]).norm()))
        for key in means
    }
    raw_sentence, raw_speaker = shares(near)
    # Chance: 5 of 29 others share the sentence, 4 of 29 the speaker.
    assert sentence > 0.8 > 0.5 > raw_sentence, (sentence, raw_sentence)
    assert speaker < 0.2 < 0.6 < raw_speaker, (speaker, raw_speaker)


def test_warping_brings_the_same_sentence_of_two_speakers_together(speech):
    apart = {}
    for name, teacher in (("plain", Mfcc(vtln=False)), ("warped", Mfcc())):
        codes = tokens_of(teacher, speech)
        apart[name] = np.mean([
            distance(codes[a], codes[b]) for a in codes for b in codes if a[1] == b[1] and a[0] < b[0]
        ])  # fmt: skip
    assert apart["warped"] < 0.9 * apart["plain"], apart

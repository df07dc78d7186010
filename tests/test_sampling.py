"""Sampling balanced over languages: shares and counts in closed form, passes, resumption bit for bit, refusals."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_musa import make_recipe

from espnet_musa.config import Recipe
from espnet_musa.data.table import read_table
from espnet_musa.errors import Problems, UserError
from espnet_musa.pipeline.train import check, train
from espnet_musa.tasks.sampling import Plan, shares

HOURS = {"nl": 155.0, "fr": 107.0, "de": 196.0, "it": 147.0, "pl": 103.0, "pt": 160.0, "es": 117.0}


def test_shares_in_closed_form():
    assert shares({"a": 1, "b": 3}, 1.0) == pytest.approx({"a": 0.25, "b": 0.75})
    assert shares({"a": 1, "b": 9}, 2.0) == pytest.approx({"a": 0.25, "b": 0.75})  # the square roots: 1 and 3
    assert shares({"a": 1, "b": 2}, 0.5) == pytest.approx({"a": 0.2, "b": 0.8})  # the squares: 1 and 4
    assert shares({"a": 1, "b": 1e9}, math.inf) == {"a": 0.5, "b": 0.5}
    for temperature in (0.001, 1.0, 3.0, math.inf):
        found = shares(HOURS, temperature)
        assert sum(found.values()) == pytest.approx(1)
        assert list(found) == sorted(HOURS)
    units = shares({k: 3600 * 16000 * v for k, v in HOURS.items()}, 2.0)
    assert units == pytest.approx(shares(HOURS, 2.0))  # samples do as well as hours
    spread = [max(s.values()) / min(s.values()) for s in (shares(HOURS, t) for t in (1, 2, 4))]
    assert spread == pytest.approx([196 / 103, (196 / 103) ** 0.5, (196 / 103) ** 0.25])


SIZES = {"a": 3, "b": 10, "c": 40}
UTTERANCES = {language: [f"{language}{i:02d}" for i in range(n)] for language, n in SIZES.items()}


@pytest.mark.parametrize("share", [{"a": 0.2, "b": 0.3, "c": 0.5}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}])
def test_every_epoch_has_the_shares_and_their_mean_is_exact(share):
    plan = Plan(UTTERANCES, share, steps=5, batch_size=7, seed=0)
    counts = np.array([plan.counts(epoch) for epoch in range(1, 401)])
    wanted = np.array([35 * share[language] for language in plan.languages])
    assert (counts.sum(axis=1) == 35).all()
    assert (np.abs(counts - wanted) < 1 + 1e-9).all()  # rounded up or down
    assert np.abs(counts.mean(axis=0) - wanted).max() < 0.1
    for epoch in (1, 7):
        batches = plan.batches(epoch)
        assert [len(batch) for batch in batches] == [7] * 5
        found = Counter(utt[0] for utt in chain(*batches))
        assert [found[language] for language in plan.languages] == plan.counts(epoch).tolist()


def test_languages_go_by_in_passes():
    """After any epoch, no utterance of a language has been seen more than once oftener than another of it."""
    plan = Plan(UTTERANCES, {"a": 0.4, "b": 0.35, "c": 0.25}, steps=3, batch_size=4, seed=1)
    seen = Counter(dict.fromkeys(chain(*UTTERANCES.values()), 0))
    for epoch in range(1, 30):
        seen.update(chain(*plan.batches(epoch)))
        for utts in UTTERANCES.values():
            times = [seen[utt] for utt in utts]
            assert max(times) - min(times) <= 1
    passes = [plan._passes("b", 10 * k, 10) for k in range(3)]
    assert len({tuple(one) for one in passes}) == 3 and all(sorted(one) == UTTERANCES["b"] for one in passes)
    assert plan._passes("b", 4, 13) == (passes[0] + passes[1])[4:17]


def test_an_epoch_is_a_function_of_seed_and_number():
    share = dict.fromkeys(SIZES, 1 / 3)
    one, two, other = (Plan(UTTERANCES, share, 4, 6, seed) for seed in (0, 0, 1))
    forwards = [one.batches(epoch) for epoch in range(1, 6)]
    backwards = [two.batches(epoch) for epoch in range(5, 0, -1)]
    assert forwards == backwards[::-1]  # nothing is carried over
    assert forwards[0] != forwards[1] and forwards[0] != other.batches(1)
    shuffled = {language: utts[::-1] for language, utts in UTTERANCES.items()}
    assert Plan(shuffled, share, 4, 6, 0).batches(3) == forwards[2]


# --- stage 4 ------------------------------------------------------------------------------------------------------

RECIPE = Recipe(name="t", systems=("orig", "tiny"), evaluators=(), corpora={})


def speak(root: Path, languages: dict[str, str]) -> None:
    """Give the training sets of `make_recipe` a language each, and its tokens their stamps anew."""
    for name, language in languages.items():
        problems = Problems()
        utts = read_table(root / "dump" / name / "utt2spk", problems)
        problems.raise_if_any()
        text = "".join(f"{utt} {language}\n" for utt in utts)
        (root / "dump" / name / "utt2lang").write_text(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two languages, 12 and 8 utterances, and a training that takes both alike."""
    root = make_recipe(tmp_path_factory.mktemp("recipe"), language_temperature=math.inf, max_epoch=3)
    speak(root, {"one": "nl", "two": "pl"})
    return root


@pytest.mark.slow
def test_a_resumed_training_has_the_batches_of_an_uninterrupted_one(made, tmp_path, monkeypatch):
    import shutil

    from espnet_musa.tasks.musa import MusaTask

    taken: list[list[str]] = []
    collate = MusaTask.build_collate_fn

    def watched(args, train):
        inner = collate(args, train)
        return lambda items: (taken.append([utt for utt, _ in items]) if train else None, inner(items))[1]

    monkeypatch.setattr(MusaTask, "build_collate_fn", watched)
    roots = [shutil.copytree(made, tmp_path / name) for name in ("whole", "killed")]
    train(RECIPE, roots[0], device="cpu", force=False)
    whole, taken[:] = list(taken), []
    steps = 8
    languages = [Counter(utt.split("-")[1] for utt in chain(*whole[i : i + steps])) for i in (0, 8, 16)]
    assert (
        languages == [Counter(one=16, two=16)] * 3
    )  # half of 32 each, of 12 and 8 utterances but for those held out

    def dying(items):
        if len(taken) == steps + 3:
            raise KeyboardInterrupt
        return watched_fn(items)

    watched_fn = None

    def build(args, train):
        nonlocal watched_fn
        inner = watched(args, train)
        if not train:
            return inner
        watched_fn = inner
        return dying

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MusaTask, "build_collate_fn", build)
        train(RECIPE, roots[1], device="cpu", force=False)
    before, taken[:] = list(taken), []
    train(RECIPE, roots[1], device="cpu", force=False)
    assert before == whole[: steps + 3] and taken == whole[steps:]
    states = [torch.load(root / "exp/models/tiny/model.pth", weights_only=True) for root in roots]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("value", ["0", "-1.0", "hot", "true", "[1]"])
def test_a_temperature_that_is_none(tmp_path, value):
    root = make_recipe(tmp_path)
    path = root / "conf/train/tiny.yaml"
    path.write_text(path.read_text() + f"language_temperature: {value}\n")
    with pytest.raises(UserError, match=r"tiny.yaml:\d+: language_temperature is .*; expected more than 0"):
        check("tiny", root)


def test_training_sets_without_languages(tmp_path):
    root = make_recipe(tmp_path, language_temperature=2.0)
    speak(root, {"one": "nl"})
    with pytest.raises(UserError, match=r"two/utt2lang: utt 'c-two-0': no language; hint: language_temp"):
        train(RECIPE, root, device="cpu", force=False)

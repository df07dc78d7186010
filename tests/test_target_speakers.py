"""Targets of anonymizers that hold a speaker's embedding: how much of it stays, whose voice stands in for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from espnet_musa import registry
from espnet_musa.codec.speaker_table import choose
from espnet_musa.data.datadir import DataDir, Meta
from espnet_musa.errors import UserError
from espnet_musa.seed import generator
from espnet_musa.targets.speakers import Blend, Speaker


def a_set(name: str, utts: list[str], genders: bool = True) -> DataDir:
    """A set without audio; the speaker is the first letter, a and b are women."""
    tables = {"wav.scp": {u: f"{u}.wav" for u in utts}, "utt2spk": {u: u[0] for u in utts}}
    if genders:
        tables["spk2gender"] = {u[0]: "f" if u[0] in "ab" else "m" for u in utts}
    return DataDir(Path(name), tables, Meta())


ENROLL, TRIAL = a_set("enroll", ["a1", "a2", "b1"]), a_set("trial", ["a3", "b2", "b3", "c1"])


def test_blend_is_zero_a_constant_or_drawn():
    assert set(Blend().plan([TRIAL], 0, "s")["trial"].values()) == {0.0}
    assert set(Blend(low=0.25, high=0.25).plan([TRIAL], 0, "s")["trial"].values()) == {0.25}
    drawn = Blend(low=0.2, high=0.6, level="spk").plan([ENROLL, TRIAL], 0, "s")
    assert drawn["enroll"]["a1"] == drawn["enroll"]["a2"] == drawn["trial"]["a3"] != drawn["trial"]["b2"]
    assert drawn["trial"]["b2"] == generator(0, "s", "b", "target").uniform(0.2, 0.6)
    per_set = Blend(low=0.2, high=0.6, level="constant", scope="set").plan([ENROLL, TRIAL], 0, "s")
    assert [len(set(targets.values())) for targets in per_set.values()] == [1, 1]
    assert per_set["enroll"]["a1"] != per_set["trial"]["a3"]


@pytest.mark.parametrize(("level", "drawn"), [("utt", 7), ("spk", 3), ("constant", 1)])
def test_a_place_for_each_utterance_speaker_or_once(level, drawn):
    policy = Speaker(level=level)
    plan = policy.plan([ENROLL, TRIAL], 3, "s")
    places = [target["speaker"] for targets in plan.values() for target in targets.values()]
    assert len(set(places)) == drawn and all(0 <= place < 1 for place in places)
    assert policy.level == level and json.loads(json.dumps(plan)) == plan
    assert policy.plan([a_set("trial", ["c1"]), ENROLL], 3, "s")["trial"]["c1"] == plan["trial"]["c1"]
    assert policy.plan([ENROLL, TRIAL], 4, "s") != plan != policy.plan([ENROLL, TRIAL], 3, "t")


def test_an_enrolment_and_its_trials_may_get_different_voices():
    plan = Speaker(scope="set").plan([ENROLL, TRIAL], 0, "s")
    assert plan["enroll"]["a1"] == plan["enroll"]["a2"] != plan["trial"]["a3"]


def test_genders():
    assert "gender" not in Speaker().plan([a_set("s", ["a1"], genders=False)], 0, "s")["s"]["a1"]
    for gender, expected in (("same", "fffm"), ("cross", "mmmf")):
        targets = Speaker(gender=gender, level="utt").plan([TRIAL], 0, "s")["trial"]
        assert "".join(target["gender"] for target in targets.values()) == expected
    with pytest.raises(UserError, match="file 'spk2gender' is missing"):
        Speaker(gender="same").plan([a_set("s", ["a1"], genders=False)], 0, "s")


@pytest.mark.parametrize(("gender", "voices"), [("any", 7), ("any", 12), ("same", 4), ("cross", 5)])
def test_each_speaker_a_voice_of_its_own(gender, voices):
    """As long as the model has as many of the gender: VoicePrivacy's random_per_spk_uniq."""
    data = a_set("s", [f"{speaker}{i}" for speaker in "abcdefg" for i in range(2)])
    if gender != "any":  # two women, five men; the model's speakers are as many of each
        data = a_set("s", ["a1", "a2", "b1", "c1", "d1", "e1"])
    plan = Speaker(gender=gender, unique=True).plan([data], 0, "s")["s"]
    model = tuple("f" * voices + "m" * voices) if gender != "any" else ("f",) * voices
    chosen: dict[str, set[int]] = {}
    for utt, target in plan.items():
        number = choose(model, target["speaker"], target.get("gender"))
        chosen.setdefault(utt[0], set()).add(number)
    assert all(len(numbers) == 1 for numbers in chosen.values())
    assert len(set.union(*chosen.values())) == len(chosen)
    assert Speaker(gender=gender, unique=True).plan([data], 1, "s")["s"] != plan


def test_places_are_uniform():
    data = a_set("many", [f"u{i}" for i in range(2000)])
    places = [target["speaker"] for target in Speaker(level="utt").plan([data], 0, "s")["many"].values()]
    assert np.mean(places) == pytest.approx(0.5, abs=0.02) and min(places) < 0.005 and max(places) > 0.995


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("blend", {"low": 0.5, "high": 1.5}, "expected 0 <= low <= high <= 1"),
        ("blend", {"low": 0.5}, "low is 0.5, high 0.0"),
        ("speaker", {"unique": True, "level": "utt"}, "unique voices at level 'utt'; expected level: spk"),
        ("blend", {"level": "spkr"}, "unknown level 'spkr'; did you mean 'spk'"),
        ("blend", {"value": 0.5}, "unknown key 'value'"),
        ("speaker", {"gender": "corss"}, "unknown gender 'corss'; did you mean 'cross'"),
        ("speaker", {"level": "set"}, "unknown level 'set'"),
        ("speaker", {"scope": "sett"}, "unknown scope 'sett'; did you mean 'set'"),
    ],
)
def test_parameters_are_checked(name, params, message):
    with pytest.raises(UserError, match=message):
        registry.resolve(registry.TARGETS, "target policy", name)(**params)

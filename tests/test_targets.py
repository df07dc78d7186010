"""Target policies: the published draw, and draws that depend on nothing but seed, system and identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from espnet_musa import registry
from espnet_musa.data.datadir import DataDir, Meta
from espnet_musa.errors import UserError
from espnet_musa.seed import generator
from espnet_musa.targets.base import TargetPolicy
from espnet_musa.targets.policies import Constant, NoTarget, Uniform, Vpc2024Uniform, published_seed


def a_set(name: str, utts: list[str]) -> DataDir:
    """A set without audio; the speaker is the first letter."""
    utts = sorted(utts)
    tables = {"wav.scp": {u: f"{u}.wav" for u in utts}, "utt2spk": {u: u[0] for u in utts}}
    return DataDir(Path(name), tables, Meta())


ENROLL = a_set("enroll", ["a1", "a2", "b1"])
TRIAL = a_set("trial", ["a3", "b2", "b3", "c1"])


def test_none_and_constant():
    assert NoTarget().plan([ENROLL], 0, "s") == {"enroll": {"a1": None, "a2": None, "b1": None}}
    assert Constant(value=0.8).plan([ENROLL], 0, "s") == {"enroll": {"a1": 0.8, "a2": 0.8, "b1": 0.8}}
    assert Constant(value=0.8).level == NoTarget().level == "constant"


def test_published_values():
    assert published_seed("VPC2024") == 4284258105
    plan = Vpc2024Uniform(low=0.5, high=0.9, level="utt").plan([ENROLL, TRIAL], 7, "any")
    expected = 0.5 + 0.4 * np.random.Generator(np.random.PCG64(4284258105)).random(4)
    assert list(plan["trial"]) == ["a3", "b2", "b3", "c1"]
    assert list(plan["trial"].values()) == pytest.approx(list(expected), rel=1e-15)
    # the weakness: the n-th utterances of all sets share their number, whatever the seed
    assert list(plan["enroll"].values()) == list(plan["trial"].values())[:3]
    assert plan["trial"] == Vpc2024Uniform(low=0.5, high=0.9).plan([TRIAL], 0, "other")["trial"]


def test_published_values_per_speaker():
    plan = Vpc2024Uniform(low=0.5, high=0.9, level="spk").plan([ENROLL, TRIAL], 0, "s")
    for data in (ENROLL, TRIAL):
        for utt, value in plan[data.name].items():
            start = int(hashlib.sha256(utt[0].encode()).hexdigest()[:8], 16)
            assert value == np.random.default_rng(start).uniform(0.5, 0.9)
    assert plan["enroll"]["a1"] == plan["trial"]["a3"] != plan["trial"]["b2"]


@pytest.mark.parametrize("scope", ["all", "set"])
@pytest.mark.parametrize("level", ["utt", "spk", "constant"])
def test_uniform_does_not_depend_on_order_or_subset(level, scope):
    policy = Uniform(low=0.5, high=0.9, level=level, scope=scope)
    plan = policy.plan([ENROLL, TRIAL], 3, "s")
    assert policy.level == level
    assert policy.plan([TRIAL, ENROLL], 3, "s") == plan
    assert policy.plan([a_set("trial", ["c1", "b3"])], 3, "s")["trial"] == {
        utt: plan["trial"][utt] for utt in ("b3", "c1")
    }
    values = [v for targets in plan.values() for v in targets.values()]
    assert all(0.5 <= v < 0.9 for v in values)
    assert json.loads(json.dumps(plan)) == plan
    for other in (policy.plan([ENROLL, TRIAL], 4, "s"), policy.plan([ENROLL, TRIAL], 3, "t")):
        assert not set(values) & {v for targets in other.values() for v in targets.values()}


def test_uniform_levels_and_scopes():
    def plan(level, scope="all"):
        found = Uniform(low=0, high=1, level=level, scope=scope).plan([ENROLL, TRIAL], 0, "s")
        return {**found["enroll"], **found["trial"]}

    assert len(set(plan("utt").values())) == 7
    spk = plan("spk")
    assert spk["a1"] == spk["a2"] == spk["a3"] and len(set(spk.values())) == 3
    per_set = plan("spk", "set")
    assert per_set["a1"] == per_set["a2"] != per_set["a3"] and len(set(per_set.values())) == 5
    assert len(set(plan("constant").values())) == 1
    assert len(set(plan("constant", "set").values())) == 2
    assert spk["a1"] == generator(0, "s", "a", "target").uniform(0, 1)


def test_uniform_fills_its_interval():
    data = a_set("many", [f"u{i}" for i in range(2000)])
    values = list(Uniform(low=0.5, high=0.9).plan([data], 0, "s")["many"].values())
    assert np.mean(values) == pytest.approx(0.7, abs=0.01)
    assert min(values) < 0.505 and max(values) > 0.895


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("uniform", {"low": 0.5, "high": 0.9, "level": "spkr"}, "unknown level 'spkr'; did you mean 'spk'"),
        ("uniform", {"low": 0.5, "high": 0.9, "scope": "sets"}, "unknown scope 'sets'; did you mean 'set'"),
        ("uniform", {"low": 0.9, "high": 0.5}, "low <= high"),
        ("uniform", {"low": 0.5, "hihg": 0.9}, "unknown key 'hihg'; did you mean 'high'"),
        ("uniform", {"low": 0.5}, "missing key 'high'"),
        ("uniform", {"low": 0.5, "high": float("inf")}, "finite"),
        ("vpc2024_uniform", {"low": 0.5, "high": 0.9, "level": "constant"}, "unknown level 'constant'"),
        ("constant", {}, "missing key 'value'"),
        ("constant", {"value": "0.8"}, "a number"),
        ("none", {"value": 1}, "unknown key 'value'"),
    ],
)
def test_parameters_are_checked(name, params, message):
    policy = registry.resolve(registry.TARGETS, "target policy", name)
    with pytest.raises(UserError, match=message):
        policy(**params)


def test_a_policy_must_plan():
    with pytest.raises(TypeError, match="does not implement"):
        type("Nothing", (TargetPolicy,), {})

"""The recipe of the shipped model: what it measures is the shipped model, and what it trains is the same system."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import REPOSITORY

from espnet_musa import config

ROOT = REPOSITORY / "egs" / "musa_small"
MUSA = ("musa_small", "musa_small_half", "musa_small_own", "musa_small_vc")


@pytest.fixture
def recipe() -> config.Recipe:
    return config.load_recipe(ROOT / "conf" / "recipe.yaml")


def test_it_measures_the_shipped_model(recipe):
    assert recipe.systems == ("orig", "b2_mcadams", "dsp_f0", *MUSA)
    assert not config.trained_systems(recipe, ROOT)
    assert {config.load_system(recipe, name, ROOT).params["model"] for name in MUSA} == {"musa_small"}
    assert list(config.probed_systems(recipe, ROOT)) == ["musa_small"]
    assert recipe.report.summary.baseline in recipe.systems and recipe.report.examples == 10


def test_every_attacker_is_there(recipe):
    settings = [config.load_evaluator(recipe, name, ROOT) for name in recipe.evaluators]
    trained = [one for one in settings if one.train]
    assert [(one.train, one.semi) for one in trained] == [("asv_ecapa_mini", False), ("asv_ecapa_mini", True)]
    assert "attack_train" in config.anonymized_roles(recipe, ROOT)


def test_the_trained_system_is_the_shipped_one(recipe):
    shipped, trained = (config.load_system(recipe, n, ROOT) for n in ("musa_small", "musa_small_trained"))
    assert (trained.train, trained.tokens) == ("musa_small", "phones")
    params = {key: value for key, value in shipped.params.items() if key != "model"}
    same = dataclasses.replace(shipped, description=trained.description, train="musa_small", tokens="phones")
    assert dataclasses.replace(same, params=params) == trained

"""Configuration: closed world, typed, layered, saved."""

from pathlib import Path

import pytest

from espnet_musa import config
from espnet_musa.config import Recipe, System
from espnet_musa.errors import UserError, suggest

GOOD = "name: x\nsystems: [orig]\nevaluators: [pitch]\ncorpora:\n  mini: {}\n"


def recipe(tmp_path: Path, text: str = GOOD, sets: list[str] = ()) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return config.load_recipe(path, sets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "sytems: [orig]\n", r"recipe.yaml:6: unknown key 'sytems'; did you mean 'systems'\?"),
        (GOOD + "format: {sample_rat: 1}\n", r"recipe.yaml:6: unknown key 'format.sample_rat'; did you mean"),
        (GOOD + "seed: zero\n", r"recipe.yaml:6: 'seed' is 'zero'; expected a whole number"),
        (GOOD + "seed:\n", r"recipe.yaml:6: 'seed' is None; expected a whole number"),
        (GOOD + "seed: true\n", r"'seed' is True; expected a whole number"),
        (GOOD + "name: y\n", r"recipe.yaml:6: key 'name' appears twice"),
        ("systems: [orig]\n", r"missing key 'name'"),
        ("- a\n", r"the top level is not a mapping"),
        ("a: [\n", r"recipe.yaml:2: not valid YAML"),
        (GOOD + "overrides: {nobody: {}}\n", r"nothing is named 'nobody'"),
    ],
)
def test_errors_name_line_and_remedy(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=abc", r"^--seed: 'seed' is 'abc'; expected a whole number$"),
        (
            "report.example=2",
            r"^--set report\.example=2: unknown key 'report\.example'; did you mean 'examples'",
        ),
        ("systems=orig orig", r"^--systems: 'orig' is named twice"),
        ("evaluators=[pitch, pitch]", r"^--evaluators: 'pitch' is named twice"),
    ],
)
def test_an_option_is_blamed_for_itself(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, sets=["format.max_clipped=0.5", change])
    with pytest.raises(UserError, match=r"recipe\.yaml: 'orig' is named twice"):
        recipe(tmp_path, GOOD.replace("[orig]", "[orig, orig]"))


def test_settings_of_a_system_are_blamed_for_themselves(tmp_path):
    with pytest.raises(UserError, match=r"^settings of 'orig': unknown key 'parms'; did you mean 'params'"):
        config.load_system(recipe(tmp_path, sets=["orig.parms.x=1"]), "orig", tmp_path)


def test_many_names_are_not_all_listed():
    assert suggest("x", ["aaa", "bbb"]) == "; known: aaa, bbb"
    assert suggest("x", []) == ""
    assert suggest("x", [f"n{i:03}" for i in range(99)]).endswith("n014, ... (99 in all)")


def test_set_changes_recipe_and_system(tmp_path):
    changed = recipe(
        tmp_path, sets=["format.max_clipped=1", "b2_mcadams.params.lpc_order=16", "systems=b2_mcadams orig"]
    )
    assert changed.format.max_clipped == 1.0
    assert changed.systems == ("b2_mcadams", "orig")
    system = config.load_system(changed, "b2_mcadams", tmp_path)
    assert system.params["lpc_order"] == 16 and system.params["hop_ms"] == 10.0


@pytest.mark.parametrize("bad", ["a", "=1", "format..x=1", "seed=[", "formt.sample_rate=1"])
def test_bad_assignments(tmp_path, bad):
    with pytest.raises(UserError):
        recipe(tmp_path, sets=[bad])


def test_unknown_system_suggests(tmp_path):
    with pytest.raises(UserError, match="no system named 'b2_mcadam'; did you mean 'b2_mcadams'"):
        config.load_system(recipe(tmp_path), "b2_mcadam", tmp_path)


def test_saved_recipe_reads_back_equal(tmp_path):
    first = recipe(tmp_path, sets=["seed=7", "b2_mcadams.target.params.low=0.6"])
    config.save(first, tmp_path / "exp" / "recipe.yaml")
    assert config.load_recipe(tmp_path / "exp" / "recipe.yaml") == first


def test_recipe_systems_come_before_shared_ones(tmp_path):
    own = tmp_path / "conf" / "systems"
    own.mkdir(parents=True)
    (own / "orig.yaml").write_text("description: mine\nreference: me\n")
    assert config.load_system(recipe(tmp_path), "orig", tmp_path) == System("mine", "me")


def test_digest_ignores_key_order():
    assert (
        config.digest({"a": 1, "b": 2}) == config.digest({"b": 2, "a": 1}) != config.digest({"a": 2, "b": 1})
    )

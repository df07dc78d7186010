"""Stages 5, 7 and 8 with a semi-informed attacker: what is anonymized, trained and scored, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_sets import SMALL, make_set, tone

from espnet_musa import config, registry, stamp
from espnet_musa.anonymizers.base import Anonymizer
from espnet_musa.bin.plan import check
from espnet_musa.config import EvaluatorConfig, Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.ecapa_train import TrainConfig
from espnet_musa.pipeline.anonymize import Run, shard
from espnet_musa.pipeline.attack import attack
from espnet_musa.pipeline.score import anonymized_copy, model_dir, score
from espnet_musa.report import tables
from espnet_musa.report.results import collect

VOICES = "abcdefghij"
PITCHES = {voice: 90 * 1.06**i for i, voice in enumerate(VOICES)}
GENDERS = dict.fromkeys(VOICES, "f")
RECIPE = Recipe(name="t", systems=("orig", "fixed"), evaluators=("lazy", "semi"), corpora={})
EVALUATORS = {
    "lazy": {"train": "tiny"},
    "semi": {"train": "tiny", "attacker": "semi"},
    "tuned": {"train": "tiny", "attacker": "semi", "start": "lazy"},
}


class Fixed(Anonymizer):
    """The same for everybody: the spectrum turned upside down."""

    def convert(self, wav, target, rng):
        """See the base class."""
        return (wav * (1 - 2 * (np.arange(len(wav)) % 2))).astype(np.float32)


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    """A system of the tests."""
    monkeypatch.setitem(registry.ANONYMIZERS, "fixed", f"{__name__}:Fixed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A recipe's directory after stage 2: four voices to train on, and the same to attack."""
    return make(tmp_path, "abcd", epochs=6)


def make(root: Path, voices: str, epochs: int) -> Path:
    """Formatted sets and configurations."""
    write(root / "conf/systems/fixed.yaml", {"description": "-", "reference": "-", "anonymizer": "fixed"})
    settings = TrainConfig(model=SMALL, crop_s=0.5, batch_size=8, epochs=epochs, max_lr=0.01)
    write(root / "conf/train/tiny.yaml", config.to_dict(settings))
    for name, values in EVALUATORS.items():
        params = {"bootstrap": 0, "conditions": ["aa"] if "attacker" in values else ["oo", "oa", "aa"]}
        settings = {"evaluator": "asv", "description": name, "params": params, **values}
        write(root / f"conf/evaluators/{name}.yaml", settings)
    trials = [(s, f"{t}-{i}", s == t) for s in voices for t in voices for i in (8, 9)]
    dump(root, "train", voices, range(4), {"role": "attack_train", "split": "train"})
    dump(root, "enroll", voices, (5, 6), {"role": "enroll", "split": "test"})
    dump(root, "trial", voices, (8, 9), {"role": "trial", "enroll": "enroll", "split": "test"}, trials=trials)
    return root


def write(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))


def dump(root: Path, name: str, voices: str, numbers, meta: dict, **more) -> None:
    wavs = {f"{s}-{i}": tone(0.8, PITCHES[s], 100 * VOICES.index(s) + i) for s in voices for i in numbers}
    make_set(root / "dump" / name, wavs, GENDERS, {"corpus": "made up", **meta}, **more)


def anonymize(root: Path, recipe: Recipe) -> None:
    run = Run(recipe, root, "fixed")
    run.plan(force=False)
    shard([run], (1, 1), "cpu")
    run.finish()


def train(root: Path, recipe: Recipe = RECIPE, force: bool = False) -> None:
    attack(recipe, root, device="cpu", force=force)


def score_all(root: Path, recipe: Recipe = RECIPE) -> None:
    for system in recipe.systems:
        score(recipe, root, system, jobs=1, device="cpu", force=False)


def eer(root: Path, system: str, evaluator: str, condition: str = "aa") -> float:
    found = json.loads((root / "exp" / system / "score" / evaluator / "metrics.json").read_text())["metrics"]
    (value,) = [m["value"] for m in found if m["condition"] == condition]
    return value


def test_the_training_set_is_anonymized_only_for_a_semi_informed_attacker(root):
    anonymize(root, replace(RECIPE, evaluators=("lazy",)))
    made = root / "exp/fixed/data"
    assert {p.name for p in made.iterdir()} == {"enroll", "trial"}
    anonymize(root, RECIPE)
    assert {p.name for p in made.iterdir()} == {"enroll", "trial", "train"}
    assert DataDir.read(made / "train", "anon").meta.role == "attack_train"


def test_from_anonymizing_to_the_report(tmp_path):
    """Lazy and semi-informed attacker side by side; none of the latter for original speech."""
    root = make(tmp_path, VOICES, epochs=8)
    anonymize(root, RECIPE)
    train(root)
    models = [model_dir(root, "lazy"), model_dir(root, "semi", "fixed")]
    weights = [(model / "model.safetensors").read_bytes() for model in models]
    assert weights[0] != weights[1]
    assert not (root / "exp/orig").exists() and not model_dir(root, "semi").exists()
    score_all(root)
    assert not (root / "exp/orig/score/semi").exists()
    results = collect(RECIPE, root)
    assert [e["attacker"] for e in results["evaluators"]] == ["original", "semi"]
    assert tables.evaluators(results).rows[0].cells[1].startswith("tiny (")
    table = tables.privacy(results)
    assert [column[-1] for column in table.columns] == [
        "ignorant (OA)", "lazy-informed (AA)", "semi-informed (AA)",
    ]  # fmt: skip
    rows = {row.keys[-1]: row.cells for row in table.rows}
    assert rows["orig"][-1] == tables.NONE and rows["fixed"][-1] != tables.NONE
    assert "semi-informed (AA)" in dict(tables.attackers(results))
    # What everybody's voice is changed by in the same way can be learnt: informed is at least as strong.
    assert eer(root, "fixed", "semi") <= eer(root, "fixed", "lazy")
    train(root)  # up to date: the same files
    assert [(model / "model.safetensors").read_bytes() for model in models] == weights
    (root / "conf/train/tiny.yaml").write_text("epochs: 9\n")
    with pytest.raises(UserError) as error:  # numbers are not credited to a training that did not make them
        collect(RECIPE, root)
    for place in ("exp/attackers/lazy", "exp/fixed/attacker/semi"):
        assert str(error.value).count(f"{place}: trained otherwise than 'tiny' says") == 1


def test_fine_tuning_starts_from_the_attacker_of_original_speech(root):
    """That one is trained although no evaluator of the recipe asks for it."""
    recipe = replace(RECIPE, evaluators=("tuned",))
    check(recipe, root)
    anonymize(root, recipe)
    train(root, recipe)
    assert model_dir(root, "lazy").is_dir()
    tuned = model_dir(root, "tuned", "fixed")
    assert stamp.require(tuned, "attack")["fields"]["start"] is not None
    train(root, replace(RECIPE, evaluators=("semi",)))
    scratch = model_dir(root, "semi", "fixed")
    logs = [re.sub(r"seconds \S+", "", (model / "train.log").read_text()) for model in (scratch, tuned)]
    assert logs[0] != logs[1]
    settings = yaml.safe_load((root / "conf/train/tiny.yaml").read_text())
    write(root / "conf/train/tiny.yaml", settings | {"margin": 0.1})
    with pytest.raises(UserError, match="exp/attackers/lazy: stage 'attack' made this from something else"):
        train(root, recipe)
    train(root, recipe, force=True)
    assert re.sub(r"seconds \S+", "", (tuned / "train.log").read_text()) != logs[1]


def test_a_training_set_is_needed_before_anything_is_anonymized(root):
    shutil.rmtree(root / "dump/train")
    with pytest.raises(UserError, match="0 sets have the role attack_train"):
        Run(RECIPE, root, "fixed")
    with pytest.raises(UserError, match="0 sets have the role attack_train"):
        train(root)
    Run(replace(RECIPE, evaluators=()), root, "fixed")


def test_training_sets_that_cannot_be_trained_on_are_refused_before_training(root):
    with pytest.raises(UserError, match="run stage 'anonymize' first"):
        train(root)
    anonymize(root, RECIPE)
    shutil.rmtree(root / "dump/train")
    dump(root, "train", "abcd", range(3), {"role": "attack_train", "split": "train"})
    with pytest.raises(UserError, match=r"another version of .*dump/train"):
        train(root)
    shutil.rmtree(root / "dump/train")
    dump(root, "train", "a", range(4), {"role": "attack_train", "split": "train"})
    with pytest.raises(UserError, match=r"1 speaker\(s\); expected two or more"):
        train(root)
    assert not (root / "exp/attackers").exists()


@pytest.mark.parametrize(("table", "message"), [("utt2spk", "other speakers"), ("all", "other utterances")])
def test_copies_with_other_utterances_or_speakers_are_refused(root, table, message):
    anonymize(root, RECIPE)
    place = root / "exp/fixed/data/train"
    if table == "utt2spk":
        swapped = (place / "utt2spk").read_text().replace("a-0 a", "a-0 b")
        (place / "utt2spk").write_text(swapped)
        own = "a a-1 a-2 a-3\nb a-0 b-0 b-1 b-2 b-3\n"
        (place / "spk2utt").write_text(own + "".join((place / "spk2utt").read_text().splitlines(True)[2:]))
    else:
        for file in ("utt2spk", "wav.scp", "utt2dur", "utt2target"):
            lines = (place / file).read_text().splitlines(True)
            (place / file).write_text("".join(line for line in lines if not line.startswith("a-0 ")))
        text = (place / "spk2utt").read_text()
        (place / "spk2utt").write_text(text.replace("a-0 ", ""))
    with pytest.raises(UserError, match=message):
        anonymized_copy(DataDir.read(root / "dump/train", "audio"), root, "fixed")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attacker": "informed"}, "unknown attacker 'informed'"),
        ({"start": "lazy"}, "start is 'lazy'"),
        ({"start": "lazy", "attacker": "semi"}, "start is 'lazy'"),
    ],
)
def test_settings_that_say_nothing_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        EvaluatorConfig("asv", "-", **values)


def test_an_evaluator_cannot_start_from_a_semi_informed_one(root):
    write(
        root / "conf/evaluators/wrong.yaml",
        {"evaluator": "asv", "description": "-", "train": "tiny", "attacker": "semi", "start": "semi"},
    )
    with pytest.raises(UserError, match="'wrong' starts from 'semi'"):
        check(replace(RECIPE, evaluators=("wrong",)), root)


@pytest.mark.parametrize("level", ["utt", "spk", "constant"])
def test_levels_hold_in_the_training_set(root, level):
    """The attacker's targets are drawn like the user's, for other people; those of the user's sets do not change."""
    policy = registry.resolve(registry.TARGETS, "target policy", "uniform")(low=0.5, high=0.9, level=level)
    sets = [DataDir.read(root / "dump" / name) for name in ("enroll", "trial", "train")]
    planned = policy.plan(sets, 0, "fixed")
    assert planned["trial"] == policy.plan(sets[:2], 0, "fixed")["trial"]
    drawn = planned["train"]
    shared = {"utt": 16, "spk": 4, "constant": 1}[level]
    assert len(set(drawn.values())) == shared
    assert level != "spk" or len({drawn[utt] for utt in drawn if utt.startswith("a-")}) == 1

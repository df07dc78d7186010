"""Models that come with the repository: shipped at half precision with a card, by name, refused if they differ."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from conftest import REPOSITORY, voice
from safetensors.torch import load_file, save_file
from tiny_archives import tiny_archive
from tiny_sets import make_set

from espnet_musa import config, stamp
from espnet_musa.anonymizers.musa import Musa
from espnet_musa.bin import check
from espnet_musa.bin.anonymize import main as anonymize
from espnet_musa.bin.ship_model import main as ship
from espnet_musa.codec import archive
from espnet_musa.config import Recipe
from espnet_musa.errors import UserError
from espnet_musa.pipeline import shipping
from espnet_musa.pipeline.anonymize import Run, shard
from espnet_musa.report.card import CardConfig

CARD = {
    "summary": "A model\nof random weights", "data": ["noise, CC0"], "licence": "Apache-2.0", "command": "./run.sh",
    "use": ["tests"], "misuse": ["anything else"], "limits": ["understands nothing"],
}  # fmt: skip
SYSTEM = {
    "description": "tiny", "reference": "none", "anonymizer": "musa", "params": {"model": "tiny", "quantizers": 1},
}  # fmt: skip
FACTS = {"sample_rate": 16000, "train": "tiny", "tokens": "tiny", "seed": 3, "steps": 1234, "speakers": 4}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder of shipped models, and beside it a trained model, a recording, and a recipe with a card."""
    monkeypatch.setattr(archive, "SHIPPED", tmp_path / "shipped")
    model = stamp.begin(tmp_path / "model", "train", {})
    tiny_archive(model, quantizer_conf={"n_quantizers": 2, "codebook_size": 16})
    settings = json.loads((model / archive.CONFIG).read_text()) | FACTS
    (model / archive.CONFIG).write_text(json.dumps(settings))
    stamp.finish(tmp_path / "model", "train", counts={}, seconds=0.0, commit="c0ffee")
    sf.write(tmp_path / "in.wav", voice(0, 2.0), 16000)
    for kind, content in (("cards", CARD), ("systems", SYSTEM)):
        folder = tmp_path / "recipe/conf" / kind
        folder.mkdir(parents=True)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def shipped(place: Path, *options: str) -> Path:
    trained = ("--model", str(place / "model"), "--sample", str(place / "in.wav"))
    ship(["tiny", "--recipe", str(place / "recipe"), *trained, *options])
    return place / "shipped/tiny"


def spoil(place: Path, change) -> None:
    state = load_file(place / "model" / archive.WEIGHTS)
    change(state)
    save_file(state, place / "model" / archive.WEIGHTS)


def test_half_the_size_and_almost_the_same_output(place):
    out = shipped(place)
    state, trained = load_file(out / archive.WEIGHTS), load_file(place / "model" / archive.WEIGHTS)
    assert {value.dtype for value in state.values()} == {torch.float16} and state.keys() == trained.keys()
    assert not [name for name in state if name.endswith(archive.AVERAGES) or name.startswith(archive.HEADS)]
    sizes = [(folder / archive.WEIGHTS).stat().st_size for folder in (out, place / "model")]
    assert sizes[0] < 0.6 * sizes[1]
    generator = archive.load(out)
    assert {value.dtype for name, value in generator.state_dict().items() if "init" not in name} == {
        torch.float32
    }
    embeddings = [archive.load_speakers(folder).embeddings for folder in (out, place / "model")]
    assert embeddings[0].dtype == np.float32
    np.testing.assert_allclose(*embeddings, rtol=1e-3, atol=1e-3)
    wav = voice(5, 2.0)
    half, whole = (Musa.from_pretrained(str(folder))(wav) for folder in (out, place / "model"))
    difference = shipping.levels(half) - shipping.levels(whole)
    assert (difference**2).sum() < 0.01 * (shipping.levels(whole) ** 2).sum()


def test_a_name_is_enough_wherever_one_is(place, monkeypatch):
    out = shipped(place)
    (place / "elsewhere/tiny").mkdir(parents=True)
    monkeypatch.chdir(place / "elsewhere")  # where a folder has the same name
    assert archive.find("tiny") == out and archive.shipped() == ["tiny"]
    assert archive.fingerprint(archive.find("tiny")) == archive.fingerprint(out)
    by_name, by_path = Musa(model="tiny"), Musa(model=str(out))
    assert by_name.fingerprint() == by_path.fingerprint()
    assert np.array_equal(Musa.from_pretrained("tiny")(voice(1)), Musa.from_pretrained(str(out))(voice(1)))


def test_unknown_names_are_told_with_the_known_ones(place):
    shipped(place)
    with pytest.raises(UserError, match=r"tinny: no such model; did you mean 'tiny'\?; expected a directory"):
        archive.find("tinny")
    with pytest.raises(UserError, match="no such model; known: tiny; expected"):
        archive.find("something")
    assert archive.find(str(place / "model")) == place / "model"


def test_the_command_anonymizes_with_it_and_the_same_seed_gives_the_same_bytes(place):
    shipped(place)
    made = []
    for name in ("a", "b", "own"):
        system = "musa_small_own" if name == "own" else "musa_small"
        out = place / f"{name}.wav"
        anonymize(
            ["--system", system, "--set", f"{system}.params.model=tiny", str(place / "in.wav"), str(out)]
        )
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


def test_a_recipe_uses_it_without_training(place, monkeypatch):
    shipped(place)
    root = place / "recipe"
    monkeypatch.chdir(root)
    make_set(root / "dump/s", {"a-0": voice(0), "b-0": voice(1)}, {"a": "f", "b": "m"}, {"role": "utility"})
    recipe = Recipe("r", ("musa_small", "musa_small_vc"), (), {})
    recipe = config.with_sets(recipe, [f"{name}.params.model=tiny" for name in recipe.systems])
    assert not config.trained_systems(recipe, root)
    assert all(config.load_system(recipe, name, root).probed for name in recipe.systems)
    for name in recipe.systems:
        run = Run(recipe, root, name)
        run.plan(force=False)
        shard([run], (1, 1), "cpu")
        run.finish()
        made = stamp.read(root / f"exp/{name}/data/s")["fields"]["model"]
        assert made == archive.fingerprint(place / "shipped/tiny")


def test_stage_0_misses_a_model_that_is_not_there(place):
    (place / "data/s").mkdir(parents=True)
    recipe = Recipe("r", ("orig", "musa_small", "musa_mini"), (), {})
    recipe = config.with_sets(recipe, ["musa_small.params.model=tiny"])
    with pytest.raises(UserError, match="system 'musa_small': tiny: no such model"):
        check.check(recipe, place)


def test_the_card_says_what_the_files_know(place):
    out = shipped(place)
    text = (out / shipping.CARD).read_text()
    parameters = sum(value.numel() for value in load_file(out / archive.WEIGHTS).values())
    for said in (
        "# tiny\n\nA model of random weights\n", f"{parameters / 1e6:.1f} M, float16", "16000 Hz mono", "every 20 ms",
        "`SpectralEncoder` and `SpectralDecoder`, 32 wide", "| codebooks | 16, 16 codes |", "of 4 training speakers",
        "- noise, CC0\n", "`conf/train/tiny.yaml`", "`conf/tokens/tiny.yaml`", "| seed | 3 |", "`c0ffee`",
        "| steps | 1,234 |", "```sh\n./run.sh\n```", "Not measured yet.", "- understands nothing\n",
        "--system tiny in.wav", 'from_pretrained("tiny", quantizers=1)(wav',
    ):  # fmt: skip
        assert said in text, said
    headings = ["What it is", "Data and licences", "Training", "Numbers", "Limits", "Intended use", "Misuse"]
    assert re.findall(r"^## (.*)", text, re.M) == headings
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {path.name: path.read_bytes() for path in shipped(place).iterdir()} == before


def test_the_card_quotes_the_recipe(place):
    results = json.loads((REPOSITORY / "egs/mini/results.json").read_text())
    (place / "recipe/results.json").write_text(json.dumps(results))
    assert "Not measured yet." in (shipped(place) / shipping.CARD).read_text()  # that was another system
    renamed = json.dumps(results).replace('"musa_mini"', '"tiny"')
    (place / "recipe/results.json").write_text(renamed)
    files = {path.name: path.read_bytes() for path in (place / "shipped/tiny").iterdir()}
    ship(["tiny", "--recipe", str(place / "recipe")])  # the card alone
    changed = {
        path.name for path in (place / "shipped/tiny").iterdir() if path.read_bytes() != files.pop(path.name)
    }
    assert changed == {shipping.CARD} and not files
    text = (place / "shipped/tiny" / shipping.CARD).read_text()
    assert (shipped(place) / shipping.CARD).read_text() == text
    value = next(
        m["value"]
        for m in json.loads(renamed)["metrics"]
        if (m["system"], m["name"], m["condition"], m["group"]) == ("tiny", "eer", "oa", "avg")
    )
    assert "| tiny | ignorant (OA) |" in text and f" {value:.1f}" in text
    assert f"commit `{results['commit']}`" in text and "WER %" in text and "recall ang" not in text


def large(state: dict[str, torch.Tensor]) -> None:
    state["encoder.backbone.out.bias"][0] = 1e5


@pytest.mark.parametrize("before", [False, True])
def test_weights_beyond_half_precision_are_refused_and_told(place, before):
    kept = {path.name: path.read_bytes() for path in shipped(place).iterdir()} if before else None
    spoil(place, large)
    with pytest.raises(
        UserError, match=r"model: 'encoder.backbone.out.bias' reaches 100000; .* --precision float32"
    ):
        shipped(place)
    folder = place / "shipped"
    assert not list(folder.glob("*.partial"))
    assert before or not (folder / "tiny").exists()
    assert kept is None or {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()} == kept
    out = shipped(place, "--precision", "float32")
    assert {value.dtype for value in load_file(out / archive.WEIGHTS).values()} == {torch.float32}
    assert "float32" in (out / shipping.CARD).read_text()


def test_broken_weights_are_refused(place):
    spoil(place, lambda state: state["encoder.backbone.out.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match="bias' is not finite"):
        shipped(place, "--precision", "float32")


def test_an_output_that_differs_is_refused(place, monkeypatch):
    def coarse(state, *_):
        return {name: value + 0.3 * torch.randn_like(value).half() for name, value in state.items()}

    monkeypatch.setattr(shipping, "converted", coarse)
    with pytest.raises(UserError, match=r"as float16 it is another model: .* expected at most 1% and -20 dB"):
        shipped(place)
    assert not (place / "shipped/tiny").exists()


def test_size_and_names(place, monkeypatch):
    monkeypatch.setattr(shipping, "MOST", 5e4)
    with pytest.raises(UserError, match=r"model: 0\.\d MB; expected at most 0.05 MB"):
        shipped(place)
    assert not list((place / "shipped").iterdir())
    with pytest.raises(UserError, match=r"'\.\./x' is no name of a model"):
        shipping.ship(place / "model", "../x", place / "in.wav", lambda _: "")
    with pytest.raises(UserError, match="no card named 'tinny'; did you mean 'tiny'"):
        ship(["tinny", "--recipe", str(place / "recipe")])
    with pytest.raises(UserError, match="no model 'tiny' to write a card of; hint: --model, --sample"):
        ship(["tiny", "--recipe", str(place / "recipe")])


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "conf/cards").glob("*.yaml")), ids=lambda path: path.stem
)
def test_cards_are_well_formed(path):
    config.load(CardConfig, path)


@pytest.mark.parametrize("name", archive.shipped())
def test_what_is_in_the_repository_loads_and_anonymizes(name):
    wav = voice(2, 1.5)
    made = Musa.from_pretrained(name)(wav)
    assert made.shape == wav.shape and np.isfinite(made).all() and np.abs(made).max() > 1e-3
    folder = archive.SHIPPED / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= shipping.MOST
    assert shipping.facts_of(folder).moved <= shipping.MOVED and (folder / shipping.CARD).is_file()

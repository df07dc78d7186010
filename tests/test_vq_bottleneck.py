"""The acoustic model through stage 3: transcripts as units, training by ESPnet, a kill, and what cannot be learnt."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_sets import make_set, tone

from espnet_musa import stamp
from espnet_musa.config import Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.pipeline.tokenize import ModelRun, TokensRun, chosen
from espnet_musa.tokenizer import store, units
from espnet_musa.tokenizer.config import UnitsConfig
from espnet_musa.tokenizer.teachers import n_frames
from espnet_musa.tokenizer.vq_bottleneck import VqBottleneck

PARAMS = {
    "codebook_size": 6, "code_dim": 12, "channels": 16, "bottleneck": 8, "encoder": [3, 3], "halving": 1,
    "head": [1, 3],
}  # fmt: skip
TOKENS = {
    "description": "x", "reference": "y", "teacher": "fbank", "tokenizer": "vq_bottleneck", "params": PARAMS,
    "train": "t",
}  # fmt: skip
TRAINING = {
    "model_conf": {"vq_start_epoch": 2}, "optim_conf": {"lr": 0.01}, "batch_size": 4, "max_epoch": 3,
    "num_workers": 0, "use_tensorboard": False,
}  # fmt: skip
SOUNDS = {"a": 130.0, "b": 220.0, "c": 330.0}


def speech(count: int = 10) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """ "Utterances": three pitches are three letters, a fifth of a second each, with silence around."""
    rng, wavs, text = np.random.default_rng(0), {}, {}
    for i in range(count):
        letters = "".join(rng.permutation(list(SOUNDS))[: 2 + i % 2])
        quiet = 1e-3 * rng.standard_normal(2000).astype(np.float32)
        wavs[f"{'ab'[i % 2]}-{i}"] = np.concatenate(
            [quiet, *(tone(0.25, SOUNDS[c], i) for c in letters), quiet]
        )
        text[f"{'ab'[i % 2]}-{i}"] = letters
    return wavs, text


def prepared(
    root: Path, *, text: dict[str, str] | None = None, tokens: dict | None = None, count: int = 10, **training
) -> Recipe:
    """A recipe directory whose system learns from these tokens; `text={}`: a set without transcripts."""
    system = {"description": "x", "reference": "y", "anonymizer": "mcadams", "train": "m", "tokens": "t"}
    for kind, own in (
        ("tokens", TOKENS | (tokens or {})),
        ("train", TRAINING | training),
        ("systems", system),
    ):
        (root / "conf" / kind).mkdir(parents=True, exist_ok=True)
        (root / "conf" / kind / "t.yaml").write_text(yaml.safe_dump(own))
    if not (root / "dump").exists():
        wavs, own = speech(count)
        table = own if text is None else text
        more = {"text": table, "utt2lang": dict.fromkeys(wavs, "de")} if table else {}
        make_set(root / "dump" / "one", wavs, {"a": "f", "b": "m"}, {"role": "train"}, **more)
    return Recipe(name="r", systems=("t",), evaluators=(), corpora={}, seed=5)


def run(recipe: Recipe, root: Path) -> None:
    ModelRun(recipe, root).plan(force=False)
    ModelRun(recipe, root).shard((1, 1), "cpu")
    ModelRun(recipe, root).finish("cpu")
    TokensRun(recipe, root).plan(force=False)
    TokensRun(recipe, root).shard((1, 1), "cpu")
    TokensRun(recipe, root).finish()


def tree(root: Path) -> dict[str, str]:
    """Hash of every file below exp/tokens, but for times and places."""
    skipped = ("train.log", "config.yaml", stamp.DONE, "tokens.scp")
    files = sorted(p for p in (root / "exp" / "tokens").rglob("*") if p.is_file() and p.name not in skipped)
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def results(root: Path, name: str) -> list[float]:
    """A statistic of every epoch, of the utterances held out."""
    log = (root / "exp/tokens/t/model/training/train.log").read_text()
    parts = [line.split("[valid]")[1] for line in log.splitlines() if "epoch results" in line]
    return [float(part.split(f" {name}=")[1].split(",")[0]) for part in parts]


@pytest.mark.slow
def test_trained_by_espnet_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    from espnet_musa.tasks.vq_bottleneck import VqBottleneckTrainer

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(prepared(whole), whole)
    model = whole / "exp" / "tokens" / "t" / "model"
    assert (model / "units.txt").read_text().split() == ["SIL", "a", "b", "c"]
    assert not [p for p in (model / "training").iterdir() if p.suffix in (".pth", ".scp", ".units", ".shape")]
    tokens = store.load_tokens(model.with_name("one"))
    wavs, _ = speech()
    assert {utt: len(codes) for utt, codes in tokens.items()} == {
        utt: n_frames(len(w)) for utt, w in wavs.items()
    }
    assert 2 < len({int(code) for codes in tokens.values() for code in codes}) <= 6
    found = store.load(model, "cpu")
    assert isinstance(found, VqBottleneck) and found.dimension == 160
    assert len(results(whole, "objective")) == 3 and len(results(whole, "error")) == 3

    recipe, real, epochs = prepared(killed), VqBottleneckTrainer.validate_one_epoch, []

    def dying(**arguments) -> None:
        epochs.append(arguments["reporter"].get_epoch())
        if len(epochs) == 2:
            raise KeyboardInterrupt
        real(**arguments)

    monkeypatch.setattr(VqBottleneckTrainer, "validate_one_epoch", dying)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, killed)
    run(recipe, killed)
    assert epochs == [1, 2, 2, 3]
    assert tree(whole) == tree(killed)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["ctc", "lf_mmi"])
def test_it_learns_what_is_said(tmp_path, criterion):
    settings = {"criterion": criterion, "vq_start_epoch": 11, "freeze": 1}
    wider = {"params": PARAMS | {"channels": 48, "bottleneck": 16, "codebook_size": 12, "dropout": 0.0}}
    recipe = prepared(tmp_path, count=48, tokens=wider, model_conf=settings, max_epoch=14, batch_size=4)
    run(recipe, tmp_path)
    objective, error = results(tmp_path, "objective"), results(tmp_path, "error")
    assert max(objective[6:10]) > objective[0] / 2, objective
    assert min(error[5:10]) < 0.9 and min(error[10:]) < 0.95, error


def test_bad_transcripts(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "espnet_musa")
    with pytest.raises(
        UserError, match=r"one: file 'text' is missing: a vq_bottleneck is trained with transcripts"
    ):
        ModelRun(prepared(tmp_path / "none", text={}), tmp_path / "none").plan(force=False)
    _, text = speech()
    with pytest.raises(UserError, match=r"one/text.*'a-0'|not in utt2spk|another"):
        other = {utt.replace("-", "-x"): words for utt, words in text.items()}
        ModelRun(prepared(tmp_path / "other", text=other), tmp_path / "other")
    with pytest.raises(
        UserError, match=r"none of 10 transcripts can be written in units of kind 'characters'"
    ):
        ModelRun(prepared(tmp_path / "digits", text=dict.fromkeys(text, "12")), tmp_path / "digits").plan(
            force=False
        )
    long = {utt: "abc" * 200 if utt != "a-0" else words for utt, words in text.items()}
    recipe = prepared(tmp_path / "long", text=long)
    with pytest.raises(UserError, match=r"1 of 10 utterances are long enough for their transcripts"):
        run(recipe, tmp_path / "long")
    with pytest.raises(UserError, match="unknown key 'crop_frames'"):
        chosen(prepared(tmp_path / "crop", crop_frames=24), tmp_path / "crop")
    with pytest.raises(UserError, match=r"expected `train` for a feature_codec or vq_bottleneck"):
        chosen(prepared(tmp_path / "no", tokens={"train": None}), tmp_path / "no")


def test_features_that_are_no_numbers():
    from espnet_musa.tasks.vq_bottleneck import _Checked

    with pytest.raises(UserError, match="utt 'a-0': features are not finite"):
        _Checked(True)("a-0", {"features": np.array([[1.0, np.nan]])})


def transcripts(tmp_path: Path, config: UnitsConfig, **tables: dict[str, str]) -> dict[str, units.Words]:
    utts = sorted(next(iter(tables.values())))
    make_set(tmp_path / "s", {utt: tone(0.1, 200.0) for utt in utts}, {"a": "f"}, {"role": "train"}, **tables)
    return units.read(DataDir.read(tmp_path / "s"), utts, config)


def test_characters_by_language(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "espnet_musa")
    found = transcripts(
        tmp_path, UnitsConfig(), utt2lang={"a-1": "en", "a-2": "de", "a-3": "cmn", "a-4": "en", "a-5": "de"},
        text={"a-1": "Don't stop, naïve", "a-2": "Größe", "a-3": "你 好。", "a-4": "42", "a-5": "um 9 uhr"},
    )  # fmt: skip
    assert found == {
        "a-1": [list("dont"), list("stop"), list("naive")], "a-2": [list("größe")], "a-3": [["你"], ["好"]],
    }  # fmt: skip
    assert "1 of 4 transcripts left out for nothing to recognise: a-4" in caplog.text
    assert "1 of 4 transcripts left out for characters that are no letters: a-5" in caplog.text
    inventory = units.inventory(found.values())
    assert inventory[0] == "SIL" and len(inventory) == len(set(inventory))
    numbers = {unit: i for i, unit in enumerate(inventory)}
    assert units.numbered([["a"], ["b", "SIL"], ["SIL"]], {"a": 1, "b": 2}) == [0, 1, 0, 2, 0]
    assert units.numbered(found["a-2"], numbers) == [0, *(numbers[c] for c in "größe"), 0]


def test_lexicon(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "espnet_musa")
    path = tmp_path / "lexicon.txt"
    path.write_text("A\tAH0\nA(2) EY1\nDON'T 0.9 D OW1 N T\ncat K AE1 T\nCAT K AH T\n\n")
    config = UnitsConfig(kind="lexicon", path=str(path))
    found = transcripts(tmp_path, config, text={"a-1": "don't, a CAT", "a-2": "a dog", "a-3": "dog"})
    assert found == {"a-1": [["D", "OW", "N", "T"], ["AH"], ["K", "AE", "T"]]}
    assert "2 of 3 transcripts left out for words that the lexicon lacks: a-2, a-3" in caplog.text
    path.write_text("A\n")
    with pytest.raises(UserError, match=r"lexicon.txt:1: a word without phones; expected WORD PHONE"):
        units.read_lexicon(path)
    with pytest.raises(UserError, match="the lexicon cannot be read"):
        units.read_lexicon(tmp_path / "none.txt")


def test_phones_of_the_corpus(tmp_path):
    found = transcripts(tmp_path, UnitsConfig(kind="phones"), phones={"a-1": "ð ə | k æ t", "a-2": "aɪ"})
    assert found == {"a-1": [["ð", "ə"], ["k", "æ", "t"]], "a-2": [["aɪ"]]}
    with pytest.raises(UserError, match="file 'text' is missing"):
        units.read(DataDir.read(tmp_path / "s"), ["a-1"], UnitsConfig())


def test_ctc_is_torchs():
    from espnet_musa.tasks.vq_bottleneck import Ctc

    made, x = Ctc(4), torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    value, posteriors = made(x, torch.tensor([9, 6]), [[0, 1, 2, 0, 3, 0], [0, 2, 2, 0]])
    wanted = torch.nn.functional.ctc_loss(
        x[1:, :6].log_softmax(2).transpose(0, 1), torch.tensor([[2, 2]]), [6], [2], reduction="sum"
    )
    assert posteriors is None and float(value[1]) == pytest.approx(-float(wanted), rel=1e-5)
    assert (made.least([0, 1, 2, 0, 3, 0]), made.least([0, 2, 2, 0])) == (3, 3)
    best = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0, 1, 3, 3, 2, 2]]), 4).float()
    assert made.decode(best, torch.tensor([7])) == [[1, 1, 3]]


def test_a_changed_lexicon_is_noticed(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(
        "".join(f"{a}{b}{c} A{a} B{b} C{c}\n{a}{b} A{a} B{b}\n" for a in "abc" for b in "abc" for c in "abc")
    )
    recipe = prepared(tmp_path, tokens={"params": PARAMS | {"units": {"kind": "lexicon", "path": str(path)}}})
    plans = []
    for more in ("", "x X\n"):
        path.write_text(path.read_text() + more)
        ModelRun(recipe, tmp_path).plan(force=False)
        plans.append(json.loads((tmp_path / "exp/tokens/t/model.partial" / stamp.PLAN).read_text()))
    assert [k for k in plans[0] if plans[0][k] != plans[1][k]] == ["lexicon"]

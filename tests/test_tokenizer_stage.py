"""Stage 3 as a whole: the same tokens for any number of jobs and after a kill, nothing twice, clear errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_sets import make_set, tone
from tiny_teacher import save_teacher

from espnet_musa import config, stamp
from espnet_musa.config import Recipe
from espnet_musa.errors import UserError
from espnet_musa.pipeline import tokenize
from espnet_musa.pipeline.tokenize import ModelRun, TokensRun
from espnet_musa.tokenizer import store
from espnet_musa.tokenizer.teachers import n_frames

GENDERS = {"a": "f", "b": "m", "c": "f"}
MFCC = {"teacher": "mfcc", "tokenizer": "kmeans", "params": {"codebook_size": 12}}
TRAINING = {
    "crop_frames": 24, "optim_conf": {"lr": 1e-3, "betas": [0.5, 0.9]}, "batch_size": 4, "max_epoch": 2,
    "num_iters_per_epoch": 5, "num_workers": 0, "use_tensorboard": False,
}  # fmt: skip


def speech(shortest: int = 9000) -> dict[str, np.ndarray]:
    """Nine utterances of three speakers, of different lengths, two of them equal."""
    wavs = {
        f"{speaker}-{i}": tone(1.5, pitch, seed=10 * i + int(pitch))[: shortest + 1500 * i]
        for speaker, pitch in (("a", 210.0), ("b", 110.0), ("c", 180.0))
        for i in range(3)
    }
    return wavs


def prepared(root: Path, tokens: dict, wavs: dict[str, np.ndarray] | None = None, name: str = "t") -> Recipe:
    """A recipe directory with one system that learns from tokens, and a formatted training set in two parts."""
    for kind, own in (
        ("tokens", {"description": "x", "reference": "y"} | tokens),
        ("train", TRAINING),
        (
            "systems",
            {
                "description": "x", "reference": "y", "anonymizer": "mcadams", "train": "m", "tokens": name,
                "target": {"policy": "constant", "params": {"value": 0.8}},
            },
        ),
    ):  # fmt: skip
        place = root / "conf" / kind / f"{name}.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump(own))
    if not (root / "dump").exists():
        wavs = wavs or speech()
        parts = {
            "one": {u: w for u, w in wavs.items() if u[0] != "c"},
            "two": {u: w for u, w in wavs.items() if u[0] == "c"},
        }
        for part, own in parts.items():
            if own:
                make_set(root / "dump" / part, own, GENDERS, {"role": "train"})
        make_set(root / "dump" / "trials", {"a-9": tone(1.0, 200.0)}, GENDERS, {"role": "utility"})
    return Recipe(name="r", systems=("orig", name), evaluators=(), corpora={}, seed=5)


def run(recipe: Recipe, root: Path, jobs: int = 1, *, force: bool = False) -> None:
    """Both parts, each step with what it finds on disk, the shards in an unusual order."""
    ModelRun(recipe, root).plan(force=force)
    for job in range(jobs, 0, -1):
        ModelRun(recipe, root).shard((job, jobs), "cpu")
    ModelRun(recipe, root).finish("cpu")
    TokensRun(recipe, root).plan(force=force)
    for job in range(jobs, 0, -1):
        TokensRun(recipe, root).shard((job, jobs), "cpu")
    TokensRun(recipe, root).finish()


def tree(root: Path) -> dict[str, str]:
    """Hash of every file below exp/tokens; times, and the root, do not count."""
    out = {}
    for path in sorted((root / "exp" / "tokens").rglob("*")):
        if path.is_file() and path.name not in ("train.log", "config.yaml"):
            content = path.read_bytes().replace(str(root).encode(), b"ROOT")
            if path.name == stamp.DONE:
                content = json.dumps(json.loads(content) | {"seconds": 0}).encode()
            out[path.relative_to(root).as_posix()] = hashlib.sha256(content).hexdigest()
    return out


def tokens_of(root: Path, name: str = "t") -> dict[str, list[int]]:
    places = [root / "exp" / "tokens" / name / part for part in ("one", "two")]
    return {utt: codes.tolist() for place in places for utt, codes in store.load_tokens(place).items()}


def test_tokens_of_all_training_speech(tmp_path):
    wavs = speech()
    recipe = prepared(tmp_path, MFCC, wavs)
    run(recipe, tmp_path)
    base = tmp_path / "exp" / "tokens" / "t"
    assert sorted(p.name for p in base.iterdir()) == ["model", "one", "two"]
    assert sorted(p.name for p in (base / "one").iterdir()) == [".done.json", "tokens.ark", "tokens.scp"]
    assert sorted(p.name for p in (base / "model").iterdir()) == [
        ".done.json", "config.yaml", "model.safetensors", "teacher.safetensors",
    ]  # fmt: skip
    assert store.n_tokens(base) == 12
    found = tokens_of(tmp_path)
    assert {utt: len(codes) for utt, codes in found.items()} == {
        utt: n_frames(len(w)) for utt, w in wavs.items()
    }
    assert {code for codes in found.values() for code in codes} <= set(range(12))
    assert len({code for codes in found.values() for code in codes}) > 6
    counts = stamp.read(base / "one")["counts"]
    assert counts["utterances"] == 6 and counts["frames"] == sum(
        n_frames(len(wavs[u])) for u in wavs if u[0] != "c"
    )
    line = (base / "one" / "tokens.scp").read_text().splitlines()[0]
    assert line.startswith(f"a-0 {(base / 'one' / 'tokens.ark').as_posix()}:")


def test_the_number_of_jobs_changes_nothing_and_a_second_run_does_nothing(tmp_path):
    trees = []
    for jobs in (1, 3):
        root = tmp_path / str(jobs)
        recipe = prepared(root, MFCC)
        run(recipe, root, jobs)
        trees.append(tree(root))
        times = {p: p.stat().st_mtime_ns for p in (root / "exp").rglob("*")}
        run(recipe, root, jobs)
        assert times == {p: p.stat().st_mtime_ns for p in (root / "exp").rglob("*")}
    assert trees[0].keys() == trees[1].keys()
    different = [name for name in trees[0] if trees[0][name] != trees[1][name]]
    # Absolute paths of the two roots stand in scp files and in fingerprints of the sets.
    assert [n for n in different if not n.endswith(stamp.DONE)] == []


def test_a_kill_between_costs_what_was_not_done(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(prepared(whole, MFCC), whole)
    recipe = prepared(killed, MFCC)
    written, real = [], store.write_ark

    def dying(path: Path, *args, **options) -> None:
        written.append(path.name)
        if len(written) in (2, 5, 8):
            raise KeyboardInterrupt
        real(path, *args, **options)

    monkeypatch.setattr(store, "write_ark", dying)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, killed)
        assert not list((killed / "exp").rglob("one/tokens.scp"))
    run(recipe, killed)
    parts = 3 + 3 + 2  # groups of features, groups of tokens, sets
    assert len(written) == parts + 3  # only what the kills interrupted was made twice
    assert {k: v for k, v in tree(whole).items() if not k.endswith(stamp.DONE)} == {
        k: v for k, v in tree(killed).items() if not k.endswith(stamp.DONE)
    }


def test_what_changed_is_named_and_force_makes_it_anew(tmp_path):
    run(prepared(tmp_path, MFCC), tmp_path)
    recipe = prepared(tmp_path, MFCC | {"params": {"codebook_size": 8}})
    with pytest.raises(
        UserError, match=r"stage 'tokenize' made this from something else; changed: tokens .* --force"
    ):
        run(recipe, tmp_path)
    run(recipe, tmp_path, force=True)
    assert store.n_tokens(tmp_path / "exp" / "tokens" / "t") == 8
    assert max(code for codes in tokens_of(tmp_path).values() for code in codes) <= 7
    other = Recipe(name="r", systems=recipe.systems, evaluators=(), corpora={}, seed=6)
    with pytest.raises(UserError, match=r"changed: seed \(5 -> 6\)"):
        run(other, tmp_path)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_tokens_depend_on_neither_batch_nor_jobs(tmp_path, norm):
    place = save_teacher(tmp_path / "checkpoint", norm=norm)
    found = []
    for jobs, batch_s in ((1, 100.0), (2, 100.0), (2, 1.0)):
        root = tmp_path / f"{jobs}-{batch_s}"
        teacher = {"teacher": "wav2vec2", "teacher_params": {"model": str(place), "batch_s": batch_s}}
        run(prepared(root, teacher | {"tokenizer": "kmeans", "params": {"codebook_size": 12}}), root, jobs)
        found.append(tokens_of(root))
    assert found[0] == found[1]
    same = [a == b for utt in found[0] for a, b in zip(found[0][utt], found[2][utt], strict=True)]
    assert np.mean(same) > 0.995  # another k-means would follow from other last bits


def test_only_a_part_of_the_speech_trains_and_features_are_kept_if_asked(tmp_path):
    wavs = speech()
    recipe = prepared(
        tmp_path, MFCC | {"hours": 1e-4, "keep_features": True}, wavs
    )  # 0.36 s: one speaker suffices
    run(recipe, tmp_path)
    model = tmp_path / "exp" / "tokens" / "t" / "model"
    kept = store.Ark(*(model / "features").glob("*.scp"))
    assert len({utt.split(":")[1][0] for utt in kept}) == 1 and len(kept) == 3
    assert stamp.read(model)["counts"]["utterances"] == 3
    name = next(iter(kept))
    assert kept[name].shape == (n_frames(len(wavs[name.split(":")[1]])), 39)
    assert len(tokens_of(tmp_path)) == 9


def test_bad_input_gives_one_clear_error(tmp_path, monkeypatch):
    short = speech() | {"a-0": tone(1.0, 200.0)[:399]}
    with pytest.raises(
        UserError, match=r"utt 'a-0': 399 samples are shorter than one frame; expected at least 400"
    ):
        run(prepared(tmp_path / "short", MFCC, short), tmp_path / "short")
    recipe = prepared(tmp_path / "few", MFCC | {"params": {"codebook_size": 5000}})
    with pytest.raises(UserError, match="frames to train 5000 tokens on"):
        run(recipe, tmp_path / "few")
    recipe = prepared(tmp_path / "none", MFCC)
    for path in (tmp_path / "none" / "dump").glob("*/meta.yaml"):
        path.write_text("role: utility\n")
    with pytest.raises(UserError, match="no set has the role train"):
        ModelRun(recipe, tmp_path / "none")
    with pytest.raises(
        UserError, match=r"exp/tokens/t/model: not there, or not finished; hint: run stage 'tokenize'"
    ):
        TokensRun(prepared(tmp_path / "early", MFCC), tmp_path / "early").plan(force=False)
    monkeypatch.setenv("ESPNET_MUSA_MODELS", str(tmp_path / "models"))
    recipe = prepared(tmp_path / "xlsr", {"teacher": "wav2vec2", "tokenizer": "kmeans"})
    with pytest.raises(UserError, match=r"models/xls_r_300m: model 'xls_r_300m'.*hint: fetch from"):
        run(recipe, tmp_path / "xlsr")


def test_a_job_that_did_not_run_is_noticed(tmp_path):
    recipe = prepared(tmp_path, MFCC)
    ModelRun(recipe, tmp_path).plan(force=False)
    ModelRun(recipe, tmp_path).shard((1, 2), "cpu")
    with pytest.raises(UserError, match=r"not made; hint: see the logs of the shards"):
        ModelRun(recipe, tmp_path).finish("cpu")


def test_systems_without_tokens_need_nothing(tmp_path, capsys, monkeypatch):
    from espnet_musa.bin.tokenize import main

    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "recipe.yaml").write_text(
        "name: r\ncorpora: {}\nsystems: [orig, b2_mcadams]\nevaluators: [pitch]\n"
    )
    monkeypatch.chdir(tmp_path)
    main([])
    assert "no chosen system (orig b2_mcadams) learns from teacher tokens" in capsys.readouterr().out
    with pytest.raises(UserError, match="--part model or --part tokens"):
        main(["--step", "plan"])


def test_a_ready_codec_of_another_width_is_refused(tmp_path):
    import torch

    from espnet_musa.tokenizer.config import FeatureCodecConfig
    from espnet_musa.tokenizer.feature_codec import FeatureCodec

    for dimension in (39, 40):
        codec = FeatureCodec(dimension, FeatureCodecConfig(codebook_size=12))
        torch.save({"model": {"repcodec": codec.state_dict()}}, tmp_path / f"{dimension}.pkl")
    tokens = {"teacher": "mfcc", "params": {"codebook_size": 12}, "checkpoint": str(tmp_path / "39.pkl")}
    run(prepared(tmp_path / "fits", tokens), tmp_path / "fits")
    assert len(tokens_of(tmp_path / "fits")) == 9
    recipe = prepared(tmp_path / "not", tokens | {"checkpoint": str(tmp_path / "40.pkl")})
    with pytest.raises(UserError, match="features have 39 dimensions; expected 40"):
        run(recipe, tmp_path / "not")


CODEC = {
    "teacher": "mfcc", "train": "t", "params": {
        "codebook_size": 12, "channels": 16, "code_dim": 8, "normalize": True, "kmeans_init": True, "revive": 0.1,
    },
}  # fmt: skip


@pytest.mark.slow
def test_feature_codec_is_trained_by_espnet_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    from espnet_musa.tasks.feature_codec import FeatureCodecTrainer

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(prepared(whole, CODEC), whole)
    log = (whole / "exp/tokens/t/model/training/train.log").read_text()
    assert "2epoch results" in log
    assert not list((whole / "exp/tokens/t/model/training").glob("*.pth"))
    recipe = prepared(killed, CODEC)
    real, epochs = FeatureCodecTrainer.validate_one_epoch, []

    def dying(**arguments) -> None:
        epochs.append(arguments["reporter"].get_epoch())
        if len(epochs) == 2:
            raise KeyboardInterrupt
        real(**arguments)

    monkeypatch.setattr(FeatureCodecTrainer, "validate_one_epoch", dying)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, killed)
    run(recipe, killed)
    assert epochs == [1, 2, 2]
    assert {k: v for k, v in tree(whole).items() if not k.endswith(stamp.DONE)} == {
        k: v for k, v in tree(killed).items() if not k.endswith(stamp.DONE)
    }
    assert len({code for codes in tokens_of(whole).values() for code in codes}) > 6


@pytest.mark.slow
def test_feature_codec_learns_and_refuses_what_cannot_be_learnt(tmp_path):
    training = dict(
        TRAINING, max_epoch=4, num_iters_per_epoch=50, optim_conf={"lr": 3e-3, "betas": [0.5, 0.9]}
    )
    recipe = prepared(tmp_path, CODEC)
    (tmp_path / "conf/train/t.yaml").write_text(yaml.safe_dump(training))
    run(recipe, tmp_path)
    lines = [
        x
        for x in (tmp_path / "exp/tokens/t/model/training/train.log").read_text().splitlines()
        if "results" in x
    ]
    rec = [float(line.split("rec=")[1].split(",")[0]) for line in lines]
    assert rec[-1] < 0.75 * rec[0], rec
    (tmp_path / "conf/train/t.yaml").write_text(yaml.safe_dump(training | {"crop_frames": 500}))
    with pytest.raises(
        UserError, match=r"0 of 9 utterances are as long as a crop of 500 frames.*lower crop_frames"
    ):
        run(recipe, tmp_path, force=True)
    (tmp_path / "conf/train/t.yaml").write_text(yaml.safe_dump(training | {"crop_frame": 5}))
    with pytest.raises(UserError, match="unknown key 'crop_frame'; did you mean 'crop_frames'"):
        tokenize.chosen(recipe, tmp_path)
    (tmp_path / "conf/train/t.yaml").write_text(yaml.safe_dump(training | {"optim_conf": {"lr": 1e30}}))
    with pytest.raises(UserError, match=r"the loss diverged in epoch 1.*hint: lower lr"):
        run(recipe, tmp_path, force=True)


def test_shared_configuration_is_found(tmp_path):
    recipe = Recipe(name="r", systems=("orig",), evaluators=(), corpora={})
    assert tokenize.chosen(recipe, tmp_path) == {}
    assert config.conf_file(tmp_path, "tokens", "mfcc_mini").is_file()

"""Stage 4 with ESPnet's trainer, end to end: what is learnt and published, kills and resumption, two processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_musa import N_TOKENS, SETTINGS, SYSTEM, make_recipe, write

from espnet_musa import stamp
from espnet_musa.codec import archive
from espnet_musa.config import Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.pipeline.train import train
from espnet_musa.pipeline.train_data import gather, split
from espnet_musa.pipeline.train_data import write as write_data
from espnet_musa.tasks.musa import MusaTask
from espnet_musa.tasks.trainer import CHECKPOINT, PREVIOUS, MusaTrainer, recover

pytestmark = pytest.mark.slow
RECIPE = Recipe(name="t", systems=("orig", "tiny"), evaluators=(), corpora={})
TERMS = {
    "rec",
    "wave",
    "mel",
    "mel_square",
    "adv",
    "fm",
    "com",
    "spk_id",
    "spk_acc",
    "spk_cos",
    "sem",
    "sem_acc",
}
TERMS |= {"usage_1", "usage_2", "loss", "d_real", "d_fake", "d_loss"}


def run(root: Path, *, seed: int = 0, force: bool = False) -> Path:
    """Stage 4; returns what it published."""
    recipe = Recipe(name="t", systems=("orig", "tiny"), evaluators=(), corpora={}, seed=seed)
    train(recipe, root, device="cpu", force=force)
    return root / "exp/models/tiny"


def curve(out: Path, part: str, tag: str) -> list[float]:
    """Values of a scalar in TensorBoard's files, by step."""
    events = EventAccumulator(str(out / "tensorboard" / part))
    events.Reload()
    return [
        event.value for event in sorted(events.Scalars(tag), key=lambda event: (event.step, event.wall_time))
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A recipe's directory after stage 4, never interrupted."""
    root = make_recipe(tmp_path_factory.mktemp("musa"))
    run(root)
    return root


def test_it_learns(trained):
    out = trained / "exp/models/tiny"
    for term, share in (("mel", 0.7), ("loss", 0.6), ("sem", 0.97)):
        values = curve(out, "train", term)
        assert values[-1] < share * values[0], term
    assert len(curve(out, "valid", "mel")) == SETTINGS["max_epoch"]


def test_what_is_published(trained):
    out = trained / "exp/models/tiny"
    names = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    left = {name for name in names if not name.startswith("tensorboard/")}
    inference = {"config.json", "model.safetensors", "speakers.safetensors"}
    assert left == inference | {".done.json", "config.yaml", "model.pth", "train.log"}
    facts = json.loads((out / "config.json").read_text())
    steps = SETTINGS["max_epoch"] * SETTINGS["num_iters_per_epoch"]
    expected = {
        "train": "tiny",
        "tokens": "tiny",
        "seed": 0,
        "sample_rate": 16000,
        "speakers": 4,
        "steps": steps,
    }
    assert {key: facts[key] for key in expected} == expected
    assert set(stamp.read(out)["fields"]) == {"config", "input", "tokens", "seed"}


def test_no_name_of_the_host_in_what_is_published(trained):
    host = os.uname().nodename
    for path in (trained / "exp/models/tiny").rglob("*"):
        assert f".{host}." not in path.name
        if path.suffix in (".log", ".yaml", ".json"):
            assert not re.search(rf"\b{re.escape(host)}\b", path.read_text())


def test_the_archive_is_the_last_epochs_generator(trained):
    out = trained / "exp/models/tiny"
    generator = archive.load(out)
    state = torch.load(out / "model.pth", weights_only=True)
    model = MusaTask.build_model_from_file(out / "config.yaml", out / "model.pth")[0]
    assert set(model.state_dict()) == set(state)
    wav = torch.from_numpy(DataDir.read(trained / "dump/one").load("a-one-0"))[None]
    with torch.inference_mode():
        codes, s = generator.encode(wav)
        expected, expected_s = model.codec.generator.eval().encode(wav)
        assert torch.equal(codes, expected)
        assert torch.allclose(s, expected_s, atol=1e-5)
        assert torch.allclose(generator.decode(codes, s), model.codec.generator.decode(codes, s), atol=1e-5)
    assert archive.load_speakers(out).embeddings.shape == (4, 32)


def test_tensorboard_has_every_term_and_audio(trained):
    place = trained / "exp/models/tiny/tensorboard"
    for part in ("train", "valid"):
        events = EventAccumulator(str(place / part))
        events.Reload()
        assert set(events.Tags()["scalars"]) >= TERMS
    audio = EventAccumulator(str(place / "audio"))
    audio.Reload()
    assert set(audio.Tags()["audio"]) == {"original", "reconstructed", "anonymized"}
    assert [event.step for event in audio.Audio("anonymized")] == list(range(1, SETTINGS["max_epoch"] + 1))
    samples = [event.encoded_audio_string for event in audio.Audio("reconstructed")]
    assert len(set(samples)) == len(samples)
    assert len({len(sample) for sample in samples}) == 1  # the same utterance every time


def test_the_second_run_does_nothing(trained):
    done = trained / "exp/models/tiny/.done.json"
    before = done.read_bytes(), done.stat().st_mtime_ns
    run(trained)
    assert (done.read_bytes(), done.stat().st_mtime_ns) == before


def test_a_changed_configuration_is_refused(trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "copy")
    write(root / "conf/train/tiny.yaml", SETTINGS | {"max_epoch": 5})
    with pytest.raises(UserError, match="stage 'train' made this from something else; changed: config"):
        run(root)


def copy_of(trained: Path, place: Path) -> Path:
    """The recipe's directory as it was before stage 4."""
    return shutil.copytree(trained, place, ignore=shutil.ignore_patterns("models"))


@pytest.mark.parametrize("damage", ["none", "half a checkpoint"])
def test_a_killed_training_goes_on_as_if_nothing_had_been(trained, tmp_path, monkeypatch, damage):
    """Killed in the third epoch; the model is then that of the uninterrupted training, bit for bit."""
    root = copy_of(trained, tmp_path / "root")
    forward, seen = MusaTask.build_model, []

    def dying(args):
        model = forward(args)
        inner = model.codec.forward

        def count(*given, **named):
            seen.append(model.training)
            if sum(seen) == 2 * (2 * SETTINGS["num_iters_per_epoch"] + 3):  # two turns a step
                raise KeyboardInterrupt
            return inner(*given, **named)

        model.codec.forward = count
        return model

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MusaTask, "build_model", dying)
        run(root)
    partial = root / "exp/models/tiny.partial"
    assert (partial / PREVIOUS).exists()
    assert not (root / "exp/models/tiny").exists()
    if damage != "none":
        (partial / CHECKPOINT).write_bytes((partial / PREVIOUS).read_bytes()[:-200])
    epochs = []
    one_epoch = MusaTrainer.train_one_epoch.__func__
    monkeypatch.setattr(
        MusaTrainer, "train_one_epoch",
        classmethod(lambda cls, **k: epochs.append(k["reporter"].get_epoch()) or one_epoch(cls, **k)),
    )  # fmt: skip
    out = run(root)
    assert epochs == [3, 4]
    whole, resumed = (
        torch.load(p / "model.pth", weights_only=True) for p in (trained / "exp/models/tiny", out)
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for tag in ("loss", "mel", "d_loss"):
        assert curve(out, "valid", tag) == curve(trained / "exp/models/tiny", "valid", tag)


def test_other_seed_other_model(trained, tmp_path):
    root = copy_of(trained, tmp_path / "root")
    write(root / "conf/train/tiny.yaml", SETTINGS | {"max_epoch": 1})
    states = []
    for seed in (1, 2):
        states.append(torch.load(run(root, seed=seed, force=True) / "model.pth", weights_only=True))
    assert not all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("conf", "system", "settings"),
    [
        ({"lambda_adv": 0.0, "lambda_fm": 0.0}, {}, {}),
        ({"lambda_sem": 0.0}, {"tokens": None}, {}),
        ({"lambda_spk": 0.0, "precision": "bfloat16"}, {}, {"use_amp": True}),
        (
            {},
            {},
            {"skip_discriminator_prob": 0.5, "generator_first": True, "grad_clip": 1.0, "num_workers": 2},
        ),
    ],
    ids=["no discriminators", "no teacher", "mixed precision", "ESPnet's other options"],
)
def test_variants(trained, tmp_path, conf, system, settings):
    root = copy_of(trained, tmp_path / "root")
    codec = SETTINGS["codec_conf"] | conf
    write(root / "conf/train/tiny.yaml", SETTINGS | {"codec_conf": codec, "max_epoch": 1} | settings)
    write(root / "conf/systems/tiny.yaml", {k: v for k, v in (SYSTEM | system).items() if v is not None})
    out = run(root)
    wav = torch.zeros(1, 3200)
    assert archive.load(out).decode(archive.load(out).encode(wav)[0]).shape == (1, 3200)


def test_a_loss_that_diverges_is_an_error(trained, tmp_path):
    root = copy_of(trained, tmp_path / "root")
    write(root / "conf/train/tiny.yaml", SETTINGS | {"optim_conf": {"lr": 1.0e12}})
    with pytest.raises(UserError, match="the loss diverged in epoch 1; hint: lower lr"):
        run(root)


def test_recover(tmp_path):
    def checkpoint(name: str, content: str) -> None:
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("content", content)

    recover(tmp_path)  # nothing there
    checkpoint(PREVIOUS, "old")
    recover(tmp_path)  # killed while an epoch ran
    assert not (tmp_path / PREVIOUS).exists()
    old = (tmp_path / CHECKPOINT).read_bytes()
    checkpoint(PREVIOUS, "old")
    (tmp_path / CHECKPOINT).write_bytes(old[:-5])  # killed while it was written
    recover(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == old
    checkpoint(PREVIOUS, "older")
    recover(tmp_path)  # killed just after
    assert (tmp_path / CHECKPOINT).read_bytes() == old


def test_two_processes(trained, tmp_path):
    """ESPnet's own options for distributed training, on CPUs: the same global batches, and a loss that falls alike."""
    every = gather(
        [DataDir.read(trained / "dump" / name) for name in ("one", "two")],
        {name: trained / "exp/tokens/tiny" / name for name in ("one", "two")}, N_TOKENS,
    )  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "espnet_musa.tasks.musa",
        "--config",
        str(trained / "conf/train/tiny.yaml"),
    ]
    command += ["--output_dir", str(tmp_path / "out"), "--ngpu", "0", "--dist_backend", "gloo"]
    command += ["--dist_init_method", f"file://{tmp_path}/meet", "--dist_world_size", "2", "--max_epoch", "2"]
    command += ["--codec_conf", "n_speakers=4", "--codec_conf", f"n_tokens={N_TOKENS}"]
    for part, utts in zip(("train", "valid"), split(every, 0), strict=True):
        place = tmp_path / part
        write_data(place, {utt: every[utt] for utt in utts}, list("abcd"))
        for triple in ("wav.scp,audio,sound", "utt2sid,sids,text_int", "tokens.scp,semantic,kaldi_ark"):
            command += [f"--{part}_data_path_and_name_and_type", f"{place}/{triple}"]
        command += [f"--{part}_shape_file", f"{place}/audio_shape"]
    processes = [
        subprocess.Popen(
            [*command, "--dist_rank", str(rank)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[0][-3000:]
    together = curve(tmp_path / "out", "valid", "mel")
    alone = curve(trained / "exp/models/tiny", "valid", "mel")[:2]
    assert together == pytest.approx(alone, rel=0.1)
    assert np.isfinite(together).all()

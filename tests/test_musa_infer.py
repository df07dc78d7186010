"""MUSA through stage 5 and the front door: batches, restarts, failures, the model that a system was trained for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import REPOSITORY, voice
from tiny_archives import tiny_archive
from tiny_sets import GENDERS, make_set

from espnet_musa import stamp
from espnet_musa.anonymizers.musa import Musa
from espnet_musa.bin.anonymize import main
from espnet_musa.config import Recipe, load_system
from espnet_musa.data.audio import to_int16, write_pcm
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.pipeline.anonymize import Run, shard
from espnet_musa.pipeline.batching import LONGEST, PADDING, plan
from espnet_musa.pipeline.files import find_model

RECIPE = Recipe("test", ("tested",), (), {}, anonymize_roles=("utility",), seed=3)
SYSTEM = "description: d\nreference: r\nanonymizer: musa\ntrain: tiny\nparams: {batch_seconds: 6.0}\n"
SECONDS = (2.0, 1.9, 1.85, 0.7, 0.69, 0.3)


def train(root: Path, seed: int = 0, name: str = "tiny") -> None:
    """What stage 4 leaves behind."""
    out = root / "exp" / "models" / name
    partial = stamp.begin(out, "train", {"seed": seed}, force=True)
    tiny_archive(partial, seed=seed)
    stamp.finish(out, "train", counts={}, seconds=0.0)


@pytest.fixture
def root(tmp_path):
    """A recipe directory with two formatted sets, a trained model and the system `tested`."""
    (tmp_path / "conf/systems").mkdir(parents=True)
    (tmp_path / "conf/systems/tested.yaml").write_text(SYSTEM)
    for name in ("s", "t"):
        wavs = {f"{spk}-{i}": voice(ord(spk) + i, s) for spk in "ac" for i, s in enumerate(SECONDS)}
        make_set(tmp_path / "dump" / name, wavs, GENDERS, {"role": "utility"})
    train(tmp_path)
    return tmp_path


def run(root: Path, nj: int = 1, names: str = "", force: bool = False) -> dict[str, bytes]:
    stage = Run(RECIPE, root, "tested", names)
    stage.plan(force=force)
    for job in range(nj, 0, -1):
        shard([stage], (job, nj), "cpu")
    stage.finish()
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("exp/tested/data/*/wav/*"))}


def test_same_bytes_for_any_number_of_jobs_order_and_subset(root):
    one = run(root)
    assert len(one) == 24
    shutil.rmtree(root / "exp/tested")
    assert run(root, nj=5) == one
    shutil.rmtree(root / "exp/tested")
    run(root, names="t")
    assert run(root) == one


def test_a_killed_run_goes_on_to_the_same_bytes(root, monkeypatch):
    """In batches of the same utterances, whatever is there already."""
    batches, whole = [], Musa.convert_batch

    def recorded(self, wavs, targets, rngs):
        batches.append(tuple(map(len, wavs)))
        return whole(self, wavs, targets, rngs)

    monkeypatch.setattr(Musa, "convert_batch", recorded)
    one = run(root)
    planned = set(batches)
    assert max(map(len, planned)) > 2
    shutil.rmtree(root / "exp/tested")
    stage = Run(RECIPE, root, "tested")
    stage.plan(force=False)
    shard([stage], (2, 3), "cpu")
    there = sorted((root / "exp/tested/data/s.partial/wav").iterdir())
    assert there
    there[0].unlink()  # in the middle of a batch
    assert run(root, nj=2) == one and set(batches) == planned


def test_level_and_length_stay(root):
    made, data = run(root), DataDir.read(root / "dump/s", "audio")
    musa = Musa.from_pretrained(str(root / "exp/models/tiny"))
    for utt in data.utts:
        alone = to_int16(musa.convert(data.load(utt), None, np.random.default_rng(0)))
        written = np.frombuffer(made[f"exp/tested/data/s/wav/{utt}.wav"][44:], np.int16)
        assert len(written) == len(alone) and np.abs(written - alone.astype(int)).max() <= 1


def test_a_batch_that_fails_is_converted_one_by_one_and_only_the_bad_one_fails(root, monkeypatch):
    good = run(root)
    shutil.rmtree(root / "exp/tested")
    bad = DataDir.read(root / "dump/s", "audio").load("a-1")
    whole = Musa.convert_batch

    def fails(self, wavs, targets, rngs):
        if any(np.array_equal(wav, bad) for wav in wavs):
            raise ValueError("odd spectrum")
        return whole(self, wavs, targets, rngs)

    monkeypatch.setattr(Musa, "convert_batch", fails)
    with pytest.raises(RuntimeError, match=r"1 utterances failed.*\nutt 'a-1': ValueError: odd spectrum"):
        run(root, names="s")
    there = {p.name: p.read_bytes() for p in (root / "exp/tested/data/s.partial/wav").iterdir()}
    assert set(there) == {f"{u}.wav" for u in DataDir.read(root / "dump/s").utts} - {"a-1.wav"}
    for name, raw in there.items():
        samples = [
            np.frombuffer(x[44:], np.int16).astype(int) for x in (raw, good[f"exp/tested/data/s/wav/{name}"])
        ]
        assert np.abs(samples[0] - samples[1]).max() <= 1
    monkeypatch.undo()
    assert set(run(root)) == set(good)


def test_batches():
    frames = {f"u{i:03d}": int(n) for i, n in enumerate(np.random.default_rng(0).integers(1, 700_000, 300))}
    batches = plan(frames, Musa(batch_seconds=40.0))
    assert sorted(utt for batch in batches for utt in batch) == sorted(frames)
    assert max(map(len, batches)) > 3
    for batch in batches:
        lengths = [frames[utt] for utt in batch]
        if len(batch) > 1:
            assert max(lengths) <= LONGEST * 16000 and len(batch) * max(lengths) <= 40 * 16000
            assert min(lengths) >= (1 - PADDING) * max(lengths)
    assert batches == plan(dict(reversed(frames.items())), Musa(batch_seconds=40.0))
    assert all(len(batch) == 1 for batch in plan(frames, Musa(batch_seconds=0)))


def test_another_model_makes_the_sets_outdated(root):
    made = run(root)
    before = stamp.read(root / "exp/tested/data/s")
    run(root)
    assert stamp.read(root / "exp/tested/data/s") == before
    train(root, seed=1)
    with pytest.raises(UserError, match=r"changed: model \(.* -> .*\); .*--force true"):
        run(root)
    assert run(root, force=True) != made


def test_the_model_must_be_trained(root):
    shutil.rmtree(root / "exp/models")
    with pytest.raises(
        UserError, match=r"models/tiny: not there, or not finished; hint: run stage 'train' first"
    ):
        run(root)
    train(root, name="other")
    place = root / "exp/models/other"
    (root / "conf/systems/tested.yaml").write_text(SYSTEM.replace("{", f"{{model: {place}, "))
    assert len(run(root)) == 24  # a model of one's own needs no training


def test_another_voice_of_the_other_gender(root):
    target = "target: {policy: speaker, params: {gender: cross, level: spk}}\n"
    (root / "conf/systems/tested.yaml").write_text(SYSTEM + target)
    run(root)
    targets = DataDir.read(root / "exp/tested/data/s", "anon").table("utt2target")
    assert {utt[0]: target["gender"] for utt, target in targets.items()} == {"a": "m", "c": "f"}
    assert len({target["speaker"] for target in targets.values()}) == 2


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_with_a_named_model(tmp_path):
    sf.write(tmp_path / "in.wav", voice(0, 1.5, rate=22050), 22050)
    place = tiny_archive(tmp_path / "model")
    words = ["--system", "musa_mini", str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
    main([*words, "--set", f"musa_mini.params.model={place}"])
    info = sf.info(tmp_path / "out.wav")
    assert (info.samplerate, info.subtype) == (16000, "PCM_16") and abs(info.duration - 1.5) < 1e-3


def test_a_folder_is_made_anew_with_another_model(tmp_path):
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in/a.wav", voice(0), 16000)
    words = ["--system", "musa_mini", str(tmp_path / "in"), str(tmp_path / "out"), "--set"]
    models = [f"musa_mini.params.model={tiny_archive(tmp_path / str(i), seed=i)}" for i in (1, 2)]
    main([*words, models[0]])
    with pytest.raises(UserError, match="was not made with these settings"):
        main([*words, models[1]])


def test_the_model_of_a_recipe_is_found(tmp_path):
    system = load_system(RECIPE, "musa_mini", REPOSITORY)
    with pytest.raises(
        UserError, match=r"needs the model .*no recipe has trained it.*--stop-stage train.*params.model="
    ):
        find_model("musa_mini", system, tmp_path)
    train(tmp_path / "one", name=system.train)
    assert find_model("musa_mini", system, tmp_path) == tmp_path / "one/exp/models" / system.train
    train(tmp_path / "two", name=system.train)
    with pytest.raises(UserError, match="2 recipes have trained it"):
        find_model("musa_mini", system, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["spectral", "seanet"])
def test_memory_does_not_grow_with_the_recording(tmp_path, backbone):
    """Twelve minutes take hardly more memory than one."""
    voices = [to_int16(voice(i, 10.0, 110 + 10 * i)) for i in range(6)]
    place = tiny_archive(tmp_path / "model", backbone)
    code = (  # the peak of this process alone; ru_maxrss would count what its parent held when it forked
        "import re, sys; from espnet_musa.bin.anonymize import main; main(sys.argv[1:]); "
        "print(re.search('VmHWM: *(\\\\d+)', open('/proc/self/status').read().replace(chr(9), ' '))[1])"
    )
    peaks = []
    for minutes in (1, 12):
        write_pcm(tmp_path / "in.wav", (voices[i % 6] for i in range(6 * minutes)), 16000)
        words = [
            "--system",
            "musa_mini",
            "--set",
            f"musa_mini.params.model={place}",
            "in.wav",
            f"out{minutes}.wav",
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert sf.info(tmp_path / "out12.wav").frames == 12 * 60 * 16000
    assert peaks[1] - peaks[0] < 40, f"{peaks} MB"

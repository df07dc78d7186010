"""Stage 5 fails closed: whatever an anonymizer does, no original speech is found below exp/<system>/data."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf
from conftest import make_source

from espnet_musa import registry, stamp
from espnet_musa.anonymizers.base import Anonymizer
from espnet_musa.config import FormatConfig, Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.pipeline import format as formatting
from espnet_musa.pipeline.anonymize import Run, shard
from espnet_musa.pipeline.score import pairs

RECIPE = Recipe(
    "test", ("tested",), (), {}, format=FormatConfig(roles=("utility",)), anonymize_roles=("utility",), seed=3
)


class Probe(Anonymizer):
    """Does what the class attribute says."""

    behaviour = "reverse"

    def convert(self, wav, target, rng):
        noise = 0.01 * rng.standard_normal(len(wav)).astype(np.float32)
        if self.behaviour == "reverse":
            return wav[::-1] + noise
        if self.behaviour == "loud":
            return 9 * (wav[::-1] + noise)
        if self.behaviour == "raise":
            raise ValueError("odd spectrum")
        if self.behaviour == "NaN":
            return np.where(np.arange(len(wav)) == 7, np.nan, wav[::-1]).astype(np.float32)
        if self.behaviour == "silence":
            return np.zeros_like(wav)
        if self.behaviour == "short":
            return wav[: len(wav) // 2][::-1]
        if self.behaviour == "louder input":
            return 1.5 * wav
        return wav


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A recipe directory with one formatted set and the system `tested`."""
    systems = tmp_path / "conf" / "systems"
    systems.mkdir(parents=True)
    (systems / "tested.yaml").write_text("description: d\nreference: r\nanonymizer: tested\n")
    monkeypatch.setitem(registry.ANONYMIZERS, "tested", f"{__name__}:Probe")
    make_source(tmp_path / "data" / "s", utterances=3)
    formatting.plan(RECIPE, tmp_path, "", force=False)
    formatting.shard(RECIPE, tmp_path, "", (1, 1))
    formatting.finish(RECIPE, tmp_path, "")
    return tmp_path


def run(root, nj=1, recipe=RECIPE, force=False):
    stage = Run(recipe, root, "tested")
    stage.plan(force=force)
    for job in range(nj, 0, -1):
        shard([stage], (job, nj), "cpu")
    stage.finish()
    return {p.name: p.read_bytes() for p in (root / "exp/tested/data/s/wav").iterdir()}


def test_published_set_fulfils_its_contract(root):
    run(root)
    data = DataDir.read(root / "exp/tested/data/s", "anon")
    assert len(data.utts) == 6 and data.has("utt2target") and data.has("spk2gender")
    assert pairs(RECIPE, root, "tested", False)["s"][1].utts == data.utts


def test_same_bytes_for_any_number_of_jobs_and_other_bytes_for_another_seed(root):
    one = run(root)
    (root / "exp").rename(root / "exp1")
    assert run(root, nj=7) == one
    (root / "exp").rename(root / "exp7")
    assert run(root, recipe=Recipe(**{**RECIPE.__dict__, "seed": 4})) != one


def test_loud_output_is_not_clipped(root, monkeypatch):
    monkeypatch.setattr(Probe, "behaviour", "loud")
    run(root)
    for file in (root / "exp/tested/data/s/wav").iterdir():
        wav = sf.read(file)[0]
        peak = np.abs(wav).max()
        assert 0.999 < peak < 1 and (np.abs(wav) == peak).sum() == 1


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("raise", "utt 'a-0': ValueError: odd spectrum"),
        ("NaN", "utt 'a-0': RejectedOutput: sample 7 is NaN"),
        ("silence", "utt 'a-0': RejectedOutput: silent"),
        ("short", "utt 'a-0': RejectedOutput: 8000 samples made from 16000"),
        ("input", "utt 'a-0': RejectedOutput: a copy of the input"),
        ("louder input", "a copy of the input"),
    ],
)
def test_faulty_anonymizer_leaves_nothing(root, monkeypatch, behaviour, message):
    monkeypatch.setattr(Probe, "behaviour", behaviour)
    with pytest.raises(RuntimeError, match=message):
        run(root)
    assert not list((root / "exp").rglob("*.wav*")), "speech below exp/ after a failure"
    with pytest.raises(UserError, match=r"run stage 'anonymize' first"):
        pairs(RECIPE, root, "tested", False)


def test_good_utterances_are_kept_for_the_next_run(root, monkeypatch):
    data = DataDir.read(root / "dump/s", "audio")
    first = {utt: float(data.load(utt)[100]) for utt in data.utts}
    middle = sorted(first.values())[3]
    good = {f"{utt}.wav" for utt, value in first.items() if value < middle}
    assert len(good) == 3
    monkeypatch.setattr(
        Probe,
        "convert",
        lambda self, wav, target, rng: wav[::-1] if wav[100] < middle else np.zeros_like(wav),
    )
    with pytest.raises(RuntimeError):
        run(root)
    there = stamp.partial_of(root / "exp/tested/data/s") / "wav"
    assert {p.name for p in there.iterdir()} == good
    times = {p.name: p.stat().st_mtime_ns for p in there.iterdir()}
    monkeypatch.undo()
    monkeypatch.setitem(registry.ANONYMIZERS, "tested", f"{__name__}:Probe")
    run(root)
    wavs = root / "exp/tested/data/s/wav"
    assert {n: (wavs / n).stat().st_mtime_ns for n in good} == times


def test_second_run_does_nothing_and_changed_system_is_refused(root):
    run(root)
    before = stamp.read(root / "exp/tested/data/s")
    run(root)
    assert stamp.read(root / "exp/tested/data/s") == before
    (root / "conf/systems/tested.yaml").write_text(
        "description: d\nreference: r\nanonymizer: tested\ntarget: {policy: uniform, params: {low: 0, high: 1}}\n"
    )
    with pytest.raises(UserError, match=r"changed: system .*, targets .*--force true"):
        run(root)
    run(root, force=True)
    assert stamp.read(root / "exp/tested/data/s")["fields"] != before["fields"]


def test_scores_refuse_data_of_another_original(root):
    run(root)
    make_source(root / "data" / "s", utterances=2)
    formatting.plan(RECIPE, root, "", force=True)
    formatting.shard(RECIPE, root, "", (1, 1))
    formatting.finish(RECIPE, root, "")
    with pytest.raises(UserError, match="made from another version"):
        pairs(RECIPE, root, "tested", False)

"""Killed at a random instant, a stage goes on and ends with the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.slow
RECIPE = """
name: killed
corpora:
  mini:
    {train_speakers: 1, train_utterances: 2, eval_speakers: 3, enroll_utterances: 2, trial_utterances: 4,
     codec_speakers: 0}
systems: [orig, b2_mcadams]
evaluators: [asv_resemblyzer]
format: {roles: [enroll, trial, utility, attack_train]}
"""
STAGES = ("data", "format", "anonymize", "score")


def start(root: Path, stage: str, *more: str) -> subprocess.Popen:
    command = [
        REPOSITORY / "run.sh",
        "--config",
        "conf/recipe.yaml",
        "--stage",
        stage,
        "--stop-stage",
        stage,
        *more,
    ]
    environment = {**os.environ, "CALLED_FROM": str(root), "MARK": str(root)}
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def kill(process: subprocess.Popen, root: Path) -> None:
    """SIGKILL to the driver and to every process that it started, wherever it put them."""
    mark = f"MARK={root}".encode()
    with contextlib.suppress(ProcessLookupError):  # it was quicker than we
        os.killpg(process.pid, signal.SIGKILL)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
    process.wait()


def make(root: Path) -> Path:
    (root / "conf").mkdir(parents=True)
    (root / "conf/recipe.yaml").write_text(RECIPE)
    return root


def tree(root: Path) -> dict[str, str]:
    """Hash of every file that the stages made; the seconds that a stage took do not count."""
    out = {}
    for path in sorted(
        p for place in ("data", "dump", "downloads", "exp") for p in (root / place).rglob("*")
    ):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or name.startswith(("exp/log", "exp/cache")):
            continue
        content = path.read_bytes().replace(str(root).encode(), b"ROOT")
        if path.name == ".done.json":
            content = json.dumps({k: v for k, v in json.loads(content).items() if k != "seconds"}).encode()
        out[name] = hashlib.sha256(content).hexdigest()
    return out


def test_killed_runs_end_with_the_same_bytes(tmp_path):
    calm, killed = make(tmp_path / "calm"), make(tmp_path / "killed")
    dice = random.Random(0)
    interrupted = 0
    for stage in STAGES:
        begun = time.monotonic()
        process = start(calm, stage, "--nj", "2")
        said, _ = process.communicate()
        assert process.returncode == 0, said.decode()
        typical = time.monotonic() - begun
        for nj in ("2", "3"):
            process = start(killed, stage, "--nj", nj)
            time.sleep(typical * dice.uniform(0.2, 0.95))
            interrupted += process.poll() is None
            kill(process, killed)
        process = start(killed, stage, "--nj", "1")
        said, _ = process.communicate()
        assert process.returncode == 0, said.decode()
    assert interrupted >= 4, "hardly a run was still alive when it was killed: the test tests nothing"
    expected, found = tree(calm), tree(killed)
    # data/ holds absolute paths of the audio and fingerprints of them, so compare what the user gets
    for place in ("dump/", "exp/"):
        names = {n for n in expected if n.startswith(place)}
        assert names == {n for n in found if n.startswith(place)}
    speech = {
        n for n in expected if n.endswith((".wav", "scores", "metrics.json", "text", "utt2spk", "utt2target"))
    }
    assert len(speech) > 50
    assert {n for n in speech if expected[n] != found[n]} == set()
    assert not [n for n in found if ".partial" in n or ".tmp" in n]

"""A full disk and a read-only place: one clear error, the old state intact, nothing half-written under a name."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
from conftest import REPOSITORY, make_source

from espnet_musa.data.audio import write_wav

RECIPE = "name: t\nsystems: [b2_mcadams]\nevaluators: []\ncorpora: {mini: {}}\nformat: {roles: [utility]}\n"


def can_mount() -> bool:
    """Whether this process may make a small file system of its own."""
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["full", "read-only"])
@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small file system")
def test_formatting_onto_a_bad_disk(tmp_path, kind):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/recipe.yaml").write_text(RECIPE)
    make_source(tmp_path / "data" / "s", utterances=3, seconds=2.0)
    (tmp_path / "dump").mkdir()
    options = "size=150k" if kind == "full" else "ro"  # six utterances of 64 kB
    verb = f"{sys.executable} -m espnet_musa.bin.format --config conf/recipe.yaml"
    script = f"mount -t tmpfs -o {options} none dump && {verb}; code=$?; find dump -type f | sort; exit $code"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "free space or make it writable" in done.stderr
    files = done.stdout.split()
    assert not [f for f in files if ".tmp" in f]
    assert not [f for f in files if not f.startswith("dump/s.partial/")], "something was published"


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.wav"
    write_wav(path, np.full(1000, 0.1, np.float32), 16000)

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sf.SoundFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_wav(path, np.full(1000, 0.5, np.float32), 16000)
    monkeypatch.undo()
    assert abs(sf.read(path)[0][0] - 0.1) < 1e-3
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]

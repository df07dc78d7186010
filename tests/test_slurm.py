"""utils/slurm.py on a real one-node Slurm: same command line, logs and exit codes as utils/run.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import slurm  # noqa: F401  (a fixture)

SLURM = Path(__file__).resolve().parent.parent / "utils" / "slurm.py"
ENDED = re.compile(r"# Ended \(code (\d+)\) after \d+\.\d s")


def wait_until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.fixture
def submit(slurm, tmp_path):  # noqa: F811
    started = []

    def call(*words: object, wait: bool = True):
        process = subprocess.Popen(
            [sys.executable, str(SLURM), *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, **slurm},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        if wait:
            process.out, process.err = process.communicate(timeout=120)
        return process

    yield call
    for process in started:  # one that a failed test left behind
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=30)


def body(log: Path) -> list[str]:
    """Output lines of a log, after checking its first and last line."""
    first, *lines, last = log.read_text().splitlines()
    assert first.startswith("# ") and ENDED.fullmatch(last)
    return lines


def test_four_shards(submit, tmp_path):
    code = "import sys; open(f'out.{sys.argv[1]}', 'w').write(str(int(sys.argv[1]) ** 2)); print('did', sys.argv[1:])"
    done = submit("JOB=1:4", "log/square.JOB.log", sys.executable, "-c", code, "JOB", "a b; c JOB")
    assert (done.returncode, done.out, done.err) == (0, "", "")
    assert [(tmp_path / f"out.{i}").read_text() for i in (1, 2, 3, 4)] == ["1", "4", "9", "16"]
    assert [body(tmp_path / f"log/square.{i}.log") for i in (1, 2)] == [
        ["did ['1', 'a b; c 1']"],
        ["did ['2', 'a b; c 2']"],
    ]
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == [f"square.{i}.log" for i in (1, 2, 3, 4)]


def test_the_log_is_that_of_run_py(submit, tmp_path):
    words = ("JOB=1:1", "JOB.log", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert submit(*words).returncode == 1
    from_slurm = (tmp_path / "1.log").read_text()
    subprocess.run([sys.executable, SLURM.with_name("run.py"), *words], cwd=tmp_path, capture_output=True)

    def without_seconds(text: str) -> str:
        return re.sub(r"after .* s", "", text)

    assert without_seconds((tmp_path / "1.log").read_text()) == without_seconds(from_slurm)


def test_failed_jobs_are_named(submit, tmp_path):
    done = submit(
        "JOB=1:3", "x.JOB.log", "sh", "-c", "echo hello JOB; test JOB -ne 2 || exit 7; test JOB -ne 3"
    )
    assert done.returncode == 1
    assert "slurm.py: 2 of 3 jobs failed:" in done.err
    assert "job 2, code 7: x.2.log" in done.err and "job 3, code 1: x.3.log" in done.err
    assert "  hello 2\n" in done.err
    assert body(tmp_path / "x.1.log") == ["hello 1"]


def test_bad_input_ends_with_2(submit):
    assert submit("x.log", "sh", "-c", "exit 2").returncode == 2


def test_resources_reach_the_job(submit, tmp_path):
    script = "echo $SLURM_JOB_PARTITION $OMP_NUM_THREADS $SLURM_CPUS_PER_TASK $SLURM_MEM_PER_NODE $CUDA_VISIBLE_DEVICES"
    options = ("--partition", "side", "--num-threads", 1, "--mem", "500M", "--gpu", 1, "--time", "5")
    assert submit(*options, "x.log", "sh", "-c", script).returncode == 0
    assert body(tmp_path / "x.log") == ["side 1 1 500 0"]


def test_what_sbatch_refuses_is_told(submit, tmp_path):
    done = submit("--partition", "nowhere", "x.log", "true")
    assert done.returncode == 2
    assert "sbatch refused" in done.err and "invalid partition specified: nowhere" in done.err
    assert not list(tmp_path.iterdir())


def test_a_signal_cancels_the_array(submit, slurm, tmp_path):  # noqa: F811
    running = submit("JOB=1:2", "JOB.log", "sh", "-c", "echo $$ >pid.JOB; exec sleep 100", wait=False)
    assert wait_until((tmp_path / "pid.1").exists)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=30)
    assert running.returncode == -signal.SIGTERM
    assert "cancelled job" in err
    squeue = ["squeue", "--noheader", "--format", "%T"]
    assert wait_until(lambda: subprocess.check_output(squeue, env={**os.environ, **slurm}).strip() == b"")
    assert not Path(f"/proc/{(tmp_path / 'pid.1').read_text().strip()}").exists()
    assert not list(tmp_path.glob(".slurm-*"))


def test_a_job_cancelled_by_others_counts_as_failed(submit, slurm, tmp_path):  # noqa: F811
    running = submit(
        "x.log", "sh", "-c", "echo $SLURM_JOB_ID >id.new; mv id.new id; exec sleep 100", wait=False
    )
    assert wait_until((tmp_path / "id").exists)
    subprocess.run(
        ["scancel", (tmp_path / "id").read_text().strip()], env={**os.environ, **slurm}, check=True
    )
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the job failed:\n  killed by SIGTERM: x.log" in err
    assert re.search(r"job 1, Slurm: .* CANCELLED", err)
    assert body(tmp_path / "x.log") == ["# Killed by SIGTERM"]


@pytest.mark.slow
def test_a_job_that_leaves_no_code_counts_as_failed(submit):
    """As when a node dies: the wrapper is killed without a word, then the job leaves the queue."""
    done = submit("JOB=1:2", "JOB.log", "sh", "-c", "test JOB = 1 || kill -9 $PPID")
    assert done.returncode == 1
    assert "slurm.py: 1 of 2 jobs failed:\n  job 2, ended without a status: 2.log" in done.err


def test_without_slurm_the_remedy_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, SLURM, "x.log", "true"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "sbatch not found" in done.stderr
    assert not list(tmp_path.iterdir())

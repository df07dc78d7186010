"""utils/run.py: substitution, logs, exit codes, limits, signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parent.parent / "utils" / "run.py"
ENDED = re.compile(r"# Ended \(code (\d+)\) after \d+\.\d s")


def run(*words: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(RUN), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def ended(log: Path) -> int:
    """The exit code that the last line of a log tells."""
    return int(ENDED.fullmatch(log.read_text().splitlines()[-1])[1])


def wait_until(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_set_of_jobs_replaces_job_in_log_and_command(tmp_path):
    done = run("JOB=1:3", tmp_path / "log" / "x.JOB.log", "echo", "shard=JOB/3", "two words JOB")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for i in (1, 2, 3):
        first, output, last = (tmp_path / "log" / f"x.{i}.log").read_text().splitlines()
        assert first == f"# echo shard={i}/3 'two words {i}'"
        assert output == f"shard={i}/3 two words {i}"
        assert ENDED.fullmatch(last)[1] == "0"


def test_one_command_without_job_runs_words_as_they_are(tmp_path):
    log = tmp_path / "x.log"
    assert run(log, "printf", "%s", "a | b; $HOME *").returncode == 0
    # no shell in between, and an output without a final newline does not swallow the last line
    assert log.read_text().splitlines()[1] == "a | b; $HOME *"
    assert ended(log) == 0


def test_other_names_ranges_and_options_with_equals_sign(tmp_path):
    assert (
        run("--num-threads=3", "K=7:8", tmp_path / "K.log", "sh", "-c", "echo $OMP_NUM_THREADS").returncode
        == 0
    )
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["7.log", "8.log"]
    assert (tmp_path / "7.log").read_text().splitlines()[1] == "3"


def test_failed_jobs_are_named_with_their_log_and_its_end(tmp_path):
    script = "echo out JOB; echo err >&2; test JOB -ne 2 || exit 7; test JOB -ne 3 || kill -9 $$"
    done = run("JOB=1:4", tmp_path / "x.JOB.log", "sh", "-c", script)
    assert done.returncode == 1
    assert "2 of 4 jobs failed" in done.stderr
    assert f"job 2, code 7: {tmp_path}/x.2.log" in done.stderr
    assert f"job 3, killed by SIGKILL: {tmp_path}/x.3.log" in done.stderr
    assert "  out 2\n  err\n" in done.stderr and "out 3" not in done.stderr
    assert ended(tmp_path / "x.1.log") == ended(tmp_path / "x.4.log") == 0
    assert ended(tmp_path / "x.2.log") == 7
    assert ended(tmp_path / "x.3.log") == 137
    assert "# Killed by SIGKILL\n" in (tmp_path / "x.3.log").read_text()


@pytest.mark.parametrize(("codes", "expected"), [("2 2", 2), ("2 0", 2), ("2 1", 1), ("3 0", 1), ("0 0", 0)])
def test_exit_code_2_only_if_all_failures_are_bad_input(tmp_path, codes, expected):
    script = f"set -- {codes}; shift $((JOB - 1)); exit $1"
    assert run("JOB=1:2", tmp_path / "JOB.log", "sh", "-c", script).returncode == expected


def test_a_command_that_does_not_exist(tmp_path):
    done = run(tmp_path / "x.log", "no-such-command", "a")
    assert done.returncode == 1
    assert "the job failed" in done.stderr and "no-such-command: No such file or directory" in done.stderr
    assert ended(tmp_path / "x.log") == 127


def test_a_new_run_replaces_the_old_log(tmp_path):
    run(tmp_path / "x.log", "echo", "first")
    run(tmp_path / "x.log", "echo", "second")
    assert "first" not in (tmp_path / "x.log").read_text()


def test_the_home_directory_is_not_written_into_the_log(tmp_path):
    home = "/home/somebody"
    log = tmp_path / "x.log"
    words = (f"{home}/exp", f"--out={home}/a b", f"/data{home}/x", f"{home}2/y", "plain")
    assert run(log, "true", *words, HOME=home).returncode == 0
    first = log.read_text().splitlines()[0]
    assert first == f"# true $HOME/exp '--out=$HOME/a b' /data{home}/x {home}2/y plain"


def test_max_jobs_run_limits_and_still_runs_all(tmp_path):
    script = "echo start >>order; sleep 0.3; echo stop >>order"
    words = ("JOB=1:4", "JOB.log", "sh", "-c", script)
    subprocess.run([sys.executable, RUN, "--max-jobs-run", "1", *words], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "order").read_text().split() == ["start", "stop"] * 4
    (tmp_path / "order").unlink()
    subprocess.run([sys.executable, RUN, *words], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "order").read_text().split()[:2] == ["start", "start"]


def test_gpus_are_given_in_turn(tmp_path):
    words = ("JOB=1:3", tmp_path / "JOB.log", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert run("--gpu", 1, *words, CUDA_VISIBLE_DEVICES="4,6").returncode == 0
    assert [(tmp_path / f"{i}.log").read_text().splitlines()[1] for i in (1, 2, 3)] == ["4", "6", "4"]
    done = run("--gpu", 3, *words, CUDA_VISIBLE_DEVICES="4,6")
    assert (done.returncode, done.stderr) == (2, "run.py: --gpu 3: this machine shows 2 GPU(s)\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected [options]"),
        (("x.log",), "expected [options]"),
        (("JOB=1:2", "x.log", "true"), "2 jobs would write one log; put JOB into 'x.log'"),
        (("JOB=3:1", "JOB.log", "true"), "JOB=3:1 is an empty range"),
        (("--max-jobs-run", "0", "x.log", "true"), "--max-jobs-run 0: expected 1 or more"),
        (("--gpu", "-1", "x.log", "true"), "--gpu -1: expected 0 or more"),
        (("--men", "4G", "x.log", "true"), "--men"),
        (("--num-threads", "many", "x.log", "true"), "invalid int value: 'many'"),
        (("/dev/null/x.log", "true"), "cannot write the log /dev/null/x.log"),
    ],
)
def test_a_wrong_command_line_ends_with_2(tmp_path, words, message):
    done = subprocess.run([sys.executable, RUN, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_jobs_and_all_they_started(tmp_path, number):
    script = "sleep 100 & echo $! >>pids; echo $$ >>pids; touch up.JOB; wait"
    command = [sys.executable, RUN, "JOB=1:2", "JOB.log", "bash", "-c", script]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # tests in the background inherit a deaf ear
    )  # fmt: skip
    assert wait_until(lambda: (tmp_path / "up.1").exists() and (tmp_path / "up.2").exists())
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == -number  # ended by the signal: the calling shell stops too
    assert stderr == f"run.py: stopped by {number.name}\n"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 4
    assert wait_until(lambda: not any(map(alive, pids)))
    assert ended(tmp_path / "1.log") == ended(tmp_path / "2.log") == 143


def test_a_job_that_ignores_sigterm_is_killed(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'w'); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, RUN, "x.log", sys.executable, "-c", code], cwd=tmp_path)
    assert wait_until((tmp_path / "up").exists)
    process.terminate()
    process.wait(20)
    assert ended(tmp_path / "x.log") == 137


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_no_job_outlives_a_killed_runner(tmp_path):
    command = [sys.executable, RUN, "x.log", "sh", "-c", "echo $$ >pid.new; mv pid.new pid; exec sleep 100"]
    process = subprocess.Popen(command, cwd=tmp_path)
    assert wait_until((tmp_path / "pid").exists)
    process.kill()
    process.wait()
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not alive(pid))


def test_progress_is_shown_on_a_terminal_only(tmp_path):
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, RUN, "JOB=1:2", "JOB.log", "sleep", "0.2"]
    subprocess.run(command, cwd=tmp_path, stderr=follower, check=True, timeout=60)
    os.close(follower)
    shown = os.read(leader, 4096).decode()
    os.close(leader)
    assert "0 of 2 jobs done" in shown and shown.endswith("\r\033[K")


@pytest.mark.parametrize("script", [RUN, RUN.with_name("slurm.py")])
def test_standard_library_only(script):
    """`-S -I` hides site-packages: the runners work before any environment exists."""
    code = f"import runpy, sys; sys.path.insert(0, {str(RUN.parent)!r}); runpy.run_path({str(script)!r})"
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, timeout=60)

#!/usr/bin/env python3
"""Run a command, or a numbered set of them, as one Slurm job array, and wait for it.

Usage: utils/slurm.py [options] [JOB=1:n] LOG command [argument ...]

The command line, the logs and the exit codes are those of `utils/run.py`, so `cmd.sh` alone decides where a
recipe runs. Example:

    utils/slurm.py --partition main --mem 8G JOB=1:8 exp/log/format.JOB.log \\
        python -m espnet_musa.bin.format --shard JOB/8

Site settings are options here or sbatch's own environment variables (SBATCH_PARTITION, SBATCH_ACCOUNT, ...).
The working directory and the logs have to lie on a file system that the nodes share. No accounting is needed:
every job leaves its exit code in a directory beside the log, which goes away at the end. A job that leaves the
queue without a code (killed by Slurm, node lost) counts as failed. On SIGINT, SIGTERM or SIGHUP the array is
cancelled.

It runs before any environment exists: standard library only.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import run

SITE_OPTIONS = ("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude")
LOOK = 0.5  # seconds between two looks at the exit codes
ASK = (1.0, 10.0)  # seconds between two questions to the controller: at first, at most
SETTLE = (
    15.0  # seconds an exit code may take to appear after its job has left the queue (network file systems)
)


def main(argv: list[str]) -> int:
    """Submit what the command line says and wait; return the exit code."""
    parser = run.option_parser(__doc__)
    for name in SITE_OPTIONS:
        parser.add_argument(f"--{name}", help="handed to sbatch")
    options, jobs = run.parse(parser, argv)
    signals = run.Signals()
    for job in jobs:
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.unlink(missing_ok=True)  # an old log must not pass for this run's
        except OSError as error:
            raise run.CommandLineError(f"cannot write the log {job.log}: {error.strerror}") from None
    state = Path(tempfile.mkdtemp(prefix=".slurm-", dir=jobs[0].log.parent)).resolve()
    try:
        return _submit_and_wait(options, jobs, state, signals)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _submit_and_wait(options: Namespace, jobs: list[run.Job], state: Path, signals: run.Signals) -> int:
    for job in jobs:
        task = {**asdict(job), "log": str(job.log)}
        (state / f"{job.index}.json").write_text(json.dumps(task), encoding="utf-8")
    array = submit(options, jobs, state)
    codes = wait(array, jobs, state, signals)
    if signals.received:
        subprocess.run(["scancel", "--quiet", array], check=False, start_new_session=True)
        print(f"slurm.py: cancelled job {array}: {signal.Signals(signals.received).name}", file=sys.stderr)
        shutil.rmtree(state, ignore_errors=True)
        signals.die()
    return run.finish("slurm.py", jobs, codes, _words_of_slurm(jobs, codes, state))


def submit(options: Namespace, jobs: list[run.Job], state: Path) -> str:
    """Hand the array to Slurm.

    Returns:
        Its job id.

    Raises:
        CommandLineError: if sbatch is missing or refuses, with its own words.
    """
    at_once = f"%{options.max_jobs_run}" if options.max_jobs_run else ""
    request = {
        "array": f"{jobs[0].index}-{jobs[-1].index}{at_once}",
        "job-name": jobs[0].log.name.split(".")[0],
        "output": str(state / "%a.slurm"),
        "mem": options.mem,
        "time": options.time,
        "gres": f"gpu:{options.gpu}" if options.gpu else None,
        "cpus-per-task": options.num_threads,
        **{name: getattr(options, name) for name in SITE_OPTIONS},
    }
    flags = [f"--{name}={value}" for name, value in request.items() if value is not None]
    script = (
        f"#!/bin/sh\nexec {shlex.join([sys.executable, os.path.abspath(__file__), '--task', str(state)])}\n"
    )
    try:
        # a session of its own: Ctrl-C on the terminal must not stop sbatch between submitting and telling the id
        done = subprocess.run(
            ["sbatch", "--parsable", *flags],
            input=script,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise run.CommandLineError(
            "sbatch not found; run on a Slurm machine, or set cmd.sh to run.py"
        ) from None
    if done.returncode:
        raise run.CommandLineError(f"sbatch refused:\n{done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]  # `id` or `id;cluster`


def wait(array: str, jobs: list[run.Job], state: Path, signals: run.Signals) -> dict[int, int]:
    """Wait until every job has left its exit code, or has left the queue without one (then `NO_STATUS`)."""
    codes: dict[int, int] = {}
    progress = run.Progress(len(jobs))
    interval, next_question, gone_since, note = ASK[0], time.monotonic() + ASK[0], None, ""
    while len(codes) < len(jobs) and not signals.received:
        _collect(jobs, state, codes)
        now = time.monotonic()
        if now > next_question:
            interval = min(interval * 1.5, ASK[1])
            next_question = now + interval
            states = _queue(array)
            gone_since = None if states else gone_since or now
            note = "" if states is None else f" ({', '.join(states)})" if states else " (left the queue)"
        if gone_since and now - gone_since > SETTLE:
            codes.update({job.index: run.NO_STATUS for job in jobs if job.index not in codes})
        progress.show(codes.values(), note)
        time.sleep(LOOK)
    progress.clear()
    return codes


def _collect(jobs: list[run.Job], state: Path, codes: dict[int, int]) -> None:
    present = set(os.listdir(state))
    for job in jobs:
        if job.index not in codes and f"{job.index}.code" in present:
            codes[job.index] = int((state / f"{job.index}.code").read_text())


def _queue(array: str) -> list[str] | None:
    """States of the array's jobs still in the queue, such as `RUNNING`; empty once it has left.

    None if the controller did not answer: that says nothing about the jobs, so the caller waits on.
    """
    command = ["squeue", "--noheader", "--jobs", array, "--format", "%T"]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        return [] if "Invalid job id" in done.stderr else None  # forgotten: it ended some minutes ago
    return sorted(set(done.stdout.split()))


def _words_of_slurm(jobs: list[run.Job], codes: dict[int, int], state: Path) -> str:
    """What Slurm itself wrote for the failed jobs, such as `CANCELLED ... DUE TO TIME LIMIT`."""
    said = []
    for job in jobs:
        path = state / f"{job.index}.slurm"
        if codes[job.index] and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            said += [f"  job {job.index}, Slurm: {line}" for line in text.splitlines()[-3:]]
    return "\n".join(said)


def run_task(state: Path) -> int:
    """On the node: run the job of this array index, then leave its exit code for `wait`."""
    index = int(os.environ["SLURM_ARRAY_TASK_ID"])
    task = json.loads((state / f"{index}.json").read_text(encoding="utf-8"))
    job = run.Job(index, Path(task["log"]), task["command"], task["environment"])
    signals = run.Signals()
    try:
        code = run.run_jobs([job], 1, signals).get(index, 128 + (signals.received or 0))
    except run.CommandLineError as problem:
        print(problem)
        code = run.BAD_INPUT
    if state.is_dir():  # not any more if slurm.py was stopped
        part = state / f"{index}.part"
        part.write_text(str(code))
        part.rename(state / f"{index}.code")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run_task(Path(sys.argv[2])) if sys.argv[1:2] == ["--task"] else main(sys.argv[1:]))
    except run.CommandLineError as problem:
        print(f"slurm.py: {problem}", file=sys.stderr)
        sys.exit(run.BAD_INPUT)

#!/usr/bin/env python3
"""Run a command, or a numbered set of them, on this machine, one log each.

Usage: utils/run.py [options] [JOB=1:n] LOG command [argument ...]

JOB (any name will do) is replaced by 1, 2, ... n in LOG and in every word of the command, and the n commands
run side by side. Example:

    utils/run.py --max-jobs-run 4 JOB=1:8 exp/log/format.JOB.log python -m espnet_musa.bin.format --shard JOB/8

The calling convention is that of Kaldi's run.pl, so `utils/slurm.py` or a site's own queue.pl can stand in.
Differs from Kaldi: the words are executed as they are, with no shell between; a pipeline is
`bash -c 'a | b'`. A log begins with `# <command>` and ends with `# Ended (code N) after S s`; the runner adds
no host, user or home directory to it.

Exit code: 0 if every job ended with 0; 2 if every failed job ended with 2 (bad input); otherwise 1. On SIGINT,
SIGTERM or SIGHUP the jobs are stopped first, then this process ends by that signal.

It runs before any environment exists: standard library only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

GRACE = 5.0  # seconds between SIGTERM and SIGKILL when jobs are stopped
POLL = 0.05  # seconds between two looks at the running jobs
TAIL = 15  # log lines shown of the first job that failed
BAD_INPUT = 2
NO_STATUS = -1  # code of a job that left none: its node died, or the scheduler killed it


class CommandLineError(Exception):
    """A wrong command line or a log that cannot be written; exit code 2."""


@dataclass(frozen=True)
class Job:
    """One command and its log, JOB already replaced."""

    index: int
    log: Path
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)  # added to ours


# ----------------------------------------------------------------------------------------------------------
# Command line, shared with slurm.py


def option_parser(description: str) -> argparse.ArgumentParser:
    """The options every runner takes; what stands behind them goes to `rest`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--mem", help="memory a job needs, such as 8G (a request to Slurm; not enforced here)"
    )
    parser.add_argument("--time", help="longest duration of a job, such as 4:00:00 (likewise)")
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="GPUs a job needs (default 0)")
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads of a job; sets OMP_NUM_THREADS")
    parser.add_argument("--max-jobs-run", type=int, metavar="N", help="jobs at once (default: all)")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="[JOB=1:n] LOG command ...")
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[Job]]:
    """Read the command line and expand JOB.

    Raises:
        CommandLineError: if the log or the command is missing, or jobs would share one log.
    """
    options = parser.parse_args(argv)
    for name in ("num_threads", "max_jobs_run"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise CommandLineError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    if options.gpu < 0:
        raise CommandLineError(f"--gpu {options.gpu}: expected 0 or more")
    rest = options.rest
    spec = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", rest[0]) if rest else None
    name, indices = None, [1]
    if spec:
        name, first = spec[1], int(spec[2])
        indices = list(range(first, int(spec[3] or first) + 1))
        rest = rest[1:]
        if not indices:
            raise CommandLineError(f"{spec[0]} is an empty range; expected first:last with first <= last")
    if len(rest) < 2:
        raise CommandLineError("expected [options] [JOB=1:n] LOG command ...; --help tells more")
    if name and len(indices) > 1 and name not in rest[0]:
        raise CommandLineError(f"{len(indices)} jobs would write one log; put {name} into '{rest[0]}'")
    threads = {"OMP_NUM_THREADS": str(options.num_threads)} if options.num_threads else {}
    return options, [_expand(name, i, rest, threads) for i in indices]


def _expand(name: str | None, index: int, words: list[str], environment: dict[str, str]) -> Job:
    log, *command = [word.replace(name, str(index)) for word in words] if name else words
    return Job(index, Path(log), command, environment)


# ----------------------------------------------------------------------------------------------------------
# One job and its log


def shown(command: list[str]) -> str:
    """The command as one line for a shell, with the home directory written as $HOME (logs get published)."""
    line = shlex.join(command).replace("\n", "\\n")
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "$HOME", line) if home else line


def signal_name(code: int) -> str | None:
    """`SIGKILL` for 137, following the shell's 128 + number; None if the code means no signal."""
    try:
        return signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None


class Running:
    """A started job: its process, in a process group of its own, and its open log."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._start = time.monotonic()
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            # O_APPEND: the job's output, our first and our last line never overwrite one another
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            self._log = os.open(job.log, flags, 0o666)
        except OSError as error:
            raise CommandLineError(f"cannot write the log {job.log}: {error.strerror}") from None
        os.write(self._log, f"# {shown(job.command)}\n".encode())
        self._process, self._code = None, 0
        try:
            self._process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **job.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            os.write(self._log, f"{job.command[0]}: {error.strerror}\n".encode())
            self._code = 127 if isinstance(error, FileNotFoundError) else 126

    def poll(self) -> int | None:
        """Exit code (128 + n after signal n) if the job has ended, and then its log is closed; else None."""
        code = self._process.poll() if self._process else self._code
        if code is None:
            return None
        code = 128 - code if code < 0 else code
        seconds = time.monotonic() - self._start
        end = f"# Killed by {signal_name(code)}\n" if signal_name(code) else ""
        end += f"# Ended (code {code}) after {seconds:.1f} s\n"
        os.write(self._log, ("" if _ends_with_newline(self.job.log) else "\n").encode() + end.encode())
        os.close(self._log)
        return code

    def kill(self, signum: int) -> None:
        """Send a signal to the job and to everything it started."""
        try:
            if self._process:
                os.killpg(self._process.pid, signum)
        except ProcessLookupError:
            pass


def _die_with_parent() -> None:
    """In the child: ask Linux for SIGTERM when the runner dies, even by SIGKILL, so no job outlives it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)  # the first line is always there
        return file.read(1) == b"\n"


# ----------------------------------------------------------------------------------------------------------
# All jobs


class Signals:
    """Remembers the first SIGINT, SIGTERM or SIGHUP; the loops look at `received` and end in good order."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: object) -> None:
        self.received = self.received or number

    def die(self) -> None:
        """End this process by the signal it got, so that the calling shell sees what happened and stops too."""
        signal.signal(self.received, signal.SIG_DFL)
        os.kill(os.getpid(), self.received)


class Progress:
    """`3 of 8 jobs done; <what the first running one says>` on one line of a terminal, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self._total, self._last = total, ""
        self._active = sys.stderr.isatty()

    def show(self, codes: Iterable[int], note: str = "") -> None:
        """Redraw the line if it changed."""
        codes = list(codes)
        failed = sum(code != 0 for code in codes)
        text = f"{len(codes)} of {self._total} jobs done" + (f", {failed} failed" if failed else "") + note
        if self._active and text != self._last:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._last = text

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        if self._active:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def last_line(log: Path, width: int = 100) -> str:
    """The last line of a log, cut to `width` characters: what a job says of itself."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1000))
        lines = stream.read().decode(errors="replace").splitlines()
    return lines[-1][:width] if lines else ""


def run_jobs(jobs: list[Job], at_once: int, signals: Signals) -> dict[int, int]:
    """Run the jobs on this machine, at most `at_once` at a time.

    Returns:
        Exit code by job index. Jobs not started when a signal came are absent; started ones were stopped.
    """
    waiting, running, codes = list(jobs), [], {}
    progress = Progress(len(jobs))
    try:
        while (waiting or running) and not signals.received:
            while waiting and len(running) < at_once and not signals.received:
                running.append(Running(waiting.pop(0)))
            running = _reap(running, codes)
            if running:
                progress.show(codes.values(), "; " + last_line(running[0].job.log))
                time.sleep(POLL)
    finally:
        _stop(running, codes)
        progress.clear()
    return codes


def _reap(running: list[Running], codes: dict[int, int]) -> list[Running]:
    """Note the codes of the jobs that have ended; return the others."""
    alive = []
    for one in running:
        code = one.poll()
        if code is None:
            alive.append(one)
        else:
            codes[one.job.index] = code
    return alive


def _stop(running: list[Running], codes: dict[int, int]) -> None:
    """SIGTERM, some seconds to obey, SIGKILL for what is left of each process group."""
    everything, deadline = running, time.monotonic() + GRACE
    for one in everything:
        one.kill(signal.SIGTERM)
    while running and time.monotonic() < deadline:
        running = _reap(running, codes)
        time.sleep(POLL)
    for one in everything:
        one.kill(signal.SIGKILL)
    while running:
        running = _reap(running, codes)
        time.sleep(POLL)


# ----------------------------------------------------------------------------------------------------------
# The end


def finish(name: str, jobs: list[Job], codes: dict[int, int], details: str = "") -> int:
    """Say which jobs failed and why; return the exit code of the runner.

    Args:
        name: of the runner, to begin the message with.
        jobs: all of them.
        codes: exit code by job index.
        details: what else is known, such as the words of a scheduler.
    """
    failed = [job for job in jobs if codes[job.index] != 0]
    if not failed:
        return 0
    what = f"{len(failed)} of {len(jobs)} jobs" if len(jobs) > 1 else "the job"
    print(f"{name}: {what} failed:", file=sys.stderr)
    for job in failed:
        label = f"job {job.index}, " if len(jobs) > 1 else ""
        print(f"  {label}{_reason(codes[job.index])}: {job.log}", file=sys.stderr)
    if details:
        print(details, file=sys.stderr)
    if failed[0].log.is_file():
        print(f"Last lines of {failed[0].log}:", file=sys.stderr)
        for line in failed[0].log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
            print(f"  {line}", file=sys.stderr)
    return BAD_INPUT if all(codes[job.index] == BAD_INPUT for job in failed) else 1


def _reason(code: int) -> str:
    if code == NO_STATUS:
        return "ended without a status"
    return f"killed by {signal_name(code)}" if signal_name(code) else f"code {code}"


def with_gpus(jobs: list[Job], needed: int) -> list[Job]:
    """Give the jobs the GPUs of this machine in turn, `needed` each, through CUDA_VISIBLE_DEVICES.

    Raises:
        CommandLineError: if a single job needs more than there are.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        listed = ",".join(sorted(p.name[6:] for p in Path("/dev").glob("nvidia[0-9]*")))
    gpus = [gpu for gpu in listed.split(",") if gpu]
    if not needed:
        return jobs
    if needed > len(gpus):
        raise CommandLineError(f"--gpu {needed}: this machine shows {len(gpus)} GPU(s)")
    shared = []
    for turn, job in enumerate(jobs):
        own = ",".join(gpus[(turn * needed + k) % len(gpus)] for k in range(needed))
        shared.append(Job(job.index, job.log, job.command, {**job.environment, "CUDA_VISIBLE_DEVICES": own}))
    return shared


def main(argv: list[str]) -> int:
    """Run what the command line says; return the exit code."""
    options, jobs = parse(option_parser(__doc__), argv)
    jobs = with_gpus(jobs, options.gpu)
    signals = Signals()
    codes = run_jobs(jobs, options.max_jobs_run or len(jobs), signals)
    if signals.received:
        print(f"run.py: stopped by {signal.Signals(signals.received).name}", file=sys.stderr)
        signals.die()
    return finish("run.py", jobs, codes)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CommandLineError as problem:
        print(f"run.py: {problem}", file=sys.stderr)
        sys.exit(BAD_INPUT)

"""What all verbs share: the options of a recipe run, and errors that become one message and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ..config import Recipe, load_recipe
from ..errors import UserError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def recipe_parser(description: str, *, sharded: bool = False) -> argparse.ArgumentParser:
    """A parser with the options of every stage; run the verb in the recipe's directory.

    Args:
        description: the verb's module docstring.
        sharded: add `--step plan|shard|finish|all`, `--shard JOB/NJ` and `--sets`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=Path("conf/recipe.yaml"), help="recipe (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting")
    parser.add_argument(
        "--force", type=boolean, default=False, help="replace outputs made from something else"
    )
    if sharded:
        parser.add_argument("--step", choices=("plan", "shard", "finish", "all"), default="all")
        parser.add_argument("--shard", type=shard, default=(1, 1), metavar="JOB/NJ", help="this job's part")
        parser.add_argument("--sets", default="", help="names of the sets (default: all)")
    return parser


def load(args: argparse.Namespace) -> tuple[Recipe, Path]:
    """The recipe of the parsed options and its directory (the current one)."""
    return load_recipe(args.config, args.set), Path(".")


def boolean(text: str) -> bool:
    """`true` or `false`; anything else is an error (never "any non-empty text is true")."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text == "true"


def shard(text: str) -> tuple[int, int]:
    """`JOB/NJ` as two numbers with 1 <= JOB <= NJ."""
    job, _, count = text.partition("/")
    if not (job.isdigit() and count.isdigit() and 1 <= int(job) <= int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is not JOB/NJ with 1 <= JOB <= NJ")
    return int(job), int(count)


def check_device(device: str, *, here: bool = True) -> None:
    """Refuse a device that cannot serve.

    Args:
        device: of neural systems; torch is imported for any but "cpu".
        here: it is this machine's; else only its spelling is looked at.

    Raises:
        UserError: if it cannot.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.device(device)
        if here:
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        said = next(iter(str(error).splitlines()), "not usable")
        raise UserError(f"--device {device}: {said}", expected="cpu, or a GPU as cuda or cuda:1") from None


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Let the user's errors inside begin with what they are about, such as `system 'b2_mcadams'`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def run_verb(main: Callable[[list[str]], None]) -> None:
    """Run a verb's main function and exit: 0 done, 2 the user's to cure, 130 interrupted; defects keep a traceback."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os._exit(0)  # the reader of our output has gone (e.g. `| head`)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = error.filename or error.filename2 or "the output"
        print(
            f"error: {where}: {error.strerror}; hint: free space or make it writable, then run the same command "
            "again: finished utterances are kept and what was published is intact",
            file=sys.stderr,
        )
        sys.exit(2)

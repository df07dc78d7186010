"""One log format, and progress that suits both a terminal and a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_EVERY = 5.0  # seconds between two progress lines in a log


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; messages go to stderr as `12:34:56 LEVEL name: text`."""
    root = logging.getLogger("espnet_musa")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False
    return logging.getLogger(name if name.startswith("espnet_musa") else f"espnet_musa.{name}")


def progress(items: Iterable[T], *, total: int | None, desc: str) -> Iterator[T]:
    """Iterate with a bar on a terminal, or with a line every 5 s in a log."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=desc, leave=False)
        return
    log = get_logger("progress")
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            log.info("%s: %d of %s", desc, done, "?" if total is None else total)
        yield item

"""One log format, and progress that suits both a terminal and a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
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


def progress(
    items: Iterable[T],
    *,
    total: float | None,
    desc: str,
    amount: Callable[[T], float] = lambda item: 1,
    unit: str = "",
) -> Iterator[T]:
    """Iterate with a bar on a terminal, or with a line every 5 s in a log.

    Args:
        items: what to iterate over.
        total: how much there is, None if that is not known.
        desc: what is being done.
        amount: how much an item is.
        unit: of total and amount, such as "s"; empty: items are counted.
    """
    if sys.stderr.isatty():
        form = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{n:.0f}}/{{total:.0f}} {unit} [{{elapsed}}<{{remaining}}]"
        with tqdm(total=total, desc=desc, leave=False, bar_format=form if unit else None) as bar:
            for item in items:
                yield item
                bar.update(amount(item))
        return
    log = get_logger("progress")
    last, done = time.monotonic(), 0.0
    for item in items:
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            log.info("%s: %.0f of %s", desc, done, "?" if total is None else f"{total:.0f} {unit}".rstrip())
        yield item
        done += amount(item)

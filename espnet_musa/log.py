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


class Meter:
    """How far something is: a bar on a terminal, a line every 5 s in a log. Use it in a `with` statement."""

    def __init__(self, total: float | None, desc: str, unit: str = "", *, shown: bool = True) -> None:
        """Begin.

        Args:
            total: how much there is, None if that is not known.
            desc: what is being done.
            unit: of the total, such as "s"; empty: items are counted.
            shown: False: say nothing.
        """
        self._total, self._desc, self._unit, self._shown = total, desc, unit, shown
        self._last, self._bar = time.monotonic(), None
        if shown and sys.stderr.isatty():
            form = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{n:.0f}}/{{total:.0f}} {unit} [{{elapsed}}<{{remaining}}]"
            self._bar = tqdm(total=total, desc=desc, leave=False, bar_format=form if unit else None)

    def at(self, done: float, desc: str | None = None) -> None:
        """Say that so much is done; with another `desc` than before, of something new."""
        if desc not in (None, self._desc):
            self._desc = desc
            if self._bar is not None:
                self._bar.reset()
                self._bar.set_description_str(desc)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif self._shown and time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            total = "?" if self._total is None else f"{self._total:.0f} {self._unit}".rstrip()
            get_logger("progress").info("%s: %.0f of %s", self._desc, done, total)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


def progress(items: Iterable[T], *, total: int | None, desc: str) -> Iterator[T]:
    """Iterate with a bar on a terminal, or with a line every 5 s in a log."""
    with Meter(total, desc) as meter:
        for done, item in enumerate(items, 1):
            yield item
            meter.at(done)

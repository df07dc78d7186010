"""What the trainings of speaker models and of recognizers share: a state after each epoch, weights, the usual rate."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from ..log import get_logger

log = get_logger(__name__)


class Resumable:
    """A training that goes on after its last finished epoch when it is killed and called again.

    Args:
        modules: what has a state, by name: networks, the optimizer.
        kept: attributes with plain data that belong to the state, too.
        device: torch device.
    """

    def __init__(
        self, modules: dict[str, nn.Module | torch.optim.Optimizer], kept: tuple[str, ...], device: str
    ) -> None:
        self.modules, self.kept, self.device = modules, ("lines", *kept), device
        self.lines: list[str] = []  # of train.log, one an epoch

    def say(self, line: str) -> None:
        """Log a line and keep it for train.log."""
        log.info(line)
        self.lines.append(line)

    def checkpoint(self, path: Path, identity: str, epochs: int) -> None:
        """Save the state after `epochs` finished epochs, atomically, and `train.log` beside it."""
        state = {name: module.state_dict() for name, module in self.modules.items()}
        state |= {name: getattr(self, name) for name in self.kept}
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        torch.save(state | {"identity": identity, "epochs": epochs}, partial)
        partial.replace(path)
        path.with_name("train.log").write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")

    def resume(self, path: Path, identity: str) -> int:
        """Load a checkpoint of the same training; returns the number of finished epochs."""
        if not path.exists():
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != identity:
            log.warning("%s is of another training: starting anew", path)
            return 0
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        for name in self.kept:
            setattr(self, name, state[name])
        log.info("going on after epoch %d", state["epochs"])
        return state["epochs"]


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, atomically."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(to_bytes(model.state_dict()))
    partial.replace(path)


def warm_cosine(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up to `peak` over a share of all steps, then half a cosine to 1 % of it.

    `step` counts from 0 to `steps` - 1.
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    phase = (step - rise) / max(1, steps - 1 - rise)
    return peak * (0.505 + 0.495 * math.cos(math.pi * phase))

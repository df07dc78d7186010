"""The published numbers beside the checkout: where they lie, and how a module gets their weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn


def parity_place(real_speech: Path) -> Path:
    """The directory of the fixtures; the test is skipped where it is absent."""
    place = real_speech.parent / "parity"
    if not (place / "regen.py").is_file():
        pytest.skip("no parity fixtures here")
    return place


def load_regen(place: Path) -> ModuleType:
    """The module that makes every weight from a tag and a name."""
    spec = importlib.util.spec_from_file_location("parity_regen", place / "regen.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(module: nn.Module, tag: str, regen: ModuleType) -> nn.Module:
    """Weights by the published names: those of the former weight normalisation, which load into today's."""
    today = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, value in module.state_dict().items():
        old = name
        for new_form, old_form in today.items():
            old = old.replace(new_form, old_form)
        state[old] = value if regen.is_constant(old) else torch.from_numpy(regen.fill(tag, old, value.shape))
    module.load_state_dict(state)
    return module.eval()

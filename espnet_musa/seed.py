"""Randomness as a pure function of (seed, system, identity, purpose).

No global generator is ever used, so the output does not depend on the number of jobs, on order, on the subset
processed or on a restart. `identity` is what must draw alike: an utterance id, a speaker id, or a constant.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, system: str, identity: str, purpose: str) -> int:
    """A 128-bit integer from the four parts; unlike a joined string, no two different quadruples collide."""
    digest = hashlib.sha256()
    for part in (str(int(seed)), system, identity, purpose):
        raw = part.encode("utf-8")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return int.from_bytes(digest.digest()[:16], "little")


def generator(seed: int, system: str, identity: str, purpose: str) -> np.random.Generator:
    """A fresh PCG64 generator for one purpose (`"target"`, `"noise"`, ...) of one identity.

    Args:
        seed: the recipe's seed.
        system: name of the system, so that two systems never share their draws.
        identity: utterance or speaker id, or any constant.
        purpose: what the numbers are for.
    """
    return np.random.Generator(np.random.PCG64(key(seed, system, identity, purpose)))

"""LF-MMI's gradient by one backward pass of our own against automatic differentiation of the same forward pass.

    OMP_NUM_THREADS=1 python benchmarks/bench_lfmmi.py

One JSON line for each kind of outputs: seconds of a denominator with its gradient, both ways, and the largest
difference of the gradients. 16 utterances of 110 frames, 60 units.
"""

from __future__ import annotations

import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from espnet_musa.tokenizer.lfmmi import LOOP, LfMmi

BATCH, FRAMES, UNITS, ROUNDS = 16, 110, 60, 3


def by_autograd(made: LfMmi, x: Tensor) -> Tensor:
    """The denominator (B,) in scaled probabilities, for torch to differentiate; all utterances of one length."""
    top = x.amax(dim=2).detach()
    scores = (x - top[:, :, None]).exp().view(BATCH, FRAMES, made.contexts, UNITS, 2)
    jump, a, total = made.leaky * made._jump(), None, top.sum(dim=1)
    for t in range(FRAMES):
        into = made._start() if a is None else made._enter(a.sum(dim=1))
        new = into * scores[:, t, ..., 0] + (0 if a is None else LOOP * a * scores[:, t, ..., 1])
        norm = new.sum(dim=(1, 2))
        total = total + norm.log()
        a = new / norm[:, None, None] + (jump if t + 1 < FRAMES else 0)
    return total + (a.sum(dim=1) @ (made.bigram[:-1, -1] * (1 - LOOP))).log()


def main() -> None:
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    for context in ("mono", "left_biphone"):
        made, lengths = LfMmi(UNITS, context), torch.full((BATCH,), FRAMES)
        made.fit([[0, *generator.integers(1, UNITS, 40), 0] for _ in range(50)])
        x = torch.randn(BATCH, FRAMES, made.outputs, requires_grad=True)
        seconds: dict[str, list[float]] = {"ours": [], "autograd": []}
        for _ in range(ROUNDS):
            start = time.process_time()
            _, posteriors = made.denominator(x.detach(), lengths)
            seconds["ours"].append(time.process_time() - start)
            start = time.process_time()
            (slope,) = torch.autograd.grad(by_autograd(made, x).sum(), x)
            seconds["autograd"].append(time.process_time() - start)
        best = {name: min(values) for name, values in seconds.items()}
        row = {
            "context": context, "seconds": round(best["ours"], 4), "seconds_autograd": round(best["autograd"], 4),
            "times_faster": round(best["autograd"] / best["ours"], 2),
            "difference": float((slope - posteriors).abs().max()),
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

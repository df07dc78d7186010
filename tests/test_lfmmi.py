"""LF-MMI against the definition: sums over all paths written out, gradients by differences, and its other promises."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch

from espnet_musa.tokenizer.lfmmi import AT_ENDS, LOOP, LfMmi, bigram

UNITS = 3
TRANSCRIPTS = [[0, 1, 2, 0, 1], [0, 1, 0, 2, 0], [2, 1, 1]]  # 0: silence is possible there
LENGTHS = torch.tensor([5, 4, 5])


def criterion(context: str, leaky: float = 0.0) -> LfMmi:
    made = LfMmi(UNITS, context, leaky).double()
    made.fit(TRANSCRIPTS)
    made.bigram.copy_(torch.from_numpy(bigram(TRANSCRIPTS, UNITS, 0.1)))  # in 64 bits
    return made


def paths(frames: int) -> list[list[tuple[int, int, int]]]:
    """All ways through so many frames: (unit before, unit, 0 where it is entered and 1 where it stays)."""
    out = []
    for choice in itertools.product(range(-1, UNITS), repeat=frames):
        if choice[0] < 0:
            continue
        path, pair = [], (UNITS, UNITS)
        for unit in choice:
            pair = pair if unit < 0 else (pair[1], unit)
            path.append((*pair, int(unit < 0)))
        out.append(path)
    return out


def spellings(transcript: list[int]) -> list[list[int]]:
    """With and without every optional silence."""
    out: list[list[int]] = [[]]
    for unit in transcript:
        out = [*out, *([*o, 0] for o in out)] if unit == 0 else [[*o, unit] for o in out]
    return out


def summed(made: LfMmi, x: torch.Tensor, wanted: list[list[int]] | None) -> float:
    """Log of the sum over all paths whose units are among the wanted ones."""
    lm, total = made.bigram.numpy(), []
    for path in paths(len(x)):
        units = [unit for _, unit, stays in path if not stays]
        if wanted is not None and units not in wanted:
            continue
        score = sum(
            float(x[t, 2 * ((before * UNITS if made.pairs else 0) + unit) + stays])
            for t, (before, unit, stays) in enumerate(path)
        )
        score += sum(np.log(LOOP if stays else 1 - LOOP) for _, _, stays in path[1:]) + np.log(1 - LOOP)
        score += sum(np.log(lm[pair]) for pair in pairwise([UNITS, *units, UNITS]))
        total.append(score)
    return float(np.logaddexp.reduce(total))


@pytest.mark.parametrize("context", ["mono", "left_biphone"])
def test_likelihoods_are_sums_over_all_paths(context):
    made, generator = criterion(context), torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, made.outputs, generator=generator, dtype=torch.double)
    above, _ = made.numerator(x, LENGTHS, made.chains(TRANSCRIPTS, x.device))
    below, _ = made.denominator(x, LENGTHS)
    for b, transcript in enumerate(TRANSCRIPTS):
        own = x[b, : LENGTHS[b]]
        assert float(above[b]) == pytest.approx(summed(made, own, spellings(transcript)), abs=1e-6)
        assert float(below[b]) == pytest.approx(summed(made, own, None), abs=1e-6)


@pytest.mark.parametrize("context", ["mono", "left_biphone"])
@pytest.mark.parametrize("leaky", [0.0, 0.1])
def test_posteriors_are_the_gradient(context, leaky):
    made, generator = criterion(context, leaky), torch.Generator().manual_seed(2)
    x = torch.randn(3, 5, made.outputs, generator=generator, dtype=torch.double)
    graph = made.chains(TRANSCRIPTS, x.device)
    for side in (lambda y: made.numerator(y, LENGTHS, graph), lambda y: made.denominator(y, LENGTHS)):
        _, posteriors = side(x)
        there = torch.arange(5) < LENGTHS[:, None]
        torch.testing.assert_close(posteriors.sum(dim=2), there.double())  # each frame is somewhere
        for direction in torch.randn(5, *x.shape, generator=generator, dtype=torch.double):
            slope = (side(x + 1e-5 * direction)[0] - side(x - 1e-5 * direction)[0]) / 2e-5
            torch.testing.assert_close(slope, (posteriors * direction).sum(dim=(1, 2)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("context", ["mono", "left_biphone"])
def test_gradient_is_that_of_autograd(context):
    """The denominator step by step in logarithms, differentiated by torch."""
    made, generator = criterion(context), torch.Generator().manual_seed(3)
    x = torch.randn(1, 6, made.outputs, generator=generator, dtype=torch.double, requires_grad=True)
    log = made.bigram.log()
    scores = x[0].view(6, made.contexts, UNITS, 2)
    a = (made._start().clamp(min=1e-300)).log() + scores[0, ..., 0]
    for t in range(1, 6):
        weight = torch.logsumexp(a, dim=0) + np.log(1 - LOOP)
        if made.pairs:
            into = torch.cat([weight[:, None] + log[:-1, :-1], torch.full((1, UNITS), -700.0)])
        else:
            into = torch.logsumexp(weight[:, None] + log[:-1, :-1], dim=0)[None]
        a = torch.logaddexp(into + scores[t, ..., 0], a + np.log(LOOP) + scores[t, ..., 1])
    total = torch.logsumexp(a + log[:-1, -1] + np.log(1 - LOOP), dim=(0, 1))
    total.backward()
    below, posteriors = made.denominator(x.detach(), torch.tensor([6]))
    assert float(below) == pytest.approx(total.item(), abs=1e-9)
    torch.testing.assert_close(posteriors, x.grad)


def test_objective_is_below_zero_and_batches_change_nothing():
    made, generator = criterion("left_biphone", 0.1).float(), torch.Generator().manual_seed(4)
    x = (30 * torch.randn(3, 50, made.outputs, generator=generator)).requires_grad_()
    lengths = torch.tensor([50, 20, 7])
    value, posteriors = made(x, lengths, TRANSCRIPTS)
    assert bool((value < 0).all()) and bool(torch.isfinite(value).all())
    value.sum().backward()
    torch.testing.assert_close(x.grad.sum(dim=2), torch.zeros(3, 50), atol=1e-4, rtol=0)  # wanted less found
    assert float(x.grad[1, 20:].abs().max()) == 0 == float(posteriors[2, 7:].abs().max())
    for b, n in enumerate(lengths.tolist()):
        alone, _ = made(x[b : b + 1, :n].detach(), lengths[b : b + 1], TRANSCRIPTS[b : b + 1])
        torch.testing.assert_close(alone, value[b : b + 1].detach(), rtol=1e-5, atol=1e-4)


def test_bigram_by_hand():
    made = bigram([[0, 1, 0, 2, 0]], 3, 0.25)
    assert made.shape == (4, 4) and np.allclose(made.sum(axis=1), 1)
    # After unit 1: silence in one of four, unit 2 else; smoothing by the two kinds seen halves the one count.
    counts = np.array([
        [0, AT_ENDS, 0.25, AT_ENDS], [0.25, 0, 0.75, 0], [AT_ENDS, 0, 0, 1 - AT_ENDS], [AT_ENDS, 1 - AT_ENDS, 0, 0],
    ])  # fmt: skip
    alone = (counts.sum(axis=0) + 1e-3) / (counts.sum() + 4e-3)
    kinds = (counts > 0).sum(axis=1, keepdims=True)
    assert np.allclose(made, (counts + kinds * alone) / (counts.sum(axis=1, keepdims=True) + kinds))


@pytest.mark.parametrize("context", ["mono", "left_biphone"])
def test_decoding_finds_the_best_path(context):
    made, generator = criterion(context), torch.Generator().manual_seed(5)
    for _ in range(5):
        x = 3 * torch.randn(5, made.outputs, generator=generator, dtype=torch.double)
        lm, best = made.bigram.numpy(), (-np.inf, None)
        for path in paths(5):
            units = [unit for _, unit, stays in path if not stays]
            score = summed_path(made, x, path) + sum(np.log(lm[p]) for p in pairwise([UNITS, *units, UNITS]))
            best = max(best, (score, [unit for unit in units if unit]))
        assert made.decode(x[None].float(), torch.tensor([5])) == [best[1]]


def summed_path(made: LfMmi, x: torch.Tensor, path: list[tuple[int, int, int]]) -> float:
    """Scores and loops of one path (both chances of a loop are a half)."""
    return sum(
        float(x[t, 2 * ((before * UNITS if made.pairs else 0) + unit) + stays])
        for t, (before, unit, stays) in enumerate(path)
    )


def test_it_trains_from_a_flat_start():
    """A linear model finds which of its inputs belongs to which unit, without ever having been told when."""
    generator = np.random.default_rng(0)
    rows, frames = [], []
    for _ in range(12):
        units = generator.permutation(4)[:3] + 1  # twice the same one in a row looks like once
        rows.append([0, *units.tolist(), 0])
        spoken = rows[-1]
        frames.append(np.repeat(np.eye(5)[spoken], generator.integers(2, 4, len(spoken)), axis=0))
    lengths = torch.tensor([len(f) for f in frames])
    x = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(f).float() for f in frames], batch_first=True)
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    made = LfMmi(5)
    made.fit(rows)
    model = torch.nn.Linear(5, made.outputs)
    for _ in range(40):
        objective = made(model(x), lengths, rows)[0].sum() / lengths.sum()
        slopes = torch.autograd.grad(objective, list(model.parameters()))
        for value, slope in zip(model.parameters(), slopes, strict=True):
            value.data.add_(slope, alpha=10.0)
    assert made.decode(model(x).detach(), lengths) == [row[1:-1] for row in rows]

"""Lattice-free MMI without lattices, alignments or Kaldi: what the transcript explains against what any speech would.

Povey et al., "Purely sequence-trained neural networks for ASR based on lattice-free MMI", Interspeech 2016; from a
flat start, Hadian et al., "End-to-end speech recognition using lattice-free MMI", Interspeech 2018. The objective of
an utterance is log p(x, transcript) - log p(x, anything): the numerator sums over all alignments of its transcript, the
denominator over all paths through a bigram of units. Both have the same weights, so the objective is at most 0.

A unit is an HMM of one state: the frame that enters it has one output ("pdf"), those that stay have another. With
`context: left_biphone` these two are a pair's (unit before, unit), else a unit's. With a bigram, the denominator's
state is such a pair, and the way on depends on its second half alone. Its forward step is therefore dense and small:
a sum over first halves and an outer product, for a batch at once, in scaled probabilities. The numerator is a chain
with optional silence between words, in logarithms. Gradients are posteriors of the outputs and come from one backward
pass by hand, since automatic differentiation through hundreds of steps takes several times as long
(benchmarks/bench_lfmmi.py).

Unit 0 is silence. A transcript is a sequence of units with `BREAK` wherever silence is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

SILENCE, BREAK = 0, 0  # unit; in a transcript, where there may be silence
CONTEXTS = ("mono", "left_biphone")
AT_ENDS = 0.5  # probability of silence before the first word and after the last
LOOP = 0.5  # probability to stay in a unit for another frame
NEVER = -1e30  # logarithm of no probability, finite, so that nothing becomes NaN


def bigram(transcripts: Iterable[Sequence[int]], units: int, silence: float) -> np.ndarray:
    """Probability of each unit after each other, smoothed as Witten and Bell do, by the frequency of units.

    Args:
        transcripts: with a `BREAK` wherever silence is possible.
        units: number of units, P; silence counts.
        silence: probability that there is some, at each such place but the outermost (there `AT_ENDS`).

    Returns:
        (P + 1, P + 1): rows the unit before, P where the utterance begins; columns the unit, P where it ends.
    """
    counts = np.zeros((units + 1, units + 1))
    for transcript in transcripts:
        before: dict[int, float] = {units: 1.0}  # unit -> probability that it is the last one
        for place, unit in enumerate((*transcript, units)):
            if unit == BREAK:
                share_of = AT_ENDS if place in (0, len(transcript) - 1) else silence
                for last, share in before.items():
                    counts[last, SILENCE] += share_of * share
                before = {last: (1 - share_of) * share for last, share in before.items()} | {
                    SILENCE: share_of
                }
            else:
                for last, share in before.items():
                    counts[last, unit] += share
                before = {unit: 1.0}
    alone = counts.sum(axis=0) + 1e-3
    alone /= alone.sum()
    kinds = np.maximum((counts > 0).sum(axis=1), 1)[:, None]
    return (counts + kinds * alone) / (counts.sum(axis=1, keepdims=True) + kinds)


class Chains(NamedTuple):
    """Numerators of a batch, N nodes each; a node is a unit after another one.

    Attributes:
        pdfs: (B, N) output of the frame that enters a node; that of the frames that stay is the next one.
        enter: (B, N) log probability to enter it from a node before.
        before: (B, N, 2) the nodes before, `N` where there is none, `N + 1` for the start.
        after: (B, N, 2) the nodes after, `N` where there is none.
        leave: (B, N) log probability that the utterance ends there.
    """

    pdfs: Tensor
    enter: Tensor
    before: Tensor
    after: Tensor
    leave: Tensor


def chain(transcript: Sequence[int], units: int) -> tuple[list[tuple[int, int]], list[list[int]], list[int]]:
    """One transcript as nodes: (unit before, unit), the nodes before each (-1: the start), and the last ones.

    After an optional silence the next unit has two nodes, one for each unit before it; both lead to the one after.
    """
    nodes: list[tuple[int, int]] = []
    before: list[list[int]] = []
    open_ends: dict[int, list[int]] = {units: [-1]}  # unit -> nodes of it that the next node may follow
    for unit in transcript:
        new: dict[int, list[int]] = {}
        target = SILENCE if unit == BREAK else unit
        for last, places in open_ends.items():
            new.setdefault(target, []).append(len(nodes))
            nodes.append((last, target))
            before.append(places)
        open_ends = open_ends | new if unit == BREAK else new
    return nodes, before, [place for places in open_ends.values() for place in places]


class LfMmi(nn.Module):
    """The criterion.

    Args:
        units: P, silence among them.
        context: mono | left_biphone.
        leaky: probability of a jump to anywhere at each frame of the denominator (Kaldi's leaky HMM), so that no
            frame is without a path and the past is forgotten.
        silence: probability of silence between two words, in the bigram.

    Attributes:
        outputs: scores a frame.
        bigram: (P + 1, P + 1), see `bigram`.
    """

    def __init__(self, units: int, context: str = "mono", leaky: float = 0.1, silence: float = 0.1) -> None:
        super().__init__()
        self.units, self.leaky, self.silence, self.pairs = units, leaky, silence, context == "left_biphone"
        self.contexts = units + 1 if self.pairs else 1
        self.outputs = 2 * self.contexts * units
        self.register_buffer("bigram", torch.full((units + 1, units + 1), 1 / (units + 1)))

    def fit(self, transcripts: Iterable[Sequence[int]]) -> None:
        """Estimate the bigram of the denominator."""
        self.bigram.copy_(torch.from_numpy(bigram(transcripts, self.units, self.silence)))

    @staticmethod
    def least(transcript: Sequence[int]) -> int:
        """Frames that a transcript needs at least."""
        return sum(unit != BREAK for unit in transcript)

    def forward(
        self, x: Tensor, lengths: Tensor, transcripts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Objectives of a batch.

        Args:
            x: (B, F, outputs) logarithms of scores, any scale.
            lengths: (B,) frames.
            transcripts: units, at most as many as frames.

        Returns:
            (B,) log p(x, transcript) - log p(x, anything), at most 0; and (B, F, outputs) posteriors by the transcript.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            above, wanted = self.numerator(x.detach(), lengths, self.chains(transcripts, x.device))
            below, found = self.denominator(x.detach(), lengths)
            return _Known.apply(x, above - below, wanted - found), wanted

    def chains(self, transcripts: Sequence[Sequence[int]], device: torch.device) -> Chains:
        """Numerators' graphs."""
        made = [chain(transcript, self.units) for transcript in transcripts]
        size = max(len(nodes) for nodes, _, _ in made)
        pairs = np.zeros((len(made), size, 2), dtype=np.int64)
        links = np.full((2, len(made), size, 2), size)  # before, after
        leave = np.full((len(made), size), False)
        there = np.zeros((len(made), size), dtype=bool)
        for b, (nodes, before, ends) in enumerate(made):
            pairs[b, : len(nodes)], there[b, : len(nodes)], leave[b, ends] = nodes, True, True
            fill = [0] * len(nodes)
            for node, places in enumerate(before):
                for i, place in enumerate(places):
                    links[0, b, node, i] = size + 1 if place < 0 else place
                    if place >= 0:
                        links[1, b, place, fill[place]] = node
                        fill[place] += 1
        last, unit = torch.from_numpy(pairs).to(device).unbind(2)
        before, after = torch.from_numpy(links).to(device)
        log = self.bigram.clamp(min=1e-30).log()
        first = before[:, :, 0] == size + 1
        enter = log[last, unit] + torch.where(first, 0.0, np.log(1 - LOOP))
        enter = enter.masked_fill(~torch.from_numpy(there).to(device), NEVER)
        end = log[unit, self.units] + np.log(1 - LOOP)
        end = end.masked_fill(~torch.from_numpy(leave).to(device), NEVER)
        pdfs = 2 * (last * self.units + unit if self.pairs else unit)
        return Chains(pdfs, enter, before, after, end)

    @torch.no_grad()
    def numerator(self, x: Tensor, lengths: Tensor, graph: Chains) -> tuple[Tensor, Tensor]:
        """Log likelihoods (B,) of chains and posteriors (B, F, outputs) of the outputs."""
        frames = x.shape[1]
        enter = x.gather(2, graph.pdfs[:, None].expand(-1, frames, -1)) + graph.enter[:, None]
        stay = x.gather(2, graph.pdfs[:, None].expand(-1, frames, -1) + 1) + float(np.log(LOOP))
        alive = torch.arange(frames, device=x.device)[:, None] < lengths
        a, came = _ahead(enter, stay, graph.before, alive)
        b = _back(enter, stay, graph, alive)
        total = torch.logsumexp(a[-1] + graph.leave, dim=1)
        shift = (b - total[:, None]).transpose(0, 1)
        into = (came.transpose(0, 1) + enter + shift).exp()
        kept = torch.cat([torch.full_like(a[:1], NEVER), a[:-1]]).transpose(0, 1)
        kept = (kept + stay + shift).exp()
        posteriors = torch.zeros_like(x)
        place = graph.pdfs[:, None].expand_as(into)
        posteriors.scatter_add_(2, place, into).scatter_add_(2, place + 1, kept)
        return total, posteriors * alive.T[:, :, None]

    @torch.no_grad()
    def denominator(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log likelihoods (B,) of any speech and posteriors (B, F, outputs) of the outputs."""
        batch, frames, _ = x.shape
        top = x.amax(dim=2)
        e = (x - top[:, :, None]).exp().view(batch, frames, self.contexts, self.units, 2)
        first, rest = (e[..., i].transpose(0, 1) for i in range(2))  # (F, B, Q, P)
        rest = rest * LOOP
        alive = torch.arange(frames, device=x.device)[:, None] < lengths  # (F, B)
        start, end, jump = self._start(), self.bigram[:-1, -1] * (1 - LOOP), self._jump()
        a, entered, held, scale = x.new_zeros(batch, *start.shape), [], [], x.new_zeros(batch)
        for t in range(frames):
            into = start.expand_as(a) if t == 0 else self._enter(a.sum(dim=1))
            entered.append(into)
            held.append(a)
            new = into * first[t] + a * rest[t]
            total = new.sum(dim=(1, 2))
            new = new / total[:, None, None]
            if t + 1 < frames:  # the end is no jump
                last = (t + 1 == lengths)[:, None, None]
                new = torch.where(last, new, new + self.leaky * jump)
            now = alive[t]
            a = torch.where(now[:, None, None], new, a)
            scale = scale + torch.where(now, total.log() + top[:, t], 0.0)
        total = scale + (a.sum(dim=1) @ end).log()
        b = end.expand_as(a)
        posteriors = torch.zeros_like(e)
        for t in range(frames - 1, -1, -1):
            now = alive[t][:, None, None]
            into, kept = entered[t] * first[t] * b, held[t] * rest[t] * b
            both = torch.stack([into, kept], dim=-1)
            posteriors[:, t] = both / both.sum(dim=(1, 2, 3), keepdim=True) * now[..., None]
            back = self._leave(b * first[t]) + b * rest[t]
            back = back + self.leaky * (back * jump).sum(dim=(1, 2), keepdim=True)
            b = torch.where(now, back / back.amax(dim=(1, 2), keepdim=True), b)
        return total, posteriors.flatten(2)

    def decode(self, x: Tensor, lengths: Tensor) -> list[list[int]]:
        """The most probable units of (B, F, outputs), without silence: Viterbi's path through the bigram."""
        return [
            self._best(row[:length].float().cpu()) for row, length in zip(x, lengths.tolist(), strict=True)
        ]

    def _best(self, x: Tensor) -> list[int]:
        first, rest = x.view(len(x), self.contexts, self.units, 2).unbind(3)
        log = self.bigram.cpu().clamp(min=1e-30).log()
        onward = log[:-1, :-1] + float(np.log(1 - LOOP))
        score = self._start().cpu().clamp(min=1e-30).log() + first[0]
        entered, previous = (
            [torch.ones_like(score, dtype=torch.bool)],
            [torch.zeros(self.units, dtype=torch.long)],
        )
        for t in range(1, len(x)):
            best, context = score.max(dim=0)  # over what was before each unit
            if self.pairs:
                into, source = torch.full_like(score, NEVER), None
                into[:-1] = best[:, None] + onward
            else:
                into, source = (best[:, None] + onward).max(dim=0)
                into = into[None]
            stay = score + float(np.log(LOOP)) + rest[t]
            into = into + first[t]
            entered.append(into > stay)
            previous.append(context if self.pairs else source)
            score = torch.maximum(into, stay)
        score = score + log[:-1, -1]
        state, out = int(score.argmax()), []
        for t in range(len(x) - 1, -1, -1):
            context, unit = divmod(state, self.units)
            if entered[t][context, unit]:
                out.append(unit)
                if t:
                    state = (
                        int(previous[t][context]) * self.units + context
                        if self.pairs
                        else int(previous[t][unit])
                    )
        return [unit for unit in reversed(out) if unit != SILENCE]

    def _start(self) -> Tensor:
        """(Q, P) probability of each unit where an utterance begins."""
        start = self.bigram[-1, :-1]
        if not self.pairs:
            return start[None]
        return torch.cat([start.new_zeros(self.units, self.units), start[None]])

    def _jump(self) -> Tensor:
        """(Q, P) where the leak leads: the states' shares in the long run, silence of any length aside."""
        onward = self.bigram[:-1, :-1] / self.bigram[:-1, :-1].sum(dim=1, keepdim=True)
        share = onward.new_full((self.units,), 1 / self.units)
        for _ in range(50):
            share = share @ onward
        if not self.pairs:
            return share[None]
        return torch.cat([share[:, None] * onward, share.new_zeros(1, self.units)])

    def _enter(self, weight: Tensor) -> Tensor:
        """Probability (B, P) to be in a unit -> to enter each state (B, Q, P) in the next frame."""
        onward = self.bigram[:-1, :-1] * (1 - LOOP)
        if not self.pairs:
            return (weight @ onward)[:, None]
        return torch.cat([weight[:, :, None] * onward, weight.new_zeros(len(weight), 1, self.units)], dim=1)

    def _leave(self, value: Tensor) -> Tensor:
        """The transpose of `_enter`, for each state (B, Q, P): value of what can be entered from there."""
        onward = self.bigram[:-1, :-1] * (1 - LOOP)
        if not self.pairs:
            return (value[:, 0] @ onward.T)[:, None]
        return (value[:, :-1] * onward).sum(dim=2)[:, None].expand(-1, self.contexts, -1)


def _ahead(enter: Tensor, stay: Tensor, before: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Forward pass: log probability (F, B, N) to be in a node, and to come from the nodes before."""
    batch, frames, size = enter.shape
    place = before.flatten(1)
    a = enter.new_full((batch, size + 2), NEVER)  # and two nodes more: none, the start
    a[:, -1] = 0.0
    made, came = [], []
    for t in range(frames):
        both = a.gather(1, place).view(batch, size, 2)
        came.append(torch.logaddexp(both[..., 0], both[..., 1]))
        new = torch.logaddexp(came[t] + enter[:, t], a[:, :size] + stay[:, t])
        new = torch.where(alive[t][:, None], new, a[:, :size])
        a = torch.cat([new, new.new_full((batch, 2), NEVER)], dim=1)
        made.append(new)
    return torch.stack(made), torch.stack(came)


def _back(enter: Tensor, stay: Tensor, graph: Chains, alive: Tensor) -> Tensor:
    """Backward pass: log probability (F, B, N) of what follows a node in a frame."""
    batch, frames, size = enter.shape
    place = graph.after.flatten(1)
    b, made = graph.leave, []
    nothing = b.new_full((batch, 1), NEVER)
    for t in range(frames - 1, -1, -1):
        made.append(b)
        both = torch.cat([b + enter[:, t], nothing], dim=1).gather(1, place).view(batch, size, 2)
        new = torch.logaddexp(torch.logaddexp(both[..., 0], both[..., 1]), b + stay[:, t])
        b = torch.where(alive[t][:, None], new, b)
    return torch.stack(made[::-1])


class _Known(torch.autograd.Function):
    """A value whose gradient was computed along with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[:, None, None] * ctx.saved_tensors[0], None, None

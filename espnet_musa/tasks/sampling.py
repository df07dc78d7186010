"""Training batches balanced over languages by a temperature; a function of seed and epoch alone.

The share of a language l in every epoch's crops is

    p_l = h_l^(1/T) / sum_k h_k^(1/T)

with h_l its hours of training speech (Conneau et al., "Unsupervised cross-lingual representation learning for speech
recognition", Interspeech 2021, with alpha = 1/T): T = 1 keeps the proportions of the data, larger T raises languages
with little speech, and an infinite T takes all of them alike. Within a language nothing is drawn at random: its
utterances go by in passes, each in a new order, so after any number of epochs no utterance of a language has been seen
more than once oftener than another. Every epoch follows from its number, so a resumed training has the batches of an
uninterrupted one.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.fileio.read_text import read_2columns_text
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.tasks.abs_task import IteratorOptions
from espnet2.utils.types import float_or_none
from torch.utils.data import DataLoader

from ..errors import UserError
from ..log import get_logger
from ..seed import generator

log = get_logger(__name__)
LANGUAGES = "utt2lang"  # beside the other data files of a part


def shares(hours: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Share of each language in the batches.

    Args:
        hours: of training speech by language, more than 0; any unit.
        temperature: T, more than 0; may be infinite.
    """
    logs = {language: math.log(value) / temperature for language, value in sorted(hours.items())}
    most = max(logs.values())  # so that the exponentials neither overflow nor all vanish
    weights = {language: math.exp(value - most) for language, value in logs.items()}
    return {language: weight / sum(weights.values()) for language, weight in weights.items()}


class Plan:
    """Which utterances each epoch takes.

    Args:
        utterances: those of each language.
        share: of each language, see `shares`.
        steps: batches of an epoch.
        batch_size: utterances of a batch.
        seed: of all draws.
    """

    def __init__(
        self,
        utterances: Mapping[str, list[str]],
        share: Mapping[str, float],
        steps: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.languages = sorted(utterances)
        self._utterances = {language: sorted(utterances[language]) for language in self.languages}
        self._limits = np.cumsum([share[language] for language in self.languages])
        self._limits[-1] = 1.0  # whatever rounding has left
        self._steps, self._batch_size, self._seed = steps, batch_size, seed

    def counts(self, epoch: int) -> np.ndarray:
        """(L,) utterances of each language in an epoch (from 1): its share of them, rounded up or down.

        Systematic sampling: the rounding is drawn, so that over the epochs the shares are met exactly.
        """
        total = self._steps * self._batch_size
        start = generator(self._seed, "sampling", f"epoch {epoch}", "rounding").random()
        below = np.clip(np.ceil(total * self._limits - start), 0, total).astype(int)
        below[-1] = total
        return np.diff(below, prepend=0)

    def batches(self, epoch: int) -> list[list[str]]:
        """The utterances of an epoch, by batch."""
        before = np.zeros(len(self.languages), int)
        for earlier in range(1, epoch):
            before += self.counts(earlier)
        chosen: list[str] = []
        for language, start, count in zip(self.languages, before, self.counts(epoch), strict=True):
            chosen += self._passes(language, int(start), int(count))
        order = generator(self._seed, "sampling", f"epoch {epoch}", "order").permutation(len(chosen))
        size = self._batch_size
        return [[chosen[i] for i in order[k : k + size]] for k in range(0, len(order), size)]

    def _passes(self, language: str, start: int, count: int) -> list[str]:
        """`count` utterances of the endless row of a language's passes, from the position `start`."""
        own, taken = self._utterances[language], []
        while len(taken) < count:
            number, position = divmod(start + len(taken), len(own))
            order = generator(self._seed, "sampling", language, f"pass {number}").permutation(len(own))
            taken += [own[i] for i in order[position : position + count - len(taken)]]
        return taken


class PlannedIterFactory(AbsIterFactory):
    """ESPnet's data loaders for the batches of a plan.

    Args:
        plan: the batches.
        part: rank of this process and their number; each takes its part of every batch.
        options: of ESPnet's `SequenceIterFactory`, which seeds the workers by the epoch.
    """

    def __init__(self, plan: Plan, part: tuple[int, int], **options: Any) -> None:
        self.plan, self.part, self.options = plan, part, options

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> DataLoader:
        """The batches of an epoch, in the plan's order."""
        rank, processes = self.part
        batches = [batch[rank::processes] for batch in self.plan.batches(epoch)]
        return SequenceIterFactory(batches=batches, shuffle=False, **self.options).build_iter(epoch)


class LanguageSampling:
    """Beside one of ESPnet's tasks, before it in the list of bases: adds the option `language_temperature`.

    The training data then need a file `utt2lang` beside the others. Without the option, or with none, batches are
    ESPnet's. Validation never changes.
    """

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """The option, after those of the task."""
        super().add_task_arguments(parser)
        parser.add_argument(
            "--language_temperature", type=float_or_none, default=None,
            help="T of the languages' shares in the batches, hours^(1/T); none: as they come",
        )  # fmt: skip

    @classmethod
    def build_sequence_iter_factory(
        cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
    ) -> AbsIterFactory:
        """See ESPnet's task.

        Raises:
            UserError: if an utterance has no language.
        """
        if mode != "train" or args.language_temperature is None:
            return super().build_sequence_iter_factory(args, iter_options, mode)
        samples = {utt: int(n) for utt, n in read_2columns_text(iter_options.shape_files[0]).items()}
        place = Path(iter_options.data_path_and_name_and_type[0][0]).with_name(LANGUAGES)
        language = read_2columns_text(place) if place.is_file() else {}
        by_language: dict[str, list[str]] = {}
        for utt in samples:
            if utt not in language:
                raise UserError(
                    "no language", path=place, utt=utt, hint="or train without language_temperature"
                )
            by_language.setdefault(language[utt], []).append(utt)
        share = shares(
            {language: sum(samples[utt] for utt in utts) for language, utts in by_language.items()},
            args.language_temperature,
        )
        told = ", ".join(f"{language} {100 * value:.1f} %" for language, value in share.items())
        log.info("train: languages at temperature %g: %s", args.language_temperature, told)
        size = iter_options.batch_size
        steps = iter_options.num_iters_per_epoch or max(1, len(samples) // size)
        plan = Plan(by_language, share, steps, size, args.seed)
        part = (0, 1)
        if iter_options.distributed:
            part = (torch.distributed.get_rank(), torch.distributed.get_world_size())
        dataset = cls.build_dataset(args, iter_options, set(itertools.chain(*by_language.values())))
        return PlannedIterFactory(
            plan, part, dataset=dataset, seed=args.seed, num_workers=args.num_workers,
            collate_fn=iter_options.collate_fn, pin_memory=args.ngpu > 0,
        )  # fmt: skip

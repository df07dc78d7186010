"""ESPnet's GAN trainer, with what a long training needs besides: progress, whole checkpoints, audio to listen to."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from espnet2.train.distributed_utils import DistributedOption, get_rank
from espnet2.train.gan_trainer import GANTrainer, GANTrainerOptions
from espnet2.train.reporter import SubReporter, aggregate
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..errors import UserError
from ..log import get_logger

log = get_logger(__name__)
CHECKPOINT, PREVIOUS, LOG = "checkpoint.pth", "checkpoint.previous.pth", "train.log"
SHOWN = ("loss", "mel", "spk_acc", "sem_acc", "d_loss")  # of the statistics, in progress lines
EVERY = 20.0  # seconds between two of them
AUDIO_S = 10.0  # seconds of the sample in TensorBoard


@contextmanager
def logging_to(directory: Path) -> Iterator[None]:
    """ESPnet's messages into `<directory>/train.log`, ours there and to stderr; only ESPnet's errors to stderr.

    ESPnet describes model, data and every statistic at length; and its own format names the host. That it calls older
    names of torch's functions does not concern our users.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root, own = logging.getLogger(), logging.getLogger("espnet_musa")
    file = logging.FileHandler(directory / LOG, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    level = root.level
    for logger, handler in ((root, file), (root, errors), (own, file)):
        logger.addHandler(handler)
    root.setLevel(logging.INFO)  # ESPnet's basicConfig does nothing from here on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        root.setLevel(level)
        for logger, handler in ((root, file), (root, errors), (own, file)):
            logger.removeHandler(handler)
        file.close()


class LoggedTask:
    """Beside one of ESPnet's tasks, before it in the list of bases: its training has a log of its own."""

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """One process of a training; the first one writes `<output_dir>/train.log`."""
        rank = get_rank(args.dist_rank, args.dist_launcher) if args.distributed else 0
        with logging_to(Path(args.output_dir)) if rank == 0 else nullcontext():
            super().main_worker(args)


def recover(directory: Path) -> None:
    """Before a training is resumed: put the newest whole checkpoint in its place.

    ESPnet overwrites its checkpoint, so a kill in that second would leave half of one and nothing else. The trainer
    renames it while an epoch runs; a file whose table of contents, written last, is missing counts as absent.
    """
    checkpoint, previous = directory / CHECKPOINT, directory / PREVIOUS
    if zipfile.is_zipfile(checkpoint):
        return
    checkpoint.unlink(missing_ok=True)
    if previous.exists():
        previous.replace(checkpoint)


class MusaTrainer(GANTrainer):
    """Trains and validates as ESPnet does, and around each epoch logs, keeps the checkpoint and writes audio."""

    _said: ClassVar[float] = 0.0  # when the last progress line was logged

    @classmethod
    def train_one_epoch(
        cls,
        *,
        model: nn.Module,
        iterator: Iterable[Any],
        reporter: SubReporter,
        options: GANTrainerOptions,
        distributed_option: DistributedOption,
        **rest: Any,
    ) -> bool:
        """See ESPnet's trainer.

        Raises:
            UserError: if the loss is not finite at the end of the epoch.
        """
        if isinstance(model, DistributedDataParallel):
            # The second turn of a step goes back through what the first turn made, so no buffer may be overwritten
            # between them. The processes' codebooks are equal anyway: they move by sums over all processes.
            model.broadcast_buffers = False
        if _first(distributed_option):
            checkpoint = Path(options.output_dir) / CHECKPOINT
            if checkpoint.exists():
                checkpoint.replace(checkpoint.with_name(PREVIOUS))
            iterator = cls._watched(iterator, reporter, options)
        invalid = super().train_one_epoch(
            model=model, iterator=iterator, reporter=reporter, options=options,
            distributed_option=distributed_option, **rest,
        )  # fmt: skip
        if not math.isfinite(reporter.stats["loss"][-1].value):
            raise UserError(
                f"the loss diverged in epoch {reporter.get_epoch()}", path=options.output_dir,
                hint="lower lr in optim_conf and optim2_conf, or set grad_clip",
            )  # fmt: skip
        return invalid

    @classmethod
    def validate_one_epoch(
        cls,
        *,
        model: nn.Module,
        iterator: DataLoader,
        reporter: SubReporter,
        options: GANTrainerOptions,
        distributed_option: DistributedOption,
    ) -> None:
        """See ESPnet's trainer."""
        super().validate_one_epoch(
            model=model,
            iterator=iterator,
            reporter=reporter,
            options=options,
            distributed_option=distributed_option,
        )
        if not _first(distributed_option):
            return
        if time.monotonic() - cls._said > EVERY or reporter.get_epoch() == options.max_epoch:
            cls._say(f"epoch {reporter.get_epoch()}/{options.max_epoch}, validation", reporter, len(iterator))
        if options.use_tensorboard:
            _add_audio(
                getattr(model, "module", model), iterator, reporter.get_epoch(), Path(options.output_dir)
            )

    @classmethod
    def _watched(
        cls, batches: Iterable[Any], reporter: SubReporter, options: GANTrainerOptions
    ) -> Iterator[Any]:
        """The batches; a line about the last steps every so often."""
        total, where = len(batches), f"epoch {reporter.get_epoch()}/{options.max_epoch}"
        started, done = time.monotonic(), 0
        for step, batch in enumerate(batches):
            now = time.monotonic()
            if now - cls._said > EVERY and step > done:
                speed = (step - done) / (now - started)
                cls._say(f"{where}, step {step}/{total}, {speed:.2f} steps/s", reporter, step - done)
                started, done = now, step
            yield batch

    @classmethod
    def _say(cls, where: str, reporter: SubReporter, steps: int) -> None:
        cls._said = time.monotonic()
        shown = [name for name in SHOWN if name in reporter.stats]
        values = ", ".join(f"{name} {aggregate(reporter.stats[name][-steps:]):.3g}" for name in shown)
        log.info("%s: %s", where, values)


def _first(option: DistributedOption) -> bool:
    """Whether this process is the one that logs and saves."""
    return not option.distributed or option.dist_rank == 0


@torch.no_grad()
def _add_audio(model: nn.Module, iterator: DataLoader, epoch: int, directory: Path) -> None:
    """The first validation utterance into TensorBoard: as it is, and what the model makes of it (`model.listen`)."""
    from torch.utils.tensorboard import SummaryWriter

    rate = model.codec.fs
    utt = min(min(batch) for batch in iterator.batch_sampler)
    data = {name: loader[utt] for name, loader in iterator.dataset.loader_dict.items()}
    wav = torch.from_numpy(data["audio"][: round(AUDIO_S * rate)]).float()
    sounds = {"original": wav} if epoch == 1 else {}
    sounds |= model.listen(wav.to(next(model.parameters()).device), data)
    with SummaryWriter(str(directory / "tensorboard" / "audio")) as writer:
        for name, sound in sounds.items():
            writer.add_audio(name, sound[: len(wav)].float().clamp(-1, 1).cpu(), epoch, rate)

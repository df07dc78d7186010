"""Stage 4, train: the models of the recipe's systems, by ESPnet's trainer, on all formatted sets with role `train`.

A model is what a configuration of `conf/train` says, in ESPnet's own format; systems that name the same one share it.
ESPnet works in the partial directory, so a killed training goes on after its last finished epoch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config, stamp
from ..config import Recipe
from ..data.datadir import SAMPLE_RATE, DataDir, list_sets
from ..errors import UserError
from ..log import get_logger
from ..tokenizer import store
from .train_config import SETTINGS, check, jobs
from .train_data import gather, split, write
from .train_models import CodecTraining, VocoderTraining, training_of

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["SETTINGS", "check", "train"]

log = get_logger(__name__)
MODEL, F0, PARTS = "model.pth", "f0", ("train", "valid")


def train(recipe: Recipe, root: Path, *, device: str, force: bool) -> None:
    """Train what the recipe's systems need and what is not up to date.

    Raises:
        UserError: before any training: for a configuration that does not fit, missing or misfitting tokens, fewer than
            two speakers, no set with role `train`.
    """
    for job in jobs(recipe, root).values():
        _train(training_of(job, root), recipe.seed, device, force)


def _train(training: CodecTraining | VocoderTraining, seed: int, device: str, force: bool) -> None:
    job, root, tokens = training.job, training.root, training.tokens
    sets = [DataDir.read(path, "audio") for path in list_sets(root / "dump", ["train"])]
    if not sets:
        raise UserError(
            "no set has the role train",
            path=root / "dump",
            hint="run stage 'format' first, or set it in meta.yaml",
        )
    places = {data.name: root / "exp" / "tokens" / tokens / data.name for data in sets} if tokens else {}
    fields = {
        "config": config.digest(job.settings),
        "input": {data.name: data.fingerprint for data in sets},
        "tokens": {name: config.digest(stamp.require(place, "tokenize")["fields"]) for name, place in places.items()},
        "seed": seed,
    }  # fmt: skip
    out = root / "exp" / "models" / job.name
    partial = stamp.begin(out, "train", fields, force=force)
    if partial is None:
        log.info("train: %s is up to date", out)
        return
    started, code = time.monotonic(), config.commit()
    n_tokens = store.n_tokens(root / "exp" / "tokens" / tokens) if tokens else 0
    balanced = job.settings.get("language_temperature") is not None
    utterances = gather(sets, places, n_tokens, by_language=balanced)
    speakers = sorted({utterance.speaker for utterance in utterances.values()})
    arguments = _arguments(training, partial, len(speakers), n_tokens, seed, device)
    f0 = training.track(sets, partial / F0)
    parts = dict(zip(PARTS, split(utterances, seed), strict=True))
    for part, utts in parts.items():
        write(partial / "data" / part, {utt: utterances[utt] for utt in utts}, speakers, f0)
    log.info(
        "train: %s, %d utterances of %d speakers, %.1f h", out, len(parts["train"]), len(speakers),
        sum(utterances[utt].samples for utt in parts["train"]) / SAMPLE_RATE / 3600,
    )  # fmt: skip
    counts = run(training.task, arguments, job.file)
    counts |= {"utterances": len(utterances), "speakers": len(speakers)}
    facts = {"train": job.name, "tokens": tokens, "seed": seed, "sample_rate": SAMPLE_RATE}
    publish(training, partial, arguments, facts | counts, sets, device)
    stamp.finish(out, "train", counts=counts, seconds=time.monotonic() - started, commit=code)
    tidy(out)


def _arguments(
    training: CodecTraining | VocoderTraining,
    partial: Path,
    n_speakers: int,
    n_tokens: int,
    seed: int,
    device: str,
) -> Namespace:
    """ESPnet's options: those of the configuration, and the stage's own."""
    arguments = training.task.get_parser().parse_args(["--config", str(training.job.file)])
    ngpu = _gpus(device, training.job.settings.get("ngpu"))
    own = training.options(partial, n_speakers, n_tokens)
    own |= {"output_dir": str(partial), "seed": seed, "resume": True, "ngpu": ngpu}
    own["multiprocessing_distributed"] = ngpu > 1
    for part in PARTS:
        place = partial / "data" / part
        inputs = [("wav.scp", "audio", "sound"), ("utt2sid", "sids", "text_int")]
        inputs += training.inputs
        own[f"{part}_data_path_and_name_and_type"] = [(str(place / file), *rest) for file, *rest in inputs]
        own[f"{part}_shape_file"] = [str(place / "audio_shape")]
    vars(arguments).update(own)
    return arguments


def _gpus(device: str, wanted: int | None) -> int:
    """Number of GPUs to train on: all that are visible, but not more than the configuration wants.

    Raises:
        UserError: if the device is not there.
    """
    import torch

    kind, _, index = device.partition(":")
    if kind == "cpu":
        return 0
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if not count or (index and not (index.isdigit() and int(index) < count)):
        raise UserError(
            f"no device '{device}'", expected="cpu" + "".join(f", cuda:{i}" for i in range(count))
        )
    if index:
        torch.cuda.set_device(int(index))
        return 1
    if wanted is not None and count < wanted:
        log.info("train: %d of %d GPUs; each takes a larger part of every batch", count, wanted)
    return min(count, wanted or count)


def run(task: Any, arguments: Namespace, file: Path) -> dict[str, int]:
    """Train or go on with ESPnet's trainer.

    Args:
        task: ESPnet's.
        arguments: its options.
        file: the configuration, for messages.

    Returns:
        finished epochs and steps.

    Raises:
        UserError: if the configuration does not fit the model or an optimizer, or the training stopped early.
    """
    import torch
    from espnet2.tasks.abs_task import scheduler_classes

    from ..tasks.trainer import CHECKPOINT, recover

    try:
        task.build_preprocess_fn(arguments, train=True)
        optimizers = task.build_optimizers(arguments, task.build_model(arguments))
        for optimizer, option in zip(optimizers, ("scheduler", "scheduler2"), strict=True):
            name, conf = getattr(arguments, option), getattr(arguments, f"{option}_conf")
            if name is not None:
                scheduler_classes[name](optimizer, **conf)
    except UserError as error:
        raise UserError(str(error), path=file) from None
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{type(error).__name__}: {error}", path=file) from None
    out = Path(arguments.output_dir)
    recover(out)
    task.main(args=arguments)
    reporter = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=False)["reporter"]
    epochs = reporter["epoch"]
    if epochs < arguments.max_epoch and arguments.patience is None:
        raise UserError(f"stopped after epoch {epochs} of {arguments.max_epoch}", path=out / "train.log")
    return {"epochs": epochs, "steps": reporter["stats"][epochs]["train"]["total_count"]}


def publish(
    training: CodecTraining | VocoderTraining,
    partial: Path,
    arguments: Namespace,
    facts: dict[str, Any],
    sets: Sequence[DataDir],
    device: str,
) -> None:
    """The last epoch's model as an archive (O27), and whole, with heads and discriminators.

    `model.pth` is what ESPnet's `init_param` takes to fine-tune, and its inference classes together with `config.yaml`.
    """
    import torch

    from ..tasks.trainer import CHECKPOINT

    state = torch.load(partial / CHECKPOINT, map_location="cpu", weights_only=False)["model"]
    torch.save(state, partial / MODEL)
    model = training.task.build_model(arguments)
    model.load_state_dict(state)
    training.publish(partial, model, facts, sets, device)


def tidy(out: Path) -> None:
    """Remove what only a training that is not finished needs, and the host from the names of TensorBoard's files."""
    for made in ("data", F0):
        shutil.rmtree(out / made, ignore_errors=True)
    for path in out.glob("*.pth"):
        if path.name != MODEL:
            path.unlink()
    for path in out.glob("tensorboard/*/events.out.tfevents.*"):
        parts = path.name.split(".")
        path.rename(path.with_name(".".join([*parts[:4], *parts[-2:]])))

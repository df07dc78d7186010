"""Stage 4, train: the models of the recipe's systems, by ESPnet's trainer, on all formatted sets with role `train`.

A model is what a configuration of `conf/train` says, in ESPnet's own format; systems that name the same one share it.
ESPnet works in the partial directory, so a killed training goes on after its last finished epoch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config, stamp
from ..codec import archive
from ..codec.config import CodecConfig
from ..config import Recipe
from ..data.datadir import SAMPLE_RATE, DataDir, list_sets
from ..errors import UserError, suggest
from ..log import get_logger
from ..tokenizer import store
from .train_data import gather, split, write

if TYPE_CHECKING:
    from argparse import Namespace

log = get_logger(__name__)
MODEL = "model.pth"
# What a training configuration may set. The rest of ESPnet's options is the stage's business, or of no use here.
SETTINGS = (
    "codec", "codec_conf", "segment_length", "init_param", "ignore_init_mismatch", "freeze_param",
    "optim", "optim_conf", "scheduler", "scheduler_conf", "optim2", "optim2_conf", "scheduler2", "scheduler2_conf",
    "max_epoch", "num_iters_per_epoch", "batch_size", "valid_batch_size", "grad_clip", "grad_clip_type",
    "generator_first", "skip_discriminator_prob", "patience", "early_stopping_criterion", "best_model_criterion",
    "keep_nbest_models", "ngpu", "num_workers", "use_amp", "use_tf32", "cudnn_benchmark", "cudnn_deterministic",
    "dist_backend", "gradient_as_bucket_view", "ddp_comm_hook", "log_interval", "use_tensorboard", "use_wandb",
    "wandb_project", "wandb_id", "wandb_entity", "wandb_name", "wandb_model_log_interval", "max_cache_size",
    "detect_anomaly",
)  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """One model to train: its name, its configuration (file and content), the name of its tokens."""

    name: str
    file: Path
    settings: dict[str, Any]
    codec: CodecConfig
    tokens: str | None


def check(name: str, root: Path) -> tuple[Path, dict[str, Any], CodecConfig]:
    """Read a training configuration without importing torch or ESPnet.

    Returns:
        its file, all of its settings, and `codec_conf`.

    Raises:
        UserError: for an unknown file, key or a wrong type in `codec_conf`.
    """
    file = config.conf_file(root, "train", name)
    settings, lines = config.load_yaml(file)
    for key in settings:
        if key not in SETTINGS:
            raise UserError(f"unknown key '{key}'{suggest(key, SETTINGS)}", path=file, line=lines[(key,)])
    own = settings.get("codec_conf", {})
    for key in ("n_speakers", "n_tokens"):
        if key in own:
            raise UserError(f"stage 4 counts '{key}' itself", path=file, line=lines[("codec_conf", key)])
    below = {where[1:]: line for where, line in lines.items() if where[0] == "codec_conf"}
    return file, settings, config.from_dict(CodecConfig, own, file, below)


def train(recipe: Recipe, root: Path, *, device: str, force: bool) -> None:
    """Train what the recipe's systems need and what is not up to date.

    Raises:
        UserError: before any training: for a configuration that does not fit, missing or misfitting tokens, fewer than
            two speakers, no set with role `train`.
    """
    jobs: dict[str, _Job] = {}
    for name in recipe.systems:
        system = config.load_system(recipe, name, root)
        if system.train is None:
            continue
        job = _Job(system.train, *check(system.train, root), system.tokens)
        if jobs.setdefault(job.name, job).tokens != job.tokens:
            raise UserError(
                f"two systems train '{job.name}' with different tokens: {jobs[job.name].tokens}, {job.tokens}",
                hint="give one of them a training configuration of another name",
            )
        if job.codec.lambda_sem and job.tokens is None:
            raise UserError(
                f"system '{name}' names no tokens, but lambda_sem is {job.codec.lambda_sem:g}", path=job.file,
                expected="`tokens` in the system's YAML, or lambda_sem 0",
            )  # fmt: skip
    for job in jobs.values():
        _train(job, root, recipe.seed, device, force)


def _train(job: _Job, root: Path, seed: int, device: str, force: bool) -> None:
    sets = [DataDir.read(path, "audio") for path in list_sets(root / "dump", ["train"])]
    if not sets:
        raise UserError(
            "no set has the role train",
            path=root / "dump",
            hint="run stage 'format' first, or set it in meta.yaml",
        )
    tokens = job.tokens if job.codec.lambda_sem else None
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
    started = time.monotonic()
    n_tokens = store.n_tokens(root / "exp" / "tokens" / tokens) if tokens else 0
    utterances = gather(sets, places, n_tokens)
    speakers = sorted({utterance.speaker for utterance in utterances.values()})
    training, held_out = split(utterances, seed)
    for part, utts in (("train", training), ("valid", held_out)):
        write(partial / "data" / part, {utt: utterances[utt] for utt in utts}, speakers)
    log.info(
        "train: %s, %d utterances of %d speakers, %.1f h", out, len(training), len(speakers),
        sum(utterances[utt].samples for utt in training) / SAMPLE_RATE / 3600,
    )  # fmt: skip
    codec = job.settings["codec_conf"] | {"n_speakers": len(speakers), "n_tokens": n_tokens}
    arguments = _arguments(job, partial, codec, seed, device)
    counts = run(arguments, job.file)
    counts |= {"utterances": len(utterances), "speakers": len(speakers)}
    facts = {"train": job.name, "tokens": tokens, "seed": seed, "sample_rate": SAMPLE_RATE}
    publish(partial, arguments, facts | counts, sets, device)
    stamp.finish(out, "train", counts=counts, seconds=time.monotonic() - started)
    tidy(out)


def _arguments(job: _Job, partial: Path, codec: dict[str, Any], seed: int, device: str) -> Namespace:
    """ESPnet's options: those of the configuration, and the stage's own."""
    from ..tasks.musa import MusaTask

    arguments = MusaTask.get_parser().parse_args(["--config", str(job.file)])
    ngpu = _gpus(device, job.settings.get("ngpu"))
    own = {"codec_conf": codec, "output_dir": str(partial), "seed": seed, "resume": True, "ngpu": ngpu}
    own["multiprocessing_distributed"] = ngpu > 1
    for part in ("train", "valid"):
        place = partial / "data" / part
        inputs = [("wav.scp", "audio", "sound"), ("utt2sid", "sids", "text_int")]
        inputs += [("tokens.scp", "semantic", "kaldi_ark")] if codec["n_tokens"] else []
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


def run(arguments: Namespace, file: Path) -> dict[str, int]:
    """Train or go on with ESPnet's trainer.

    Args:
        arguments: of `MusaTask`.
        file: the configuration, for messages.

    Returns:
        finished epochs and steps.

    Raises:
        UserError: if the configuration does not fit the model or an optimizer, or the training stopped early.
    """
    import torch
    from espnet2.tasks.abs_task import scheduler_classes

    from ..tasks.musa import MusaTask
    from ..tasks.trainer import CHECKPOINT, recover

    try:
        MusaTask.build_preprocess_fn(arguments, train=True)
        optimizers = MusaTask.build_optimizers(arguments, MusaTask.build_model(arguments))
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
    MusaTask.main(args=arguments)
    reporter = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=False)["reporter"]
    epochs = reporter["epoch"]
    if epochs < arguments.max_epoch and arguments.patience is None:
        raise UserError(f"stopped after epoch {epochs} of {arguments.max_epoch}", path=out / "train.log")
    return {"epochs": epochs, "steps": reporter["stats"][epochs]["train"]["total_count"]}


def publish(
    partial: Path, arguments: Namespace, facts: dict[str, Any], sets: Iterable[DataDir], device: str
) -> None:
    """The last epoch's model as an archive (O27), and whole, with heads and discriminators.

    `model.pth` is what ESPnet's `init_param` takes to fine-tune, and its inference classes together with `config.yaml`.
    """
    import torch

    from ..codec.speaker_table import embed_speakers
    from ..tasks.musa import MusaTask
    from ..tasks.trainer import CHECKPOINT

    state = torch.load(partial / CHECKPOINT, map_location="cpu", weights_only=False)["model"]
    torch.save(state, partial / MODEL)
    model = MusaTask.build_model(arguments)
    model.load_state_dict(state)
    generator = model.codec.generator.to(device).eval()
    conf = model.codec.generator_conf
    archive.save(partial, generator_conf=conf, state=generator.state_dict(), facts=facts)
    archive.save_speakers(partial, embed_speakers(generator, sets))


def tidy(out: Path) -> None:
    """Remove what only a training that is not finished needs, and the host from the names of TensorBoard's files."""
    shutil.rmtree(out / "data", ignore_errors=True)
    for path in out.glob("*.pth"):
        if path.name != MODEL:
            path.unlink()
    for path in out.glob("tensorboard/*/events.out.tfevents.*"):
        parts = path.name.split(".")
        path.rename(path.with_name(".".join([*parts[:4], *parts[-2:]])))

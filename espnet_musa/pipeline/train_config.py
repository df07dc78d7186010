"""What a training configuration may say (`conf/train/*.yaml`), read without torch or ESPnet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config
from ..codec.config import CodecConfig, F0Config, VocoderConfig
from ..config import Recipe
from ..errors import UserError, suggest
from .train_data import check_temperature

# Of ESPnet's options. The rest is the stage's business, or of no use here.
_ESPNET = (
    "segment_length", "language_temperature", "init_param", "ignore_init_mismatch", "freeze_param",
    "optim", "optim_conf", "scheduler", "scheduler_conf", "optim2", "optim2_conf", "scheduler2", "scheduler2_conf",
    "max_epoch", "num_iters_per_epoch", "batch_size", "valid_batch_size", "grad_clip", "grad_clip_type",
    "generator_first", "skip_discriminator_prob", "patience", "early_stopping_criterion", "best_model_criterion",
    "keep_nbest_models", "ngpu", "num_workers", "use_amp", "use_tf32", "cudnn_benchmark", "cudnn_deterministic",
    "dist_backend", "gradient_as_bucket_view", "ddp_comm_hook", "log_interval", "use_tensorboard", "use_wandb",
    "wandb_project", "wandb_id", "wandb_entity", "wandb_name", "wandb_model_log_interval", "max_cache_size",
    "detect_anomaly",
)  # fmt: skip
SETTINGS = ("codec", "codec_conf", "f0_conf", *_ESPNET)
VOCODER_SETTINGS = ("vocoder", "vocoder_conf", "f0_conf", "peak", *_ESPNET)


@dataclass(frozen=True)
class Job:
    """One model to train: its name, its configuration (file and content), the name of its tokens."""

    name: str
    file: Path
    settings: dict[str, Any]
    conf: CodecConfig | VocoderConfig
    tokens: str | None

    @property
    def f0(self) -> F0Config:
        """How the F0 that a decoder renders is found."""
        return config.from_dict(F0Config, self.settings.get("f0_conf", {}), self.file, {})


def check(name: str, root: Path) -> tuple[Path, dict[str, Any], CodecConfig | VocoderConfig]:
    """Read a training configuration; its key `codec` or `vocoder` says what it trains (neither: a codec).

    Returns:
        its file, all of its settings, and `codec_conf` or `vocoder_conf`.

    Raises:
        UserError: for an unknown file, key or a wrong type in a conf of ours.
    """
    file = config.conf_file(root, "train", name)
    settings, lines = config.load_yaml(file)
    if "vocoder" in settings:
        known, own, cls, counted = (
            VOCODER_SETTINGS,
            "vocoder_conf",
            VocoderConfig,
            ("n_speakers", "n_codes", "code_dim"),
        )
    else:
        known, own, cls, counted = SETTINGS, "codec_conf", CodecConfig, ("n_speakers", "n_tokens")
    for key in settings:
        if key not in known:
            raise UserError(f"unknown key '{key}'{suggest(key, known)}", path=file, line=lines[(key,)])

    check_temperature(settings.get("language_temperature"), file, lines.get(("language_temperature",)))

    def below(part: str) -> dict[tuple[str, ...], int]:
        return {where[1:]: line for where, line in lines.items() if where[0] == part}

    for key in counted:
        if key in settings.get(own, {}):
            raise UserError(f"stage 4 counts '{key}' itself", path=file, line=lines[(own, key)])
    config.from_dict(F0Config, settings.get("f0_conf", {}), file, below("f0_conf"))
    return file, settings, config.from_dict(cls, settings.get(own, {}), file, below(own))


def jobs(recipe: Recipe, root: Path) -> dict[str, Job]:
    """What the recipe's systems need, by name.

    Raises:
        UserError: for a configuration that does not fit, or its tokens do not.
    """
    found: dict[str, Job] = {}
    for name in recipe.systems:
        system = config.load_system(recipe, name, root)
        if system.train is None:
            continue
        job = Job(system.train, *check(system.train, root), system.tokens)
        if found.setdefault(job.name, job).tokens != job.tokens:
            raise UserError(
                f"two systems train '{job.name}' with different tokens: {found[job.name].tokens}, {job.tokens}",
                hint="give one of them a training configuration of another name",
            )
        if job.tokens is None and isinstance(job.conf, VocoderConfig):
            raise UserError(
                f"system '{name}' names no tokens, but its training is a vocoder's", path=job.file,
                expected="`tokens` in the system's YAML, with an acoustic model (tokenizer: vq_bottleneck)",
            )  # fmt: skip
        if job.tokens is None and isinstance(job.conf, CodecConfig) and job.conf.lambda_sem:
            raise UserError(
                f"system '{name}' names no tokens, but lambda_sem is {job.conf.lambda_sem:g}", path=job.file,
                expected="`tokens` in the system's YAML, or lambda_sem 0",
            )  # fmt: skip
    return found

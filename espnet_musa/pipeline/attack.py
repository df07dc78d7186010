"""Stage 7, attack: train the models of the evaluators that ask for one (attackers, and the recipe's recognizer).

A model trained on original speech is the ignorant and the lazy-informed attacker (VoicePrivacy's ASV_eval): one serves
every system. The semi-informed attacker (ASV_eval^anon) knows the system and trains on what it makes of the same
speech: one for each system, but none for the lower bound, where it would be the same model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config, registry, stamp
from ..config import EvaluatorConfig, Recipe
from ..data.datadir import DataDir
from ..errors import UserError
from ..evaluators.base import Training
from ..log import get_logger
from .score import anonymized_copy, model_dir
from .sharding import training_sets

log = get_logger(__name__)


@dataclass(frozen=True)
class _Job:
    """One model to train: where, on what, how, and from which other model; or one a language, in folders below."""

    out: Path
    data: dict[str, DataDir]  # by language; "": whatever it is
    training: Training
    config: Any
    start: Path | None = None


def attack(recipe: Recipe, root: Path, *, device: str, force: bool) -> None:
    """Train what the recipe's evaluators need and what is not up to date.

    Raises:
        UserError: before any training: if there is not exactly one set with role `attack_train` (or one in each
            language, see `training_sets`), it has fewer than two
            speakers, or a system has not anonymized it, or another version or other utterances of it.
    """
    jobs: dict[Path, _Job] = {}
    for name in recipe.evaluators:
        settings = config.load_evaluator(recipe, name, root)
        if settings.train is None:
            log.info("attack: %s brings its own model", name)
            continue
        for job in _jobs(recipe, root, name, settings):
            jobs.setdefault(job.out, job)
    for job in jobs.values():
        _train(job, recipe.seed, device, force)


def _jobs(recipe: Recipe, root: Path, name: str, settings: EvaluatorConfig) -> list[_Job]:
    """The models of an evaluator, those first that others start from."""
    original = {code: DataDir.read(path, "audio") for code, path in training_sets(root, settings).items()}
    training = registry.resolve(registry.EVALUATORS, "evaluator", settings.evaluator).training()
    wanted = config.load(training.config, config.conf_file(root, "train", settings.train))
    for data in original.values():
        training.check(data, wanted)
    if not settings.semi:
        return [_Job(model_dir(root, name), original, training, wanted)]
    jobs, start = [], None
    if settings.start != "scratch":
        other = config.load_evaluator(recipe, settings.start, root)
        if other.by_language != settings.by_language:
            raise UserError(
                f"only one of '{name}' and '{settings.start}', which it starts from, is by_language"
            )
        jobs = _jobs(recipe, root, settings.start, other)
        start = jobs[-1].out
    for system in recipe.systems:
        if not config.load_system(recipe, system, root).lower_bound:
            data = {code: anonymized_copy(one, root, system) for code, one in original.items()}
            jobs.append(_Job(model_dir(root, name, system), data, training, wanted, start))
    return jobs


def _train(job: _Job, seed: int, device: str, force: bool) -> None:
    fields = {
        "config": config.digest(config.to_dict(job.config)),
        "input": {code: data.fingerprint for code, data in job.data.items()},
        "seed": seed,
    }
    if "" in job.data:
        fields["input"] = job.data[""].fingerprint
    if job.start is not None:
        fields["start"] = config.digest(stamp.require(job.start, "attack")["fields"])
    partial = stamp.begin(job.out, "attack", fields, force=force)
    if partial is None:
        log.info("attack: %s is up to date", job.out)
        return
    started = time.monotonic()
    speakers: set[str] = set()
    for code, data in job.data.items():
        out, done = partial / code, partial / f".{code}.trained"
        if not done.exists():
            log.info("attack: %s, trained on %s", job.out / code, data.path)
            start = job.start / code if job.start is not None else None
            job.training.train(data, out, job.config, seed, device, start)
            done.touch()  # the next language's training may be killed
        speakers |= set(data.table("utt2spk").values())
    for code in job.data:
        (partial / f".{code}.trained").unlink()
    counts = {"utterances": sum(len(data.utts) for data in job.data.values()), "speakers": len(speakers)}
    stamp.finish(job.out, "attack", counts=counts, seconds=time.monotonic() - started)

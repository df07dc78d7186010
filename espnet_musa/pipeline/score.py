"""Stage 8, score: originals and anonymized sets -> metrics and score files, per system and evaluator."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from .. import config, models, registry, stamp
from ..config import EvaluatorConfig, Recipe
from ..data.datadir import DataDir, list_sets
from ..errors import UserError
from ..evaluators.base import Metric, Resources
from ..log import get_logger
from . import importing
from .sharding import language_of, training_set

log = get_logger(__name__)
Pair = tuple[DataDir, DataDir | None]  # original and anonymized; None for the lower bound


def model_dir(root: Path, evaluator: str, system: str | None = None) -> Path:
    """Where stage 7 publishes an evaluator's attacker: of original speech, or of what one system makes of it."""
    return root / "exp" / ("attackers" if system is None else f"{system}/attacker") / evaluator


def anonymized_copy(original: DataDir, root: Path, system: str) -> DataDir:
    """What a system made of a formatted set.

    Raises:
        UserError: if it is missing, was made from another version of the set, or holds other utterances or speakers.
    """
    place = root / "exp" / system / "data" / original.name
    hint = "run stage 'anonymize' again"
    if stamp.require(place, "anonymize")["fields"]["input"] != original.fingerprint:
        raise UserError(f"was made from another version of {original.path}", path=place, hint=hint)
    anonymized = DataDir.read(place, "anon")
    if anonymized.utts != original.utts:
        raise UserError(f"holds other utterances than {original.path}", path=place, hint=hint)
    if anonymized.table("utt2spk") != original.table("utt2spk"):
        raise UserError(f"holds other speakers than {original.path}", path=place, hint=hint)
    return anonymized


def pairs(recipe: Recipe, root: Path, system: str, lower_bound: bool) -> dict[str, Pair]:
    """All evaluation sets with their anonymized copies.

    Raises:
        UserError: if there is none, or a copy does not belong to its set (see `anonymized_copy`).
    """
    out: dict[str, Pair] = {}
    for path in list_sets(root / "dump", recipe.anonymize_roles):
        original = DataDir.read(path, "trials" if (path / "trials").is_file() else "audio")
        out[path.name] = (original, None if lower_bound else anonymized_copy(original, root, system))
    if not out:
        raise UserError("nothing to score", path=root / "dump", hint="run stage 'format' first")
    return out


def score(recipe: Recipe, root: Path, system_name: str, *, jobs: int, device: str, force: bool) -> None:
    """Run every evaluator of the recipe on one system.

    Args:
        recipe: names the evaluators.
        root: the recipe's directory.
        system_name: a system of the recipe.
        jobs: processes for evaluators that split over utterances.
        device: of neural evaluators.
        force: replace scores that were made from something else.
    """
    system = config.load_system(recipe, system_name, root)
    if system.imported:
        importing.require(recipe, root, system_name)
    sets = pairs(recipe, root, system_name, system.lower_bound)
    for name in recipe.evaluators:
        settings = config.load_evaluator(recipe, name, root)
        evaluator = registry.construct(
            registry.resolve(registry.EVALUATORS, "evaluator", settings.evaluator), settings.params, name
        )
        if system.lower_bound and (evaluator.kind == "paired" or settings.semi):
            continue  # nothing to compare with; and on speech that nothing changed, informed or not is the same
        model = model_dir(root, name, system_name if settings.semi else None) if settings.train else None
        train = _training(root, system_name, settings) if getattr(evaluator, "trained", False) else None
        fields = {
            "config": config.digest(settings.params),
            "seed": recipe.seed,
            "model": None if model is None else config.digest(stamp.require(model, "attack")["fields"]),
            "inputs": {k: [o.fingerprint, a and a.fingerprint] for k, (o, a) in sets.items()},
        }
        if train is not None:
            fields["train"] = train.fingerprint
        published = settings.params.get("model")  # a checkpoint that the recipe did not train
        if published not in (None, "recipe"):
            fields["checkpoint"] = models.fingerprint(published)
        out = root / "exp" / system_name / "score" / name
        if (stamp.read(out) or {}).get("fields") == fields:
            log.info("score: %s, %s: up to date", system_name, name)
            continue
        partial = stamp.begin(out, "score", fields, force=force)
        started = time.monotonic()
        resources = Resources(model, root / "exp" / "cache" / name, device, jobs, recipe.seed, train)
        metrics = _run(evaluator, sets, partial, resources, settings.by_language)
        if not metrics:
            log.warning(
                "score: no set has what '%s' needs, so it measured nothing; the lines above say what", name
            )
        stamp.write_json(
            partial / "metrics.json",
            {"system": system_name, "evaluator": name, "metrics": [m.to_dict() for m in metrics]},
        )
        stamp.finish(out, "score", counts={"metrics": len(metrics)}, seconds=time.monotonic() - started)
        log.info("score: %s, %s: %d metrics", system_name, name, len(metrics))


def _training(root: Path, system: str, settings: EvaluatorConfig) -> DataDir:
    """The attacker's training set: original speech, or what the system made of it for a semi-informed attacker."""
    original = DataDir.read(training_set(root), "audio")
    return anonymized_copy(original, root, system) if settings.semi else original


def _run(
    evaluator, sets: dict[str, Pair], out: Path, resources: Resources, by_language: bool
) -> list[Metric]:
    metrics: list[Metric] = []
    for name, (original, anonymized) in sets.items():
        meta = original.meta
        if evaluator.kind == "verification" and meta.role == "trial":
            if meta.enroll not in sets:
                raise UserError(
                    f"enrolment set '{meta.enroll}' is not there", path=original.path / "meta.yaml"
                )
            enroll = sets[meta.enroll]
            lent = _of_language(resources, original) if by_language else resources
            if lent is None:
                log.info("score: %s is in no language that an attacker was trained in", name)
                continue
            (out / name).mkdir(exist_ok=True)
            metrics += evaluator.score(enroll[0], original, enroll[1], anonymized, out / name, lent)
        elif evaluator.kind in ("paired", "single") and meta.role in ("trial", "utility"):
            (out / name).mkdir(exist_ok=True)
            metrics += evaluator.score(original, anonymized, out / name, resources)
    return metrics


def _of_language(resources: Resources, data: DataDir) -> Resources | None:
    """What is lent with the attacker of the set's language; None if there is no such."""
    code = language_of(data)
    place = resources.model_dir / code if code and resources.model_dir else None
    return dataclasses.replace(resources, model_dir=place) if place and place.is_dir() else None

"""Stage 8, score: originals and anonymized sets -> metrics and score files, per system and evaluator."""

from __future__ import annotations

import time
from pathlib import Path

from .. import config, registry, stamp
from ..config import Recipe
from ..data.datadir import DataDir, list_sets
from ..errors import UserError
from ..evaluators.base import Metric, Resources
from ..log import get_logger

log = get_logger(__name__)
Pair = tuple[DataDir, DataDir | None]  # original and anonymized; None for the lower bound


def model_dir(root: Path, evaluator: str) -> Path:
    """Where the attacker of an evaluator, trained on original speech by stage 7, is published."""
    return root / "exp" / "attackers" / evaluator


def pairs(recipe: Recipe, root: Path, system: str, lower_bound: bool) -> dict[str, Pair]:
    """All evaluation sets with their anonymized copies.

    Raises:
        UserError: if a set is not anonymized, was made from another original, or holds other utterances.
    """
    out: dict[str, Pair] = {}
    for path in list_sets(root / "dump", recipe.anonymize_roles):
        original = DataDir.read(path, "trials" if (path / "trials").is_file() else "audio")
        anonymized = None
        if not lower_bound:
            place = root / "exp" / system / "data" / path.name
            made_from = stamp.require(place, "anonymize")["fields"]["input"]
            if made_from != original.fingerprint:
                raise UserError(
                    f"was made from another version of {path}", path=place, hint="run stage 'anonymize' again"
                )
            anonymized = DataDir.read(place, "anon")
            if anonymized.utts != original.utts:
                raise UserError(
                    f"holds other utterances than {path}", path=place, hint="run stage 'anonymize' again"
                )
        out[path.name] = (original, anonymized)
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
    sets = pairs(recipe, root, system_name, system.lower_bound)
    for name in recipe.evaluators:
        settings = config.load_evaluator(recipe, name, root)
        model = model_dir(root, name) if settings.train else None
        fields = {
            "config": config.digest(settings.params),
            "seed": recipe.seed,
            "model": None if model is None else config.digest(stamp.require(model, "attack")["fields"]),
            "inputs": {k: [o.fingerprint, a and a.fingerprint] for k, (o, a) in sets.items()},
        }
        out = root / "exp" / system_name / "score" / name
        if (stamp.read(out) or {}).get("fields") == fields:
            log.info("score: %s, %s: up to date", system_name, name)
            continue
        evaluator = registry.resolve(registry.EVALUATORS, "evaluator", settings.evaluator)(**settings.params)
        if evaluator.kind == "paired" and system.lower_bound:
            continue
        partial = stamp.begin(out, "score", fields, force=force)
        started = time.monotonic()
        resources = Resources(model, root / "exp" / "cache" / name, device, jobs, recipe.seed)
        metrics = _run(evaluator, sets, partial, resources)
        stamp.write_json(
            partial / "metrics.json",
            {"system": system_name, "evaluator": name, "metrics": [m.to_dict() for m in metrics]},
        )
        stamp.finish(out, "score", counts={"metrics": len(metrics)}, seconds=time.monotonic() - started)
        log.info("score: %s, %s: %d metrics", system_name, name, len(metrics))


def _run(evaluator, sets: dict[str, Pair], out: Path, resources: Resources) -> list[Metric]:
    metrics: list[Metric] = []
    for name, (original, anonymized) in sets.items():
        meta = original.meta
        if evaluator.kind == "verification" and meta.role == "trial":
            if meta.enroll not in sets:
                raise UserError(
                    f"enrolment set '{meta.enroll}' is not there", path=original.path / "meta.yaml"
                )
            enroll = sets[meta.enroll]
            (out / name).mkdir(exist_ok=True)
            metrics += evaluator.score(enroll[0], original, enroll[1], anonymized, out / name, resources)
        elif evaluator.kind == "paired" and meta.role in ("trial", "utility"):
            (out / name).mkdir(exist_ok=True)
            metrics += evaluator.score(original, anonymized, out / name, resources)
    return metrics

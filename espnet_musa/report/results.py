"""`results.json`: every number of a recipe with what it was measured on and with, and nothing that changes by itself.

No time, host, user or path is in it, so the same scores give the same bytes, and `RESULTS.md` (a pure function of it)
can be checked against it at any later commit. `commit` is that of the code that made the file; files that the report
itself writes do not count as changes, else a second run would call its own first run a modification.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import platform
from pathlib import Path
from typing import Any

from .. import __version__, config, registry, stamp
from ..config import EvaluatorConfig, Recipe, commit
from ..data.datadir import DataDir, list_sets
from ..errors import Problems, UserError
from ..evaluators.base import Metric
from . import identity, reported

PACKAGES = (
    "espnet",
    "jiwer",
    "matplotlib",
    "numba",
    "numpy",
    "onnxruntime",
    "pocketsphinx",
    "pyworld",
    "resemblyzer",
    "scikit-learn",
    "scipy",
    "sentencepiece",
    "soundfile",
    "soxr",
    "speechbrain",
    "speechmos",
    "torch",
    "torchaudio",
    "transformers",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on (those installed)."""
    found = {"espnet_musa": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def collect(recipe: Recipe, recipe_dir: Path) -> dict[str, Any]:
    """Gather the metrics of all systems and evaluators of a recipe.

    Args:
        recipe: names the systems and evaluators; their order is the order of the tables.
        recipe_dir: holds `dump/` and `exp/`.

    Returns:
        what `results.json` holds: recipe, partial, seed, overrides, commit, versions, systems, evaluators, sets,
        metrics, reported, baseline.

    Raises:
        UserError: naming every score that is missing, or made from something else than the recipe says, and the stage
            that makes it; for an unknown published table or baseline.
    """
    metrics: list[dict[str, Any]] = []
    systems = []
    published, baseline = reported.chosen(recipe.report.reported), recipe.report.summary.baseline
    if baseline:
        config.load_system(recipe, baseline, recipe_dir)  # or a typing error goes unnoticed
    settings = {name: config.load_evaluator(recipe, name, recipe_dir) for name in recipe.evaluators}
    kinds = {
        name: registry.resolve(registry.EVALUATORS, "evaluator", one.evaluator).kind
        for name, one in settings.items()
    }
    trainings = {name: _training(one, recipe_dir) for name, one in settings.items()}
    sets = [DataDir.read(path) for path in list_sets(recipe_dir / "dump")]
    if not sets:
        raise UserError("no formatted sets", path=recipe_dir / "dump", hint="run stage 'format' first")
    problems, models = Problems(), {}
    for name in recipe.systems:
        system = config.load_system(recipe, name, recipe_dir)
        facts = {
            "name": name,
            "description": system.description,
            "reference": system.reference,
            "lower_bound": system.lower_bound,
            "config_hash": config.digest(config.to_dict(system)),
        }
        if system.params.get("transforms"):
            facts["transforms"] = system.params["transforms"]
        if system.variant_of:
            facts |= {"variant_of": system.variant_of, "swept": name in recipe.variants}
        systems.append(facts)
        inputs = _inputs(recipe, recipe_dir, facts, sets, problems)
        for evaluator, one in settings.items():
            # Paired: nothing to compare originals with. Semi-informed: on originals the same as any attacker.
            if not (system.lower_bound and (kinds[evaluator] == "paired" or one.semi)):
                wanted = {"config": config.digest(one.params), "seed": recipe.seed, "inputs": inputs}
                if trainings[evaluator] is not None:
                    place = recipe_dir / "exp" / (f"{name}/attacker" if one.semi else "attackers") / evaluator
                    if place not in models:  # one of original speech serves all systems
                        models[place] = _model(place, one.train, trainings[evaluator], problems)
                    wanted |= models[place]
                metrics += _read(recipe_dir, name, evaluator, wanted, problems)
    probes = identity.load(recipe_dir, config.probed_systems(recipe, recipe_dir), problems)
    problems.raise_if_any()
    return {
        "recipe": recipe.name,
        "partial": _partial(recipe, recipe_dir),
        "seed": recipe.seed,
        "overrides": {
            name: _portable(recipe.overrides[name])
            for name in (*recipe.systems, *recipe.evaluators)
            if name in recipe.overrides
        },
        "commit": commit(),
        "versions": versions(),
        "systems": systems,
        "evaluators": [
            {
                "name": name,
                "description": one.description,
                "kind": kinds[name],
                "attacker": one.attacker,
                "train": one.train,
                "train_hash": trainings[name],
            }
            for name, one in settings.items()
        ],
        "sets": [_describe(data) for data in sets],
        "probes": probes,
        "metrics": metrics + _means(metrics, {data.name: _origin(data) for data in sets}),
        "reported": published,
        "baseline": baseline,
    }


def _partial(recipe: Recipe, recipe_dir: Path) -> bool:
    """Whether a run has other systems or evaluators than `conf/recipe.yaml`, which the committed results are about."""
    path = recipe_dir / "conf" / "recipe.yaml"
    if not path.is_file():
        return False
    whole = config.load_recipe(path)
    return any({*getattr(recipe, key)} != {*getattr(whole, key)} for key in ("name", "systems", "evaluators"))


def _portable(value: Any) -> Any:
    """A setting without the places of this machine: of an absolute path its last part."""
    if isinstance(value, dict):
        return {key: _portable(one) for key, one in value.items()}
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _again(stage: str, force: bool = False) -> str:
    """What to type to have a stage done (again) for the systems and evaluators of this run."""
    return f"run stage '{stage}': the same command with --stage {stage}{' --force true' if force else ''}"


def _training(evaluator: EvaluatorConfig, recipe_dir: Path) -> str | None:
    """Hash of the training configuration of an evaluator, None where stage 7 trains nothing for it."""
    if evaluator.train is None:
        return None
    training = registry.resolve(registry.EVALUATORS, "evaluator", evaluator.evaluator).training()
    path = config.conf_file(recipe_dir, "train", evaluator.train)
    return config.digest(config.to_dict(config.load(training.config, path)))


def _model(place: Path, train: str, wanted: str, problems: Problems) -> dict[str, str]:
    """What a score's stamp says about a model of stage 7; one that was not trained as `wanted` is a problem."""
    made = stamp.read(place)
    if made is None:
        problems.add("not trained", path=place, hint=_again("attack"))
        return {}
    if made["fields"]["config"] != wanted:
        problems.add(f"trained otherwise than '{train}' says", path=place, hint=_again("attack", force=True))
    return {"model": config.digest(made["fields"])}


def _inputs(
    recipe: Recipe, recipe_dir: Path, system: dict[str, Any], sets: list[DataDir], problems: Problems
) -> dict[str, list[str | None]]:
    """Fingerprints of every original set and its anonymized copy, as the scores must have been made from them.

    A copy that is missing, or was made with another configuration or seed than the recipe's, is a problem: the report
    would credit the recipe with numbers of something else.
    """
    found: dict[str, list[str | None]] = {}
    for data in sets:
        if data.meta.role not in recipe.anonymize_roles:
            continue
        found[data.name] = [data.fingerprint, None]
        if system["lower_bound"]:
            continue
        place = recipe_dir / "exp" / system["name"] / "data" / data.name
        made = stamp.read(place)
        if made is None:
            problems.add("not anonymized", path=place, hint=_again("anonymize"))
            continue
        changed = _changed(made["fields"], {"system": system["config_hash"], "seed": recipe.seed})
        if changed:
            hint = _again("anonymize", force=True)
            problems.add(f"not this recipe's: differs in {changed}", path=place, hint=hint)
        found[data.name][1] = DataDir.read(place).fingerprint
    return found


def _changed(fields: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Names of the fields of a stamp that are not as the recipe wants them."""
    return ", ".join(name for name, value in wanted.items() if fields.get(name) != value)


def _read(
    recipe_dir: Path, system: str, evaluator: str, wanted: dict[str, Any], problems: Problems
) -> list[dict[str, Any]]:
    """The flattened metrics of one system and evaluator; a missing, foreign or outdated file is a problem."""
    place = recipe_dir / "exp" / system / "score" / evaluator
    try:
        made = stamp.require(place, "score")
    except UserError:
        problems.add(f"system '{system}' is not scored by '{evaluator}'", path=place, hint=_again("score"))
        return []
    changed = _changed(made["fields"], wanted)
    if changed:
        hint = _again("score", force=True)
        problems.add(f"not this recipe's: differs in {changed}", path=place, hint=hint)
    try:
        data = stamp.read_json(place / "metrics.json")
        found = [Metric.from_dict(values) for values in data["metrics"]]
        named = (data["system"], data["evaluator"])
    except (OSError, ValueError, KeyError, TypeError):
        hint = f"remove {place}; {_again('score')}"
        problems.add("missing or damaged", path=place / "metrics.json", hint=hint)
        return []
    if named != (system, evaluator):
        problems.add(f"is about {named}", path=place / "metrics.json", expected=f"{(system, evaluator)}")
    return [{"system": system, "evaluator": evaluator, **metric.to_dict(), "parts": []} for metric in found]


def _languages(data: DataDir) -> list[str]:
    return sorted(set(data.tables.get("utt2lang", {}).values()))


def _origin(data: DataDir) -> str:
    """What the sets of both genders of one evaluation share."""
    return " ".join([data.meta.corpus, *_languages(data)])


def _means(metrics: list[dict[str, Any]], corpus: dict[str, str]) -> list[dict[str, Any]]:
    """Means of the genders where they are sets of their own, as VoicePrivacy's trial lists are; WER and CER are pooled.

    A mean is made where, in one corpus, language and split, exactly one set has a metric of group "f" only and exactly
    one has it of group "m" only. `parts` names the two sets.
    """
    from ..evaluators import asr  # import more than reading results.json alone should wait for
    from ..evaluators.asv import mean_of

    def key(m: dict[str, Any]) -> tuple[str, ...]:
        return (
            *(m[k] for k in ("system", "evaluator", "name", "condition", "split")),
            corpus.get(m["set"], ""),
        )

    both = {(key(m), m["set"]) for m in metrics if m["group"] == "avg"}
    single = [m for m in metrics if m["group"] in ("f", "m") and (key(m), m["set"]) not in both]
    means = []
    for _, group in itertools.groupby(sorted(single, key=key), key=key):
        found = sorted(group, key=lambda m: m["group"])
        if [m["group"] for m in found] != ["f", "m"] or found[0]["set"] == found[1]["set"]:
            continue
        f, m = ({f.name: one[f.name] for f in dataclasses.fields(Metric)} for one in found)
        join = asr.pooled if f["name"] in asr.UNITS else mean_of
        mean = join(Metric.from_dict(f), Metric.from_dict(m)).to_dict()
        parts = [one["set"] for one in found]
        named = {"system": found[0]["system"], "evaluator": found[0]["evaluator"]}
        means.append({**named, **mean, "set": " + ".join(parts), "parts": parts})
    return means


def _describe(data: DataDir) -> dict[str, Any]:
    """What the data table says about a set."""
    genders = data.tables.get("spk2gender", {})
    speakers = set(data.table("utt2spk").values())
    seconds = sum(data.tables.get("utt2dur", {}).values())
    return {
        "name": data.name,
        "corpus": data.meta.corpus,
        "role": data.meta.role,
        "split": data.meta.split,
        "speakers": len(speakers),
        "female": sum(genders.get(s) == "f" for s in speakers),
        "male": sum(genders.get(s) == "m" for s in speakers),
        "utterances": len(data.utts),
        "hours": round(seconds / 3600, 6),
        "languages": _languages(data),
    }

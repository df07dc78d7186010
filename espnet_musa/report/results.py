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
import subprocess
from pathlib import Path
from typing import Any

from .. import __version__, config, registry, stamp
from ..config import ROOT, Recipe
from ..data.datadir import DataDir, list_sets
from ..errors import Problems, UserError
from ..evaluators.base import Metric
from . import reported

PACKAGES = (
    "espnet",
    "jiwer",
    "matplotlib",
    "numba",
    "numpy",
    "pocketsphinx",
    "pyworld",
    "resemblyzer",
    "scipy",
    "sentencepiece",
    "soundfile",
    "speechbrain",
    "torch",
    "transformers",
)
OWN = (":(exclude,glob)egs/*/RESULTS.md", ":(exclude,glob)egs/*/results.json")


def commit(root: Path = ROOT) -> str:
    """State of the code: tag or commit, `-dirty` if a tracked file differs; "unknown" without version control."""
    if not (root / ".git").exists():  # an installed copy may lie inside another project's repository
        return "unknown"
    git = ["git", "-C", str(root)]
    try:
        name = subprocess.run(
            [*git, "describe", "--always", "--abbrev=12"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *OWN],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


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
        what `results.json` holds: recipe, seed, commit, versions, systems, evaluators, sets, metrics, reported.

    Raises:
        UserError: naming every score that is missing, or made from something else than the recipe says, and the stage
            that makes it; for an unknown published table.
    """
    metrics: list[dict[str, Any]] = []
    systems = []
    published = reported.chosen(recipe.report.reported)
    settings = {name: config.load_evaluator(recipe, name, recipe_dir) for name in recipe.evaluators}
    kinds = {
        name: registry.resolve(registry.EVALUATORS, "evaluator", one.evaluator).kind
        for name, one in settings.items()
    }
    sets = [DataDir.read(path) for path in list_sets(recipe_dir / "dump")]
    if not sets:
        raise UserError("no formatted sets", path=recipe_dir / "dump", hint="run stage 'format' first")
    problems = Problems()
    for name in recipe.systems:
        system = config.load_system(recipe, name, recipe_dir)
        facts = {
            "name": name,
            "description": system.description,
            "reference": system.reference,
            "lower_bound": system.lower_bound,
            "config_hash": config.digest(config.to_dict(system)),
        }
        systems.append(facts)
        inputs = _inputs(recipe, recipe_dir, facts, sets, problems)
        for evaluator, one in settings.items():
            # Paired: nothing to compare originals with. Semi-informed: on originals the same as any attacker.
            if not (system.lower_bound and (kinds[evaluator] == "paired" or one.semi)):
                wanted = {"config": config.digest(one.params), "seed": recipe.seed, "inputs": inputs}
                metrics += _read(recipe_dir, name, evaluator, wanted, problems)
    problems.raise_if_any()
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "commit": commit(),
        "versions": versions(),
        "systems": systems,
        "evaluators": [
            {"name": name, "description": one.description, "kind": kinds[name], "attacker": one.attacker}
            for name, one in settings.items()
        ],
        "sets": [_describe(data) for data in sets],
        "metrics": metrics + _means(metrics, {data.name: data.meta.corpus for data in sets}),
        "reported": published,
    }


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
            problems.add("not anonymized", path=place, hint="run stage 'anonymize'")
            continue
        changed = _changed(made["fields"], {"system": system["config_hash"], "seed": recipe.seed})
        if changed:
            problems.add(
                f"not this recipe's: differs in {changed}",
                path=place,
                hint="run stage 'anonymize' with --force true",
            )
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
    command = f"./run.sh --stage score --systems {system}"
    try:
        made = stamp.require(place, "score")
    except UserError:
        hint = f"run stage 'score': {command}"
        problems.add(f"system '{system}' is not scored by '{evaluator}'", path=place, hint=hint)
        return []
    changed = _changed(made["fields"], wanted)
    if changed:
        problems.add(f"not this recipe's: differs in {changed}", path=place, hint=f"{command} --force true")
    try:
        data = stamp.read_json(place / "metrics.json")
        found = [Metric.from_dict(values) for values in data["metrics"]]
        named = (data["system"], data["evaluator"])
    except (OSError, ValueError, KeyError, TypeError):
        problems.add("missing or damaged", path=place / "metrics.json", hint=f"{command} --force true")
        return []
    if named != (system, evaluator):
        problems.add(f"is about {named}", path=place / "metrics.json", expected=f"{(system, evaluator)}")
    return [{"system": system, "evaluator": evaluator, **metric.to_dict(), "parts": []} for metric in found]


def _means(metrics: list[dict[str, Any]], corpus: dict[str, str]) -> list[dict[str, Any]]:
    """Means of the genders where they are sets of their own, as VoicePrivacy's trial lists are; WER and CER are pooled.

    A mean is made where, in one corpus and split, exactly one set has a metric of group "f" only and exactly one has
    it of group "m" only. `parts` names the two sets.
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
        "languages": sorted(set(data.tables.get("utt2lang", {}).values())),
    }

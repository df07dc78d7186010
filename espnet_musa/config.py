"""Typed YAML configuration: closed world, checked types, layers, and the effective result saved.

Layers, later ones win: `conf/defaults.yaml` < the recipe's YAML < `--set path=value`; for a system or an
evaluator: its YAML < the recipe's `overrides.<name>` < `--set <name>.path=value`. An unknown key or a wrong type
is an error that names file, line and the nearest known key. A variant of a system starts from what these make of it.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import UserError, suggest
from .typed_yaml import Lines, assign, digest, from_dict, load, load_yaml, merge, nest, save, to_dict

__all__ = ["Lines", "digest", "from_dict", "load", "load_yaml", "merge", "save", "to_dict"]  # of typed_yaml

ROOT = Path(__file__).resolve().parent.parent  # the repository
ATTACKERS = ("original", "semi")
_OPTIONS = ("systems=", "evaluators=", "seed=")  # settings that are options of the driver
VARIANT_KEYS = ("description", "reference", "variant_of", "params")
IMPORTED = "imported"  # in place of an anonymizer's name: the speech was anonymized elsewhere
OWN = (":(exclude,glob)egs/*/RESULTS.md", ":(exclude,glob)egs/*/results.json")  # which the report writes


@dataclass(frozen=True)
class FormatConfig:
    """Stage 2: what every waveform becomes."""

    sample_rate: int = 16000  # Hz
    channels: str = "error"  # several channels: error | first | mean
    min_rate: int = 16000  # Hz; below this a file is refused, since upsampling invents no bandwidth
    max_clipped: float = 0.01  # largest share of samples at full scale
    allow_pipes: bool = False  # run piped wav.scp entries through a shell
    roles: tuple[str, ...] = (
        "enroll",
        "trial",
        "utility",
        "attack_train",
    )  # and train, if a system is trained


@dataclass(frozen=True)
class SummaryConfig:
    """The table 'At a glance'."""

    baseline: str = ""  # system whose numbers are to beat; none: no such table


@dataclass(frozen=True)
class ReportConfig:
    """Stage 9: what the report shows."""

    examples: int = 3  # utterances with players, spectrograms and pitch contours
    audio: float = 100.0  # seconds of audio on the page, shared by all players; none gets less than 3
    summary: SummaryConfig = field(default_factory=SummaryConfig)
    reported: tuple[str, ...] = ()  # published tables of conf/reported.yaml to set this run's numbers beside


@dataclass(frozen=True)
class SweepConfig:
    """Variants of a system, one for each pair of a pull of F0 towards its mean and a noise on F0."""

    base: str = ""  # system; none: no sweep
    before: tuple[dict, ...] = ()  # F0 transforms ahead of the two, e.g. normalize: {}
    alpha: tuple[float, ...] = ()  # of mean_reversion; 0: without
    db: tuple[float | None, ...] = (None,)  # of awgn; null: without


@dataclass(frozen=True)
class Recipe:
    """A run: which corpora, systems and evaluators, and the seed."""

    name: str
    systems: tuple[str, ...]  # names of conf/systems/*.yaml, the lower bound `orig` among them
    evaluators: tuple[str, ...]  # names of conf/evaluators/*.yaml
    corpora: dict[str, dict]  # preparer -> its options; one whose `root` is null is left out
    options: dict[str, str] = field(default_factory=dict)  # command-line option -> path it sets
    seed: int = 0
    anonymize_roles: tuple[str, ...] = ("enroll", "trial", "utility")
    format: FormatConfig = field(default_factory=FormatConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    overrides: dict[str, dict] = field(default_factory=dict)  # system or evaluator -> changes to its YAML
    sweep: SweepConfig = field(default_factory=SweepConfig)
    variants: dict[str, dict] = field(default_factory=dict)  # name -> YAML of a variant; a sweep adds its own


@dataclass(frozen=True)
class TargetConfig:
    """Which pseudo-speaker or coefficient an utterance gets."""

    policy: str = "none"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """An anonymizer with its parameters and its target policy."""

    description: str
    reference: str  # publication or evaluation plan
    anonymizer: str | None = (
        None  # None: the original speech, the lower bound of privacy; imported: made elsewhere
    )
    params: dict[str, Any] = field(default_factory=dict)
    target: TargetConfig = field(default_factory=TargetConfig)
    train: str | None = None  # training of its model (conf/train/*.yaml, ESPnet's format): stage 4
    tokens: str | None = (
        None  # teacher and tokenizer that the training learns from (conf/tokens/*.yaml): stage 3
    )
    variant_of: str | None = (
        None  # system that it differs from in `params` alone, of those that expose F0: stage 6
    )

    @property
    def lower_bound(self) -> bool:
        """True for the original speech: never anonymized data, never packed."""
        return self.anonymizer is None

    @property
    def probed(self) -> bool:
        """Whether stage 8 asks where identity travels in its model: only MUSA's has quantizers and a speaker vector."""
        return self.anonymizer == "musa"

    @property
    def imported(self) -> bool:
        """True for speech that another program anonymized: `bin/import_submission` brings it in, stage 5 does not."""
        return self.anonymizer == IMPORTED

    def __post_init__(self) -> None:
        if self.imported and (self.params or self.target != TargetConfig()):
            raise UserError("an imported system has neither params nor a target: nothing here would use them")
        if self.tokens and not self.train:
            raise UserError(
                "tokens without a training that learns from them", expected="train: a conf/train/*.yaml"
            )


@dataclass(frozen=True)
class EvaluatorConfig:
    """A scorer with its parameters."""

    evaluator: str
    description: str
    params: dict[str, Any] = field(default_factory=dict)
    train: str | None = None  # training configuration of the attacker that stage 7 trains (conf/train/*.yaml)
    attacker: str = (
        "original"  # what speech the attacker is trained on: original, or each system's own (semi)
    )
    start: str = "scratch"  # semi: scratch, or the evaluator whose attacker of original speech is fine-tuned

    def __post_init__(self) -> None:
        if self.attacker not in ATTACKERS:
            raise UserError(f"unknown attacker '{self.attacker}'{suggest(self.attacker, ATTACKERS)}")
        if self.start != "scratch" and not (self.semi and self.train):
            raise UserError(
                f"start is '{self.start}'", expected="attacker: semi, and a training configuration"
            )

    @property
    def semi(self) -> bool:
        """Whether the attacker is semi-informed: trained on what each system makes of the training set."""
        return self.attacker == "semi"

    @property
    def by_language(self) -> bool:
        """Whether each language has an attacker of its own, trained on the set of role `attack_train` in it."""
        return bool(self.params.get("by_language"))


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


def conf_file(recipe_dir: Path, kind: str, name: str) -> Path:
    """The YAML of a system, an evaluator or a training: the recipe's own `conf/` comes before the shared one."""
    for base in (recipe_dir, ROOT):
        if (base / "conf" / kind / f"{name}.yaml").is_file():
            return base / "conf" / kind / f"{name}.yaml"
    known = [p.stem for base in (recipe_dir, ROOT) for p in (base / "conf" / kind).glob("*.yaml")]
    raise UserError(f"no {kind.rstrip('s')} named '{name}'{suggest(name, set(known))}")


def with_sets(recipe: Recipe, sets: Iterable[str]) -> Recipe:
    """`recipe` with `--set` assignments; one whose first part is no field of `Recipe` goes to `overrides`.

    Raises:
        UserError: as `load_recipe` does, naming the assignment.
    """
    known = {f.name for f in dataclasses.fields(Recipe)}
    for text in sets:
        keys, value = assign(text)
        if keys[0] not in known:
            if len(keys) == 1:
                raise UserError(f"--set {text}: nothing is named '{keys[0]}' to set{suggest(keys[0], known)}")
            keys = ["overrides", *keys]
        blamed = Path(f"--{text.partition('=')[0]}" if text.startswith(_OPTIONS) else f"--set {text}")
        recipe = _checked(from_dict(Recipe, merge(to_dict(recipe), nest(keys, value)), blamed, {}), blamed)
    return recipe


def load_recipe(path: Path, sets: Iterable[str] = ()) -> Recipe:
    """The recipe of `path` over `conf/defaults.yaml`, with `--set` assignments over both.

    Raises:
        UserError: for an unknown key or system, or a wrong type.
    """
    base, _ = load_yaml(ROOT / "conf" / "defaults.yaml")
    data, lines = load_yaml(path)
    return _swept(with_sets(_checked(from_dict(Recipe, merge(base, data), path, lines), path), sets))


def _swept(recipe: Recipe) -> Recipe:
    """The variants of a recipe's sweep among its systems, in place of the sweep."""
    sweep, variants = recipe.sweep, {}
    if not sweep.base:
        return recipe
    for alpha in sweep.alpha:
        for db in sweep.db:
            transforms = [*sweep.before]
            transforms += [{"mean_reversion": {"alpha": alpha}}] if alpha else []
            transforms += [] if db is None else [{"awgn": {"db": db}}]
            noise = "no noise" if db is None else f"noise of {db:g} dB"
            variants[f"{sweep.base}_mr{alpha:g}" + ("" if db is None else f"_awgn{db:g}")] = {
                "description": f"{sweep.base}, mean reversion {alpha:g}, {noise}",
                "variant_of": sweep.base,
                "params": {"transforms": transforms},
            }
    systems = tuple(dict.fromkeys((*recipe.systems, *variants)))
    return replace(recipe, systems=systems, variants=recipe.variants | variants, sweep=SweepConfig())


def _checked(recipe: Recipe, path: Path) -> Recipe:
    """Refuse overrides of something that does not exist, and names that are given twice."""
    for kind in ("systems", "evaluators"):
        names = getattr(recipe, kind)
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"'{name}' is named twice", path=path, expected=f"every one of {kind} once")
    named = {p.stem for d in ("systems", "evaluators", "tokens") for p in (ROOT / "conf" / d).glob("*.yaml")}
    named |= {*recipe.systems, *recipe.evaluators}
    for name in recipe.overrides:
        if name not in named:
            fields = {f.name for f in dataclasses.fields(Recipe)}
            raise UserError(f"nothing is named '{name}' to set{suggest(name, fields | named)}", path=path)
    return recipe


def _settings(recipe: Recipe, kind: str, name: str, recipe_dir: Path) -> tuple[dict[str, Any], Path, Lines]:
    """The YAML of a system or an evaluator, its file and lines; with the recipe's overrides, if it has any."""
    if kind == "systems" and name in recipe.variants:
        data, path, lines = recipe.variants[name], Path(f"variant '{name}'"), {}
    else:
        path = conf_file(recipe_dir, kind, name)
        data, lines = load_yaml(path)
    if name not in recipe.overrides:
        return data, path, lines
    return merge(data, recipe.overrides[name]), Path(f"settings of '{name}'"), {}


def load_system(recipe: Recipe, name: str, recipe_dir: Path) -> System:
    """`conf/systems/<name>.yaml` (or the recipe's `variants.<name>`) with the recipe's overrides.

    Raises:
        UserError: for an unknown name or key, a wrong type, a variant of a variant, or one that changes more than F0.
    """
    data, path, lines = _settings(recipe, "systems", name, recipe_dir)
    if "variant_of" not in data:
        return from_dict(System, data, path, lines)
    for key in data:
        if key not in VARIANT_KEYS:
            raise UserError(
                f"a variant has no key '{key}' of its own{suggest(key, VARIANT_KEYS)}", path=path,
                line=lines.get((key,)), expected=", ".join(VARIANT_KEYS),
            )  # fmt: skip
    base, where, below = _settings(recipe, "systems", str(data["variant_of"]), recipe_dir)
    if "variant_of" in base:
        raise UserError(
            f"'{data['variant_of']}' is a variant itself", path=path, expected="a system of its own"
        )
    from_dict(System, base, where, below)  # errors of the base belong to its own file
    return from_dict(System, merge(base, data), path, lines)


def variants(recipe: Recipe, recipe_dir: Path) -> dict[str, System]:
    """The recipe's systems that are variants of another, by name."""
    systems = {name: load_system(recipe, name, recipe_dir) for name in recipe.systems}
    return {name: system for name, system in systems.items() if system.variant_of is not None}


def load_evaluator(recipe: Recipe, name: str, recipe_dir: Path) -> EvaluatorConfig:
    """`conf/evaluators/<name>.yaml` with the recipe's overrides."""
    return from_dict(EvaluatorConfig, *_settings(recipe, "evaluators", name, recipe_dir))


def anonymized_roles(recipe: Recipe, recipe_dir: Path) -> tuple[str, ...]:
    """Roles of the sets that systems anonymize: the recipe's, and the training set if an attacker is semi-informed."""
    semi = any(load_evaluator(recipe, name, recipe_dir).semi for name in recipe.evaluators)
    return tuple(dict.fromkeys((*recipe.anonymize_roles, *(["attack_train"] if semi else []))))


def trained_systems(recipe: Recipe, recipe_dir: Path) -> dict[str, System]:
    """The recipe's systems whose model stage 4 trains, by name."""
    systems = {name: load_system(recipe, name, recipe_dir) for name in recipe.systems}
    return {name: system for name, system in systems.items() if system.train is not None}


def probed_systems(recipe: Recipe, recipe_dir: Path) -> dict[str, System]:
    """The recipe's systems whose model stage 8 probes, by name: of those that share a model, the first."""
    found: dict[tuple[str | None, str | None], tuple[str, System]] = {}
    for name in recipe.systems:
        system = load_system(recipe, name, recipe_dir)
        if system.probed:
            model = system.params.get("model")
            found.setdefault((None if model else system.train, model), (name, system))
    return dict(found.values())


def formatted_roles(recipe: Recipe, recipe_dir: Path) -> tuple[str, ...]:
    """Roles of the sets that stage 2 formats: the recipe's, and `train` if a system is trained."""
    return tuple(
        dict.fromkeys((*recipe.format.roles, *(["train"] if trained_systems(recipe, recipe_dir) else [])))
    )

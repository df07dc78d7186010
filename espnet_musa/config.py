"""Typed YAML configuration: closed world, checked types, layers, and the effective result saved.

Layers, later ones win: `conf/defaults.yaml` < the recipe's YAML < `--set path=value`; for a system or an
evaluator: its YAML < the recipe's `overrides.<name>` < `--set <name>.path=value`. An unknown key or a wrong type
is an error that names file, line and the nearest known key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, suggest

ROOT = Path(__file__).resolve().parent.parent  # the repository
Lines = dict[tuple[str, ...], int]
ATTACKERS = ("original", "semi")
_OPTIONS = ("systems=", "evaluators=", "seed=")  # settings that are options of the driver
IMPORTED = "imported"  # in place of an anonymizer's name: the speech was anonymized elsewhere


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
class ReportConfig:
    """Stage 9: what the report shows."""

    examples: int = 3  # utterances with players, spectrograms and pitch contours
    reported: tuple[str, ...] = ()  # published tables of conf/reported.yaml to set this run's numbers beside


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

    @property
    def lower_bound(self) -> bool:
        """True for the original speech: never anonymized data, never packed."""
        return self.anonymizer is None

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


def _node_to_data(node: yaml.Node, path: Path, where: tuple[str, ...], lines: Lines) -> Any:
    """Plain data from a YAML node; records the line of every key and refuses duplicate keys."""
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in out:
                raise UserError(f"key '{key}' appears twice", path=path, line=line)
            lines[(*where, key)] = line
            out[key] = _node_to_data(value_node, path, (*where, key), lines)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_node_to_data(n, path, (*where, str(i)), lines) for i, n in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node, deep=True)


def load_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping.

    Returns:
        the data, and the line of every key path (for messages).

    Raises:
        UserError: if the file is missing, not UTF-8, not YAML, not a mapping or has a duplicate key.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        near = suggest(path.stem, [p.stem for p in path.parent.glob("*.yaml")])
        raise UserError(f"no such configuration{near}", path=path) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: {error.reason} at byte {error.start}", path=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise UserError(f"not valid YAML: {getattr(error, 'problem', error)}", path=path, line=line) from None
    lines: Lines = {}
    data = {} if node is None else _node_to_data(node, path, (), lines)
    if not isinstance(data, dict):
        raise UserError("the top level is not a mapping", path=path, expected="key: value lines")
    return data, lines


def _convert(kind: Any, value: Any, fail: typing.Callable[[str], UserError], name: str) -> Any:
    """`value` as `kind`; `fail` makes the error from a text that says what was expected."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, fail, name)
    if kind is Any:
        return value
    if origin in (tuple, list):
        if isinstance(value, str):
            value = value.split()  # `--systems "a b"` and `systems: a b` read alike
        if not isinstance(value, list | tuple):
            raise fail("a list")
        return origin(_convert(args[0], v, fail, name) for v in value)
    if origin is dict or kind is dict:
        if not isinstance(value, dict):
            raise fail("a mapping")
        return (
            dict(value) if origin is None else {k: _convert(args[1], v, fail, name) for k, v in value.items()}
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise fail(
            {"int": "a whole number", "str": "a text", "bool": "true or false"}.get(kind.__name__, "a number")
        )
    return value


def from_dict(cls: type, data: dict[str, Any], path: Path, lines: Lines, where: tuple[str, ...] = ()) -> Any:
    """A frozen dataclass from plain data, closed world.

    Args:
        cls: the dataclass.
        data: its fields; nested dataclasses as mappings.
        path: the file to name in errors, with `lines` its line numbers.
        where: key path of `data` in that file.

    Raises:
        UserError: for an unknown key (with the nearest known one), a missing one or a wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = ".".join((*where, key))
        line = lines.get((*where, key))
        if key not in fields:
            raise UserError(f"unknown key '{name}'{suggest(key, fields)}", path=path, line=line)
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"'{name}' is {value!r}", path=path, line=line, expected="a mapping")
            values[key] = from_dict(hints[key], value, path, lines, (*where, key))
        else:

            def fail(expected: str, name=name, value=value, line=line) -> UserError:
                return UserError(f"'{name}' is {value!r}", path=path, line=line, expected=expected)

            values[key] = _convert(hints[key], value, fail, name)
    for key, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and key not in values:
            raise UserError(f"missing key '{'.'.join((*where, key))}'", path=path)
    return cls(**values)


def load(cls: type, path: Path) -> Any:
    """Read one YAML file into the dataclass `cls` (see `from_dict`)."""
    data, lines = load_yaml(path)
    return from_dict(cls, data, path, lines)


def merge(base: dict, change: dict) -> dict:
    """`base` with `change` over it; mappings are merged, everything else replaced."""
    out = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else value
    return out


def assign(text: str) -> tuple[list[str], Any]:
    """`a.b=value` as (["a", "b"], value); the value is read as YAML.

    Raises:
        UserError: if there is no `=` or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise UserError(f"--set {text}: not an assignment", expected="path.to.key=value")
    try:
        return name.split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not YAML ({getattr(error, 'problem', error)})") from None


def nest(keys: list[str], value: Any) -> dict:
    """`["a", "b"], 1` as `{"a": {"b": 1}}`."""
    return {keys[0]: value if len(keys) == 1 else nest(keys[1:], value)}


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
    return with_sets(_checked(from_dict(Recipe, merge(base, data), path, lines), path), sets)


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


def _load_named(cls: type, recipe: Recipe, kind: str, name: str, recipe_dir: Path) -> Any:
    path = conf_file(recipe_dir, kind, name)
    data, lines = load_yaml(path)
    found = from_dict(cls, data, path, lines)
    if name not in recipe.overrides:
        return found
    return from_dict(cls, merge(data, recipe.overrides[name]), Path(f"settings of '{name}'"), {})


def load_system(recipe: Recipe, name: str, recipe_dir: Path) -> System:
    """`conf/systems/<name>.yaml` with the recipe's overrides."""
    return _load_named(System, recipe, "systems", name, recipe_dir)


def load_evaluator(recipe: Recipe, name: str, recipe_dir: Path) -> EvaluatorConfig:
    """`conf/evaluators/<name>.yaml` with the recipe's overrides."""
    return _load_named(EvaluatorConfig, recipe, "evaluators", name, recipe_dir)


def anonymized_roles(recipe: Recipe, recipe_dir: Path) -> tuple[str, ...]:
    """Roles of the sets that systems anonymize: the recipe's, and the training set if an attacker is semi-informed."""
    semi = any(load_evaluator(recipe, name, recipe_dir).semi for name in recipe.evaluators)
    return tuple(dict.fromkeys((*recipe.anonymize_roles, *(["attack_train"] if semi else []))))


def trained_systems(recipe: Recipe, recipe_dir: Path) -> dict[str, System]:
    """The recipe's systems whose model stage 4 trains, by name."""
    systems = {name: load_system(recipe, name, recipe_dir) for name in recipe.systems}
    return {name: system for name, system in systems.items() if system.train is not None}


def formatted_roles(recipe: Recipe, recipe_dir: Path) -> tuple[str, ...]:
    """Roles of the sets that stage 2 formats: the recipe's, and `train` if a system is trained."""
    return tuple(
        dict.fromkeys((*recipe.format.roles, *(["train"] if trained_systems(recipe, recipe_dir) else [])))
    )


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data of a configuration, tuples as lists, without fields that are None: what is saved and hashed.

    So a new optional field outdates nothing that was made without it.
    """
    plain = dataclasses.asdict(config, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None})
    return json.loads(json.dumps(plain))


def save(config: Any, path: Path) -> None:
    """Write a configuration as YAML that `load` reads back to an equal one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    partial.replace(path)


def digest(data: Any) -> str:
    """Short stable hash of plain data (key order does not matter)."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]

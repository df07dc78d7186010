"""YAML to frozen dataclasses and back: closed world, checked types, line numbers in every complaint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, suggest

Lines = dict[tuple[str, ...], int]


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

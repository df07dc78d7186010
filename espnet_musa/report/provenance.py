"""Where the numbers of a report come from: what was run, with which settings, by which versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

COMMAND = "./run.sh --stage report --stop-stage report"
CHANGED = "settings other than those of conf/"


def command(results: dict[str, Any]) -> str:
    """What makes the report of a run again."""
    if not results.get("partial"):
        return COMMAND
    chosen = {key: " ".join(one["name"] for one in results[key]) for key in ("systems", "evaluators")}
    return COMMAND + "".join(f' --{key} "{names}"' for key, names in chosen.items())


def facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What a reader needs to make the numbers again, as (name, value)."""
    libraries = [f"{name} {version}" for name, version in sorted(results["versions"].items())]
    changed = ", ".join(_assignments(results["overrides"])) if "overrides" in results else "not recorded"
    return [
        ("recipe", results["recipe"]),
        ("seed", str(results["seed"])),
        (CHANGED, changed or "none"),
        ("commit", results["commit"]),
        ("versions", ", ".join(libraries)),
    ]


def _assignments(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """`{"a": {"b": 1}}` as `a.b=1`, the form of --set; sorted, since a file of results does not keep their order."""
    for name, value in sorted(values.items()):
        if isinstance(value, dict) and value:
            yield from _assignments(value, f"{before}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{before}{name}={text}"

"""Before the stages: resolve the recipe, check it as a whole, and save it as exp/recipe.yaml for every verb.

Prints the names of the systems: those of stage 5 in one line, those of stage 6 (variants) in another.

python -m espnet_musa.bin.plan --config conf/recipe.yaml --out exp/recipe.yaml [--set a.b=value] [-- --librispeech DIR]

What stands behind `--` are options of the recipe: its YAML maps each to the setting that it changes. A relative path
is taken from the directory that the user called from (environment variable CALLED_FROM).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from .. import config, registry
from ..anonymizers.base import F0Anonymizer
from ..config import ROOT, Recipe
from ..errors import UserError, suggest
from ..pipeline.prepare import DOWNLOAD, path_options
from ..pipeline.tokenize import chosen as chosen_tokens
from ..pipeline.train import check as check_training
from ..report import reported
from .common import about, check_device, recipe_parser, run_verb

DRIVER = (
    "stage",
    "stop-stage",
    "systems",
    "evaluators",
    "sets",
    "nj",
    "cmd",
    "set",
    "seed",
    "force",
    "device",
    "config",
)


def option_sets(words: list[str], options: dict[str, str]) -> list[str]:
    """`--librispeech DIR` as `corpora.librispeech.root=DIR`.

    Args:
        words: options of the recipe and their values, alternating.
        options: the recipe's mapping from option to setting.

    Raises:
        UserError: for an unknown option, with the recipe that has it or the nearest known one.
    """
    known = {name.replace("_", "-"): path for name, path in options.items()}
    out = []
    for word, value in zip(words[::2], words[1::2], strict=True):
        name = word.removeprefix("--").replace("_", "-")
        if name not in known:
            owner = _recipe_with(name)
            near = f"; {owner}/run.sh has it" if owner else suggest(name, {*known, *DRIVER})
            raise UserError(f"unknown option --{name}{near}")
        keys = known[name].split(".")
        if keys[0] == "corpora" and keys[2] in path_options(keys[1]) and value != DOWNLOAD:
            value = os.path.normpath(Path(os.environ.get("CALLED_FROM", ".")).resolve() / value)
        out.append(f"{known[name]}={yaml.safe_dump(value, default_style=chr(34)).strip()}")
    return out


def _recipe_with(option: str) -> str | None:
    """The directory below the repository of the first recipe that has an option, spelled with dashes."""
    for path in sorted(ROOT.glob("egs/*/conf/recipe.yaml")):
        if option.replace("-", "_") in config.load_recipe(path).options:
            return path.parent.parent.relative_to(ROOT).as_posix()
    return None


def check_jobs(cmd: str, device: str) -> None:
    """Refuse a runner that is not there and, where it runs jobs on this machine, a device that is not.

    Args:
        cmd: how jobs are run, see cmd.sh.
        device: of neural systems; torch is imported for any but "cpu".

    Raises:
        UserError: if one of them cannot serve.
    """
    runner = (cmd.split() or [""])[0]
    if shutil.which(str(ROOT / runner) if runner.startswith("utils/") else runner) is None:
        expected = "utils/run.py, or utils/slurm.py and its options, or a program of your own"
        raise UserError(f"--cmd '{cmd}': there is no '{runner}'", expected=expected)
    check_device(device, here=runner == "utils/run.py")


def check(recipe: Recipe, root: Path) -> None:
    """Load everything that the recipe names, so that a typing error shows before any work.

    Raises:
        UserError: for an unknown system, evaluator, training, plug-in, parameter or published table.
    """
    reported.chosen(recipe.report.reported)
    for name in recipe.systems:
        system = config.load_system(recipe, name, root)
        if not (system.lower_bound or system.imported):
            target = system.target
            with about(f"system '{name}'"):
                plugin = registry.resolve(registry.ANONYMIZERS, "anonymizer", system.anonymizer)
                if system.variant_of and not issubclass(plugin, F0Anonymizer):
                    raise UserError(f"'{system.variant_of}' does not expose F0, so it has no variants")
                plugin(**system.params)
                registry.resolve(registry.TARGETS, "target policy", target.policy)(**target.params)
        if system.train is not None:
            check_training(system.train, root)
    chosen_tokens(recipe, root)
    for name in recipe.evaluators:
        evaluator = config.load_evaluator(recipe, name, root)
        plugin = registry.resolve(registry.EVALUATORS, "evaluator", evaluator.evaluator)
        with about(f"evaluator '{name}'"):
            registry.construct(plugin, evaluator.params, name)
        if evaluator.train is not None:
            config.load_yaml(config.conf_file(root, "train", evaluator.train))
        if evaluator.start != "scratch":
            base = config.load_evaluator(recipe, evaluator.start, root)
            if base.semi or base.train is None:
                expected = "an evaluator whose attacker is trained on original speech"
                raise UserError(f"evaluator '{name}' starts from '{evaluator.start}'", expected=expected)


def main(argv: list[str]) -> None:
    """Resolve, check and save."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="effective recipe to write")
    parser.add_argument("--cmd", default="utils/run.py", help="how jobs are run, to be checked")
    parser.add_argument("--device", default="cpu", help="of neural systems, to be checked")
    parser.add_argument("more", nargs="*", help="options of the recipe and their values")
    args = parser.parse_args(argv)
    options = config.load_recipe(args.config).options
    recipe = config.load_recipe(args.config, [*option_sets(args.more, options), *args.set])
    check(recipe, Path("."))
    check_jobs(args.cmd, args.device)
    config.save(recipe, args.out)
    variants = config.variants(recipe, Path("."))
    print(*(name for name in recipe.systems if name not in variants))
    print(*variants)


if __name__ == "__main__":
    run_verb(main)

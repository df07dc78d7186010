"""Stage 0, check: is everything there that the recipe needs? Lists all problems at once; writes exp/env.json.

python -m espnet_musa.bin.check --config exp/recipe.yaml
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from .. import __version__, config, registry, stamp
from ..config import ROOT, Recipe
from ..data.datadir import list_sets
from ..errors import Problems, UserError
from ..pipeline.prepare import DOWNLOAD, NoCorpus, chosen, option_of, path_options
from .common import load, recipe_parser, run_verb

MIN_DISK = 1.0  # GB


def requirements() -> dict[str, str]:
    """Locked versions of the direct dependencies that are installed another way: name -> version found."""
    names = (
        "numpy",
        "scipy",
        "torch",
        "torchaudio",
        "speechbrain",
        "pyworld",
        "soundfile",
        "soxr",
        "kaldiio",
        "numba",
    )
    return {name: metadata.version(name) for name in names}


def check(recipe: Recipe, root: Path) -> dict:
    """All problems in one error, or the environment as plain data (no host, user or path in it).

    Raises:
        UserError: with everything that is missing.
    """
    problems, versions = Problems(), {}
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        problems.add(f"Python {platform.python_version()}", expected="3.10 to 3.12")
    try:
        versions = requirements()
    except metadata.PackageNotFoundError as error:
        problems.add(f"package '{error.name}' is not installed", hint="tools/setup.sh")
    free = shutil.disk_usage(root).free / 1e9
    if free < MIN_DISK:
        problems.add(f"{free:.1f} GB of disk left", path=root, expected=f"at least {MIN_DISK:g} GB")
    if not os.access(root, os.W_OK):
        problems.add("cannot be written to", path=root)
    try:
        _check_corpora(recipe, problems)
    except NoCorpus as error:
        if not list_sets(root / "data"):  # later stages do not need the corpora
            problems.add(str(error))
    except UserError as error:
        problems.add(str(error))
    _check_models(recipe, root, problems)
    problems.raise_if_any()
    torch = __import__("torch")
    return {
        "espnet_musa": __version__,
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "systems": list(recipe.systems),
        "repository": ROOT.name,
    }


def _check_corpora(recipe: Recipe, problems: Problems) -> None:
    """The directories that the corpora are read from; raises as `prepare.chosen` does."""
    for name, options in chosen(recipe).items():
        for key in sorted(path_options(name) & set(options)):
            if options[key] == DOWNLOAD:
                continue
            place, hint = Path(str(options[key])), option_of(recipe, name, key)
            if not place.is_dir():
                problems.add("no such directory", path=place, hint=f"{hint} names it")
            elif not any(place.iterdir()):
                problems.add("an empty directory", path=place, hint=f"{hint} names it")


def _check_models(recipe: Recipe, root: Path, problems: Problems) -> None:
    """Models that systems name, and that no stage makes."""
    for name in recipe.systems:
        system = config.load_system(recipe, name, root)
        if not system.params.get("model"):
            continue
        plugin = registry.resolve(registry.ANONYMIZERS, "anonymizer", system.anonymizer)
        try:
            plugin(**system.params).fingerprint()
        except UserError as error:
            problems.add(f"system '{name}': {error}")


def main(argv: list[str]) -> None:
    """Check and write exp/env.json."""
    args = recipe_parser(__doc__).parse_args(argv)
    recipe, root = load(args)
    found = check(recipe, root)
    (root / "exp").mkdir(exist_ok=True)
    stamp.write_json(root / "exp" / "env.json", found)
    versions = " ".join(f"{k} {v}" for k, v in found["versions"].items())
    print(f"python {found['python']}, {found['cores']} cores, {len(found['gpus'])} GPUs; {versions}")


if __name__ == "__main__":
    run_verb(main)

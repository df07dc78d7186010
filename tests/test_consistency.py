"""What must agree does agree: imports, registry, configurations, documents, shell."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from espnet_musa import config, registry
from espnet_musa.config import EvaluatorConfig, Recipe
from espnet_musa.report.markdown import render

PACKAGE = REPOSITORY / "espnet_musa"
# Every package may import those behind it, and itself.
LAYERS = [
    {"bin"},
    {"demo"},
    {"pipeline", "report"},
    {"anonymizers", "evaluators", "corpora", "targets", "tasks"},
    {"codec", "tokenizer", "f0", "metrics", "data"},
    {"config", "typed_yaml", "registry", "models", "seed", "stamp", "log", "errors", "__init__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))
SHELL = [
    p
    for p in subprocess.run(
        ["git", "ls-files", "*.sh", ".ci/run"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
]


def imported(path: Path) -> set[str]:
    """Top-level parts of espnet_musa that a module imports."""
    found = set()
    here = path.relative_to(REPOSITORY).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [[*module, a.name] for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
        else:
            continue
        found |= {n[1] for n in names if n[0] == "espnet_musa" and len(n) > 1}
    return found & set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in RANK, f"{own} has no place in the layers"
    for other in imported(path):
        assert (
            RANK[other] > RANK[own]
            or other == own
            or RANK[own] == len(LAYERS) - 1
            or RANK[other] == RANK[own] == RANK["data"]
        ), f"{own} imports {other}"


@pytest.mark.parametrize("package", ["data", "metrics", "f0", "targets", "corpora"])
def test_no_torch_in_the_light_packages(package):
    modules = ", ".join(
        f"espnet_musa.{package}.{p.stem}" for p in (PACKAGE / package).glob("*.py") if p.stem[0] != "_"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


TABLES = {
    "anonymizers": registry.ANONYMIZERS,
    "targets": registry.TARGETS,
    "evaluators": registry.EVALUATORS,
    "corpora": registry.CORPORA,
}


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, t in TABLES.items() for n in t])
def test_every_plugin_resolves_and_is_documented(kind, name):
    plugin = registry.resolve(TABLES[kind], kind, name)
    assert len(inspect.getdoc(plugin) or "") > 40


def test_every_plugin_is_registered():
    """A public subclass or a preparer that the registry does not know cannot be reached."""
    from espnet_musa.anonymizers.base import Anonymizer
    from espnet_musa.evaluators.base import PairedEvaluator, SingleEvaluator, VerificationEvaluator
    from espnet_musa.targets.base import TargetPolicy

    bases = {
        "anonymizers": Anonymizer, "targets": TargetPolicy,
        "evaluators": (PairedEvaluator, SingleEvaluator, VerificationEvaluator),
    }  # fmt: skip
    for kind, base in bases.items():
        registered = {registry.resolve(TABLES[kind], kind, n) for n in TABLES[kind]}
        for path in (PACKAGE / kind).glob("*.py"):
            module = __import__(f"espnet_musa.{kind}.{path.stem}", fromlist=["x"])
            for _, member in inspect.getmembers(module, inspect.isclass):
                concrete = (
                    issubclass(member, base) and member.__module__ == module.__name__ and path.stem != "base"
                )
                assert not concrete or member in registered, f"{member} is not in registry.py"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "conf/systems").glob("*.yaml")), ids=lambda p: p.stem)
def test_systems_build(path):
    system = config.load_system(Recipe("tests", (), (), {}), path.stem, REPOSITORY)
    if not (system.lower_bound or system.imported):
        registry.resolve(registry.ANONYMIZERS, "anonymizer", system.anonymizer)(**system.params)
        registry.resolve(registry.TARGETS, "target policy", system.target.policy)(**system.target.params)


def test_every_anonymizer_has_a_system_and_a_test():
    names = [path.stem for path in (REPOSITORY / "conf/systems").glob("*.yaml")]
    used = {config.load_system(Recipe("tests", (), (), {}), name, REPOSITORY).anonymizer for name in names}
    assert set(registry.ANONYMIZERS) <= used
    for target in registry.ANONYMIZERS.values():
        stem = target.split(":")[0].rsplit(".", 1)[1]
        assert (REPOSITORY / "tests" / f"test_{stem}.py").is_file()


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "conf/evaluators").glob("*.yaml")), ids=lambda p: p.stem
)
def test_evaluators_build(path):
    evaluator: EvaluatorConfig = config.load(EvaluatorConfig, path)
    registry.resolve(registry.EVALUATORS, "evaluator", evaluator.evaluator)(**evaluator.params)
    assert evaluator.train is None or config.conf_file(REPOSITORY, "train", evaluator.train).is_file()


RECIPES = sorted((REPOSITORY / "egs").glob("*/conf/recipe.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.parts[-3])
def test_recipes_have_their_files(path):
    recipe: Recipe = config.load_recipe(path)
    assert recipe.name == path.parts[-3]
    files = {p.name for p in path.parent.parent.iterdir()}
    assert {"run.sh", "README.md", "conf"} <= files
    assert len({"RESULTS.md", "results.json"} & files) != 1  # none where nobody has run the whole recipe
    assert os.access(path.parent.parent / "run.sh", os.X_OK)


@pytest.mark.parametrize(
    "path", [p for p in RECIPES if (p.parents[1] / "results.json").is_file()], ids=lambda p: p.parts[-3]
)
def test_results_are_generated(path):
    place = path.parent.parent
    results = json.loads((place / "results.json").read_text(encoding="utf-8"))
    assert render(results) == (place / "RESULTS.md").read_text(encoding="utf-8")


def commands(path: Path) -> list[str]:
    """Command lines in the fenced shell blocks of a document, continuation lines joined."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


DOCUMENTS = [
    REPOSITORY / "README.md",
    *sorted(REPOSITORY.glob("egs/*/README.md")),
    *sorted(REPOSITORY.glob("docs/*.md")),
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_commands_in_documents_exist(path):
    """Every script exists, every option is known to the driver, a recipe or a verb, every verb runs --help."""
    driver = set(re.findall(r"^([a-z_]+)=", (REPOSITORY / "run.sh").read_text(), re.M))
    for command in commands(path):
        words = shlex.split(command, comments=True)
        words = [w for w in words if not re.fullmatch(r"[A-Z_]+=.*", w)]  # VAR=value in front
        if words[0].endswith("run.sh"):
            assert (REPOSITORY / words[0]).is_file() or (path.parent / words[0]).is_file(), command
            known = driver | {o for r in RECIPES for o in config.load_recipe(r).options}
            options = {w[2:].split("=")[0].replace("-", "_") for w in words if w.startswith("--")}
            assert options <= known | {"help"}, command
        elif "-m" in words:
            module = words[words.index("-m") + 1]
            if module.startswith("espnet_musa"):
                shown = subprocess.run(
                    [sys.executable, "-m", module, "--help"],
                    cwd=REPOSITORY,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                for option in (w.split("=")[0] for w in words if w.startswith("--")):
                    assert option in shown, command
        elif "/" in words[0]:
            assert (REPOSITORY / words[0]).exists(), command
        for word in words:
            if word.startswith("benchmarks/"):
                assert (REPOSITORY / word).is_file(), command


def test_links_in_documents_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"


def test_stages_are_told_alike():
    """run.sh's header, its table and the architecture document name the same stages."""
    text = (REPOSITORY / "run.sh").read_text()
    names = re.search(r"^names=\((.*)\)", text, re.M)[1].split()
    told = re.findall(r"\b(\d+) (\w+)[,.]", re.search(r"# Stages: (.*)", text)[1])
    assert told == [(str(i), n) for i, n in enumerate(names)]
    document = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \| (\w+) \|", document, re.M) == told


def test_driver_stays_small():
    assert len((REPOSITORY / "run.sh").read_text().splitlines()) <= 150


@pytest.mark.parametrize("script", SHELL)
def test_shellcheck(script):
    tool = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([tool, "-x", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ruff():
    tool = Path(sys.executable).with_name("ruff")
    done = subprocess.run([tool, "check", "."], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_machine_in_tracked_files():
    """No home directory or work place of a particular machine in anything that is committed."""
    listed = subprocess.run(
        ["git", "grep", "-nIE", r"/(root|home|work|farm)/[A-Za-z0-9._-]+", "--", ":!tests/test_consistency.py"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in listed.stdout.splitlines() if "/home/somebody" not in line]
    assert lines == []

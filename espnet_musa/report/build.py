"""Everything of the report from a recipe's directory: `results.json`, `RESULTS.md`, figures and `report.html`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import config, stamp
from ..config import Recipe
from ..data.datadir import SAMPLE_RATE, DataDir, list_sets
from ..data.table import write_text
from ..errors import UserError
from . import examples, figures, html, identity, markdown, scores, sweep, tables
from .html import Plot, Sample, Version
from .results import collect

_POOLED = "Trials of both genders are drawn together; the number is the table's."


def build(recipe: Recipe, recipe_dir: Path) -> tuple[dict[str, Any], list[Path]]:
    """Write the report of a recipe.

    Args:
        recipe: what was run.
        recipe_dir: where; gets `exp/report/`, and `results.json` and `RESULTS.md`, each whole or not at all. The two
            are about the systems and evaluators of its `conf/recipe.yaml`; a run of others has them in `exp/report/`.

    Returns:
        the results and the files for people.

    Raises:
        UserError: if something has not been scored.
    """
    results = collect(recipe, recipe_dir)
    out = recipe_dir / "exp" / "report"
    making = stamp.begin(
        out, "report", _fields(recipe, recipe_dir, results), force=True
    )  # cheap, so never refused
    if making is not None:
        started = time.monotonic()
        (making / "figures").mkdir(exist_ok=True)
        plots = [_save(making / "figures", *made) for made in _plots(recipe, recipe_dir, results)]
        samples = _samples(recipe, recipe_dir, results, making / "figures")
        write_text(making / "report.html", html.page(results, plots, samples))
        if results["partial"]:
            _write(making, results)
        counts = {"figures": len(plots), "examples": len(samples)}
        stamp.finish(out, "report", counts=counts, seconds=time.monotonic() - started)
    if not results["partial"]:
        _write(recipe_dir, results)
    place = out if results["partial"] else recipe_dir
    return results, [place / "RESULTS.md", place / "results.json", out / "figures", out / "report.html"]


def _write(place: Path, results: dict[str, Any]) -> None:
    stamp.write_json(place / "results.json", results)
    write_text(place / "RESULTS.md", markdown.render(results))


def _fields(recipe: Recipe, recipe_dir: Path, results: dict[str, Any]) -> dict[str, Any]:
    """What the report is made from: the stamps of the scores (which name the audio), and its own code.

    With the code in it, a change of the report is never taken for up to date.
    """
    code = hashlib.sha256(
        b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    ).hexdigest()
    scored = [
        recipe_dir / "exp" / system["name"] / "score" / evaluator["name"]
        for system in results["systems"]
        for evaluator in results["evaluators"]
    ]
    stamps = {path.relative_to(recipe_dir).as_posix(): stamp.read(path) for path in scored}
    return {
        "results": config.digest(results),
        "config": config.digest(config.to_dict(recipe.report)),
        "code": code[:16],
        "inputs": {name: config.digest(found["fields"]) for name, found in stamps.items() if found},
    }


def _save(folder: Path, name: str, section: str, caption: str, alt: str, figure: Figure) -> Plot:
    content = figures.png(figure)
    (folder / f"{name}.png").write_bytes(content)
    (folder / f"{name}.svg").write_bytes(figures.svg(figure))
    return Plot(name, section, caption, alt, content)


def _plots(
    recipe: Recipe, recipe_dir: Path, results: dict[str, Any]
) -> Iterator[tuple[str, str, str, str, Figure]]:
    """Name, section, caption, description and figure of every plot."""
    for base in dict.fromkeys(base for base, _, _ in sweep.points(results).values()):
        caption = f"Variants of {base}: every measure over the pull of F0 towards its mean."
        against = f"Variants of {base}: attackers' EER against pitch correlation; up and right is better."
        for name, text, figure in (
            (f"sweep_{base}", caption, sweep.curves(results, base)),
            (f"sweep_{base}_tradeoff", against, sweep.tradeoff(results, base)),
        ):
            if figure is not None:
                yield name, "sweep", text, "Line plots of the numbers in the table above.", figure
    yield from _contours(recipe, recipe_dir, results)
    results = sweep.without(results)
    made = [s["name"] for s in results["systems"] if not s["lower_bound"]]
    panels = _tradeoff(results)
    if panels:
        yield (
            "privacy_utility", "tradeoff",
            "Attackers' EER against pitch correlation; up and right is better. Open circles: ignorant attacker, "
            "filled: lazy-informed. Lines are 95 % confidence intervals.",
            "Scatter plot of privacy against utility; the numbers are those of the tables of results.",
            figures.privacy_utility(panels, made, "pitch correlation"),
        )  # fmt: skip
    found = scores.load(results, recipe_dir)
    for (evaluator, name), group in groupby(found, key=lambda s: (s.evaluator, s.set)):
        yield (
            f"scores_{evaluator}_{name}", "scores",
            f"Scores of {evaluator} on {name}: the more the two kinds of trials overlap, the more private. {_POOLED}",
            f"Histograms of the scores of {evaluator} for same-speaker and different-speaker trials of {name}.",
            figures.score_histograms(list(group)),
        )  # fmt: skip
    for evaluator, group in groupby(found, key=lambda s: s.evaluator):
        panels = [(name, list(curves)) for name, curves in groupby(group, key=lambda s: s.set)]
        yield (
            f"det_{evaluator}", "det",
            f"Errors of {evaluator} at every threshold; further up and right is more private, the grey line is "
            "where both errors are equal. Trials of both genders are drawn together.",
            f"Detection error trade-off curves of {evaluator} for every system and attacker.",
            figures.det_curves(panels, made),
        )  # fmt: skip
    for evaluator, name, panels in _similarity(results, recipe_dir):
        yield (
            f"similarity_{evaluator}_{name}", "similarity",
            f"Voice similarity on {name} ({evaluator}), speaker by speaker, from 0 (surely another) to 1 (surely the "
            "same). A clear diagonal among anonymized voices keeps speakers distinct; one in the blocks of original "
            "against anonymized voices gives them away.",
            f"Similarity matrices of original and anonymized speakers of {name} for every system.",
            figures.similarity(panels),
        )  # fmt: skip
    for one in results.get("probes", []):
        for found in one["sets"]:
            place = recipe_dir / "exp" / one["system"] / "probe" / f"{found['set']}.npz"
            yield (
                f"voices_{one['system']}_{found['set']}", "identity",
                f"Embeddings of the codec of {one['system']} of speakers that it never saw ({found['set']} and its "
                "enrolment), on a plane by t-SNE: the better it knows voices, the clearer the clusters.",
                f"Map of the speaker embeddings of {found['set']}, coloured by speaker.",
                figures.voice_maps([(one["system"], *identity.positions(place))]),
            )  # fmt: skip


def _contours(
    recipe: Recipe, recipe_dir: Path, results: dict[str, Any]
) -> Iterator[tuple[str, str, str, str, Figure]]:
    """What mean reversion and noise do to the F0 of one utterance, for every system that has them."""
    if not any(sweep.reverts(system) for system in results["systems"]):
        return
    [(data, utt)] = examples.choose(_evaluated(recipe, recipe_dir), 1, recipe.seed)
    f0 = examples.contour(data.load(utt))
    panels = [sweep.tracks(s, f0, examples.HOP, recipe.seed) for s in results["systems"] if sweep.reverts(s)]
    yield (
        "f0_contours", "sweep",
        f"F0 of {utt} ({data.name}) before and after the F0 transforms of each system, as they change it before "
        "anything is synthesised.",
        "Line plots of F0 over time: original, mean-reverted, and mean-reverted with noise.",
        sweep.contours(panels, examples.HOP),
    )  # fmt: skip


def _evaluated(recipe: Recipe, recipe_dir: Path) -> list[DataDir]:
    """The sets that examples are chosen from."""
    roles = [role for role in ("trial", "utility") if role in recipe.anonymize_roles]
    return [DataDir.read(path) for path in list_sets(recipe_dir / "dump", roles)]


def _similarity(
    results: dict[str, Any], recipe_dir: Path
) -> Iterator[tuple[str, str, list[tuple[str, np.ndarray]]]]:
    """Evaluator, set and panels of the similarity matrices: of all speakers, or of the one gender there is."""
    chosen: dict[tuple[str, str], dict[str, str]] = {}
    for m in results["metrics"]:
        if m["name"] == "gvd" and m["group"] != "avg" and not m["parts"]:
            found = chosen.setdefault((m["evaluator"], m["set"]), {})
            if found.get(m["system"]) != "all":
                found[m["system"]] = m["group"]
    for (evaluator, name), systems in chosen.items():
        panels = []
        for system, group in systems.items():
            place = recipe_dir / "exp" / system / "score" / evaluator / name / group
            try:
                oo, oa, aa = (np.load(place / f"{pair}.npy") for pair in ("oo", "oa", "aa"))
            except (OSError, ValueError):
                hint = "run stage 'score' again with --force true"
                raise UserError("similarity matrices are missing or damaged", path=place, hint=hint) from None
            panels.append((system, np.block([[oo, oa], [oa.T, aa]])))
        yield evaluator, name, panels


def _tradeoff(results: dict[str, Any]) -> list[tuple[str, list[figures.Point], float | None]]:
    """Panels (evaluator and set) of the plot of privacy and utility."""
    utility = {
        (m["set"], m["system"]): m
        for m in tables.headline(results, False)
        if m["name"] == "pitch_correlation"
    }
    errors = [m for m in tables.headline(results, True) if m["name"] == "eer"]
    panels = []
    for evaluator, name in dict.fromkeys((m["evaluator"], m["set"]) for m in errors):
        own = [m for m in errors if (m["evaluator"], m["set"]) == (evaluator, name)]
        points = [
            figures.Point(
                m["system"], m["attacker"], kept["value"], m["value"], _interval(kept), _interval(m)
            )
            for m in own
            if m["condition"] != "oo" and (kept := utility.get((m["set"], m["system"])))
        ]
        if points:
            bound = next((m["value"] for m in own if m["condition"] == "oo"), None)
            panels.append((f"{evaluator}\n{name}", points, bound))
    return panels


def _interval(metric: dict[str, Any]) -> tuple[float, float] | None:
    return None if metric["low"] is None or metric["high"] is None else (metric["low"], metric["high"])


def _samples(recipe: Recipe, recipe_dir: Path, results: dict[str, Any], folder: Path) -> list[Sample]:
    """Utterances of evaluation sets that every system has anonymized."""
    results = sweep.without(results)
    bound = next((s["name"] for s in results["systems"] if s["lower_bound"]), "original")
    made = [s["name"] for s in results["systems"] if not s["lower_bound"]]
    versions = {system: recipe_dir / "exp" / system / "data" for system in made}
    sets = [
        d for d in _evaluated(recipe, recipe_dir) if all((v / d.name).is_dir() for v in versions.values())
    ]
    chosen = examples.choose(sets, recipe.report.examples, recipe.seed)
    samples = []
    for number, one in enumerate(examples.load(chosen, bound, versions, recipe.report.audio), start=1):
        seconds = max(clip.wav.size for clip in one.clips) / SAMPLE_RATE
        shown = []
        for clip in one.clips:
            original = clip.system == bound
            figure = figures.example(
                clip.wav, SAMPLE_RATE, clip.f0, hop=examples.HOP, tone=figures.colour(clip.system, made),
                original=None if original else one.clips[0].f0, seconds=seconds,
            )  # fmt: skip
            content = figures.png(figure)
            (folder / f"example_{number}_{clip.system}.png").write_bytes(content)
            alt = f"Spectrogram and pitch contour of {one.utt}, {clip.system}."
            shown.append(Version(clip.system, alt, content, clip.flac()))
        samples.append(Sample(one.set, one.utt, one.facts, one.text, shown, one.cut))
    return samples

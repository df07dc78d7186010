"""Mean reversion and noise on F0: what a sweep over both does to privacy and utility, and what it does to a contour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import seed as seeds
from ..f0 import transforms
from . import tables
from .figures import FAINT, INK, PALETTE, _grid, styled
from .tables import NONE, Row, Table

TITLE = "F0: mean reversion and noise"
ABOUT = (
    "Each row pulls F0 towards the mean of the utterance by that share, each column adds white Gaussian noise, in dB "
    "below the variance of F0 unless the systems' configurations say otherwise."
)
MARKERS = "osD^v"


def points(results: dict[str, Any]) -> dict[str, tuple[str, float, float | None]]:
    """The systems of sweeps: name -> base, mean reversion (0: none), dB of the noise (None: no noise)."""
    found = {}
    for system in results["systems"]:
        if system.get("swept"):
            done = {name: params for one in system.get("transforms", []) for name, params in one.items()}
            pull, noise = done.get("mean_reversion", {}), done.get("awgn", {})
            found[system["name"]] = (system["variant_of"], pull.get("alpha", 0.0), noise.get("db"))
    return found


def without(results: dict[str, Any]) -> dict[str, Any]:
    """Results without the systems of sweeps: these have a table of their own, and would flood all others."""
    own = points(results)
    systems = [s for s in results["systems"] if s["name"] not in own]
    return {
        **results,
        "systems": systems,
        "metrics": [m for m in results["metrics"] if m["system"] not in own],
    }


def reverts(system: dict[str, Any]) -> bool:
    """Whether a system of `results.json` has a mean reversion."""
    return any("mean_reversion" in one for one in system.get("transforms", []))


def _noise(db: float | None) -> str:
    return "no noise" if db is None else f"noise {db:g} dB"


def _measured(results: dict[str, Any]) -> list[tuple[tuple[str, str, str], list[dict[str, Any]]]]:
    """The metrics of all points, by base, set and measure, each with its `alpha` and `db`."""
    own = points(results)
    found = [
        {**m, "base": own[m["system"]][0], "alpha": own[m["system"]][1], "db": own[m["system"]][2]}
        for privacy in (True, False)
        for m in tables.headline(results, privacy)
        if m["system"] in own and m["name"] in ("eer", "gvd", "pitch_correlation", "wer", "cer", "uar", "dnsmos_ovrl")
    ]  # fmt: skip

    def key(m: dict[str, Any]) -> tuple[str, str, str]:
        attacker = tables.ATTACKERS[m["attacker"]][0] if m["attacker"] in tables.ATTACKERS else ""
        return m["base"], m["set"], ", ".join(filter(None, (tables.label(m), m["evaluator"], attacker)))

    names = list(dict.fromkeys(map(key, found)))
    order = sorted(found, key=lambda m: (m["base"], m["set"], names.index(key(m)), m["alpha"]))
    return [(name, list(group)) for name, group in groupby(order, key=key)]


def table(results: dict[str, Any]) -> Table:
    """One row a measure and pull, one column a noise."""
    columns = list(dict.fromkeys(db for _, _, db in points(results).values()))
    rows = []
    for (_, name, measure), metrics in _measured(results):
        for alpha, group in groupby(metrics, key=lambda m: m["alpha"]):
            by_noise = {m["db"]: tables.show({**m, "low": None, "high": None}) for m in group}
            rows.append(Row((name, measure, f"{alpha:g}"), [by_noise.get(db, NONE) for db in columns]))
    return Table(("set", "measure", "mean reversion"), [(_noise(db),) for db in columns], rows)


@styled
def curves(results: dict[str, Any], base: str) -> Figure | None:
    """Every measure of a sweep over the pull, a line for each noise, with the bootstrap intervals; None without any."""
    measured = [(name, group) for (own, *name), group in _measured(results) if own == base]
    if not measured:
        return None
    noises = list(dict.fromkeys(db for own, _, db in points(results).values() if own == base))
    figure, axes = _grid(len(measured), 3.3, 2.5)
    for ax, ((name, measure), metrics) in zip(axes, measured, strict=True):
        for number, db in enumerate(noises):
            own = [m for m in metrics if m["db"] == db]
            x, tone = [m["alpha"] for m in own], PALETTE[number]
            ax.plot(
                x,
                [m["value"] for m in own],
                color=tone,
                marker=MARKERS[number % 5],
                label=_noise(db),
                markersize=5,
            )
            if own and all(m["low"] is not None for m in own):
                ax.fill_between(
                    x, [m["low"] for m in own], [m["high"] for m in own], color=tone, alpha=0.12, linewidth=0
                )
        ax.set_title(f"{measure}\n{name}", fontsize=8)
    for ax in axes[-min(3, len(axes)) :]:
        ax.set_xlabel("mean reversion")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(noises))
    return figure


@styled
def tradeoff(results: dict[str, Any], base: str) -> Figure | None:
    """EER against pitch correlation: a line for each noise, from no pull (large marker) to the strongest.

    None if no set has both.
    """
    measured = [(name, group) for (own, *name), group in _measured(results) if own == base]
    utility = {
        (m["set"], m["system"]): m["value"]
        for _, g in measured
        for m in g
        if m["name"] == "pitch_correlation"
    }
    panels = [(name, group) for name, group in measured if (group[0]["set"], group[0]["system"]) in utility]
    panels = [(name, group) for name, group in panels if group[0]["name"] == "eer"]
    if not panels:
        return None
    figure, axes = _grid(len(panels), 3.6, 2.8, columns=2)
    for ax, ((name, measure), metrics) in zip(axes, panels, strict=True):
        for number, db in enumerate(dict.fromkeys(m["db"] for m in metrics)):
            own = [m for m in metrics if m["db"] == db]
            x, y, tone = (
                [utility[m["set"], m["system"]] for m in own],
                [m["value"] for m in own],
                PALETTE[number],
            )
            ax.plot(x, y, color=tone, marker=MARKERS[number % 5], markersize=4, label=_noise(db))
            ax.plot(x[:1], y[:1], color=tone, marker=MARKERS[number % 5], markersize=9)
        ax.set(title=f"{measure}\n{name}", xlabel="pitch correlation")
        ax.title.set_fontsize(8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def contours(panels: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]], hop: float) -> Figure:
    """F0 over time before and after, as in figure 2 of the slides of Kuzmin ("Enhancing speaker anonymization", 2025).

    Args:
        panels: title, and (F,) Hz each of the original, of the mean-reverted and of the noisy track (None: no noise).
        hop: seconds between two values.
    """
    figure, axes = _grid(len(panels), 6.0, 2.3, columns=1 if len(panels) < 5 else 3)
    for ax, (title, *tracks) in zip(axes, panels, strict=True):
        names = ("original", "mean reversion", "mean reversion and noise")
        for track, name, tone, width in zip(
            tracks, names, (FAINT, INK, PALETTE[0]), (2.6, 1.6, 1.0), strict=True
        ):
            if track is not None:
                voiced = np.where(track > 0, track, np.nan)
                ax.plot(np.arange(track.size) * hop, voiced, color=tone, linewidth=width, label=name)
        ax.set(title=title, ylabel="F0 Hz")
    for ax in axes[-3:]:
        ax.set_xlabel("seconds")
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def tracks(
    system: dict[str, Any], f0: np.ndarray, hop: float, seed: int
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray | None]:
    """A panel of `contours`: the F0 transforms of a system up to its mean reversion, and up to its noise.

    A normalisation is left out: mean reversion and noise do the same to z-scores as to Hz.

    Args:
        system: of `results.json`.
        f0: (F,) Hz of the original.
        hop: seconds between two values.
        seed: of the recipe.
    """
    steps = [one for one in system.get("transforms", []) if "normalize" not in one]
    names = [next(iter(one)) for one in steps]

    def changed(last: str) -> np.ndarray:
        rng = seeds.generator(seed, "report", system["name"], "contour")
        return transforms.apply(steps[: names.index(last) + 1], f0, rng, hop_ms=1000 * hop)

    return system["name"], f0, changed("mean_reversion"), changed("awgn") if "awgn" in names else None

"""Figures of the report: functions from arrays to a matplotlib `Figure`, and its bytes.

Nothing here depends on a display, on the user's matplotlib settings or on the clock: the same data give the same
bytes. Colours are those of Okabe and Ito ("Color Universal Design", 2008), told apart with any colour vision; line
styles and markers repeat what colours say.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.signal import get_window, stft
from scipy.special import ndtri

from .scores import Scores
from .tables import ATTACKERS

P = ParamSpec("P")
INK, FAINT = "#3b3f45", "#9aa0a6"
TARGET, NONTARGET = "#0072B2", "#E69F00"
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of systems
LINES = {"oo": "-", "oa": (0, (4, 2)), "aa": "-", "semi": (0, (1, 1))}
STYLE = {
    "axes.axisbelow": True, "axes.edgecolor": FAINT, "axes.grid": True, "axes.labelcolor": INK,
    "axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left", "axes.titlesize": 9.5,
    "figure.constrained_layout.use": True, "figure.dpi": 160, "font.family": "DejaVu Sans", "font.size": 9,
    "grid.color": "#e6e8eb", "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8.5,
    "savefig.dpi": 160, "svg.hashsalt": "espnet_musa", "text.color": INK, "xtick.color": FAINT,
    "xtick.labelcolor": INK, "xtick.labelsize": 8, "ytick.color": FAINT, "ytick.labelcolor": INK, "ytick.labelsize": 8,
}  # fmt: skip
_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)  # of a DET plot
_RANGE = 70.0  # dB shown below the loudest cell of a spectrogram


@dataclass(frozen=True)
class Point:
    """One system under one attacker in the plane of privacy and utility; intervals are (low, high) or None."""

    system: str
    attacker: str
    utility: float
    privacy: float
    utility_interval: tuple[float, float] | None = None
    privacy_interval: tuple[float, float] | None = None


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with the report's style whatever the user's settings are."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            FigureCanvasAgg(figure)
        return figure

    return wrapper


def _rendered(figure: Figure, **options: object) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def png(figure: Figure, colours: int = 255) -> bytes:
    """The figure as PNG with a palette, a third of the size of full colour."""
    image = Image.open(io.BytesIO(_rendered(figure, format="png", metadata={"Software": None})))
    buffer = io.BytesIO()
    image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG, for papers."""
    return _rendered(figure, format="svg", metadata={"Date": None, "Creator": None})


def colour(system: str, systems: Sequence[str]) -> str:
    """Colour of a system: its place among the anonymized ones of the recipe."""
    return PALETTE[list(systems).index(system) % len(PALETTE)] if system in systems else INK


def _grid(panels: int, width: float, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` axes in rows of at most `columns`, each `width` x `height` inches."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def _named(system: str, attacker: str) -> str:
    return f"{system}, {ATTACKERS[attacker][0]}"


@styled
def score_histograms(panels: Sequence[Scores]) -> Figure:
    """Scores of target and non-target trials: the more the two overlap, the more private.

    Args:
        panels: score files of one evaluator and set; all panels share their axis of scores.
    """
    figure, axes = _grid(len(panels), 3.3, 2.2)
    low, high = min(p.edges[0] for p in panels), max(p.edges[-1] for p in panels)
    top = 105 * max(max(p.target.max(), p.nontarget.max()) for p in panels)
    for ax, panel in zip(axes, panels, strict=True):
        for values, tone, name in (
            (panel.nontarget, NONTARGET, "different speakers"),
            (panel.target, TARGET, "same speaker"),
        ):
            ax.stairs(100 * values, panel.edges, fill=True, color=tone, alpha=0.35)
            ax.stairs(100 * values, panel.edges, color=tone, label=name, linewidth=1.3)
        ax.set(xlim=(low, high), ylim=(0, top), yticks=[])
        ax.set_title(f"{_named(panel.system, panel.attacker)}\nEER {panel.text} %")
        ax.spines["left"].set_visible(False)
    for ax in axes[-min(3, len(axes)) :]:
        ax.set_xlabel("score")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(2, len(panels)))
    return figure


@styled
def det_curves(panels: Sequence[tuple[str, Sequence[Scores]]], systems: Sequence[str]) -> Figure:
    """Misses against false acceptances on normal-deviate axes: further up and right is more private.

    Args:
        panels: title (a set) and its curves.
        systems: the anonymized systems, in the order of their colours.
    """
    figure, axes = _grid(len(panels), 4.0, 3.7, columns=2)
    limits = ndtri(np.array([0.004, 0.99]))
    for ax, (title, curves) in zip(axes, panels, strict=True):
        ax.plot(limits, limits, color=FAINT, linewidth=0.8)
        for one in curves:
            x, y = (ndtri(np.clip(values, 1e-4, 1 - 1e-4)) for values in (one.far, one.frr))
            ax.plot(
                x, y, color=colour(one.system, systems), linestyle=LINES[one.attacker], linewidth=1.6,
                label=_named(one.system, one.attacker),
            )  # fmt: skip
        ticks = [t for t in _TICKS if limits[0] <= ndtri(t) <= limits[1]]
        names = [f"{100 * t:g}" for t in ticks]
        ax.set_xticks(ndtri(ticks), names)
        ax.set_yticks(ndtri(ticks), names)
        ax.set(
            xlim=limits,
            ylim=limits,
            xlabel="false acceptances %",
            ylabel="misses %",
            title=title,
            aspect="equal",
        )
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(2, len(panels)))
    return figure


@styled
def similarity(panels: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Voice similarity matrices: a clear diagonal means that speakers are told apart.

    Laid out as in "MUSA: Multi-lingual speaker anonymization via serial disentanglement", figure 3: original voices
    above left, anonymized ones below right, original against anonymized ones in the other two blocks.

    Args:
        panels: title (a system) and its (2 S, 2 S) matrix [[oo, oa], [ao, aa]] of similarities in [0, 1].
    """
    figure, axes = _grid(len(panels), 2.9, 2.9)
    for ax, (title, matrix) in zip(axes, panels, strict=True):
        half = len(matrix) // 2
        image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
        for line in (ax.axhline, ax.axvline):
            line(half - 0.5, color="white", linewidth=1.2)
        middles = [half / 2 - 0.5, 1.5 * half - 0.5]
        ax.set_xticks(middles, ["original", "anonymized"])
        ax.set_yticks(middles, ["original", "anonymized"], rotation=90, va="center")
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_title(title)
    figure.colorbar(image, ax=axes, label="similarity", shrink=0.8, aspect=30)
    return figure


@styled
def voice_maps(panels: Sequence[tuple[str, np.ndarray, Sequence[str]]]) -> Figure:
    """Speaker embeddings on a plane: a codec that knows speakers apart shows one cluster each.

    As "MUSA: Multi-lingual speaker anonymization via serial disentanglement", figure 4.

    Args:
        panels: title, (N, 2) positions and N speakers.
    """
    figure, axes = _grid(len(panels), 3.8, 3.8, columns=2)
    for ax, (title, plane, speakers) in zip(axes, panels, strict=True):
        for number, speaker in enumerate(sorted(set(speakers))):
            own = plane[np.array(speakers) == speaker]
            ax.scatter(*own.T, s=14, color=f"C{number % 10}", marker="os^"[number // 10 % 3], label=speaker)
        ax.set(xticks=[], yticks=[], title=title)
        ax.legend(fontsize=6.5, markerscale=0.8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


@styled
def privacy_utility(
    panels: Sequence[tuple[str, Sequence[Point], float | None]], systems: Sequence[str], utility: str
) -> Figure:
    """EER against a measure of utility; up and right is better.

    Args:
        panels: title (evaluator and set), the points, and the EER of unprotected speech (%).
        systems: the anonymized systems, in the order of their colours.
        utility: name of the measure.
    """
    figure, axes = _grid(len(panels), 4.0, 3.1, columns=2)
    for ax, (title, points, bound) in zip(axes, panels, strict=True):
        ax.axhline(50, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.annotate(
            "guessing", (0.01, 50), xytext=(0, 2), textcoords="offset points", fontsize=7.5, color=FAINT
        )
        if bound is not None:
            ax.axhline(bound, color=INK, linewidth=1)
            ax.annotate("unprotected", (0.01, bound), xytext=(0, 2), textcoords="offset points", fontsize=7.5)
        for p in points:
            tone = colour(p.system, systems)
            for x, y in ((p.utility_interval, [p.privacy] * 2), ([p.utility] * 2, p.privacy_interval)):
                if x is not None and y is not None:
                    ax.plot(x, y, color=tone, linewidth=1, alpha=0.6)
            ax.plot(
                p.utility, p.privacy, "o", color=tone, markersize=7, markeredgewidth=1.5,
                markerfacecolor="white" if p.attacker == "oa" else tone, label=_named(p.system, p.attacker),
            )  # fmt: skip
        ax.set(
            xlim=(min([0, *(p.utility - 0.05 for p in points)]), 1.02),
            ylim=(0, 60),
            xlabel=utility,
            ylabel="EER %",
            title=title,
        )
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(2, len(panels)))
    return figure


def spectrogram(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power in dB below the loudest cell, at least -70: (bins, frames); Hann window of 25 ms, each 10 ms."""
    size, hop = round(0.025 * sample_rate), round(0.010 * sample_rate)
    wav = wav if wav.size >= size else np.pad(wav, (0, size - wav.size))
    _, _, spectrum = stft(
        wav, sample_rate, get_window("hann", size), nperseg=size, noverlap=size - hop, nfft=2 * size
    )
    power = np.abs(spectrum) ** 2
    return 10 * np.log10(
        np.maximum(power, power.max() * 10 ** (-_RANGE / 10) + 1e-20) / max(power.max(), 1e-20)
    )


@styled
def example(
    wav: np.ndarray,
    sample_rate: int,
    f0: np.ndarray,
    *,
    hop: float,
    tone: str = INK,
    original: np.ndarray | None = None,
    seconds: float | None = None,
) -> Figure:
    """Spectrogram of an utterance above its pitch contour.

    Args:
        wav: (T,) samples.
        sample_rate: Hz.
        f0: (F,) Hz, 0 = unvoiced.
        hop: seconds between two values of `f0`.
        tone: colour of the contour.
        original: (F',) contour of the original speech, drawn in grey behind.
        seconds: length of the time axis, the same for all versions of an utterance.
    """
    figure = Figure(figsize=(4.0, 2.7))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    seconds = wav.size / sample_rate if seconds is None else seconds
    above.imshow(
        spectrogram(wav, sample_rate), origin="lower", aspect="auto", cmap="magma", vmin=-_RANGE, vmax=0,
        extent=(0, wav.size / sample_rate, 0, sample_rate / 2000),
    )  # fmt: skip
    above.set(ylabel="kHz", yticks=[0, 2, 4, 6, 8], facecolor="black")
    above.grid(False)
    for track, shade, width in ((original, "#bfc4ca", 3.0), (f0, tone, 1.6)):
        if track is not None:
            voiced = np.where(track > 0, track, np.nan)
            below.plot(
                np.arange(track.size) * hop, voiced, color=shade, linewidth=width, solid_capstyle="round"
            )
    below.set_yscale("log")
    below.set(xlim=(0, seconds), ylim=(70, 520), xlabel="seconds", ylabel="F0 Hz")
    below.set_yticks([100, 200, 400], ["100", "200", "400"])
    below.minorticks_off()
    figure.align_ylabels()
    return figure

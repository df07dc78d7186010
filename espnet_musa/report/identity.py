"""Where identity still travels in a codec: what `pipeline.probe` found, as tables and a map of voices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import stamp
from ..errors import Problems
from .tables import Row, Table

TITLE = "Where identity travels"
ABOUT = (
    "Speakers that the codec never saw. Speaker embedding: EER of the codec's own embedding, low if it knows speakers "
    "apart. Decoded: EER of Resemblyzer, enrolled with original speech, on speech decoded from the first quantizers "
    "with the speaker's own embedding and with the zero vector; 50 % is guessing."
)
LAZY = "Lazy-informed: its enrolment is decoded likewise, with as many quantizers and the same vector."


def about(results: dict[str, Any]) -> str:
    """How to read the table."""
    sets = [found for one in results.get("probes", []) for found in one["sets"]]
    lazy = any("eer_lazy" in made for found in sets for made in found["decoded"])
    return f"{ABOUT} {LAZY}" if lazy else ABOUT


def load(recipe_dir: Path, systems: Iterable[str], problems: Problems) -> list[dict[str, Any]]:
    """What was found about every one of these systems with a codec; one that was not probed is a problem."""
    found = []
    for name in systems:
        place = recipe_dir / "exp" / name / "probe"
        if stamp.read(place) is None:
            problems.add(f"the codec of system '{name}' is not probed", path=place, hint="run stage 'score'")
        else:
            found.append(stamp.read_json(place / "probe.json"))
    return found


def table(results: dict[str, Any]) -> Table:
    """One row a system and set, one column a number of quantizers and speaker vector."""
    rows, columns = [], {}
    for one in results.get("probes", []):
        for found in one["sets"]:
            cells = {("speaker embedding",): found["embedding_eer"]}
            for made in found["decoded"]:
                kept = f"{made['quantizers']} quantizer" + "s" * (made["quantizers"] > 1)
                cells[kept, made["speaker"]] = made["eer"]
                if "eer_lazy" in made:
                    cells[kept, f"{made['speaker']}, lazy-informed"] = made["eer_lazy"]
            columns |= dict.fromkeys(cells)
            rows.append((one["system"], found["set"], cells))
    ordered = [Row((system, name), [_show(cells.get(c)) for c in columns]) for system, name, cells in rows]
    return Table(("system", "set"), list(columns), ordered)


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def positions(place: Path, most: int = 12) -> tuple[np.ndarray, list[str]]:
    """The speaker embeddings of a set on a plane (t-SNE, as in figure 4 of the paper).

    Args:
        place: `<set>.npz` of the probe.
        most: speakers shown, those with the most utterances.

    Returns:
        (N, 2) positions and N speakers.
    """
    from sklearn.manifold import TSNE

    with np.load(place) as stored:
        embeddings, speakers = stored["embeddings"], stored["speakers"]
    names, counts = np.unique(speakers, return_counts=True)
    shown = np.isin(speakers, names[np.argsort(-counts, kind="stable")[:most]])
    embeddings, speakers = embeddings[shown], speakers[shown]
    perplexity = min(15.0, (len(embeddings) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(
        embeddings.astype(np.float64)
    )
    return plane, list(speakers)

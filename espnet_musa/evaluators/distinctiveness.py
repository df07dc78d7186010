"""Voice distinctiveness: are anonymized speakers told apart as well as original ones were?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.table import write_text
from ..errors import Problems
from ..log import get_logger
from ..metrics.similarity import de_identification, similarity_matrix, voice_distinctiveness
from .asv import Asv, mean_of
from .base import Metric, PairedEvaluator, Resources, Training
from .voices import Voices

if TYPE_CHECKING:
    from ..data.datadir import DataDir

log = get_logger(__name__)
MATRICES = ("oo", "oa", "aa")


class Distinctiveness(PairedEvaluator):
    """Gain of voice distinctiveness G_VD (dB) and de-identification De-ID, from voice similarity matrices.

    Reference: Tomashenko et al., "The VoicePrivacy 2022 Challenge evaluation plan", section 4.2; Noé et al., "Speech
    pseudonymisation assessment using voice similarity matrices", Interspeech 2020. Genders are scored apart, as the
    challenge's sets are, each with its own calibration, and all speakers together.

    Differs from [vpc22]: by default the scores are cosines instead of log-likelihood ratios of PLDA (`backend: plda`);
    calibration makes log-likelihood ratios of either.

    Args:
        encoder, model, backend: see `voices.Voices`; the model must be one of original speech.
    """

    def __init__(self, encoder: str = "ecapa", model: str = "recipe", backend: str = "cosine") -> None:
        self._voices, self.trained = Voices(encoder, model, backend), backend == "plda"

    @staticmethod
    def training() -> Training:
        """The training of the model, that of an attacker."""
        return Asv.training()

    def score(self, original: DataDir, anonymized: DataDir, out: Path, resources: Resources) -> list[Metric]:
        """Score one set; writes `<out>/<group>/{oo,oa,aa}.npy`, (S, S) matrices, and `<out>/<group>/speakers`.

        Raises:
            UserError: before any embedding is computed: the two directories hold different utterances, there are no
                two speakers with two utterances each, no model; afterwards: the encoder tells nobody apart.
        """
        groups = _groups(original, anonymized)
        self._voices.check(resources)
        from .encoders import embed_datadir  # torch: only who scores waits for it

        cache = resources.cache or out / "embeddings"
        encoder, backend = self._voices.open(resources, cache)
        embeddings = [embed_datadir(encoder, data, cache) for data in (original, anonymized)]
        # Each utterance is a model of one utterance, and a trial.
        factors = [backend.factors(x, np.ones(len(x)), x) for x in embeddings]
        metrics: dict[tuple[str, str], Metric] = {}
        for group, (names, rows, speaker) in groups.items():
            (left_o, right_o), (left_a, right_a) = (tuple(part[rows] for part in sides) for sides in factors)
            pairs = ((left_o, right_o), (left_o, right_a), (left_a, right_a))
            matrices = [similarity_matrix(left, right, speaker) for left, right in pairs]
            (out / group).mkdir(parents=True, exist_ok=True)
            write_text(out / group / "speakers", "".join(f"{name}\n" for name in names))
            for name, matrix in zip(MATRICES, matrices, strict=True):
                np.save(out / group / f"{name}.npy", matrix)
            m_oo, m_oa, m_aa = matrices
            counts = {"speakers": len(names), "utterances": len(rows)}
            for name, value, unit, condition in (
                ("gvd", voice_distinctiveness(m_aa, m_oo), "dB", ""),
                ("deid", de_identification(m_oa, m_oo), "", "oa"),
            ):
                metrics[name, group] = Metric(
                    name, value, unit, original.name, original.meta.split, group, condition, counts
                )
        for name in ("gvd", "deid"):
            if (name, "f") in metrics and (name, "m") in metrics:
                metrics[name, "avg"] = mean_of(metrics[name, "f"], metrics[name, "m"])
        return list(metrics.values())


def _groups(original: DataDir, anonymized: DataDir) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    """Which utterances and speakers are compared with each other.

    Returns:
        for each gender of two, and for all: S speakers in order of first appearance, (N,) rows of their utterances,
        and (N,) the speaker of each.

    Raises:
        UserError: if the directories hold different utterances, or there are no two speakers with two utterances each.
    """
    problems = Problems()
    for utt in sorted(set(original.utts) ^ set(anonymized.utts)):
        problems.add("only in one of the two sets", path=anonymized.path, utt=utt)
    problems.raise_if_any()
    utt2spk = original.table("utt2spk")
    owner = np.array([utt2spk[utt] for utt in original.utts])
    names, counts = np.unique(owner, return_counts=True)
    genders = original.table("spk2gender") if original.has("spk2gender") else {}
    enough = set(names[counts > 1])
    for name in names[counts == 1]:
        log.warning("%s: speaker '%s' has a single utterance and is left out", original.name, name)
    everyone = [name for name in dict.fromkeys(owner.tolist()) if name in enough]
    people = {g: [name for name in everyone if genders.get(name) == g] for g in ("f", "m")}
    people = {g: found for g, found in people.items() if len(found) > 1}
    if len(people) != 1 or len(people[next(iter(people))]) != len(everyone):
        people["all"] = everyone  # a set of one gender is not reported twice
    if len(everyone) < 2:
        problems.add(
            f"{len(everyone)} speakers with two or more utterances", path=original.path,
            expected="at least two: voices are compared within and between speakers",
        )  # fmt: skip
        problems.raise_if_any()
    groups = {}
    for group, found in people.items():
        index = {name: i for i, name in enumerate(found)}
        rows = np.flatnonzero(np.isin(owner, found))
        groups[group] = found, rows, np.array([index[name] for name in owner[rows]])
    return groups

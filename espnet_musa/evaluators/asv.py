"""Speaker verification attacks: who links an anonymized utterance to its speaker, and how often.

The protocol is the VoicePrivacy Challenge's: an enrolment model is the mean of a speaker's raw utterance embeddings, a
score is its cosine with the trial's embedding, the number is the equal error rate. Conditions:

| condition | enrolment | trial | attacker with a model of original / of anonymized speech |
|---|---|---|---|
| oo | original | original | none: the lower bound of privacy |
| oa | original | anonymized | ignorant / - |
| aa | anonymized | anonymized | lazy-informed / semi-informed |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.trials import Trials, read_trials, write_scores
from ..errors import Problems, UserError, suggest
from ..log import get_logger
from ..metrics.bootstrap import eer_interval
from ..metrics.eer import eer
from ..seed import generator
from .base import Metric, Resources, VerificationEvaluator

if TYPE_CHECKING:
    from ..data.datadir import DataDir
    from .encoders import SpeakerEncoder

log = get_logger(__name__)
ENCODERS = ("ecapa", "resemblyzer")
CONDITIONS = ("oo", "oa", "aa")
_BLOCK = 1 << 22  # entries of a score matrix held at a time


class Asv(VerificationEvaluator):
    """Equal error rate of an attacker, per condition and gender, with bootstrap intervals over speakers.

    Reference: Tomashenko et al., "The VoicePrivacy 2024 Challenge evaluation plan", 2024, section 4.1.

    Args:
        encoder: "ecapa" or "resemblyzer".
        model: for ecapa: "recipe" (the attacker that the recipe trains, handed in as `resources.model_dir`) or a
            directory with `model.safetensors` and `config.yaml`.
        method: reading of the EER, see `metrics.eer`.
        conditions: which to score, where there are data for them.
        bootstrap: draws of speakers behind an interval; 0: no intervals.
    """

    def __init__(
        self,
        encoder: str = "ecapa",
        model: str = "recipe",
        method: str = "vpc2024",
        conditions: Sequence[str] = CONDITIONS,
        bootstrap: int = 1000,
    ) -> None:
        for name, known in [(encoder, ENCODERS), *((condition, CONDITIONS) for condition in conditions)]:
            if name not in known:
                raise UserError(f"unknown encoder or condition '{name}'{suggest(name, known)}")
        self.encoder, self.model, self.method = encoder, model, method
        self.conditions, self.bootstrap = tuple(conditions), bootstrap

    def score(
        self,
        enroll_orig: DataDir,
        trial_orig: DataDir,
        enroll_anon: DataDir | None,
        trial_anon: DataDir | None,
        out: Path,
        resources: Resources,
    ) -> list[Metric]:
        """Score every condition; writes `<out>/<condition>/scores` (`speaker utterance score` a line).

        Raises:
            UserError: before any embedding is computed: sets that do not match, trials of unknown speakers or
                utterances, a speaker without enrolment, no target or no non-target trial, no model.
        """
        _check_same(enroll_orig, enroll_anon)
        _check_same(trial_orig, trial_anon)
        speakers, utts, owner = enrolment(enroll_orig)
        trials = read_trials(trial_orig.path / "trials", speakers, trial_orig.utts)
        groups = _groups(enroll_orig, trial_orig, speakers, trials)
        from .encoders import embed_datadir  # torch: only who scores waits for it

        encoder = self._encoder(resources)
        cache = resources.cache or out / "embeddings"
        wanted = [c for c in CONDITIONS if c in self.conditions and (c == "oo" or trial_anon is not None)]
        metrics = []
        for condition in wanted:
            enroll = enroll_orig if condition[0] == "o" else enroll_anon
            trial = trial_orig if condition[1] == "o" else trial_anon
            models = speaker_means(embed_datadir(encoder, enroll, cache, utts), owner)
            scores = cosine_scores(models, embed_datadir(encoder, trial, cache), trials.enroll, trials.trial)
            (out / condition).mkdir(parents=True, exist_ok=True)
            write_scores(out / condition / "scores", trials, speakers, trial_orig.utts, scores)
            metrics += self._metrics(trial_orig, condition, scores, trials, groups, resources.seed)
        return metrics

    def _encoder(self, resources: Resources) -> SpeakerEncoder:
        from .encoders import Ecapa, Resemblyzer

        if self.encoder == "resemblyzer":
            return Resemblyzer(resources.device)
        model_dir = resources.model_dir if self.model == "recipe" else Path(self.model)
        if model_dir is None:
            raise UserError("this evaluator needs the recipe's attacker", hint="run stage 'attack' first")
        return Ecapa(model_dir, resources.device)

    def _metrics(
        self, data: DataDir, condition: str, scores: np.ndarray, trials: Trials, groups: _Groups, seed: int
    ) -> list[Metric]:
        """EER of each gender, their plain mean, and all trials pooled where that is something else."""
        parts = {}
        for group in groups.names:
            chosen = groups.rows(group)
            target, own = trials.target[chosen], scores[chosen]
            enroll, speaker = trials.enroll[chosen], groups.trial_speaker[chosen]
            low = high = None
            if self.bootstrap:
                rng = generator(seed, "asv", group, "bootstrap")
                interval = eer_interval(own, enroll, speaker, target, repeats=self.bootstrap, rng=rng)
                low, high = (None, None) if interval is None else (100 * limit for limit in interval)
            counts = {"speakers": len(np.unique(enroll)), "target": int(target.sum())}
            counts["nontarget"] = len(target) - counts["target"]
            if group == "all":
                counts["cross_gender"] = int(np.sum(groups.gender == "x"))
            value = 100 * eer(own[target], own[~target], self.method).eer
            parts[group] = Metric(
                "eer", value, "%", data.name, data.meta.split, group, condition, counts, low, high
            )
        if "f" in parts and "m" in parts:
            parts["avg"] = mean_of(parts["f"], parts["m"])
        return list(parts.values())


def enrolment(enroll: DataDir) -> tuple[list[str], list[str], np.ndarray]:
    """Who is enrolled with what: the utterances of the file `enrolls`, or all where there is none.

    Returns:
        S speakers and N utterances, both sorted, and (N,) the index of each utterance's speaker.

    Raises:
        UserError: if a speaker of the directory has no enrolment utterance, or there is none at all.
    """
    utt2spk = enroll.table("utt2spk")
    utts = sorted(enroll.table("enrolls")) if enroll.has("enrolls") else enroll.utts
    problems = Problems()
    for spk in sorted(set(utt2spk.values()) - {utt2spk[utt] for utt in utts}):
        problems.add(f"speaker '{spk}' has no enrolment utterance", path=enroll.path / "enrolls")
    if not utts:
        problems.add("no enrolment utterance", path=enroll.path)
    problems.raise_if_any()
    speakers = sorted(set(utt2spk.values()))
    index = {spk: i for i, spk in enumerate(speakers)}
    return speakers, utts, np.array([index[utt2spk[utt]] for utt in utts])


def speaker_means(embeddings: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(N, D) embeddings and (N,) indices of their speakers -> (S, D) means of the raw embeddings."""
    total = np.zeros((owner.max() + 1, embeddings.shape[1]))
    np.add.at(total, owner, embeddings)
    return (total / np.bincount(owner)[:, None]).astype(np.float32)


def cosine_scores(
    models: np.ndarray, trials: np.ndarray, enroll: np.ndarray, trial: np.ndarray
) -> np.ndarray:
    """Cosines of (S, D) models and (N, D) trial embeddings for (K,) index pairs: (K,) float32.

    Trial lists are (nearly) all pairs, so whole blocks of the score matrix are computed and read out.
    """
    models = models / np.maximum(np.linalg.norm(models, axis=1, keepdims=True), 1e-12)
    trials = trials / np.maximum(np.linalg.norm(trials, axis=1, keepdims=True), 1e-12)
    scores = np.empty(len(enroll), np.float32)
    order = np.argsort(enroll, kind="stable")
    step = max(1, _BLOCK // len(trials))
    for first in range(0, len(models), step):
        bounds = np.searchsorted(enroll, [first, first + step], sorter=order)
        rows = order[bounds[0] : bounds[1]]
        scores[rows] = (models[first : first + step] @ trials.T)[enroll[rows] - first, trial[rows]]
    return scores


def mean_of(f: Metric, m: Metric) -> Metric:
    """The plain mean of two genders, the figure of the evaluation plans.

    The genders share no speaker, so their errors are independent and the interval of the mean follows from theirs:
    MOVER, Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008.
    """
    low = high = None
    value = (f.value + m.value) / 2
    if None not in (f.low, m.low):
        low = value - math.hypot(f.value - f.low, m.value - m.low) / 2
        high = value + math.hypot(f.high - f.value, m.high - m.value) / 2
    counts = {name: f.n[name] + m.n[name] for name in f.n}
    return Metric(f.name, value, f.unit, f.set, f.split, "avg", f.condition, counts, low, high)


class _Groups:
    """Which trials belong to which gender, and whose the trial utterances are.

    Attributes:
        gender: (K,) "f" or "m" where enrolment and trial speaker share it, else "x".
        trial_speaker: (K,) speaker index, numbered as the enrolled ones and on from there.
        names: the groups to report.
    """

    def __init__(self, gender: np.ndarray, trial_speaker: np.ndarray, target: np.ndarray) -> None:
        self.gender, self.trial_speaker = gender, trial_speaker
        both = [g for g in ("f", "m") if len(np.unique(target[gender == g])) == 2]
        for group in set(np.unique(gender)) - {*both, "x"}:
            log.warning("gender '%s' has only target or only non-target trials: no EER of its own", group)
        # A set of one gender is not reported twice.
        self.names = both if len(both) == 1 and (gender == both[0]).all() else [*both, "all"]

    def rows(self, group: str) -> np.ndarray | slice:
        """What selects a group's trials."""
        return slice(None) if group == "all" else self.gender == group


def _groups(enroll: DataDir, trial: DataDir, speakers: list[str], trials: Trials) -> _Groups:
    """The genders and trial speakers of a trial list."""
    utt2spk, genders = trial.table("utt2spk"), {**trial.table("spk2gender"), **enroll.table("spk2gender")}
    everyone = [*speakers, *sorted(set(utt2spk.values()) - set(speakers))]
    index = {spk: i for i, spk in enumerate(everyone)}
    of_utt = np.array([index[utt2spk[utt]] for utt in trial.utts])
    of_spk = np.array([genders[spk] for spk in everyone])
    speaker = of_utt[trials.trial]
    first, second = of_spk[trials.enroll], of_spk[speaker]
    return _Groups(np.where(first == second, first, "x"), speaker, trials.target)


def _check_same(original: DataDir, anonymized: DataDir | None) -> None:
    """The anonymized copy must hold the same utterances of the same speakers.

    Raises:
        UserError: naming the first five that differ.
    """
    if anonymized is None:
        return
    problems = Problems()
    ours, theirs = original.table("utt2spk"), anonymized.table("utt2spk")
    for utt in sorted({*ours, *theirs}):
        if utt not in theirs:
            problems.add("not anonymized", path=anonymized.path, utt=utt)
        elif utt not in ours:
            problems.add("not in the original set", path=anonymized.path, utt=utt)
        elif ours[utt] != theirs[utt]:
            problems.add(f"speaker '{theirs[utt]}', originally '{ours[utt]}'", path=anonymized.path, utt=utt)
    problems.raise_if_any()

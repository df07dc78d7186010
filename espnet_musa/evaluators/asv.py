"""Speaker verification attacks: who links an anonymized utterance to its speaker, and how often.

The protocol is the VoicePrivacy Challenge's: an enrolment model is the mean of a speaker's raw utterance embeddings, a
score is its cosine with the trial's embedding (2024, 2026) or the log-likelihood ratio of PLDA (2022), the number is
the equal error rate. Conditions:

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
from ..errors import Problems, UserError
from ..log import get_logger
from ..metrics.bootstrap import eer_interval
from ..metrics.cllr import cllr, cllr_min
from ..metrics.eer import METHODS, eer
from ..metrics.linkability import MIN_TARGETS, linkability
from ..metrics.zebra import zebra
from ..seed import generator
from .backends import pair_scores
from .base import Metric, Resources, Training, VerificationEvaluator
from .voices import Voices, check_known

if TYPE_CHECKING:
    from ..data.datadir import DataDir

log = get_logger(__name__)
CONDITIONS = ("oo", "oa", "aa")
METRICS = ("eer", "dsys", "cllr", "cllr_min", "zebra")
_FEW = 100  # targets; below, D_sys has less than ten bins
_COARSE = "D_sys is too low for so few targets: its bins are wide, and half of the outermost ones is lost"


class Asv(VerificationEvaluator):
    """What an attacker learns, per condition and gender: EER with bootstrap intervals over speakers, and more.

    Reference: Tomashenko et al., "The VoicePrivacy 2024 Challenge evaluation plan", 2024, section 4.1; for the other
    metrics "The VoicePrivacy 2022 Challenge evaluation plan", section 4.1 and appendix.

    Args:
        encoder, model, backend: see `voices.Voices`.
        method: reading of the EER, see `metrics.eer`.
        metrics: what to report: "eer", "dsys" (linkability), "cllr" (of scores taken as log-likelihood ratios, which
            those of PLDA are and cosines are not), "cllr_min", "zebra" (population and individual).
        conditions: which to score, where there are data for them.
        bootstrap: draws of speakers behind an interval of the EER; 0: no intervals.
        by_language: each language has an attacker of its own, trained on the set of role `attack_train` in it (track 2
            of VoicePrivacy 2026); trials in other languages are not scored.
    """

    def __init__(
        self,
        encoder: str = "ecapa",
        model: str = "recipe",
        backend: str = "cosine",
        method: str = "vpc2024",
        metrics: Sequence[str] = ("eer",),
        conditions: Sequence[str] = CONDITIONS,
        bootstrap: int = 1000,
        by_language: bool = False,
    ) -> None:
        if by_language and (model != "recipe" or backend == "plda"):
            raise UserError(
                "by_language is for attackers that the recipe trains", expected="model: recipe, cosine"
            )
        check_known("EER method", method, METHODS)
        for kind, names, known in (("metric", metrics, METRICS), ("condition", conditions, CONDITIONS)):
            for name in names:
                check_known(kind, name, known)
        self._voices, self.trained = Voices(encoder, model, backend), backend == "plda"
        self.method, self.metrics = method, tuple(metrics)
        self.conditions, self.bootstrap = tuple(conditions), bootstrap

    @staticmethod
    def training() -> Training:
        """The training of the attacker."""
        from .ecapa_train import TrainConfig, speakers_of, train

        return Training(TrainConfig, lambda data, config: speakers_of(data), train)

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
                utterances, a speaker without enrolment, no target or no non-target trial, no model, nothing to train
                PLDA on.
        """
        _check_same(enroll_orig, enroll_anon)
        _check_same(trial_orig, trial_anon)
        speakers, utts, owner = enrolment(enroll_orig)
        trials = read_trials(trial_orig.path / "trials", speakers, trial_orig.utts)
        groups = _groups(enroll_orig, trial_orig, speakers, trials)
        self._voices.check(resources)
        from .encoders import embed_datadir  # torch: only who scores waits for it

        cache = resources.cache or out / "embeddings"
        encoder, backend = self._voices.open(resources, cache)
        counts = np.bincount(owner)
        wanted = [c for c in CONDITIONS if c in self.conditions and (c == "oo" or trial_anon is not None)]
        metrics = []
        for condition in wanted:
            enroll = enroll_orig if condition[0] == "o" else enroll_anon
            trial = trial_orig if condition[1] == "o" else trial_anon
            models = speaker_means(embed_datadir(encoder, enroll, cache, utts), owner)
            factors = backend.factors(models, counts, embed_datadir(encoder, trial, cache))
            scores = pair_scores(*factors, trials.enroll, trials.trial)
            (out / condition).mkdir(parents=True, exist_ok=True)
            write_scores(out / condition / "scores", trials, speakers, trial_orig.utts, scores)
            metrics += self._metrics(trial_orig, condition, scores, trials, groups, resources.seed)
        return metrics

    def _metrics(
        self, data: DataDir, condition: str, scores: np.ndarray, trials: Trials, groups: _Groups, seed: int
    ) -> list[Metric]:
        """Every metric of each gender, their plain mean, and of all trials pooled where that is something else.

        With trials across genders (the mixed lists of VoicePrivacy 2026) the pooled figure is the one that counts, and
        there is no mean.
        """
        parts: dict[tuple[str, str], Metric] = {}
        for group in groups.names:
            chosen = groups.rows(group)
            target, own = trials.target[chosen], scores[chosen]
            speakers = trials.enroll[chosen], groups.trial_speaker[chosen]
            counts = {"speakers": len(np.unique(speakers[0])), "target": int(target.sum())}
            counts["nontarget"] = len(target) - counts["target"]
            if group == "all":
                counts["cross_gender"] = groups.crossing
            measured = self._measure(own[target], own[~target], f"{data.name}, {group}")
            for name, (value, unit) in measured.items():
                low = high = None
                if name == "eer" and self.bootstrap:
                    rng = generator(seed, "asv", group, "bootstrap")
                    interval = eer_interval(own, *speakers, target, repeats=self.bootstrap, rng=rng)
                    low, high = (None, None) if interval is None else (100 * limit for limit in interval)
                notes = _COARSE if name == "dsys" and counts["target"] < _FEW else ""
                parts[name, group] = Metric(
                    name, value, unit, data.name, data.meta.split, group, condition, counts, low, high, notes
                )
        for name in dict.fromkeys(name for name, _ in parts):
            if not groups.crossing and (name, "f") in parts and (name, "m") in parts:
                parts[name, "avg"] = mean_of(parts[name, "f"], parts[name, "m"])
        return list(parts.values())

    def _measure(self, tar: np.ndarray, non: np.ndarray, where: str) -> dict[str, tuple[float, str]]:
        """Values and units of the metrics of (N_t,) target and (N_n,) non-target scores."""
        found: dict[str, tuple[float, str]] = {}
        for name in self.metrics:
            if name == "eer":
                found[name] = (100 * eer(tar, non, self.method).eer, "%")
            elif name == "zebra":
                disclosed = zebra(tar, non)
                found["zebra_population"] = (disclosed.population, "bit")
                found["zebra_individual"] = (disclosed.individual, "")
            elif name == "dsys" and len(tar) < MIN_TARGETS:
                log.warning("%s: %d target trials are too few for D_sys", where, len(tar))
            elif name == "dsys":
                found[name] = (linkability(tar, non), "")
            else:
                found[name] = ({"cllr": cllr, "cllr_min": cllr_min}[name](tar, non), "bit")
        return found


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
        crossing: number of trials across genders.
        names: the groups to report.
    """

    def __init__(self, gender: np.ndarray, trial_speaker: np.ndarray, target: np.ndarray) -> None:
        self.gender, self.trial_speaker = gender, trial_speaker
        self.crossing = int(np.sum(gender == "x"))
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

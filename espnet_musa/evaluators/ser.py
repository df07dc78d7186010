"""Speech emotion recognition: how much of the emotion is still heard after anonymization.

Cross-validated over speakers: the speakers are dealt into folds, and the utterances of a fold are recognised by a
classifier that has heard none of its speakers. Original and anonymized speech get the same classifiers, unless `heard`
says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import models
from ..data.datadir import spk2utt
from ..errors import Problems, UserError, suggest
from ..log import get_logger
from ..metrics.uar import READINGS, confusions, recalls, uar, uar_interval
from ..seed import generator
from .base import Metric, Resources, SingleEvaluator

if TYPE_CHECKING:
    from ..data.datadir import DataDir
    from .ser_classifiers import Classifier

log = get_logger(__name__)
BACKENDS = ("recipe", "wav2vec2")
HEARD = ("original", "anonymized")
_DRAWS = 200  # assignments of speakers to folds that are tried


class Ser(SingleEvaluator):
    """Unweighted average recall of emotions in percent, and the recall of each; higher is better, chance 100 / classes.

    Reference: Tomashenko et al., "The VoicePrivacy 2024 Challenge evaluation plan", 2024, section 4.2.

    Args:
        backend: "recipe" (`ser_classifiers.Functionals`, trained on the originals of the other folds) or "wav2vec2"
            (`ser_classifiers.Wav2vec2`, the challenge's).
        model: for wav2vec2: a name of `conf/models.yaml`, or a directory, that holds `fold_<id>/`.
        folds: number of folds where the set has no `spk2fold` (fewer if it has fewer speakers).
        reading: "vpc2024" (mean over folds) or "pooled", see `metrics.uar`.
        bootstrap: draws of speakers behind the interval; 0: none.
        heard: what the recipe's classifier learns from: "original" speech, or what the same system "anonymized". The
            former tells whether emotion sounds as it did, the latter whether it is there for who knows the system.
    """

    def __init__(
        self,
        backend: str = "recipe",
        model: str = "ser_vpc2024",
        folds: int = 5,
        reading: str = "vpc2024",
        bootstrap: int = 1000,
        heard: str = "original",
    ) -> None:
        for name, known in ((backend, BACKENDS), (reading, READINGS), (heard, HEARD)):
            if name not in known:
                raise UserError(f"unknown backend, reading or heard '{name}'{suggest(name, known)}")
        if (backend, heard) == ("wav2vec2", "anonymized"):
            raise UserError("heard 'anonymized' with backend 'wav2vec2'", expected="backend 'recipe'")
        if folds < 2:
            raise UserError(f"{folds} folds", expected="at least 2")
        self.backend, self.model, self.folds = backend, model, folds
        self.reading, self.bootstrap, self.heard = reading, bootstrap, heard

    def score(
        self, original: DataDir, anonymized: DataDir | None, out: Path, resources: Resources
    ) -> list[Metric]:
        """Score a set, its anonymized copy if there is one; a set without `utt2emo` gives no metrics.

        Writes `<out>/emotions` (`utterance fold reference recognised` a line).

        Raises:
            UserError: before any audio is read: one speaker or one emotion only, a fold that lacks an emotion, other
                utterances in the copy, a classifier that is not there or does not know an emotion.
        """
        if not original.has("utt2emo"):
            log.info("emotion: %s has no utt2emo, skipped", original.name)
            return []
        scored = original if anonymized is None else anonymized
        emotions = original.table("utt2emo")
        classes = sorted(set(emotions.values()))
        folds = self._folds(original, classes, resources.seed)
        problems = Problems()
        for utt in sorted(set(original.utts) ^ set(scored.utts)):
            problems.add("only in one of the two sets", path=scored.path, utt=utt)
        problems.raise_if_any()
        utt2spk = original.table("utt2spk")
        fold = {utt: folds[utt2spk[utt]] for utt in original.utts}
        heard = "original" if anonymized is None else self.heard
        known = original if heard == "original" else scored
        classifier = self._classifier(original, known, heard, classes, fold, resources)
        classifier.check(classes, sorted(set(folds.values())))
        found = classifier.recognize({utt: scored.audio_path(utt) for utt in scored.utts}, fold)
        names = [*classes, "other"]
        lines = [f"{utt} {fold[utt]} {emotions[utt]} {names[found[utt]]}\n" for utt in original.utts]
        (out / "emotions").write_text("".join(lines), encoding="utf-8")
        return self._metrics(original, classes, folds, found, classifier.notes, resources.seed)

    def _classifier(
        self,
        original: DataDir,
        known: DataDir,
        heard: str,
        classes: list[str],
        fold: dict[str, str],
        resources: Resources,
    ) -> Classifier:
        from .ser_classifiers import (
            Functionals,
            Wav2vec2,
        )  # scikit-learn, torch: only who scores waits for them

        if self.backend == "wav2vec2":
            if not original.has("spk2fold"):
                raise UserError(
                    "file 'spk2fold' is missing", path=original.path,
                    expected="the fold whose classifier has not heard the speaker",
                )  # fmt: skip
            return Wav2vec2(models.find(self.model), resources.device)
        label = {utt: classes.index(emotion) for utt, emotion in original.table("utt2emo").items()}
        return Functionals(
            {utt: known.audio_path(utt) for utt in known.utts}, label, fold, resources.jobs, heard
        )

    def _folds(self, data: DataDir, classes: list[str], seed: int) -> dict[str, str]:
        """Speaker -> fold: the set's `spk2fold`, else the first of some draws that gives every fold every emotion."""
        if len(classes) < 2:
            raise UserError(
                f"only the emotion '{classes[0]}'", path=data.path / "utt2emo", expected="two or more"
            )
        heard = {
            spk: {data.table("utt2emo")[utt] for utt in utts}
            for spk, utts in spk2utt(data.table("utt2spk")).items()
        }
        if len(heard) < 2:
            raise UserError(
                "a single speaker", path=data.path / "utt2spk",
                expected="two or more: a classifier must not have heard whom it is tested on",
            )  # fmt: skip
        if data.has("spk2fold"):
            given = data.table("spk2fold")
            if len(set(given.values())) < 2 and self.backend == "recipe":
                raise UserError("a single fold", path=data.path / "spk2fold", expected="two or more")
            missing = lacking(given, heard, classes)
        else:
            genders = data.tables.get("spk2gender", dict.fromkeys(heard, "x"))
            rng = generator(seed, "ser", "speakers", "folds")
            for _ in range(_DRAWS):
                given = deal(genders, min(self.folds, len(heard)), rng)
                if not (missing := lacking(given, heard, classes)):
                    break
        problems = Problems()
        for name, emotion in missing:
            problems.add(
                f"fold '{name}' has no utterance of '{emotion}'", path=data.path / "utt2emo",
                hint="give spk2fold or fewer folds, or leave the emotion out",
            )  # fmt: skip
        problems.raise_if_any()
        return given

    def _metrics(
        self,
        data: DataDir,
        classes: list[str],
        folds: dict[str, str],
        found: dict[str, int],
        notes: str,
        seed: int,
    ) -> list[Metric]:
        speakers, utt2spk = sorted(folds), data.table("utt2spk")
        truth = np.array([classes.index(data.table("utt2emo")[utt]) for utt in data.utts])
        spoken = np.array([speakers.index(utt2spk[utt]) for utt in data.utts])
        heard = np.array([found[utt] for utt in data.utts])
        counts = confusions(truth, heard, spoken, len(classes), len(speakers))
        _, fold = np.unique([folds[spk] for spk in speakers], return_inverse=True)
        low = high = None
        if self.bootstrap:
            rng = generator(seed, "ser", "all", "bootstrap")
            interval = uar_interval(counts, fold, self.reading, repeats=self.bootstrap, rng=rng)
            low, high = (None, None) if interval is None else (100 * limit for limit in interval)
        parts = len(set(folds.values()))
        how = f"mean over {parts} folds" if self.reading == "vpc2024" else f"pooled over {parts} folds"
        notes = f"{notes}; {how}; chance is {100 / len(classes):.1f} %"
        size = {"utterances": len(data.utts), "speakers": len(speakers), "folds": parts}
        value = 100 * uar(counts, fold, self.reading)
        metrics = [Metric("uar", value, "%", data.name, data.meta.split, "all", "", size, low, high, notes)]
        for index, (emotion, recall) in enumerate(
            zip(classes, recalls(counts, fold, self.reading), strict=True)
        ):
            size = {"utterances": int((truth == index).sum())}
            metrics.append(
                Metric(f"recall_{emotion}", 100 * float(recall), "%", data.name, data.meta.split, n=size)
            )
        return metrics


def deal(genders: dict[str, str], folds: int, rng: np.random.Generator) -> dict[str, str]:
    """Deal speakers like cards into folds "1", "2", ...: one gender after the other, each shuffled."""
    order = []
    for gender in sorted(set(genders.values())):
        order += list(rng.permutation(sorted(spk for spk, g in genders.items() if g == gender)))
    return {str(spk): str(index % folds + 1) for index, spk in enumerate(order)}


def lacking(folds: dict[str, str], heard: dict[str, set[str]], classes: list[str]) -> list[tuple[str, str]]:
    """(fold, emotion) for every emotion that a fold has no utterance of."""
    present = {(folds[spk], emotion) for spk, emotions in heard.items() for emotion in emotions}
    return [
        (name, emotion)
        for name in sorted(set(folds.values()))
        for emotion in classes
        if (name, emotion) not in present
    ]

"""Speech recognition: how much of what is said is still understood after anonymization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Problems, UserError, suggest
from ..log import get_logger, progress
from ..metrics.text_norm import scheme
from ..metrics.wer import Counts, count, interval
from ..seed import generator
from .asr_backends import BACKENDS, Recognizer, length_batches, load
from .base import Metric, Resources, SingleEvaluator, Training

if TYPE_CHECKING:
    from ..data.datadir import DataDir

log = get_logger(__name__)
UNITS = {"wer": "words", "cer": "characters"}


class Asr(SingleEvaluator):
    """Word and character error rates of a recognizer, pooled over utterances, per gender and per language.

    Reference: Tomashenko et al., "The VoicePrivacy 2024 Challenge evaluation plan", 2024, section 4.2: the lower the
    word error rate on anonymized speech, the better. It is judged beside that of the original, scored alike.

    Args:
        backend: "pocketsphinx", "wav2vec2", "whisper" or "recipe", see `asr_backends`.
        model: of wav2vec2 and whisper: a name of `conf/models.yaml` or a directory.
        metrics: "wer", "cer".
        normalization: of texts, see `metrics.text_norm.scheme`.
        languages: those to score; none: all that the recognizer speaks.
        language: of sets without `utt2lang`.
        bootstrap: draws of speakers behind an interval; 0: no intervals.
    """

    def __init__(
        self,
        backend: str = "recipe",
        model: str | None = None,
        metrics: Sequence[str] = ("wer", "cer"),
        normalization: str = "language",
        languages: Sequence[str] = (),
        language: str = "en",
        bootstrap: int = 1000,
    ) -> None:
        for name, known in ((backend, BACKENDS), *((metric, UNITS) for metric in metrics)):
            if name not in known:
                raise UserError(f"unknown recognizer or metric '{name}'{suggest(name, known)}")
        scheme(language, normalization)
        self.backend, self.model, self.metrics, self.normalization = backend, model, metrics, normalization
        self.languages, self.language, self.bootstrap = frozenset(languages), language, bootstrap
        self._loaded: tuple[Any, Recognizer] | None = None

    @staticmethod
    def training() -> Training:
        """The training of the backend "recipe"."""
        from .asr_backends.recipe_train import AsrTrainConfig, chosen, train

        return Training(AsrTrainConfig, chosen, train)

    def score(
        self, original: DataDir, anonymized: DataDir | None, out: Path, resources: Resources
    ) -> list[Metric]:
        """Score a set, its anonymized copy if there is one; a set without `text` gives no metrics.

        Writes `<out>/text` (what was recognized, normalised) and `<out>/wer` (counts of every group and speaker).

        Raises:
            UserError: before anything is recognized: no recognizer, a language it does not speak, a transcript that is
                empty once normalised, other utterances in the copy.
        """
        if not original.has("text"):
            log.info("wer: %s has no text, skipped", original.name)
            return []
        recognizer = self._recognizer(resources)
        language = dict.fromkeys(original.utts, self.language) | original.tables.get("utt2lang", {})
        wanted = self.languages or recognizer.languages
        utts = [utt for utt in original.utts if language[utt] in wanted]
        if not utts:
            spoken = ", ".join(sorted(wanted))
            log.info("wer: %s has no utterance in %s, skipped", original.name, spoken)
            return []
        scored = original if anonymized is None else anonymized
        references = self._references(original, scored, utts, language)
        heard = _transcribe(recognizer, scored, utts, language)
        hypotheses = {utt: self._normal(heard[utt], language[utt]) for utt in utts}
        lines = [f"{utt} {hypotheses[utt]}".rstrip() + "\n" for utt in utts]
        (out / "text").write_text("".join(lines), encoding="utf-8")
        notes = self._notes(recognizer, {language[utt] for utt in utts}, len(original.utts) - len(utts))
        return self._metrics(original, language, references, hypotheses, out, notes, resources.seed)

    def _recognizer(self, resources: Resources) -> Recognizer:
        """The recognizer, loaded once for all sets.

        Raises:
            UserError: if it cannot be had, or does not speak a language that is asked for.
        """
        wanted = (resources.model_dir, resources.device, resources.jobs)
        if self._loaded is None or self._loaded[0] != wanted:
            found = load(self.backend, self.model, resources.model_dir, resources.device, resources.jobs)
            self._loaded = (wanted, found)
        recognizer = self._loaded[1]
        for code in sorted(self.languages - recognizer.languages):
            raise UserError(f"'{self.backend}' does not speak '{code}'{suggest(code, recognizer.languages)}")
        return recognizer

    def _normal(self, text: str, language: str) -> str:
        return scheme(language, self.normalization).apply(text)

    def _references(
        self, original: DataDir, scored: DataDir, utts: list[str], language: dict[str, str]
    ) -> dict[str, str]:
        problems = Problems()
        for utt in sorted(set(original.utts) ^ set(scored.utts)):
            problems.add("only in one of the two sets", path=scored.path, utt=utt)
        texts = original.table("text")
        references = {utt: self._normal(texts[utt], language[utt]) for utt in utts}
        for utt, text in references.items():
            if not text:
                says = scheme(language[utt], self.normalization).says
                problems.add(
                    f"nothing is left of '{texts[utt]}' once normalised ({says})",
                    path=original.path / "text", utt=utt, hint="correct the text, or remove the utterance",
                )  # fmt: skip
        problems.raise_if_any()
        return references

    def _notes(self, recognizer: Recognizer, languages: set[str], left_out: int) -> str:
        says: dict[str, list[str]] = {}
        for code in sorted(languages):
            says.setdefault(scheme(code, self.normalization).says, []).append(code)
        texts = "; ".join(f"{' '.join(codes)}: {what}" for what, codes in says.items())
        rest = f"; {left_out} utterances in other languages are not scored" if left_out else ""
        return f"{recognizer.about}; texts normalised, {texts}{rest}"

    def _metrics(
        self, data: DataDir, language: dict[str, str], references: dict[str, str], hypotheses: dict[str, str],
        out: Path, notes: str, seed: int,
    ) -> list[Metric]:  # fmt: skip
        """Rates of each gender, of all, and of each language where there are several."""
        metrics, lines = [], ["# metric group rate errors length substitutions deletions insertions\n"]
        for name in self.metrics:
            unit = UNITS[name]
            utts = [u for u in references if unit != "words" or scheme(language[u], self.normalization).words]
            if not utts:
                continue
            counts = count([references[u] for u in utts], [hypotheses[u] for u in utts], unit)
            speaker = np.array([data.table("utt2spk")[u] for u in utts])
            groups = _groups(data, speaker, np.array([language[u] for u in utts]))
            for group, rows in groups.items():
                own = counts.take(rows)
                rng = generator(seed, name, group, "bootstrap")
                low, high = interval(own, speaker[rows], repeats=self.bootstrap, rng=rng) or (None, None)
                n = own.totals(unit) | {
                    "utterances": int(rows.sum()),
                    "speakers": len(np.unique(speaker[rows])),
                }
                metrics.append(
                    Metric(name, own.rate(), "%", data.name, data.meta.split, group, "", n, low, high, notes)
                )
                lines.append(_summary(name, group, own))
            lines += [_summary(name, spk, counts.take(speaker == spk)) for spk in sorted(set(speaker))]
        (out / "wer").write_text("".join(lines), encoding="utf-8")
        return metrics


def _transcribe(
    recognizer: Recognizer, data: DataDir, utts: list[str], language: dict[str, str]
) -> dict[str, str]:
    """Raw texts of utterances; audio is held one batch at a time."""
    seconds = data.table("utt2dur")
    batches = list(length_batches([seconds[utt] for utt in utts], recognizer.batch_s))
    heard: dict[str, str] = {}
    for batch in progress(batches, total=len(batches), desc=f"recognize {data.name}"):
        own = [utts[i] for i in batch]
        texts = recognizer.transcribe([data.load(utt) for utt in own], [language[utt] for utt in own])
        heard.update(zip(own, texts, strict=True))
    return heard


def _groups(data: DataDir, speaker: np.ndarray, language: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (N,) which utterances; a set of one gender is not reported twice, nor one of one language."""
    everything = {"all": np.ones(len(speaker), bool)}
    codes = np.unique(language)
    spoken = {str(code): language == code for code in codes} if len(codes) > 1 else {}
    if not data.has("spk2gender"):
        return everything | spoken
    gender = np.array([data.table("spk2gender")[spk] for spk in speaker])
    found = {g: gender == g for g in ("f", "m") if (gender == g).any()}
    return (found if len(found) == 1 else found | everything) | spoken


def _summary(metric: str, group: str, counts: Counts) -> str:
    sums = (counts.errors, counts.length, counts.substitutions, counts.deletions, counts.insertions)
    return " ".join([metric, group, f"{counts.rate():.2f}", *(str(x.sum()) for x in sums)]) + "\n"


def pooled(f: Metric, m: Metric) -> Metric:
    """Errors of two sets per words of both, the figure of the evaluation plans where the genders are sets of their own.

    The sets share no speaker, so the interval follows from theirs (MOVER, as in `asv.mean_of`), each weighted by its
    words.
    """
    unit = next(name for name in UNITS.values() if name in f.n)
    share = f.n[unit] / (f.n[unit] + m.n[unit])
    low = high = None
    value = share * f.value + (1 - share) * m.value
    if None not in (f.low, m.low):
        low = value - math.hypot(share * (f.value - f.low), (1 - share) * (m.value - m.low))
        high = value + math.hypot(share * (f.high - f.value), (1 - share) * (m.high - m.value))
    counts = {name: f.n[name] + m.n[name] for name in f.n}
    return Metric(f.name, value, f.unit, f.set, f.split, "all", f.condition, counts, low, high, f.notes)

"""Classifiers of emotion behind one interface: files of a fold in, indices of classes out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import Problems, UserError
from ..log import progress
from .per_utterance import in_order
from .ser_features import functionals_of_file

_WINDOW = (
    60 * 16000
)  # samples; a longer utterance is classified in equal parts: attention grows with the square


class Classifier(Protocol):
    """Recognises emotions with a classifier of its own for every fold."""

    notes: str

    def check(self, classes: Sequence[str], folds: Sequence[str]) -> None:
        """Raise a UserError, before any work, if the folds or classes cannot be served."""
        ...

    def recognize(self, paths: Mapping[str, Path], fold: Mapping[str, str]) -> dict[str, int]:
        """Classes of utterances (indices; one beyond the last for a class that is not of the set)."""
        ...


class Functionals:
    """Logistic regression on `ser_features`, trained on the speech of the other folds' speakers.

    Classes weigh alike, features are standardised over the training speakers together. They are not standardised for
    each speaker: that needs all of a speaker's utterances and their identity, which who hears one utterance lacks.

    Args:
        paths: utterances to learn from.
        emotion: (utterance -> index of its class).
        fold: (utterance -> fold).
        jobs: processes.
        heard: what those utterances are, for the notes: original or anonymized.
    """

    penalty = 0.01  # scikit-learn's C; any from 0.001 to 0.1 gives the same UAR within a point on EMO-DB

    def __init__(
        self,
        paths: Mapping[str, Path],
        emotion: Mapping[str, int],
        fold: Mapping[str, str],
        jobs: int,
        heard: str = "original",
    ) -> None:
        self.notes = f"logistic regression on functionals, trained on the {heard} speech of the other folds"
        self._paths, self._emotion, self._fold, self._jobs = paths, emotion, fold, jobs
        self._features: dict[Path, np.ndarray] = {}

    def check(self, classes: Sequence[str], folds: Sequence[str]) -> None:
        """Nothing can be missing: the evaluator has checked that every fold holds every class."""

    def recognize(self, paths: Mapping[str, Path], fold: Mapping[str, str]) -> dict[str, int]:
        """See `Classifier`; trains one classifier a fold."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        train, test = self._matrix(self._paths), self._matrix(paths)
        label = np.array([self._emotion[utt] for utt in self._paths])
        member = np.array([self._fold[utt] for utt in self._paths])
        found = {}
        for name in sorted(set(fold.values())):
            model = make_pipeline(
                StandardScaler(),
                LogisticRegression(C=self.penalty, class_weight="balanced", max_iter=5000),
            ).fit(train[member != name], label[member != name])
            rows = [i for i, utt in enumerate(paths) if fold[utt] == name]
            utts = list(paths)
            found |= {utts[i]: int(c) for i, c in zip(rows, model.predict(test[rows]), strict=True)}
        return found

    def _matrix(self, paths: Mapping[str, Path]) -> np.ndarray:
        """(N, D) features of files, each computed once."""
        wanted = [path for path in paths.values() if path not in self._features]
        values = progress(
            in_order(functionals_of_file, wanted, self._jobs), total=len(wanted), desc="emotion features"
        )
        self._features |= zip(wanted, values, strict=True)
        return np.stack([self._features[path] for path in paths.values()])


class Wav2vec2:
    """The classifiers of the VoicePrivacy Challenge 2024: wav2vec 2.0, mean over time, a linear layer; one a fold.

    Read as SpeechBrain's IEMOCAP recipe writes them: `<folder>/fold_<id>/CKPT+<time>/` (the latest, or the fold's
    folder itself) with `wav2vec2.ckpt` (spelling of Hugging Face below `model.`), `model.ckpt` (the linear layer) and
    `label_encoder.txt` (there or in the folder of the fold). The encoder's input and output are standardised over the
    whole utterance, as that recipe does. Weights alone are read, no pickled code.

    Utterances go through one by one: the first convolution of the base model normalises over time, so that padding in a
    batch would change every frame.
    """

    notes = "wav2vec 2.0 classifiers of the challenge"
    hint = "put the folders fold_<id> of the challenge's ser.zip here (see conf/models.yaml), or use backend: recipe"

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._folder, self._device = Path(folder), device
        self._classes: list[str] = []

    def check(self, classes: Sequence[str], folds: Sequence[str]) -> None:
        """See `Classifier`: every fold has its three files and knows every class."""
        self._classes = list(classes)
        problems = Problems()
        for name in folds:
            try:
                place, labels = self._place(name), self._labels(name)
            except UserError as error:
                problems.add(str(error))
                continue
            for file in ("wav2vec2.ckpt", "model.ckpt"):
                if not (place / file).is_file():
                    problems.add("not found", path=place / file, hint=self.hint)
            for emotion in sorted(set(classes) - set(labels)):
                problems.add(
                    f"the classifier does not know '{emotion}'", path=place, expected=" ".join(labels)
                )
        problems.raise_if_any()

    def _place(self, fold: str) -> Path:
        own = self._folder / f"fold_{fold}"
        if not own.is_dir():
            raise UserError("no such folder", path=own, hint=self.hint)
        return max(own.glob("CKPT+*"), default=own, key=lambda place: place.name)

    def _labels(self, fold: str) -> list[str]:
        """Names of the linear layer's outputs, from lines `'ang' => 1`; what follows a ruler is not about labels."""
        place = self._place(fold)
        files = [p / "label_encoder.txt" for p in (place, place.parent, place.parent / "save")]
        file = next((f for f in files if f.is_file()), None)
        if file is None:
            raise UserError("not found", path=files[0], hint=self.hint)
        head = re.split(r"^=+$", file.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)[0]
        labels = {int(i): name for name, i in re.findall(r"^'(.+)' => (\d+)$", head, re.M)}
        if sorted(labels) != list(range(len(labels))) or not labels:
            raise UserError("no labels numbered from 0", path=file, expected="lines such as 'ang' => 1")
        return [labels[i] for i in range(len(labels))]

    def recognize(self, paths: Mapping[str, Path], fold: Mapping[str, str]) -> dict[str, int]:
        """See `Classifier`; one model is in memory at a time."""
        found = {}
        for name in sorted(set(fold.values())):
            utts = [utt for utt in paths if fold[utt] == name]
            labels = self._labels(name)
            index = [self._classes.index(x) if x in self._classes else len(self._classes) for x in labels]
            outputs = self._run(name, [paths[utt] for utt in utts], len(labels))
            found |= {utt: index[output] for utt, output in zip(utts, outputs, strict=True)}
        return found

    def _run(self, fold: str, paths: list[Path], outputs: int) -> Iterator[int]:
        """The most probable output for every file."""
        import torch
        from torch.nn.functional import layer_norm, linear

        from ..data.audio import read_audio
        from .wav2vec2 import below, build, parts, read_weights

        place = self._place(fold)
        encoder = build(
            below(read_weights(place / "wav2vec2.ckpt", self.hint), "model."), place / "wav2vec2.ckpt"
        ).to(self._device)
        head = {
            name.rsplit(".", 1)[-1]: x for name, x in read_weights(place / "model.ckpt", self.hint).items()
        }
        if "weight" not in head or len(head["weight"]) != outputs or not set(head) <= {"weight", "bias"}:
            raise UserError(
                "not a linear layer for the labels", path=place / "model.ckpt", expected=f"{outputs} outputs"
            )
        weight, bias = (head[k].to(self._device) if k in head else None for k in ("weight", "bias"))
        for path in progress(paths, total=len(paths), desc=f"emotion, fold {fold}"):
            wav = read_audio(path)[0]
            with torch.inference_mode():
                total = frames = 0
                for part in parts((wav - wav.mean()) / np.sqrt(wav.var() + 1e-5)):
                    hidden = encoder(part.to(self._device))[0][0]  # (F, D)
                    total = total + layer_norm(hidden, hidden.shape).sum(0)
                    frames += len(hidden)
                yield int(torch.argmax(linear(total / frames, weight, bias)))

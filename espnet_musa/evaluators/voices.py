"""How an attacker compares voices: an encoder and a back-end, as an evaluator's parameters name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError, suggest
from ..models import find
from .backends import Backend, Cosine, Plda, check_training
from .base import Resources

if TYPE_CHECKING:
    from ..data.datadir import DataDir
    from .encoders import SpeakerEncoder

ENCODERS = ("ecapa", "xvector", "resemblyzer")
BACKENDS = ("cosine", "plda")


def check_known(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known.

    Raises:
        UserError: with the nearest known one.
    """
    if name not in known:
        raise UserError(f"unknown {kind} '{name}'{suggest(name, known)}")


class Voices:
    """An encoder and a back-end, each made when first needed and kept over the sets of a system.

    Args:
        encoder: "ecapa", "xvector" or "resemblyzer".
        model: for the first two: "recipe" (the attacker that the recipe trains, handed in as `resources.model_dir`) or
            the name or the directory of such a model, see `models.find`.
        backend: "cosine", or "plda", trained on the embeddings of `resources.train`.
    """

    def __init__(self, encoder: str, model: str, backend: str) -> None:
        check_known("encoder", encoder, ENCODERS)
        check_known("back-end", backend, BACKENDS)
        self.encoder, self.model, self.backend = encoder, model, backend
        self._ready: tuple[Resources, SpeakerEncoder, Backend] | None = None

    def check(self, resources: Resources) -> None:
        """Whether everything is there, before any long work.

        Raises:
            UserError: if there is no such model, or no training set for PLDA.
        """
        if self.encoder != "resemblyzer" and self.model == "recipe" and resources.model_dir is None:
            raise UserError("this evaluator needs the recipe's attacker", hint="run stage 'attack' first")
        if self.encoder != "resemblyzer" and self.model != "recipe":
            find(self.model)
        if self.backend == "plda":
            if resources.train is None:
                raise UserError(
                    "the PLDA back-end needs a training set", expected="a set with role attack_train"
                )
            check_training(_speakers(resources.train))

    def open(self, resources: Resources, cache: Path) -> tuple[SpeakerEncoder, Backend]:
        """The encoder and the back-end; embeddings of the training set are kept in `cache`."""
        if self._ready is None or self._ready[0] is not resources:
            encoder = self._encoder(resources)
            self._ready = (resources, encoder, self._backend(encoder, resources, cache))
        return self._ready[1:]

    def _encoder(self, resources: Resources) -> SpeakerEncoder:
        from .encoders import NetEncoder, Resemblyzer  # torch: only who scores waits for it

        if self.encoder == "resemblyzer":
            return Resemblyzer(resources.device)
        model_dir = resources.model_dir if self.model == "recipe" else find(self.model)
        return NetEncoder(model_dir, resources.device, kind=self.encoder)

    def _backend(self, encoder: SpeakerEncoder, resources: Resources, cache: Path) -> Backend:
        if self.backend == "cosine":
            return Cosine()
        from .encoders import embed_datadir

        return Plda(embed_datadir(encoder, resources.train, cache), _speakers(resources.train))


def _speakers(data: DataDir) -> np.ndarray:
    """(N,) index of the speaker of each utterance of a set."""
    utt2spk = data.table("utt2spk")
    return np.unique([utt2spk[utt] for utt in data.utts], return_inverse=True)[1]

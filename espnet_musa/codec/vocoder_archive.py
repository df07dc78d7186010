"""A trained vocoder with its acoustic model as a directory that needs nothing else.

    config.json           model_type "vqbn", the vocoder's keyword arguments, `speakers` (id -> gender) in the order of
                          the one-hot vector, `f0` (tracker, floor, ceiling), `peak`, facts of the training
    model.safetensors     the vocoder, the codebook among it
    acoustic/             what stage 3 made: waveform to content codes (`tokenizer.store`)

Weights are safetensors and configurations JSON and YAML: loading runs no code of the archive.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config
from ..errors import UserError, suggest
from .archive import CONFIG, WEIGHTS, fill, fold_norms, read_state, write
from .config import F0Config
from .speaker_table import choose

if TYPE_CHECKING:
    from torch import Tensor

    from .vocoder import Vocoder

ACOUSTIC = "acoustic"
TYPE = "vqbn"


@dataclass(frozen=True)
class Facts:
    """What must be known to use a vocoder.

    Attributes:
        generator: keyword arguments of `Vocoder`.
        speakers: id -> `f`, `m` or `` (unknown), in the order of the one-hot vector.
        f0: how F0 is found.
        peak: of the recordings that it learnt from; 0: they had any level.
    """

    generator: dict[str, Any]
    speakers: dict[str, str]
    f0: F0Config
    peak: float

    def number(self, speaker: Any, gender: str | None = None) -> int:
        """Number of the voice that a target names.

        Args:
            speaker: an id, or a place in [0, 1), spread evenly over the speakers of that gender.
            gender: `f` or `m`, for a place; None: any.

        Raises:
            UserError: if there is no such speaker.
        """
        if isinstance(speaker, str):
            names = list(self.speakers)
            if speaker not in self.speakers:
                raise UserError(f"the model holds no speaker '{speaker}'{suggest(speaker, names)}")
            return names.index(speaker)
        return choose(tuple(self.speakers.values()), speaker, gender)


def of_acoustic(name: str) -> bool:
    """Whether a file of the acoustic model's directory belongs to the model, and is no trace of its making."""
    return name.endswith((".safetensors", ".yaml", ".json")) and not name.startswith(".")


def save(
    directory: str | Path,
    *,
    generator_conf: dict[str, Any],
    state: dict[str, Tensor],
    facts: dict[str, Any],
) -> None:
    """Write an archive, without the acoustic model, which the caller copies.

    Args:
        directory: made if it is not there.
        generator_conf: keyword arguments of `Vocoder`.
        state: its `state_dict()`.
        facts: speakers, f0, peak, and what else is worth knowing: train, tokens, seed, steps.
    """
    assert list(facts["speakers"]) == sorted(
        facts["speakers"]
    )  # the file has keys in order, and so the one-hot
    head = {"model_type": TYPE, "architectures": ["Vocoder"], "generator": generator_conf}
    write(Path(directory), {**head, **facts}, state)


def read_facts(place: Path) -> Facts:
    """What config.json says.

    Raises:
        UserError: if it is missing, damaged, or another kind of model.
    """
    path = place / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"holds no {CONFIG}", path=place, expected="a vocoder's directory, as stage 4 makes it"
        ) from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}", path=path) from None
    if not isinstance(data, dict) or data.get("model_type") != TYPE:
        raise UserError("not a vocoder of content codes", path=path, expected=f'"model_type": "{TYPE}"')
    own = {key: value for key, value in data.items() if key in Facts.__dataclass_fields__}
    return config.from_dict(Facts, own, path, {})


def load(place: str | Path, device: str = "cpu") -> tuple[Vocoder, Facts]:
    """The vocoder of an archive for inference: in eval mode, weight norms folded into the weights.

    Raises:
        UserError: if it is no archive, is damaged, or its weights do not fit its configuration.
    """
    import torch

    from .vocoder import Vocoder

    place = Path(place)
    facts, state = read_facts(place), read_state(place)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        try:
            vocoder = Vocoder(**facts.generator)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"'generator' is no configuration of a vocoder: {error}", path=place / CONFIG
            ) from None
    fill(vocoder, state, place / WEIGHTS)
    fold_norms(vocoder)
    return vocoder.to(device).eval(), facts


def fingerprint(place: str | Path) -> str:
    """Hash of what an archive computes with.

    Raises:
        UserError: if it is not there.
    """
    place, digest = Path(place), hashlib.sha256()
    own = [place / CONFIG, place / WEIGHTS, *sorted((place / ACOUSTIC).glob("*"))]
    for path in own:
        if not path.is_file():
            raise UserError("no such file", path=path, expected="a vocoder's directory, as stage 4 makes it")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]

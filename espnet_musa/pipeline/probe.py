"""Where identity still travels in a codec: in its speaker embedding (wanted) and in its codes (not wanted).

For speakers that the codec never saw: how well the embedding of its own speaker encoder tells them apart, and how well
a ready attacker recognizes them in speech decoded from each number of quantizers, with their embedding and with the
zero vector. The ready attacker is Resemblyzer, enrolled with original speech (the ignorant attacker), or with speech
decoded in the same way (the lazy-informed one). Trained by the recipe or shipped, a model is probed once.

The first is figure 4 of "MUSA: Multi-lingual speaker anonymization via serial disentanglement" as a number; the second
says which quantizers a system can afford to keep.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config, stamp
from ..codec import archive
from ..config import Recipe
from ..data.datadir import DataDir, list_sets
from ..data.trials import Trials, read_trials
from ..errors import UserError
from ..evaluators.asv import enrolment, speaker_means
from ..evaluators.backends import Cosine, pair_scores
from ..log import get_logger, progress
from ..metrics.eer import eer
from .anonymize import trained_model

if TYPE_CHECKING:
    from ..codec.generator import MusaGenerator
    from ..evaluators.encoders import SpeakerEncoder

log = get_logger(__name__)
SPEAKERS = ("own", "zero")  # what the decoder gets: the utterance's own embedding, or the zero vector
Voices = dict[
    tuple[int, str], np.ndarray
]  # (quantizers, one of SPEAKERS) -> (N, D) embeddings of the attacker


def probe(recipe: Recipe, root: Path, system_name: str, *, device: str, force: bool) -> None:
    """Probe the codec of a system on every trial set; writes `exp/<system>/probe/{probe.json, <set>.npz}`.

    A system without a codec has nothing to probe; one whose codec another system before it has, leaves it to that.

    Raises:
        UserError: if the model is not there or not trained, or there is no trial set.
    """
    system = config.probed_systems(recipe, root).get(system_name)
    if system is None:
        return
    model = trained_model(system, root) or archive.find(system.params.get("model", ""))
    out = root / "exp" / system_name / "probe"
    pairs = _trial_sets(root)
    fields = {
        "model": archive.fingerprint(model),
        "inputs": {trial.name: [enroll.fingerprint, trial.fingerprint] for enroll, trial in pairs},
    }
    partial = stamp.begin(out, "probe", fields, force=force)
    if partial is None:
        log.info("probe: %s is up to date", system_name)
        return
    from ..evaluators.encoders import Resemblyzer  # torch: only who probes waits for it

    started = time.monotonic()
    generator, attacker = archive.load(model, device), Resemblyzer(device)
    found = [_probe_set(generator, attacker, *pair, partial) for pair in pairs]
    stamp.write_json(partial / "probe.json", {"system": system_name, "sets": found})
    stamp.finish(out, "probe", counts={"sets": len(found)}, seconds=time.monotonic() - started)


def _trial_sets(root: Path) -> list[tuple[DataDir, DataDir]]:
    """Enrolment and trial set of every verification task."""
    pairs = []
    for path in list_sets(root / "dump", ["trial"]):
        trial = DataDir.read(path, "trials")
        pairs.append((DataDir.read(root / "dump" / trial.meta.enroll, "audio"), trial))
    if not pairs:
        raise UserError("no set with role trial", path=root / "dump", hint="run stage 'format' first")
    return pairs


def _probe_set(
    generator: MusaGenerator, attacker: SpeakerEncoder, enroll: DataDir, trial: DataDir, out: Path
) -> dict[str, Any]:
    """Numbers of one trial set; writes its embeddings (N, D), speakers (N,) and utterances (N,) for the figure."""
    speakers, utts, owner = enrolment(enroll)
    trials = read_trials(trial.path / "trials", speakers, trial.utts)
    original = speaker_means(attacker.embed([enroll.load(utt) for utt in utts]), owner)
    enrolled, known = _decode(generator, attacker, enroll, utts)
    tried, voices = _decode(generator, attacker, trial, trial.utts)
    rows = dict(zip((*utts, *trial.utts), (*enrolled, *tried), strict=True))
    of_utt = {**trial.table("utt2spk"), **enroll.table("utt2spk")}
    matrix = np.stack(list(rows.values()))
    np.savez(
        out / f"{trial.name}.npz", embeddings=matrix, speakers=[of_utt[u] for u in rows], utts=list(rows)
    )
    leaks = [
        {
            "quantizers": count,
            "speaker": name,
            "eer": _error(original, made, trials),
            "eer_lazy": _error(speaker_means(known[count, name], owner), made, trials),
        }
        for (count, name), made in voices.items()
    ]
    counts = {"speakers": len(speakers), "target": int(trials.target.sum())}
    own = _error(speaker_means(enrolled, owner), tried, trials)
    return {"set": trial.name, "embedding_eer": own, "decoded": leaks, "n": counts}


def _decode(
    generator: MusaGenerator, attacker: SpeakerEncoder, data: DataDir, utts: list[str]
) -> tuple[np.ndarray, Voices]:
    """(N, D) embeddings of the codec's speaker encoder, and what the attacker hears in all that can be decoded."""
    import torch

    device = next(generator.parameters()).device
    embeddings: list[np.ndarray] = []
    voices: dict[tuple[int, str], list[np.ndarray]] = {}
    with torch.inference_mode():
        for utt in progress(utts, total=len(utts), desc=f"decode {data.name}"):
            wav = torch.from_numpy(data.load(utt))[None].to(device)
            codes, own = generator.encode(wav)
            embeddings.append(own[0].cpu().numpy())
            for count in range(1, len(codes) + 1):
                for name, vector in zip(SPEAKERS, (own, None), strict=True):
                    made = generator.decode(codes[:count], vector)[0, : wav.shape[1]].cpu().numpy()
                    voices.setdefault((count, name), []).append(attacker.embed([made])[0])
    return np.stack(embeddings), {key: np.stack(made) for key, made in voices.items()}


def _error(models: np.ndarray, embeddings: np.ndarray, trials: Trials) -> float:
    """EER (%) of cosine scores."""
    factors = Cosine().factors(models, np.ones(len(models)), embeddings)
    scores = pair_scores(*factors, trials.enroll, trials.trial)
    return 100 * eer(scores[trials.target], scores[~trials.target]).eer

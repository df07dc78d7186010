"""Stage 7, attack: train the speaker-verification models of the evaluators that ask for one.

The model trained on original speech is the ignorant and the lazy-informed attacker (VoicePrivacy's ASV_eval); it
belongs to the lower bound and serves every system.
"""

from __future__ import annotations

import time
from pathlib import Path

from .. import config, stamp
from ..config import Recipe
from ..data.datadir import DataDir, list_sets
from ..errors import UserError
from ..evaluators.ecapa_train import EcapaTrainConfig, train
from ..log import get_logger
from .score import model_dir

log = get_logger(__name__)


def attack(recipe: Recipe, root: Path, *, device: str, force: bool) -> None:
    """Train what the recipe's evaluators need and what is not up to date.

    Raises:
        UserError: if there is not exactly one set with role `attack_train`.
    """
    for name in recipe.evaluators:
        evaluator = config.load_evaluator(recipe, name, root)
        if evaluator.train is None:
            log.info("attack: %s brings its own model", name)
            continue
        sets = list_sets(root / "dump", ["attack_train"])
        if len(sets) != 1:
            raise UserError(
                f"{len(sets)} sets have the role attack_train", path=root / "dump", expected="exactly one",
                hint="run stage 'format' first, or set the roles in meta.yaml",
            )  # fmt: skip
        data = DataDir.read(sets[0], "audio")
        training = config.load(EcapaTrainConfig, config.conf_file(root, "train", evaluator.train))
        fields = {
            "config": config.digest(config.to_dict(training)),
            "input": data.fingerprint,
            "seed": recipe.seed,
        }
        out = model_dir(root, name)
        partial = stamp.begin(out, "attack", fields, force=force)
        if partial is None:
            log.info("attack: %s is up to date", name)
            continue
        started = time.monotonic()
        train(data, partial, training, recipe.seed, device)
        counts = {"utterances": len(data.utts), "speakers": len(set(data.table("utt2spk").values()))}
        stamp.finish(out, "attack", counts=counts, seconds=time.monotonic() - started)

"""A recipe's directory as the stages before the report leave it, with made-up speech and scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from espnet_musa import config, stamp
from espnet_musa.config import Recipe
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import DataDir, write_datadir
from espnet_musa.data.trials import read_trials, write_scores
from espnet_musa.evaluators.asv import mean_of
from espnet_musa.evaluators.base import Metric
from espnet_musa.metrics.eer import eer

RATE = 16000
SYSTEMS = ("orig", "b2_mcadams", "dsp_f0")
# distance of target and non-target scores: the larger, the less private
DISTANCE = {
    "oo": 3.2,
    ("b2_mcadams", "oa"): 0.6,
    ("b2_mcadams", "aa"): 1.3,
    ("dsp_f0", "oa"): 1.6,
    ("dsp_f0", "aa"): 2.4,
}
Voice = Callable[[str, str, float], np.ndarray]


def tone(utt: str, system: str, seconds: float) -> np.ndarray:
    """A gliding voice-like tone whose pitch depends on the utterance and the system."""
    rng = np.random.default_rng([*utt.encode(), *system.encode()])
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = rng.uniform(110, 220) * 2 ** (
        0.25 * np.sin(2 * np.pi * rng.uniform(0.4, 1.0) * time + rng.uniform(0, 6))
    )
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(h * phase) / h for h in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1) ** 0.5
    return (0.15 * voice * syllables + 0.002 * rng.standard_normal(time.size)).astype(np.float32)


def make(
    root: Path,
    recipe: Recipe,
    *,
    split_genders: bool = False,
    speakers: int = 3,
    utts: int = 3,
    seconds: float = 0.6,
    voice: Voice = tone,
    splits: tuple[str, ...] = ("dev", "test"),
) -> None:
    """Write `dump/` and `exp/` below `root`.

    Args:
        recipe: its systems and evaluators are "scored".
        split_genders: trial sets of one gender each, as VoicePrivacy has them.
        speakers: of each gender.
        utts: trial utterances of a speaker.
        seconds: length of the shortest utterance.
        voice: makes the audio.
    """
    for split in splits:
        people = {f"{split}_{g}{i}": g for g in "fm" for i in range(speakers)}
        enrolled = {f"{s}_e": s for s in people}
        _set(
            root,
            recipe,
            f"{split}_enroll",
            {"role": "enroll", "split": split},
            enrolled,
            people,
            voice,
            seconds,
        )
        for part in ("f", "m") if split_genders else ("fm",):
            own = {f"{s}_u{k}": s for s, g in people.items() if g in part for k in range(utts)}
            trials = [
                (e, u, e == s)
                for e, g in people.items()
                if g in part
                for u, s in own.items()
                if g == people[s]
            ]
            name = f"{split}_trials_{part}" if split_genders else f"{split}_trials"
            meta = {"role": "trial", "split": split, "enroll": f"{split}_enroll"}
            _set(root, recipe, name, meta, own, people, voice, seconds, trials)
    for system in recipe.systems:
        for evaluator in recipe.evaluators:
            if not (evaluator == "pitch" and system == "orig"):
                _scored(root, recipe, system, evaluator)


def _set(root, recipe, name, meta, utt2spk, people, voice, seconds, trials=None) -> None:
    spk2gender = {s: people[s] for s in set(utt2spk.values())}
    dur = {u: round((seconds + 0.1 * (i % 4)) * RATE) / RATE for i, u in enumerate(sorted(utt2spk))}
    tables = {
        "utt2spk": utt2spk,
        "spk2gender": spk2gender,
        "utt2dur": dur,
        "utt2lang": {u: ("en", "de")[s.endswith("1")] for u, s in utt2spk.items()},
        "utt2emo": {u: ("neu", "ang", "sad", "hap")[sum(u.encode()) % 4] for u in utt2spk},
        "text": {u: f"sentence of {s} <b>&amp;" for u, s in utt2spk.items()},
    }
    scp = {u: f"wav/{u}.wav" for u in utt2spk}
    for system in (None, *(s for s in recipe.systems if s != "orig")):
        place, fields = root / "dump" / name, {"made": "up"}
        if system is not None:
            place = root / "exp" / system / "data" / name
            made = config.load_system(recipe, system, config.ROOT)
            fields = {"system": config.digest(config.to_dict(made)), "seed": recipe.seed}
        partial = stamp.begin(place, "made up", fields)
        (partial / "wav").mkdir()
        for utt in utt2spk:
            write_wav(partial / "wav" / f"{utt}.wav", voice(utt, system or "orig", dur[utt]), RATE)
        extra = {"trials": trials} if trials and system is None else {}
        write_datadir(partial, {**tables, "wav.scp": scp, **extra}, {"corpus": "made up", **meta})
        stamp.finish(place, "made up", counts={}, seconds=0.0)


def _scored(root: Path, recipe: Recipe, system: str, evaluator: str) -> None:
    out = root / "exp" / system / "score" / evaluator
    inputs = {}
    for path in sorted((root / "dump").iterdir()):
        copy = root / "exp" / system / "data" / path.name
        anonymized = None if system == "orig" else DataDir.read(copy).fingerprint
        inputs[path.name] = [DataDir.read(path).fingerprint, anonymized]
    params = config.load_evaluator(recipe, evaluator, config.ROOT).params
    fields = {"config": config.digest(params), "seed": recipe.seed, "inputs": inputs}
    partial = stamp.begin(out, "score", fields)
    metrics: list[Metric] = []
    for path in sorted((root / "dump").glob("*/trials")):
        data = DataDir.read(path.parent)
        if evaluator == "pitch":
            metrics += _pitch(data, system)
            continue
        for condition in ("oo",) if system == "orig" else ("oo", "oa", "aa"):
            distance = DISTANCE.get((system, condition), DISTANCE["oo"])
            metrics += _verified(root, data, condition, partial / data.name, distance, evaluator)
    values = {"system": system, "evaluator": evaluator, "metrics": [m.to_dict() for m in metrics]}
    stamp.write_json(partial / "metrics.json", values)
    stamp.finish(out, "score", counts={}, seconds=0.0)


def _pitch(data: DataDir, system: str) -> list[Metric]:
    value = {"b2_mcadams": 0.81, "dsp_f0": 0.685}.get(system, 0.5)
    genders = sorted(set(data.table("spk2gender").values()))
    name, split, n = data.name, data.meta.split, {"utterances": len(data.utts)}
    groups = [*genders, "all", *(["avg"] if len(genders) == 2 else [])]
    return [
        Metric("pitch_correlation", value, "", name, split, g, "", n, notes="made up | <i>") for g in groups
    ]


def _verified(
    root: Path, data: DataDir, condition: str, out: Path, distance: float, evaluator: str
) -> list[Metric]:
    enroll = DataDir.read(root / "dump" / data.meta.enroll)
    speakers = sorted(set(enroll.table("utt2spk").values()))
    trials = read_trials(data.path / "trials", speakers, data.utts)
    rng = np.random.default_rng([*data.name.encode(), *condition.encode(), *evaluator.encode()])
    scores = 0.12 * (rng.standard_normal(len(trials)) + distance * trials.target) + 0.1
    (out / condition).mkdir(parents=True)
    write_scores(out / condition / "scores", trials, speakers, data.utts, scores)
    gender = np.array([data.table("spk2gender").get(s, "?") for s in speakers])[trials.enroll]
    metrics = []
    for g in sorted(set(gender)):
        own, target = scores[gender == g], trials.target[gender == g]
        n = {"speakers": 3, "target": int(target.sum()), "nontarget": int((~target).sum())}
        value = 100 * eer(own[target], own[~target]).eer
        interval = (max(0, value - 4.04), value + 5.05)
        metrics.append(Metric("eer", value, "%", data.name, data.meta.split, g, condition, n, *interval))
    return [*metrics, mean_of(*metrics)] if len(metrics) == 2 else metrics

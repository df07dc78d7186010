"""Stage 5, anonymize: a system and formatted sets -> anonymized sets, or nothing.

Targets are planned for all sets before any audio is made. Each output is checked in an unnamed temporary file; only
what passes gets a name below `exp/<system>/data`, so original speech cannot stand there at any instant.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .. import config, registry, seed, stamp
from ..anonymizers.base import PEAK, Anonymizer, Source
from ..config import Recipe, System
from ..data.audio import SILENCE, AudioFile, to_int16, write_pcm
from ..data.datadir import DataDir
from ..errors import UserError
from ..log import get_logger
from .analysis import Analyses
from .batching import Batch, plan
from .format import publish
from .sharding import begun, choose_sets, missing, share, training_sets, work

log = get_logger(__name__)
Job = tuple[Path, str, Callable[[], None]]  # file to make, utterance, what makes it; see `work`
BLOCK = 1 << 19  # samples read at once from the temporary file
LENGTH = 0.05  # largest relative difference in duration between an output and its input
COPY = 0.9999  # absolute correlation with the input from which an output counts as a copy of it


class RejectedOutput(Exception):
    """What an anonymizer returned must not be published."""


def build(system: System, device: str = "cpu", model: Path | None = None) -> Anonymizer:
    """The anonymizer of a system, ready to convert.

    Args:
        system: its configuration.
        device: for models.
        model: for a system that is trained and names no model of its own.

    Raises:
        UserError: if the system has none (the lower bound, an import), its parameters are wrong, or its model is.
    """
    if system.imported:
        raise UserError("this system's speech was anonymized elsewhere; it cannot anonymize any")
    if system.anonymizer is None:
        raise UserError("this system is the original speech (lower bound); it anonymizes nothing")
    params = system.params if model is None else {**system.params, "model": str(model)}
    anonymizer = registry.resolve(registry.ANONYMIZERS, "anonymizer", system.anonymizer)(**params)
    anonymizer.prepare(device)
    return anonymizer


def trained_model(system: System, root: Path) -> Path | None:
    """The model that stage 4 made for a system; None if the system needs none or names another in its parameters.

    Raises:
        UserError: if it is not trained.
    """
    if system.train is None or system.params.get("model"):
        return None
    place = root / "exp" / "models" / system.train
    stamp.require(place, "train")
    return place


def plan_targets(
    recipe_seed: int, name: str, system: System, sets: list[DataDir]
) -> dict[str, dict[str, Any]]:
    """Targets of all utterances: set name -> utterance -> target; a variant's are those of its base."""
    policy = registry.resolve(registry.TARGETS, "target policy", system.target.policy)(**system.target.params)
    return policy.plan(sets, recipe_seed, system.variant_of or name)


def spool(wavs: Iterable[np.ndarray], source: Source, out: BinaryIO | None, length: float = LENGTH) -> float:
    """Write float32 blocks to a temporary file (None: nowhere) and check them against the input.

    Args:
        wavs: blocks of an output.
        source: the input.
        out: takes the blocks as raw float32.
        length: largest relative difference in duration that passes.

    Returns:
        the absolute peak.

    Raises:
        RejectedOutput: for NaN, silence, a wrong length or (a scaled copy of) the input.
    """
    frames, peak = 0, 0.0
    xx = yy = xy = 0.0
    for wav in wavs:
        if not np.isfinite(wav).all():
            raise RejectedOutput(
                f"sample {frames + int(np.flatnonzero(~np.isfinite(wav))[0])} is NaN or infinite"
            )
        if out is not None:
            out.write(np.ascontiguousarray(wav, dtype=np.float32).tobytes())
        original = source.read(min(frames, source.frames), min(frames + len(wav), source.frames)).astype(
            np.float64
        )
        made = wav[: len(original)].astype(np.float64)
        xx, yy, xy = xx + original @ original, yy + made @ made, xy + original @ made
        frames, peak = frames + len(wav), max(peak, float(np.abs(wav).max(initial=0.0)))
    allowed = max(length * source.frames, LENGTH * source.sample_rate)
    if abs(frames - source.frames) > allowed:
        raise RejectedOutput(f"{frames} samples made from {source.frames}; expected within {allowed:.0f}")
    if peak < SILENCE:
        raise RejectedOutput(f"silent (peak {peak:.1e})")
    if xx > 0 and yy > 0 and abs(xy) >= COPY * np.sqrt(xx * yy):
        raise RejectedOutput("a copy of the input (up to its level)")
    return peak


def read_back(spooled: BinaryIO, gain: float, truncate: bool) -> Iterator[np.ndarray]:
    """Int16 blocks of what `spool` wrote, scaled, and rounded or cut (`truncate`)."""
    spooled.seek(0)
    while raw := spooled.read(4 * BLOCK):
        yield to_int16(np.frombuffer(raw, dtype=np.float32).astype(np.float64) * gain, truncate=truncate)


def convert(
    anonymizer: Anonymizer, source: AudioFile, out: Path, target: Any, rng: np.random.Generator
) -> None:
    """Anonymize one recording of any length into a 16-bit WAV file; memory does not grow with it.

    Args:
        anonymizer: ready to convert.
        source: 16 kHz mono recording.
        out: file to make; it appears whole and checked, or not at all.
        target: of the utterance.
        rng: of the utterance.

    Raises:
        RejectedOutput: if the output is not an anonymized version of the input (see `spool`).
    """
    write(anonymizer.convert_stream(source, target, rng), source, out, normalize=anonymizer.peak_normalize)


def write(blocks: Iterable[np.ndarray], source: Source, out: Path, *, normalize: bool) -> None:
    """Check an output against its input, then write it as a 16-bit WAV file.

    Args:
        blocks: (B,) float32, of the output.
        source: the input.
        out: file to make; it appears whole and checked, or not at all.
        normalize: scale to the absolute peak `PEAK` and cut to 16 bit; else keep the level, but never clip, and round.

    Raises:
        RejectedOutput: see `spool`.
    """
    with tempfile.SpooledTemporaryFile(max_size=1 << 24) as spooled:
        peak = spool(blocks, source, spooled)
        gain = PEAK / peak if normalize else min(1.0, PEAK / peak)
        write_pcm(out, read_back(spooled, gain, truncate=normalize), source.sample_rate)


def shard(runs: Sequence[Run], part: tuple[int, int], device: str) -> None:
    """Convert this job's share of the utterances of one system, or of several variants of one: utterance by utterance,
    so that a variant finds what the one before has just loaded or computed.
    """
    together: dict[tuple[str, ...], list[Job]] = {}
    for run in runs:
        for key, batch in run.batches(device).items():
            together.setdefault(key, []).extend(batch)
    jobs = [job for batch in share(list(together.values()), part) for job in batch]
    work(jobs, f"anonymize {' '.join(run.name for run in runs)}")


class Run:
    """One system over the sets of a recipe.

    A variant, or the system that one of the recipe's systems is a variant of, keeps its analyses for the others.
    """

    def __init__(self, recipe: Recipe, root: Path, system_name: str, names: str = "") -> None:
        self.recipe, self.name = recipe, system_name
        self.system = config.load_system(recipe, system_name, root)
        self.root = root
        family = {system.variant_of for system in config.variants(recipe, root).values()}
        self.shared_as = self.system.variant_of or (system_name if system_name in family else None)
        self.base = root / "exp" / system_name / "data"
        roles = config.anonymized_roles(recipe, root)
        paths = choose_sets(root / "dump", roles, names, "format")
        if set(roles) - set(recipe.anonymize_roles) and not self.system.lower_bound:
            for evaluator in (config.load_evaluator(recipe, one, root) for one in recipe.evaluators):
                if evaluator.semi:  # without its training set it is better noticed now than at stage 7
                    training_sets(root, evaluator)
        self.sets = [DataDir.read(path, "audio") for path in paths]

    def plan(self, *, force: bool) -> None:
        """Plan all targets, then begin every set that is not up to date."""
        anonymizer = build(self.system, model=trained_model(self.system, self.root))
        model = anonymizer.fingerprint()
        targets = plan_targets(self.recipe.seed, self.name, self.system, self.sets)
        for data in self.sets:
            fields = {
                "system": config.digest(config.to_dict(self.system)),
                "seed": self.recipe.seed,
                "input": data.fingerprint,
                "targets": config.digest(targets[data.name]),
                **({} if model is None else {"model": model}),
            }
            partial = stamp.begin(self.base / data.name, "anonymize", fields, force=force)
            if partial is None:
                log.info("anonymize: %s/%s is up to date", self.name, data.name)
                continue
            (partial / "wav").mkdir(exist_ok=True)
            (partial / ".begun").touch()
            stamp.write_json(partial / ".targets.json", targets[data.name])
        config.save(self.system, self.base.parent / "system.yaml")

    def batches(self, device: str) -> dict[tuple[str, ...], list[Job]]:
        """Jobs of all sets that were begun, by set and utterances; those of a list are converted by one process."""
        todo = [data for data in self.sets if begun([self.base / data.name])]
        if not todo:
            return {}
        anonymizer = build(self.system, device, trained_model(self.system, self.root))
        return {
            (data.name, *(utt for _, utt, _ in batch)): batch
            for data in todo
            for batch in self._batches(anonymizer, data)
        }

    def _batches(self, anonymizer: Anonymizer, data: DataDir) -> Iterator[list[Job]]:
        """Jobs of a set; those of a list are converted at once, by one process."""
        partial = stamp.partial_of(self.base / data.name)
        targets = stamp.read_json(partial / ".targets.json")
        files = {utt: partial / "wav" / f"{utt}.wav" for utt in data.utts}

        analyses = Analyses.of(anonymizer, data, self.shared_as, self.root) if self.shared_as else None

        def rng(utt: str) -> np.random.Generator:
            return seed.generator(self.recipe.seed, self.name, utt, "convert")

        def stream(utt: str, source: Source) -> Iterator[np.ndarray]:
            rest = targets[utt], rng(utt)
            if analyses is None:
                return anonymizer.convert_stream(source, *rest)
            return anonymizer.synthesize(source, analyses.one(utt, source), *rest)

        def together(utts: list[str]) -> list[np.ndarray]:
            wavs, rest = (
                [data.load(utt) for utt in utts],
                ([targets[utt] for utt in utts], list(map(rng, utts))),
            )
            if analyses is None:
                return anonymizer.convert_batch(wavs, *rest)
            return anonymizer.synthesize_batch(wavs, analyses.batch(utts, wavs), *rest)

        def make(utt: str, batch: Batch | None) -> None:
            with AudioFile(data.audio_path(utt)) as source:
                blocks = batch.blocks(utt) if batch else None
                write(blocks or stream(utt, source), source, files[utt], normalize=anonymizer.peak_normalize)

        frames = {utt: round(s * anonymizer.sample_rate) for utt, s in data.table("utt2dur").items()}
        for utts in plan(frames, anonymizer):
            batch = Batch(utts, together, lambda utt: not files[utt].exists()) if len(utts) > 1 else None
            yield [(files[utt], utt, functools.partial(make, utt, batch)) for utt in utts]

    def finish(self) -> None:
        """Check and publish every set that was begun."""
        for data in self.sets:
            out = self.base / data.name
            if not begun([out]):
                continue
            partial = stamp.partial_of(out)
            missing(partial, data.utts)
            tables = {k: v for k, v in data.tables.items() if k not in ("wav.scp", "utt2dur", "spk2utt")}
            tables["utt2target"] = stamp.read_json(partial / ".targets.json")
            publish(partial, out, tables, data, started=partial / ".begun", stage="anonymize")

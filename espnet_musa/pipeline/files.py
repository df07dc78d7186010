"""Anonymizing plain files and folders, without a recipe."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from .. import config, registry, stamp
from .. import seed as seeds
from ..anonymizers.base import Anonymizer, Source
from ..config import ROOT, FormatConfig, Recipe, System
from ..data.audio import AudioFile, write_pcm
from ..data.datadir import DataDir, Meta
from ..errors import UserError
from ..log import Meter, get_logger
from . import format as formatting
from .anonymize import RejectedOutput, build, plan_targets, write
from .sharding import work

log = get_logger(__name__)
LONG = 30.0  # seconds of a recording from which its own progress is shown
MIN_RATE = 8000  # Hz, of a plain file: what telephones carry is upsampled
ENDINGS = {f".{name.lower()}" for name in sf.available_formats()} | {".aif", ".opus", ".oga"}


def pairs(source: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """Files to make: identity (relative name) -> (input, output).

    Raises:
        UserError: if there is no input, an output would overwrite an input, or two inputs share an output.
    """
    if source.is_file():
        target = out / f"{source.stem}.wav" if out.is_dir() else out
        found = {source.name: (source, target)}
    elif source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
        found = {
            p.relative_to(source).as_posix(): (p, (out / p.relative_to(source)).with_suffix(".wav"))
            for p in files
        }
    else:
        raise UserError("no such file or folder", path=source)
    if not found:
        raise UserError("no audio files", path=source, expected=", ".join(sorted(ENDINGS)))
    outputs: dict[Path, Path] = {}
    for given, made in found.values():
        if made.suffix.lower() != ".wav":
            raise UserError("the output is a WAV file", path=made, expected="a name that ends in .wav")
        if made.resolve() == given.resolve() or (source.is_dir() and out.resolve() == source.resolve()):
            raise UserError("the output would lie over its input", path=made, hint="name another place")
        if made in outputs:
            raise UserError(f"both {outputs[made]} and {given} would become this file", path=made)
        outputs[made] = given
    return found


def find_model(name: str, system: System, recipes: Path = ROOT / "egs") -> Path | None:
    """The trained model of a system where there is no recipe to say it; None if it needs none or names its own.

    Args:
        name: of the system.
        system: its configuration.
        recipes: the directory of all recipes; one of them has trained the model.

    Raises:
        UserError: if none has, or several have.
    """
    if system.train is None or system.params.get("model"):
        return None
    found = [place for place in sorted(recipes.glob(f"*/exp/models/{system.train}")) if stamp.read(place)]
    if len(found) == 1:
        log.info("model: %s", found[0])
        return found[0]
    raise UserError(
        f"system '{name}' needs the model of training '{system.train}', "
        + (f"and {len(found)} recipes have trained it" if found else "and no recipe has trained it"),
        path=recipes,
        expected=f"one <recipe>/exp/models/{system.train}",
        hint=f"train it (egs/<recipe>/run.sh --systems {name} --stop-stage train), or name one: "
        f"--set {name}.params.model=<directory, zip or hub id>",
    )


def plain(
    systems: tuple[str, ...], sets: Iterable[str] = (), *, seed: int = 0, channels: str = "mean"
) -> Recipe:
    """What stands in for a recipe where files are anonymized without one.

    Args:
        systems: names of conf/systems/*.yaml.
        sets: `--set` assignments.
        seed: same seed, same bytes.
        channels: several channels: `error`, `first` or `mean`.

    Raises:
        UserError: for an assignment to something that is not there.
    """
    settings = FormatConfig(channels=channels, min_rate=MIN_RATE)
    recipe = Recipe("files", systems, evaluators=(), corpora={}, seed=seed, format=settings)
    return config.with_sets(recipe, sets)


@dataclass(frozen=True)
class Ready:
    """A system ready for plain files.

    Attributes:
        name: of the system, a key of its random draws.
        system: its configuration.
        anonymizer: with its model loaded.
        settings: what a file becomes first.
        shown: whether long files show their progress.
    """

    name: str
    system: System
    anonymizer: Anonymizer
    settings: FormatConfig
    shown: bool = True

    @classmethod
    def load(
        cls, name: str, system: System, device: str, settings: FormatConfig, *, shown: bool = True
    ) -> Ready:
        """Load what the system needs.

        Raises:
            UserError: if it, or its model, cannot be used.
        """
        return cls(name, system, build(system, device, find_model(name, system)), settings, shown)

    @property
    def public(self) -> bool:
        """Whether its targets are known to everybody, whatever the seed."""
        return registry.resolve(registry.TARGETS, "target policy", self.system.target.policy).public

    def targets(self, identities: Iterable[str], seed: int) -> dict[str, Any]:
        """The target of each identity (a file's name)."""
        table = dict.fromkeys(identities, "unknown")
        files = DataDir(Path("files"), {"utt2spk": table, "wav.scp": table}, Meta())
        return plan_targets(seed, self.name, self.system, [files])["files"]

    def format(self, given: Path, out: Path) -> AudioFile:
        """Bring a file to 16 kHz mono 16-bit.

        Returns:
            what was given (closed): its rate, frames and channels.

        Raises:
            UserError: if it is not audio, or broken, silent or clipped.
        """
        with AudioFile(given, channels=self.settings.channels) as recording:
            with self._meter(recording, f"{given.name}: reading") as meter:
                blocks = formatting.blocks(
                    _Watched(recording, meter), 0, recording.frames, self.settings, str(given)
                )
                write_pcm(out, blocks, self.settings.sample_rate)
        return recording

    def convert(self, formatted: Path, made: Path, identity: str, target: Any, seed: int) -> float:
        """Anonymize a formatted file; the output appears whole and checked, or not at all.

        Args:
            formatted: 16 kHz mono WAV.
            made: the file to make.
            identity: what draws alike, a file's name.
            target: of the file, see `targets`.
            seed: same seed, same bytes.

        Returns:
            the duration in seconds.

        Raises:
            UserError: if the system cannot convert it, or what it makes must not be published (see `spool`).
        """
        rng = seeds.generator(seed, self.name, identity, "convert")
        desc = f"{identity}: {self.name}"
        with AudioFile(formatted) as wav, self._meter(wav, f"{desc}, analysis") as meter:
            source = _Watched(wav, meter)
            blocks = source.followed(self.anonymizer.convert_stream(source, target, rng), desc)
            try:
                write(blocks, wav, made, normalize=self.anonymizer.peak_normalize)
            except UserError as error:
                raise UserError(str(error), path=identity) from None
            except RejectedOutput as error:
                raise UserError(
                    f"what {self.name} made of it was refused: {error}",
                    path=identity,
                    hint="try another system",
                ) from None
        return wav.frames / wav.sample_rate

    def _meter(self, source: Source, desc: str) -> Meter:
        seconds = source.frames / source.sample_rate
        return Meter(seconds, desc, "s of audio", shown=self.shown and seconds >= LONG)


class _Watched:
    """A source that shows how far it was read until something comes out, and from then on how much came out."""

    def __init__(self, source: Source, meter: Meter) -> None:
        self.frames, self.sample_rate = source.frames, source.sample_rate
        self._source, self._meter, self._made = source, meter, 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `Source`."""
        if not self._made:
            self._meter.at(stop / self.sample_rate)
        return self._source.read(start, stop)

    def followed(self, blocks: Iterable[np.ndarray], desc: str) -> Iterator[np.ndarray]:
        """The blocks (B,) that are made of it, at its rate."""
        for block in blocks:
            self._made += len(block)
            yield block
            self._meter.at(self._made / self.sample_rate, desc)


def anonymize_files(
    name: str,
    system: System,
    source: Path,
    out: Path,
    *,
    seed: int,
    device: str,
    settings: FormatConfig,
    force: bool,
) -> None:
    """Anonymize a file or a folder.

    Args:
        name: of the system (a key of its random draws).
        system: its configuration.
        source: a file or a folder (searched below).
        out: the file or folder to make.
        seed: same seed, same bytes.
        device: for neural systems.
        settings: what is done with several channels, which rates and clipping pass.
        force: make files anew that are there.

    Raises:
        UserError: for bad input; names the files.
    """
    found = pairs(source, out)
    ready = Ready.load(name, system, device, settings)
    targets = ready.targets(found, seed)
    if ready.public:
        log.warning(
            "the targets of %s are a published constant, whatever the seed: to compare, not to protect; "
            "--set %s.target.policy=uniform draws secret ones", name, name,
        )  # fmt: skip
    _refuse_others(ready, found, source, out, seed, force)
    began, durations = time.monotonic(), []
    mixed: list[Path] = []  # files of several channels

    def job(identity: str, given: Path, made: Path):
        def make() -> None:
            made.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as scratch:
                formatted = Path(scratch) / "input.wav"
                channels = ready.format(given, formatted).channels
                if channels > 1:
                    mixed.append(given)
                    if len(mixed) == 1:
                        what = "mean" if settings.channels == "mean" else "first"
                        log.info("%s has %d channels: their %s is taken (--channels)", given, channels, what)
                durations.append(ready.convert(formatted, made, identity, targets[identity], seed))

        return make

    jobs = [(made, identity, job(identity, given, made)) for identity, (given, made) in found.items()]
    if source.is_file():
        jobs[0][2]()
    else:
        work(jobs, name)
    if durations:
        total, taken = sum(durations), time.monotonic() - began
        log.info("%s: %d made, %.1f s of audio in %.1f s: %s", name, len(durations), total, taken, out)


def _refuse_others(
    ready: Ready, found: dict[str, tuple[Path, Path]], source: Path, out: Path, seed: int, force: bool
) -> None:
    """Let nothing pass for an output that was made with other settings; record those of a folder.

    Raises:
        UserError: if there is such an output.
    """
    fields = {
        "system": config.digest(config.to_dict(ready.system)),
        "seed": seed,
        "channels": ready.settings.channels,
    }
    if (model := ready.anonymizer.fingerprint()) is not None:
        fields["model"] = model
    # what the files of a folder were made with
    record = out / ".anonymized.json" if source.is_dir() else None
    before = stamp.read_json(record) if record is not None and record.is_file() else None
    there = [made for _, made in found.values() if made.exists()]
    if force:
        for made in there:
            made.unlink()
    elif there and before != fields:
        how = "" if record is None else ", and was not made with these settings"
        raise UserError(f"is there already{how}", path=there[0], hint="--force true makes it anew")
    if record is not None:
        out.mkdir(parents=True, exist_ok=True)
        stamp.write_json(record, fields)

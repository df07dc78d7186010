"""Anonymizing plain files and folders, without a recipe."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import soundfile as sf

from .. import config, registry, stamp
from .. import seed as seeds
from ..config import ROOT, FormatConfig, System
from ..data.audio import AudioFile
from ..data.datadir import DataDir, Meta
from ..errors import UserError
from ..log import get_logger
from . import format as formatting
from .anonymize import build, convert, plan_targets
from .sharding import work

log = get_logger(__name__)
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


def anonymize_files(
    name: str, system: System, source: Path, out: Path, *, seed: int, device: str, channels: str, force: bool
) -> None:
    """Anonymize a file or a folder.

    Args:
        name: of the system (a key of its random draws).
        system: its configuration.
        source: a file or a folder (searched below).
        out: the file or folder to make.
        seed: same seed, same bytes.
        device: for neural systems.
        channels: several channels: `error`, `first` or `mean`.
        force: make files anew that are there.

    Raises:
        UserError: for bad input; names the files.
    """
    found = pairs(source, out)
    table = dict.fromkeys(found, "unknown")
    targets = plan_targets(
        seed, name, system, [DataDir(Path("files"), {"utt2spk": table, "wav.scp": table}, Meta())]
    )
    if registry.resolve(registry.TARGETS, "target policy", system.target.policy).public:
        log.warning(
            "the targets of %s are a published constant, whatever the seed: to compare, not to protect; "
            "--set %s.target.policy=uniform draws secret ones", name, name,
        )  # fmt: skip
    anonymizer = build(system, device, find_model(name, system))
    settings = replace(FormatConfig(), channels=channels, min_rate=8000)

    def job(identity: str, given: Path, made: Path):
        def make() -> None:
            made.parent.mkdir(parents=True, exist_ok=True)
            rng = seeds.generator(seed, name, identity, "convert")
            with tempfile.TemporaryDirectory() as scratch:
                formatted = Path(scratch) / "input.wav"
                with formatting.open_recording(str(given), settings) as recording:
                    formatting.convert(recording, formatted, settings, None, str(given))
                with AudioFile(formatted) as wav:
                    convert(anonymizer, wav, made, targets["files"][identity], rng)

        return make

    fields = {"system": config.digest(config.to_dict(system)), "seed": seed, "channels": channels}
    if (model := anonymizer.fingerprint()) is not None:
        fields["model"] = model
    record = (
        out / ".anonymized.json" if source.is_dir() else None
    )  # what the files of a folder were made with
    before = stamp.read_json(record) if record is not None and record.is_file() else None
    there = [made for _, made in found.values() if made.exists()]
    if force:
        for made in there:
            made.unlink()
    elif there and before != fields:
        raise UserError(
            "is there already, and was not made with these settings", path=there[0], hint="--force true makes it anew"
        )  # fmt: skip
    if record is not None:
        out.mkdir(parents=True, exist_ok=True)
        stamp.write_json(record, fields)
    work([(made, identity, job(identity, given, made)) for identity, (given, made) in found.items()], name)

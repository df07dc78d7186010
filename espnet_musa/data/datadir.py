"""Kaldi data directories: the one contract between stages.

A directory is read under a named contract; reading is validating. All problems are collected and reported at once
as `path:line: what is wrong; expected ...; hint: ...`.

| contract | promises |
|---|---|
| `source` | schema, ids, key sets; wav.scp may hold paths, ark offsets or pipes, segments are allowed |
| `audio` | source, and every utterance is `<dir>/wav/<utt>.wav`: 16 kHz, mono, 16 bit, as long as `utt2dur` says |
| `anon` | audio, and a stamp of the anonymize stage; with a parent: the same utterances, not bit-identical |
| `asr` | audio, and `text` |
| `ser` | audio, and `utt2emo` |
| `trials` | audio, `trials`, `spk2gender`, and a meta entry `enroll` |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import yaml

from .. import config, stamp
from ..errors import SHOWN, Problems, UserError, suggest
from .audio import read_audio
from .schema import DERIVED, FILES, FOLDERS, OTHER, ROLES
from .table import compare_keys, read_table, write_table, write_text

SAMPLE_RATE = 16000  # Hz, of every formatted set
REQUIRED = {"asr": ("text",), "ser": ("utt2emo",), "trials": ("trials", "spk2gender")}
CONTRACTS = ("source", "audio", "anon", *REQUIRED)


@dataclass(frozen=True)
class Meta:
    """`meta.yaml` of a set: the facts that file and directory names must not carry."""

    corpus: str = "unknown"
    role: str = "utility"  # enroll, trial, train, attack_train, utility
    split: str = "none"  # dev, test, train, ...: results of one split are averaged
    enroll: str | None = None  # name of the enrolment set (role trial)
    notes: str = ""


def read_meta(path: Path) -> Meta:
    """`meta.yaml` of a data directory; a directory without one is a utility set of an unknown corpus.

    Raises:
        UserError: for an unknown key, role or a trial set that names no enrolment set.
    """
    file = path / "meta.yaml"
    if not file.exists():
        return Meta()
    data, lines = config.load_yaml(file)
    meta: Meta = config.from_dict(Meta, data, file, lines)
    if meta.role not in ROLES:
        raise UserError(
            f"unknown role '{meta.role}'{suggest(meta.role, ROLES)}", path=file, line=lines.get(("role",))
        )
    if meta.role == "trial" and not meta.enroll:
        raise UserError("a set with role 'trial' names no 'enroll' set", path=file)
    return meta


class DataDir:
    """An immutable view of a data directory; make one with `DataDir.read`.

    Attributes:
        path: the directory.
        meta: its `meta.yaml`.
    """

    def __init__(self, path: Path, tables: dict[str, dict[str, Any]], meta: Meta) -> None:
        self.path, self.meta, self._tables = path, meta, tables

    @classmethod
    def read(
        cls,
        path: str | Path,
        contract: str = "source",
        *,
        required: Iterable[str] = ("wav.scp", "utt2spk"),
        shown: int = SHOWN,
    ) -> DataDir:
        """Read and validate a data directory.

        Args:
            path: the directory.
            contract: see the module's table.
            required: files that must be there (fewer for lists without audio).
            shown: problems that an error lists at most.

        Raises:
            UserError: with the first problems and their total.
        """
        path = Path(path)
        if contract not in CONTRACTS:
            raise UserError(f"unknown contract '{contract}'{suggest(contract, CONTRACTS)}")
        if not path.is_dir():
            near = suggest(path.name, [p.parent.name for p in path.parent.glob("*/utt2spk")])
            raise UserError(f"no such data directory{near}", path=path)
        problems = Problems(shown)
        tables = _read_tables(path, problems)
        for name in (*required, *REQUIRED.get(contract, ())):
            if not (path / name).is_file():
                problems.add(f"file '{name}' is missing", path=path, expected=f"contract '{contract}'")
        meta = read_meta(path)
        problems.raise_if_any()
        _check_keys(path, tables, problems)
        if contract == "trials" and meta.enroll is None:
            problems.add(
                "meta.yaml names no enrolment set", path=path / "meta.yaml", expected="enroll: <set>"
            )
        problems.raise_if_any()
        data = cls(path, tables, meta)
        if contract != "source":
            _check_audio(data, problems)
            problems.raise_if_any()
        if contract == "anon":
            stamp.require(path, "anonymize")
        return data

    @property
    def name(self) -> str:
        """The set's name: the directory's."""
        return self.path.name

    @cached_property
    def utts(self) -> list[str]:
        """Utterance ids, sorted bytewise."""
        return sorted(self._tables["utt2spk"])

    def has(self, name: str) -> bool:
        """Whether the file `name` is there."""
        return name in self._tables or (self.path / name).is_file()

    def table(self, name: str) -> dict[str, Any]:
        """A file as a dict in sorted order, values parsed; `enrolls` maps utterances to True.

        Raises:
            UserError: if the directory lacks the file.
        """
        if name not in self._tables:
            raise UserError(f"file '{name}' is missing", path=self.path)
        return self._tables[name]

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """All tables by file name."""
        return self._tables

    def audio_path(self, utt: str) -> Path:
        """The WAV file of an utterance of a formatted (`audio`) directory."""
        return self.path / "wav" / f"{utt}.wav"

    def load(self, utt: str) -> np.ndarray:
        """Samples of an utterance of a formatted directory: (T,) float32 in [-1, 1), 16 kHz."""
        return read_audio(self.audio_path(utt))[0]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the directory says, of its stamp's fields, and of size and time of files it points to."""
        digest = hashlib.sha256()
        for file in sorted(p for p in self.path.iterdir() if p.is_file() and not p.name.startswith(".")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        done = stamp.read(self.path)
        if done is not None:
            digest.update(config.digest(done["fields"]).encode())
        else:
            for value in self._tables.get("wav.scp", {}).values():
                file = Path(value)
                if file.is_file():
                    digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns}".encode())
        return digest.hexdigest()[:16]


def _read_tables(path: Path, problems: Problems) -> dict[str, dict[str, Any]]:
    tables = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or (file.is_dir() and FOLDERS.fullmatch(file.name)):
            continue
        if file.name in FILES and file.is_file():
            tables[file.name] = read_table(file, problems)
        elif file.name not in OTHER:
            near = suggest(file.name, [*FILES, *OTHER])
            problems.add(f"unknown file{near}", path=file, hint="move it out of the data directory")
    return tables


def _check_keys(path: Path, tables: dict[str, dict[str, Any]], problems: Problems) -> None:
    """Key sets of all tables against utt2spk (and wav.scp against segments)."""
    utts = set(tables.get("utt2spk", ()))
    speakers = set(tables.get("utt2spk", {}).values())
    for speaker in sorted(speakers):
        if speaker.startswith(".") or "/" in speaker:
            problems.add(f"speaker id '{speaker}' holds a slash or starts with a dot", path=path / "utt2spk")
    reference = path / "utt2spk"
    for name, table in tables.items():
        kind = FILES[name].key
        if name == "utt2spk" or not utts:
            continue
        if name == "wav.scp" and "segments" in tables:
            recordings = {v[0] for v in tables["segments"].values()}
            compare_keys(path / name, set(table), recordings, path / "segments", "recording", problems)
        elif kind in ("utt", "rec"):
            compare_keys(path / name, set(table), utts, reference, "utterance", problems)
        elif kind == "spk":
            compare_keys(path / name, set(table), speakers, reference, "speaker", problems)
        else:
            for utt in sorted(set(table) - utts):
                problems.add(f"utterance '{utt}' is not in utt2spk", path=path / name)
    if "spk2utt" in tables and utts:
        derived = spk2utt(tables["utt2spk"])
        for speaker, own in tables["spk2utt"].items():
            if derived.get(speaker, own) != own:
                problems.add(
                    f"speaker '{speaker}' differs from utt2spk",
                    path=path / "spk2utt",
                    hint="utils/fix_data_dir.sh",
                )


def _check_audio(data: DataDir, problems: Problems) -> None:
    """Headers of every WAV file: inside the directory, 16 kHz, mono, 16 bit, duration as utt2dur says."""
    if data.has("segments"):
        problems.add("segments are not resolved", path=data.path / "segments", hint="run stage 'format'")
        return
    scp, durations = data.table("wav.scp"), data.tables.get("utt2dur")
    if durations is None:
        problems.add("file 'utt2dur' is missing", path=data.path, hint="run stage 'format'")
        return
    for utt in data.utts:
        file = data.audio_path(utt)
        inside = (
            data.path.resolve().name.removesuffix(".partial"),
            "wav",
            file.name,
        )  # the name it is published under
        if Path(scp[utt]).parts[-3:] != inside:
            problems.add(
                f"'{scp[utt]}' lies outside this directory", path=data.path / "wav.scp", utt=utt,
                expected="/".join(inside),
            )  # fmt: skip
            continue
        try:
            info = sf.info(str(file))
        except (sf.LibsndfileError, OSError):
            problems.add(
                "missing or damaged", path=file, utt=utt, hint=f"remove {data.path} and run its stage again"
            )
            continue
        if (info.samplerate, info.channels, info.subtype) != (SAMPLE_RATE, 1, "PCM_16"):
            problems.add(
                f"{info.samplerate} Hz, {info.channels} channels, {info.subtype}", path=file, utt=utt,
                expected="16000 Hz, 1 channel, PCM_16",
            )  # fmt: skip
        elif abs(info.frames / SAMPLE_RATE - durations[utt]) > 0.5 / SAMPLE_RATE:
            problems.add(
                f"{info.frames / SAMPLE_RATE:.4f} s, but utt2dur says {durations[utt]:.4f} s",
                path=file,
                utt=utt,
            )


def spk2utt(utt2spk: dict[str, str]) -> dict[str, list[str]]:
    """Speakers and their utterances, both sorted."""
    out: dict[str, list[str]] = {}
    for utt in sorted(utt2spk):
        out.setdefault(utt2spk[utt], []).append(utt)
    return dict(sorted(out.items()))


def write_datadir(path: str | Path, tables: dict[str, Any], meta: Meta | dict[str, Any]) -> None:
    """Write a data directory: sorted tables, `spk2utt`, trials and `meta.yaml`.

    Args:
        path: the directory; made if it is not there.
        tables: file name -> {key: value}; `enrolls` may be a list of utterances; `trials` is a list of
            (enrolment speaker, trial utterance, is target).
        meta: fields of `Meta`.

    Raises:
        UserError: for an unknown file or meta key.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    meta = meta if isinstance(meta, Meta) else config.from_dict(Meta, meta, path / "meta.yaml", {})
    for name, table in tables.items():
        if name == "trials":
            names = ("nontarget", "target")
            lines = sorted(f"{spk} {utt} {names[bool(target)]}\n" for spk, utt, target in table)
            write_text(path / name, "".join(lines))
        elif name not in FILES:
            raise UserError(f"unknown file '{name}'{suggest(name, FILES)}", path=path)
        elif name not in DERIVED:
            write_table(path / name, table if isinstance(table, dict) else dict.fromkeys(table, True))
    if "utt2spk" in tables:
        write_table(path / "spk2utt", spk2utt(tables["utt2spk"]))
    write_text(path / "meta.yaml", yaml.safe_dump(asdict(meta), sort_keys=False, allow_unicode=True))


def list_sets(root: str | Path, roles: Iterable[str] = ROLES) -> list[Path]:
    """Data directories below `root` with one of the roles, sorted by name."""
    roles = set(roles)
    found = [p.parent for p in sorted(Path(root).glob("*/utt2spk"))]
    return [p for p in found if not p.name.endswith((".partial", ".old")) and read_meta(p).role in roles]

"""A trained MUSA generator as a directory or one zip: configuration, weights, and speakers to convert into.

    config.json           model_type "musa", the generator's keyword arguments, facts of the training
    model.safetensors     weights that inference needs, in single or half precision; loaded, they are single
    speakers.safetensors  optional: mean embeddings of the training speakers (see `speaker_table`)

So far Hugging Face's convention. A zip made by `pack` holds a meta.yaml besides, so that ESPnet's `unpack` reads it.
Weights are safetensors and the configuration is JSON: loading runs no code of the archive.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from .. import __version__
from ..errors import UserError, suggest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .generator import MusaGenerator
    from .speaker_table import SpeakerTable

CONFIG, WEIGHTS, SPEAKERS = "config.json", "model.safetensors", "speakers.safetensors"
EXTRA = ("config.yaml", "musa.yaml")  # of the training, packed along where they are
HEADS = ("speaker_classifier", "token_head", "reversal_classifier")  # submodules that only losses use
NO_HEADS = {"n_speakers": 0, "n_tokens": 0, "gradient_reversal": 0.0}
AVERAGES = (".embed_avg", ".cluster_size", ".initialized")  # buffers of codebooks that only training reads
SHIPPED = Path(__file__).parents[1] / "shipped"  # models that come with the repository, a folder each
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of the files in a zip: the same content gives the same bytes


def save(
    directory: str | Path,
    *,
    generator_conf: dict[str, Any],
    state: dict[str, Tensor],
    facts: dict[str, Any],
) -> None:
    """Write an archive as a directory, without speakers (see `save_speakers`).

    Args:
        directory: made if it is not there.
        generator_conf: keyword arguments of `MusaGenerator`.
        state: its `state_dict()`; what only training needs is dropped.
        facts: what else is worth knowing: sample_rate (Hz), train, tokens, seed, steps.
    """
    head = {"model_type": "musa", "architectures": ["MusaGenerator"], "generator": generator_conf}
    write(Path(directory), {**head, **facts}, for_inference(state))
    (Path(directory) / SPEAKERS).unlink(missing_ok=True)


def for_inference(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a generator without heads of losses and without the averages that codebooks learn by."""
    return {
        name: value
        for name, value in state.items()
        if not (name.startswith(HEADS) or name.endswith(AVERAGES))
    }


def write(directory: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """The two files of any model here: what it is, and its weights, in the precision given; `load` takes them all."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=1, sort_keys=True)
    (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
    kept = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(kept, directory / WEIGHTS, metadata={"format": "pt"})


def save_speakers(directory: str | Path, table: SpeakerTable) -> None:
    """Add mean embeddings of training speakers to an archive directory, for targets that are speakers."""
    from safetensors.numpy import save_file

    genders = {"genders": json.dumps(table.genders)}
    save_file({"embeddings": table.embeddings}, Path(directory) / SPEAKERS, metadata=genders)


def load(place: str | Path, device: str = "cpu") -> MusaGenerator:
    """The generator of an archive for inference: in eval mode, weight norms folded into the weights, without heads.

    Args:
        place: a directory or a zip.
        device: where to.

    Raises:
        UserError: if it is no archive, is damaged, or its weights do not fit its configuration.
    """
    import torch

    from .generator import MusaGenerator

    config, weights, state = _config(place), Path(place) / WEIGHTS, read_state(place)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        try:
            generator = MusaGenerator(**{**config["generator"], **NO_HEADS})
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"'generator' is no configuration of MUSA: {error}", path=Path(place) / CONFIG
            ) from None
    fresh = {name: value for name, value in generator.state_dict().items() if name.endswith(AVERAGES)}
    fill(generator, fresh | state, weights)
    fold_norms(generator)
    return generator.to(device).eval()


def read_state(place: str | Path) -> dict[str, Tensor]:
    """The weights of an archive by name.

    Raises:
        UserError: if they are not there, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(place) / WEIGHTS
    if not _has(place, WEIGHTS):
        raise UserError("no such file", path=path)
    try:
        return load(_read(place, WEIGHTS))
    except SafetensorError as error:
        raise UserError(f"damaged: {error}", path=path, hint="restore the file") from None


def fold_norms(model: nn.Module) -> None:
    """Put weight norms into the weights: the same output, sooner."""
    from torch.nn.utils.parametrize import remove_parametrizations

    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            remove_parametrizations(module, name)


def load_speakers(place: str | Path) -> SpeakerTable | None:
    """The speakers of an archive, None if it holds none.

    Raises:
        UserError: if the table is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_bytes

    from .speaker_table import SpeakerTable

    if not _has(place, SPEAKERS):
        return None
    raw = _read(place, SPEAKERS)
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        embeddings = load_bytes(raw)["embeddings"].astype(np.float32)
        return SpeakerTable(embeddings, tuple(json.loads(header["__metadata__"]["genders"])))
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"damaged: {error}", path=Path(place) / SPEAKERS, hint="restore the file") from None


def shipped() -> list[str]:
    """Names of the models that come with the repository."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def find(name: str, *, download: bool = False) -> Path:
    """The place of an archive.

    Args:
        name: of a model that comes with the repository, path of a directory or a zip, or an id of Hugging Face's hub
            (`organisation/model`).
        download: fetch from the hub what its cache lacks.

    Raises:
        UserError: if there is no such archive, or the hub cannot be reached.
    """
    known = shipped()
    place = SHIPPED / name if name in known else Path(name)
    if place.exists():
        for file in (CONFIG, WEIGHTS):
            if not _has(place, file):
                raise UserError(
                    f"holds no {file}", path=place, expected="a model archive of MUSA (directory or zip)"
                )
        return place
    if not _HUB_ID.fullmatch(name):
        raise UserError(
            f"no such model{suggest(name, known)}", path=name,
            expected="a directory, a zip, an id of Hugging Face's hub, or a model that comes with the repository",
        )  # fmt: skip
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = [CONFIG, WEIGHTS, SPEAKERS]
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=not download))
    except LocalEntryNotFoundError:
        said = "cannot be fetched from the hub" if download else "not in the hub's cache"
        raise UserError(
            f"no such file or directory, and {said}", path=name, hint=f"hf download {name}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"cannot be fetched from the hub: {said}", path=name) from None


def fingerprint(place: str | Path) -> str:
    """Hash of what an archive computes with: equal for a directory and its zip."""
    digest = hashlib.sha256()
    for file in (CONFIG, WEIGHTS, SPEAKERS):
        if _has(place, file):
            digest.update(hashlib.sha256(_read(place, file)).digest())
        digest.update(b"|")
    return digest.hexdigest()[:16]


def pack(directory: str | Path, out: str | Path) -> None:
    """An archive directory as one zip, for ESPnet's `unpack`, for `load`, or to put on a hub; same content, same bytes.

    Raises:
        UserError: if the directory is no archive, or the name does not end in .zip.
    """
    directory, out = find(str(directory)), Path(out)
    if out.suffix != ".zip":
        raise UserError("an archive is a zip", path=out, expected="a name that ends in .zip")
    if not directory.is_dir():
        raise UserError("is packed already", path=directory, expected="a directory")
    _config(directory)
    files = [file for file in (CONFIG, WEIGHTS, SPEAKERS, *EXTRA) if (directory / file).is_file()]
    meta = {
        "files": {"model_file": WEIGHTS},
        "yaml_files": {"train_config": EXTRA[0] if EXTRA[0] in files else CONFIG},
        "espnet_musa": __version__,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:  # weights do not get smaller
        for name in ("meta.yaml", *files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(
                info, yaml.safe_dump(meta) if name == "meta.yaml" else (directory / name).read_bytes()
            )
    partial.replace(out)


def unpack(archive: str | Path, directory: str | Path) -> None:
    """A zip as a directory; only the files of an archive are taken out.

    Raises:
        UserError: if it is no archive.
    """
    place, directory = find(str(archive)), Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for file in (CONFIG, WEIGHTS, SPEAKERS, *EXTRA):
        if _has(place, file):
            (directory / file).write_bytes(_read(place, file))


def _has(place: str | Path, file: str) -> bool:
    place = Path(place)
    if place.is_dir():
        return (place / file).is_file()
    try:
        with zipfile.ZipFile(place) as archive:
            return file in archive.namelist()
    except zipfile.BadZipFile:
        raise UserError(
            "neither a directory nor a zip", path=place, expected="a model archive of MUSA"
        ) from None


def _read(place: str | Path, file: str) -> bytes:
    place = Path(place)
    if place.is_dir():
        return (place / file).read_bytes()
    try:
        with zipfile.ZipFile(place) as archive:
            return archive.read(file)
    except zipfile.BadZipFile as error:  # a wrong checksum, too
        raise UserError(f"damaged: {error}", path=place / file, hint="restore the file") from None


def _config(place: str | Path) -> dict[str, Any]:
    """config.json, checked so far that it is MUSA's."""
    path = Path(place) / CONFIG
    try:
        config = json.loads(_read(place, CONFIG))
    except ValueError as error:
        raise UserError(f"not JSON: {error}", path=path) from None
    if not isinstance(config, dict) or config.get("model_type") != "musa":
        raise UserError("not a model of MUSA", path=path, expected='"model_type": "musa"')
    if not isinstance(config.get("generator"), dict):
        raise UserError("lacks 'generator'", path=path, expected="the generator's keyword arguments")
    return config


def fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put weights into a model: all of them, and nothing else.

    Raises:
        UserError: with the first names that are missing, unknown or of another shape.
    """
    own = model.state_dict()
    wrong = [f"'{name}' is missing" for name in own if name not in state]
    wrong += [f"'{name}' is unknown" for name in state if name not in own]
    wrong += [
        f"'{name}' has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"the weights do not fit {CONFIG}: {', '.join(wrong[:3])}{more}", path=path,
            hint="the two files are of different models",
        )  # fmt: skip
    model.load_state_dict(state)

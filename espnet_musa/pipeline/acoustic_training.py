"""Part 3.2 of stage 3 for a `vq_bottleneck`: an acoustic model from features in arks and the sets' transcripts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..config import Recipe
from ..data.datadir import DataDir
from ..data.table import write_text
from ..errors import UserError
from ..log import get_logger
from ..seed import generator, key
from ..tokenizer import units
from ..tokenizer.config import TokensConfig, VqBottleneckConfig
from ..tokenizer.store import Ark

if TYPE_CHECKING:
    from ..tasks.vq_bottleneck import VqBottleneckModel
    from ..tokenizer.vq_bottleneck import VqBottleneck

log = get_logger(__name__)
HELD_OUT = (20, 4, 256)  # validation: every twentieth utterance, but at least and at most so many
INVENTORY = "units.txt"  # beside the model: a unit a line, silence first


def transcripts(tokens: TokensConfig, chosen: Iterable[tuple[DataDir, list[str]]]) -> dict[str, units.Words]:
    """Transcripts of utterances, `<set>:<utt>` -> words; imports no torch.

    Args:
        tokens: of kind `vq_bottleneck`.
        chosen: sets and utterances of them.

    Raises:
        UserError: if a set has none that can be used.
    """
    settings: VqBottleneckConfig = config.from_dict(VqBottleneckConfig, tokens.params, Path("params"), {})
    sets: dict[str, tuple[DataDir, list[str]]] = {}
    for data, utts in chosen:
        sets.setdefault(data.name, (data, []))[1].extend(utts)
    return {
        f"{name}:{utt}": words
        for name, (data, utts) in sets.items()
        for utt, words in units.read(data, utts, settings.units).items()
    }


def train(
    recipe: Recipe,
    name: str,
    tokens: TokensConfig,
    spoken: Mapping[str, units.Words],
    out: Path,
    features: Ark,
    frames: Mapping[str, int],
    file: Path,
    arguments: Namespace,
) -> VqBottleneck:
    """Lists, first weights, ESPnet's training; the last epoch's model.

    Args:
        recipe: its seed decides everything random.
        name: of the tokens, for the draws.
        tokens: what to train.
        spoken: key of the ark -> transcript; what has none is left out.
        out: directory for ESPnet's files.
        features: to train on.
        frames: key of the ark -> number of frames.
        file: the training's configuration, to name it.
        arguments: ESPnet's options, but for the model and the data.

    Raises:
        UserError: if there is too little to train on, or the loss diverges.
    """
    import torch

    from ..tasks.trainer import CHECKPOINT, recover
    from ..tasks.vq_bottleneck import VqBottleneckTask

    every = sorted(utt for utt in features if utt in spoken)
    order = generator(recipe.seed, name, "all", "order").permutation(len(every))
    inventory = units.inventory(spoken[utt] for utt in every)
    numbers = {unit: number for number, unit in enumerate(inventory)}
    rows = {every[i]: units.numbered(spoken[every[i]], numbers) for i in order}
    dimension = features[next(iter(rows))].shape[1]
    sizes = tokens.params | {"dimension": dimension, "n_units": len(inventory)}
    vars(arguments)["vq_bottleneck_conf"] = sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(recipe.seed, name, "all", "weights") % 2**63)
        model: VqBottleneckModel = VqBottleneckTask.build_model(arguments)
    rows = _fitting(model, rows, frames, file)
    valid, fit = _split(list(rows))
    model.criterion.fit([rows[utt] for utt in fit])
    log.info(
        "tokenize: %s learns %d units from %d transcripts, %d more are held out", name, len(inventory), len(fit),
        len(valid),
    )  # fmt: skip
    write_text(out.parent / INVENTORY, "".join(f"{unit}\n" for unit in inventory))
    for part, utts in (("train", fit), ("valid", valid)):
        write_text(out / f"{part}.scp", "".join(f"{utt} {features.places[utt]}\n" for utt in utts))
        write_text(out / f"{part}.units", "".join(f"{utt} {' '.join(map(str, rows[utt]))}\n" for utt in utts))
        write_text(out / f"{part}.shape", "".join(f"{utt} {frames[utt]},{dimension}\n" for utt in utts))
        vars(arguments)[f"{part}_data_path_and_name_and_type"] = [
            (f"{out}/{part}.scp", "features", "kaldi_ark"), (f"{out}/{part}.units", "units", "text_int"),
        ]  # fmt: skip
        vars(arguments)[f"{part}_shape_file"] = [f"{out}/{part}.shape"]
    torch.save(model.state_dict(), out / "start.pth")
    recover(out)
    VqBottleneckTask.main(args=arguments)
    state = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=False)["model"]
    model.load_state_dict(state)
    for path in (*out.glob("*.pth"), *out.glob("*.scp"), *out.glob("*.units"), *out.glob("*.shape")):
        path.unlink()
    return model.net.eval()


def _fitting(
    model: VqBottleneckModel, rows: dict[str, list[int]], frames: Mapping[str, int], file: Path
) -> dict[str, list[int]]:
    """The utterances whose transcript has room in their frames; the others are counted and named."""
    import torch

    room = dict(
        zip(rows, model.head.lengths(torch.tensor([frames[utt] for utt in rows])).tolist(), strict=True)
    )
    short = [utt for utt, row in rows.items() if model.criterion.least(row) > room[utt]]
    if short:
        log.warning(
            "tokenize: %d of %d utterances left out, whose transcripts have more units than frames: %s",
            len(short), len(rows), units.names(short),
        )  # fmt: skip
    if len(rows) - len(short) < 2:
        raise UserError(
            f"{len(rows) - len(short)} of {len(rows)} utterances are long enough for their transcripts", path=file,
            expected="two or more", hint="the transcripts may be of other speech",
        )  # fmt: skip
    return {utt: row for utt, row in rows.items() if utt not in set(short)}


def _split(utts: list[str]) -> tuple[list[str], list[str]]:
    """Held out, and to train on."""
    share, least, most = HELD_OUT
    count = min(most, max(least, len(utts) // share), len(utts) // 2)
    return utts[:count], utts[count:]

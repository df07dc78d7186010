"""Part 3.2 of stage 3: a tokenizer from features in arks; k-means by scikit-learn, the others by ESPnet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..config import Recipe
from ..data.table import write_text
from ..errors import UserError, suggest
from ..log import get_logger
from ..seed import generator, key
from ..tokenizer.config import BOTTLENECK, CODEC, TokensConfig
from ..tokenizer.store import Ark, build

if TYPE_CHECKING:
    from argparse import Namespace

    from ..tokenizer.feature_codec import FeatureCodec
    from ..tokenizer.store import Tokenizer
    from ..tokenizer.units import Words

log = get_logger(__name__)
# What a training configuration may set. The rest of ESPnet's options is the stage's business, or of no use here.
SETTINGS = (
    "model_conf", "optim", "optim_conf", "scheduler", "scheduler_conf", "max_epoch",
    "num_iters_per_epoch", "batch_size", "valid_batch_size", "grad_clip", "patience", "num_workers", "use_amp",
    "log_interval", "use_tensorboard", "max_cache_size",
)  # fmt: skip
OWN = {
    CODEC: ("crop_frames",),
    BOTTLENECK: ("batch_type", "batch_bins", "accum_grad"),
}  # and by kind of tokenizer
HELD_OUT = (50, 4, 256)  # validation: every fiftieth utterance, but at least and at most so many
SAMPLE = 1000  # crops that statistics and codebook start from
TRAINING = "training"  # directory of ESPnet's files beside the model


def check(name: str, root: Path, kind: str = CODEC) -> tuple[Path, dict[str, Any]]:
    """A training configuration: its file and its settings; imports neither torch nor ESPnet.

    Args:
        name: of the file.
        root: directory of the recipe.
        kind: of the tokenizer.

    Raises:
        UserError: for an unknown file or key.
    """
    file = config.conf_file(root, "train", name)
    settings, lines = config.load_yaml(file)
    known = SETTINGS + OWN[kind]
    for key_ in settings:
        if key_ not in known:
            raise UserError(f"unknown key '{key_}'{suggest(key_, known)}", path=file, line=lines[(key_,)])
    for wanted in ("batch_size", "max_epoch", *(["crop_frames"] if kind == CODEC else [])):
        if not isinstance(settings.get(wanted), int) or settings[wanted] < 1:
            raise UserError(
                f"'{wanted}' is {settings.get(wanted)}", path=file, expected="a whole number from 1"
            )
    return file, settings


def train(
    recipe: Recipe,
    root: Path,
    name: str,
    tokens: TokensConfig,
    place: Path,
    frames: Mapping[str, int],
    spoken: Mapping[str, Words],
    device: str,
) -> Tokenizer:
    """Train a tokenizer; called again after a kill, one that ESPnet trains goes on after its last finished epoch.

    Args:
        recipe: its seed decides everything random.
        root: directory of the recipe.
        name: of the tokens, for the draws.
        tokens: what to train.
        place: where `features/*.scp` lie, and ESPnet may leave its files in `training/`.
        frames: key of the arks -> number of frames.
        spoken: key of the arks -> transcript, where the tokenizer is trained with them.
        device: torch device.

    Raises:
        UserError: if there are fewer frames than tokens, too few utterances as long as a crop, or the loss diverges.
    """
    features = Ark(*sorted((place / "features").glob("*.scp")))
    wanted, total = build(tokens.tokenizer, tokens.params, 2).n_tokens, sum(frames[utt] for utt in features)
    if total < wanted:
        raise UserError(
            f"{total} frames to train {wanted} tokens on", expected="more frames than tokens, far more",
            hint=f"more speech, or a smaller codebook_size in params of conf/tokens/{name}.yaml",
        )  # fmt: skip
    if tokens.tokenizer == CODEC:
        return _feature_codec(recipe.seed, root, name, tokens, place, features, frames, device)
    if tokens.tokenizer == BOTTLENECK:
        from ..tasks.vq_bottleneck import VqBottleneckTask
        from .acoustic_training import train as train_acoustic_model

        file, _ = check(tokens.train, root, BOTTLENECK)
        out = place / TRAINING
        arguments = _arguments(VqBottleneckTask, file, out, key(recipe.seed, name, "all", "training"), device)
        return train_acoustic_model(recipe, name, tokens, spoken, out, features, frames, file, arguments)
    rng = generator(recipe.seed, name, "all", "frames of k-means")
    taken, limit = [], tokens.params.get("frames", 500_000)
    for utt in _shuffled(features, rng):
        taken.append(features[utt])
        limit -= len(taken[-1])
        if limit <= 0:
            break
    sample = np.concatenate(taken).astype(np.float32)
    kmeans = build(tokens.tokenizer, tokens.params, sample.shape[1])
    kmeans.fit(sample[:limit] if limit < 0 else sample, key(recipe.seed, name, "all", "k-means"))
    return kmeans


def _shuffled(features: Ark, rng: np.random.Generator) -> list[str]:
    utts = list(features)
    return [utts[i] for i in rng.permutation(len(utts))]


def _feature_codec(
    seed: int,
    root: Path,
    name: str,
    tokens: TokensConfig,
    place: Path,
    features: Ark,
    frames: Mapping[str, int],
    device: str,
) -> FeatureCodec:
    """Lists, first weights, ESPnet's training; the last epoch's model, as RepCodec takes it."""
    import torch

    from ..tasks.feature_codec import FeatureCodecTask
    from ..tasks.trainer import CHECKPOINT, recover

    file, settings = check(tokens.train, root)
    crop, out = settings["crop_frames"], place / TRAINING
    out.mkdir(exist_ok=True)
    every = _shuffled(features, generator(seed, name, "all", "order"))
    utts = [utt for utt in every if frames[utt] >= crop]
    share, least, most = HELD_OUT
    held_out = min(most, max(least, len(utts) // share), len(utts) // 2)
    if not held_out:
        raise UserError(
            f"{len(utts)} of {len(every)} utterances are as long as a crop of {crop} frames of 20 ms",
            path=file, expected="two or more", hint="lower crop_frames",
        )  # fmt: skip
    if len(utts) < len(every):
        log.info("tokenize: %d utterances are shorter than a crop and left out", len(every) - len(utts))
    for part, own in (("valid", utts[:held_out]), ("train", utts[held_out:])):
        write_text(out / f"{part}.scp", "".join(f"{utt} {features.places[utt]}\n" for utt in own))
    dimension = features[utts[0]].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, name, "all", "weights") % 2**63)
        codec = build(CODEC, tokens.params, dimension)
        starts = {utt: (frames[utt] - crop) // 2 for utt in utts[held_out : held_out + SAMPLE]}
        crops = np.stack([features[utt][start : start + crop] for utt, start in starts.items()])
        codec.initialize(torch.from_numpy(crops).transpose(1, 2), settings["batch_size"] * crop)
    torch.save({f"codec.{k}": value for k, value in codec.state_dict().items()}, out / "start.pth")
    arguments = _arguments(FeatureCodecTask, file, out, key(seed, name, "all", "training"), device)
    own: dict[str, Any] = {"feature_codec_conf": tokens.params | {"dimension": dimension}}
    for part in ("train", "valid"):
        own[f"{part}_data_path_and_name_and_type"] = [(f"{out}/{part}.scp", "features", "kaldi_ark")]
        own[f"{part}_shape_file"] = [f"{out}/{part}.scp"]
    vars(arguments).update(own)
    recover(out)
    FeatureCodecTask.main(args=arguments)
    state = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=False)["model"]
    codec.load_state_dict({k.removeprefix("codec."): value for k, value in state.items()})
    for path in (*out.glob("*.pth"), *out.glob("*.scp")):
        path.unlink()
    return codec.eval()


def _arguments(task: Any, file: Path, out: Path, seed: int, device: str) -> Namespace:
    """ESPnet's options: those of the configuration, and the stage's own but for the model and the data."""
    out.mkdir(exist_ok=True)
    arguments = task.get_parser().parse_args(["--config", str(file)])
    own = {"output_dir": str(out), "seed": seed % 2**31, "ngpu": _ngpu(device)}
    vars(arguments).update(own | {"resume": True, "init_param": [str(out / "start.pth")]})
    return arguments


def _ngpu(device: str) -> int:
    """0 or 1; that one becomes torch's current."""
    import torch

    if not device.startswith("cuda"):
        return 0
    torch.cuda.set_device(torch.device(device).index or 0)
    return 1

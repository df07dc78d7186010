"""Stage 3, tokenize: teacher tokens of all formatted sets with role `train`, for the systems that learn from them.

| part | reads → writes under exp/tokens/<name> |
|---|---|
| 3.1 features | a drawn part of the speech → `model.partial/features`, removed when the tokenizer is trained |
| 3.2 tokenizer | these features → `model` |
| 3.3 tokens | all speech → `<set>/tokens.ark` and `.scp`: teacher and tokenizer in one pass, no features stored |

Parts 3.1 and 3.2 are the steps of one `plan, shard, finish` (`ModelRun`), 3.3 those of another (`TokensRun`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial as partial_function
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config, stamp
from ..config import Recipe
from ..data.datadir import SAMPLE_RATE, DataDir, list_sets
from ..errors import Problems, UserError
from ..log import get_logger
from ..seed import generator
from ..tokenizer import store
from ..tokenizer.config import BOTTLENECK, TokensConfig, load, teacher_of
from ..tokenizer.teachers import HOP, WINDOW, Teacher, n_frames, runs
from . import tokenizer_training
from .acoustic_training import transcripts
from .sharding import begun, share, work

if TYPE_CHECKING:
    import torch

    from ..tokenizer.store import Tokenizer

log = get_logger(__name__)
STAGE = "tokenize"
BATCH = 8192  # frames that a tokenizer encodes at once, padding included
TWO_BYTES = 3  # kaldiio's compression: 16 bits between an utterance's extremes
GROUPS = ".groups.json"  # what features are computed of
Group = tuple[DataDir, list[str]]


def chosen(recipe: Recipe, root: Path) -> dict[str, TokensConfig]:
    """The tokens that the recipe's systems learn from, by name, checked; imports no torch.

    Raises:
        UserError: for an unknown file, key, teacher or parameter, or a wrong type.
    """
    names = {config.load_system(recipe, name, root).tokens for name in recipe.systems} - {None}
    out = {name: load(recipe, name, root) for name in sorted(names)}
    for tokens in out.values():
        if tokens.train is not None:
            tokenizer_training.check(tokens.train, root, tokens.tokenizer)
    return out


class _Run:
    """What both parts share: the training sets, the groups of their utterances, the tokens to make."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        self.recipe, self.root, self.tokens = recipe, root, chosen(recipe, root)
        self.sets: list[DataDir] = []
        self.samples: dict[str, dict[str, int]] = {}  # set -> utterance -> length
        if not self.tokens:
            return
        self.sets = [DataDir.read(path, "audio") for path in list_sets(root / "dump", ["train"])]
        if not self.sets:
            raise UserError(
                "no set has the role train", path=root / "dump",
                hint="run stage 'format' first, or set the roles in meta.yaml and format.roles",
            )  # fmt: skip
        problems = Problems()
        for data in self.sets:
            if data.name == store.MODEL:
                problems.add("a set cannot have this name: the tokenizer takes its place", path=data.path)
            lengths = {utt: round(seconds * SAMPLE_RATE) for utt, seconds in data.table("utt2dur").items()}
            self.samples[data.name] = lengths
            for utt, length in lengths.items():
                if length < WINDOW:
                    problems.add(
                        f"{length} samples are shorter than one frame", path=data.path, utt=utt,
                        expected=f"at least {WINDOW}", hint="remove it from the training set",
                    )  # fmt: skip
        problems.raise_if_any()

    def out(self, name: str, what: str) -> Path:
        """The directory of a set's tokens or of the model."""
        return self.root / "exp" / "tokens" / name / what

    def groups(self, teacher: Teacher, data: DataDir) -> list[Group]:
        """All utterances of a set, as the teacher wants to take them."""
        return [(data, utts) for utts in teacher.groups(self.samples[data.name], data.table("utt2spk"))]


class ModelRun(_Run):
    """Parts 3.1 and 3.2: features of a part of the speech, and a tokenizer of them."""

    def plan(self, *, force: bool) -> None:
        """Draw the speech; a teacher that learns does so now."""
        for name, tokens in self.tokens.items():
            teacher = teacher_of(tokens)
            fields = {
                "tokens": config.digest(config.to_dict(tokens)),
                "teacher": teacher.fingerprint(),
                "input": {data.name: data.fingerprint for data in self.sets},
                "seed": self.recipe.seed,
            }
            if tokens.train is not None:
                fields["train"] = config.digest(
                    tokenizer_training.check(tokens.train, self.root, tokens.tokenizer)[1]
                )
            if tokens.checkpoint is not None:
                fields["checkpoint"] = store.hash_of(Path(tokens.checkpoint))
            if (lexicon := tokens.params.get("units", {}).get("path")) is not None:
                fields["lexicon"] = store.hash_of(Path(lexicon))
            partial = stamp.begin(self.out(name, store.MODEL), STAGE, fields, force=force)
            if partial is None:
                log.info("tokenize: the tokenizer of %s is up to date", name)
            elif not (partial / GROUPS).exists():
                (partial / "features").mkdir(exist_ok=True)
                (partial / ".begun").touch()
                self._draw(name, tokens, teacher, partial)

    def _draw(self, name: str, tokens: TokensConfig, teacher: Teacher, partial: Path) -> None:
        """Groups in random order until there are `hours` of them, at least one."""
        every = [group for data in self.sets for group in self.groups(teacher, data)]
        order = generator(self.recipe.seed, name, "all", "subset").permutation(len(every))
        left, drawn = tokens.hours * 3600 * SAMPLE_RATE, []
        for data, utts in (every[i] for i in order):
            if left <= 0:
                break
            drawn.append((data, utts))
            left -= sum(self.samples[data.name][utt] for utt in utts)
        if teacher.learns:
            log.info("tokenize: the teacher of %s learns", name)
            teacher.prepare("cpu")
            teacher.fit(([data.load(utt) for utt in utts] for data, utts in drawn), self.recipe.seed)
            store.save_teacher(partial, teacher)
        if tokens.tokenizer == BOTTLENECK:
            transcripts(tokens, drawn)  # before features are computed
        drawn = [] if tokens.checkpoint else drawn  # a ready tokenizer needs no features
        stamp.write_json(partial / GROUPS, [[data.name, utts] for data, utts in drawn])

    def shard(self, part: tuple[int, int], device: str) -> None:
        """Features of this job's share of what was drawn."""
        for name, tokens in self.tokens.items():
            for out in begun([self.out(name, store.MODEL)]):
                partial = stamp.partial_of(out)
                files = self._files(partial)
                if any(not file.exists() for file in files):
                    teacher = store.load_teacher(partial, tokens, device)
                    make = partial_function(_features, teacher)
                    work(share(_jobs(files, make, compression_method=TWO_BYTES), part), f"features {name}")

    def finish(self, device: str) -> None:
        """Train the tokenizer and publish it."""
        for name, tokens in self.tokens.items():
            for out in begun([self.out(name, store.MODEL)]):
                partial = stamp.partial_of(out)
                files = self._files(partial)
                _missing(files)
                frames = {
                    _key(data, utt): n_frames(self.samples[data.name][utt])
                    for data, utts in files.values()
                    for utt in utts
                }
                if tokens.checkpoint:
                    tokenizer = store.ready(tokens)
                else:
                    hours = sum(frames.values()) * HOP / SAMPLE_RATE / 3600
                    log.info("tokenize: the tokenizer of %s learns from %.2f hours", name, hours)
                    spoken = transcripts(tokens, files.values()) if tokens.tokenizer == BOTTLENECK else {}
                    tokenizer = tokenizer_training.train(
                        self.recipe, self.root, name, tokens, partial, frames, spoken, device
                    )
                store.save(partial, tokens, tokenizer)
                if not tokens.keep_features:
                    shutil.rmtree(partial / "features")
                (partial / GROUPS).unlink()
                counts = {
                    "utterances": len(frames),
                    "frames": sum(frames.values()),
                    "tokens": tokenizer.n_tokens,
                }
                _publish(partial, out, counts)

    def _files(self, partial: Path) -> dict[Path, Group]:
        """The scp file of every group that was drawn."""
        sets = {data.name: data for data in self.sets}
        drawn = [(sets[name], group) for name, group in stamp.read_json(partial / GROUPS)]
        return _numbered(partial / "features", drawn)


class TokensRun(_Run):
    """Part 3.3: tokens of all speech."""

    def plan(self, *, force: bool) -> None:
        """Begin every set that is not up to date."""
        for name, tokens in self.tokens.items():
            model = stamp.require(self.out(name, store.MODEL), STAGE)
            for data in self.sets:
                fields = {
                    "tokens": config.digest(config.to_dict(tokens)),
                    "model": config.digest(model["fields"]),
                    "input": data.fingerprint,
                    "seed": self.recipe.seed,
                }
                partial = stamp.begin(self.out(name, data.name), STAGE, fields, force=force)
                if partial is None:
                    log.info("tokenize: %s/%s is up to date", name, data.name)
                    continue
                (partial / "parts").mkdir(exist_ok=True)
                (partial / ".begun").touch()

    def shard(self, part: tuple[int, int], device: str) -> None:
        """Tokens of this job's share of the groups."""
        for name, tokens in self.tokens.items():
            files = self._files(name, teacher_of(tokens))
            if any(not file.exists() for file in files):
                model = self.out(name, store.MODEL)
                teacher, tokenizer = store.load_teacher(model, tokens, device), store.load(model, device)
                if teacher.dimension != tokenizer.dimension:
                    raise UserError(
                        f"the teacher's features have {teacher.dimension} dimensions", path=model,
                        expected=f"{tokenizer.dimension}, as the tokenizer has",
                    )  # fmt: skip
                make = partial_function(_tokens, teacher, tokenizer)
                work(share(_jobs(files, make), part), f"tokens {name}")

    def finish(self) -> None:
        """Check and publish every set that was begun."""
        for name, tokens in self.tokens.items():
            files = self._files(name, teacher_of(tokens))
            _missing(files)
            size = store.n_tokens(self.root / "exp" / "tokens" / name)
            for data in self.sets:
                out = self.out(name, data.name)
                if not begun([out]):
                    continue
                partial = stamp.partial_of(out)
                made = store.Ark(*(file for file, (owner, _) in files.items() if owner is data))
                count = sum(np.bincount(codes, minlength=size) for codes in made.values())
                store.write_ark(partial / "tokens", made, out / "tokens")
                shutil.rmtree(partial / "parts")
                used = count[count > 0] / count.sum()
                perplexity = np.exp(-(used * np.log(used)).sum())
                log.info(
                    "tokenize: %s/%s: %d of %d tokens are used, as if %.0f evenly", name, data.name, len(used), size,
                    perplexity,
                )  # fmt: skip
                counts = {"utterances": len(made), "frames": int(count.sum()), "used": len(used)}
                _publish(partial, out, counts)

    def _files(self, name: str, teacher: Teacher) -> dict[Path, Group]:
        """The scp file of every group of the sets that were begun."""
        out: dict[Path, Group] = {}
        for data in self.sets:
            place = self.out(name, data.name)
            if begun([place]):
                out |= _numbered(stamp.partial_of(place) / "parts", self.groups(teacher, data))
        return out


def encode(tokenizer: Tokenizer, features: list[torch.Tensor]) -> list[np.ndarray]:
    """Tokens (F_i,) int32 of features (F_i, D), in batches of similar length."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    out: list[np.ndarray] = [np.empty(0)] * len(features)
    for run in runs([len(x) for x in features], BATCH):
        batch = [features[i] for i in run]
        lengths = torch.tensor([len(x) for x in batch], device=batch[0].device)
        with torch.inference_mode():
            codes = tokenizer.encode(pad_sequence(batch, batch_first=True).transpose(1, 2), lengths)
        for i, row in zip(run, codes.cpu().numpy().astype(np.int32), strict=True):
            out[i] = row[: len(features[i])]
    return out


def _key(data: DataDir, utt: str) -> str:
    """Of an utterance among those of all sets."""
    return f"{data.name}:{utt}"


def _features(teacher: Teacher, data: DataDir, utts: list[str]) -> dict[str, np.ndarray]:
    """Features of a group, as they are stored for the training of a tokenizer."""
    made = teacher.features([data.load(utt) for utt in utts])
    return {_key(data, utt): x.float().cpu().numpy() for utt, x in zip(utts, made, strict=True)}


def _tokens(teacher: Teacher, tokenizer: Tokenizer, data: DataDir, utts: list[str]) -> dict[str, np.ndarray]:
    """Tokens of a group."""
    wavs = [data.load(utt) for utt in utts]
    made = encode(tokenizer, teacher.features(wavs))
    for wav, codes in zip(wavs, made, strict=True):
        assert len(codes) == n_frames(len(wav))  # what stage 4 and its codec rely on
    return dict(zip(utts, made, strict=True))


def _numbered(place: Path, groups: list[Group]) -> dict[Path, Group]:
    return {place / f"{number:06d}.scp": group for number, group in enumerate(groups)}


def _jobs(
    files: dict[Path, Group], make: Callable[[DataDir, list[str]], dict[str, np.ndarray]], **options: Any
) -> list[tuple[Path, str, Callable[[], None]]]:
    """One job a group: its files, written whole or not at all."""

    def job(file: Path, data: DataDir, utts: list[str]) -> Callable[[], None]:
        return lambda: store.write_ark(
            file.with_suffix(""), make(data, utts), file.with_suffix(""), **options
        )

    return [
        (file, utts[0] if len(utts) == 1 else f"{utts[0]} and {len(utts) - 1} more", job(file, data, utts))
        for file, (data, utts) in files.items()
    ]


def _missing(files: dict[Path, Group]) -> None:
    """Refuse to go on while groups are missing.

    Raises:
        UserError: naming the first five.
    """
    problems = Problems()
    for file, (_, utts) in files.items():
        if not file.exists():
            problems.add(
                "not made", utt=utts[0], path=file, hint="see the logs of the shards; run the stage again"
            )
    problems.raise_if_any()


def _publish(partial: Path, out: Path, counts: dict[str, int]) -> None:
    seconds = time.time() - (partial / ".begun").stat().st_mtime
    (partial / ".begun").unlink()
    stamp.finish(out, STAGE, counts=counts, seconds=seconds)
    log.info("tokenize: %s published", out)

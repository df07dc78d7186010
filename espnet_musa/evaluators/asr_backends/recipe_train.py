"""Training of the recipe's recognizer on the transcripts of a data directory: an ESPnet model, CTC alone.

Texts are normalised by `text_norm.basic` whatever the language, so that one set of units serves all. Features are
computed once. The last epoch is kept: the learning rate has fallen to nothing by then. One seed, one model (bit for bit
on a CPU); a killed training goes on after its last finished epoch.
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from torch.nn.utils.rnn import pad_sequence

from ...config import digest, save, to_dict
from ...errors import UserError
from ...log import progress
from ...metrics.text_norm import basic
from ...seed import generator, key
from ..training import Resumable, warm_cosine, write_weights
from . import SAMPLE_RATE
from .recipe import AsrTrainConfig, Features, build, read_pieces

if TYPE_CHECKING:
    import sentencepiece

    from ...data.datadir import DataDir


def train(
    data: DataDir,
    out: Path,
    config: AsrTrainConfig,
    seed: int,
    device: str = "cpu",
    start: Path | None = None,
) -> None:
    """Train a recognizer; called again after a kill, it goes on after the last finished epoch.

    Args:
        data: a data directory of contract "audio" or better with `text`, and `utt2lang` if there are several languages.
        out: gets `model.safetensors`, `units.model` (sentencepiece), `config.yaml` and `train.log`.
        config: see `AsrTrainConfig`.
        seed: decides the weights, the order of batches and every mask.
        device: torch device.
        start: must be None: recognizers are trained from scratch.

    Raises:
        UserError: if there is no text, or none in a language of the configuration; or the loss diverges.
    """
    if start is not None:
        raise UserError("a recognizer cannot start from another one", path=start, expected="start: scratch")
    out.mkdir(parents=True, exist_ok=True)
    texts, languages = chosen(data, config)
    config = replace(config, languages=languages)
    units = _units(list(texts.values()), config, out / "units.model")
    pieces = [units.id_to_piece(i) for i in range(len(units))]
    target = {utt: torch.tensor(units.encode(text)) + 1 for utt, text in texts.items()}  # 0 is the blank
    items = _items(data, target, config)
    identity = digest([to_dict(config), seed, str(device), data.fingerprint])
    with torch.random.fork_rng():
        torch.manual_seed(key(seed, "asr", "model", "weights") % 2**63)
        trainer = _Trainer(build(config, pieces), config, device)
        first = trainer.resume(out / "checkpoint.pt", identity)
        for epoch in range(first, config.epochs):
            torch.manual_seed(key(seed, "asr", f"epoch {epoch}", "masks") % 2**63)
            trainer.epoch(epoch, items, generator(seed, "asr", f"epoch {epoch}", "order"))
            trainer.checkpoint(out / "checkpoint.pt", identity, epoch + 1)
    save(config, out / "config.yaml")
    write_weights(trainer.model, out / "model.safetensors")
    (out / "checkpoint.pt").unlink(missing_ok=True)


def chosen(data: DataDir, config: AsrTrainConfig) -> tuple[dict[str, str], tuple[str, ...]]:
    """Normalised transcripts of the utterances to train on, and their languages.

    Raises:
        UserError: if the set has no `text`, or nothing to train on in one of the wanted languages.
    """
    if not data.has("text"):
        raise UserError("file 'text' is missing", path=data.path, expected="transcripts to train on")
    language = dict.fromkeys(data.utts, config.language) | data.tables.get("utt2lang", {})
    texts = {
        utt: normal
        for utt, text in data.table("text").items()
        if language[utt] in (config.languages or (language[utt],)) and (normal := basic(text))
    }
    found = tuple(sorted({language[utt] for utt in texts}))
    for code in config.languages or found or ("any language",):
        if code not in found:
            raise UserError(f"no transcript in '{code}' to train on", path=data.path / "text")
    return texts, found


def _units(texts: list[str], config: AsrTrainConfig, path: Path) -> sentencepiece.SentencePieceProcessor:
    """Learn the units from the transcripts and write them to `path`."""
    import sentencepiece

    model = io.BytesIO()
    # Fewer pieces than asked for if the texts do not yield them; the trainer's chatter is off.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type=config.units,
        vocab_size=max(config.vocabulary, 1 + len(set("".join(texts)))), hard_vocab_limit=False,
        character_coverage=1.0, normalization_rule_name="identity", num_threads=1,
        unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(model.getvalue())
    partial.replace(path)
    return read_pieces(path)


def _items(
    data: DataDir, target: dict[str, torch.Tensor], config: AsrTrainConfig
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(F, D) features and (L,) units of every utterance at every speed, longest first."""
    features = Features(config)
    work = [(utt, speed) for speed in config.speeds for utt in target]
    items = []
    for utt, speed in progress(work, total=len(work), desc=f"features {data.name}"):
        wav = data.load(utt)
        if speed != 1.0:
            wav = soxr.resample(wav, SAMPLE_RATE * speed, SAMPLE_RATE).astype(np.float32)
        items.append((features(wav), target[utt]))
    return sorted(items, key=lambda item: -len(item[0]))


class _Trainer(Resumable):
    """Model, optimizer and what is logged."""

    def __init__(self, model: torch.nn.Module, config: AsrTrainConfig, device: str) -> None:
        self.model, self.config = model.to(device), config
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.max_lr, weight_decay=config.weight_decay
        )
        super().__init__({"model": model, "optimizer": self.optimizer}, (), device)

    def epoch(
        self, epoch: int, items: list[tuple[torch.Tensor, torch.Tensor]], rng: np.random.Generator
    ) -> None:
        """One pass; batches hold utterances of similar length, their order is drawn."""
        began = time.monotonic()
        batches = np.array_split(np.arange(len(items)), -(-len(items) // self.config.batch_size))
        steps = self.config.epochs * len(batches)
        self.model.train()
        total = 0.0
        order = rng.permutation(len(batches))
        for step, b in enumerate(progress(order, total=len(batches), desc=f"epoch {epoch + 1}")):
            for group in self.optimizer.param_groups:
                group["lr"] = warm_cosine(
                    epoch * len(batches) + step, steps, self.config.max_lr, self.config.warmup
                )
            total += self._step([items[i] for i in batches[b]]) * len(batches[b])
        if not math.isfinite(total):
            raise UserError(f"the loss diverged in epoch {epoch + 1}", hint="lower max_lr")
        seconds = time.monotonic() - began
        self.say(
            f"epoch {epoch + 1}/{self.config.epochs} loss {total / len(items):.3f} seconds {seconds:.1f}"
        )

    def _step(self, batch: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        features, target = zip(*batch, strict=True)
        lengths = [torch.tensor([len(x) for x in part], device=self.device) for part in (features, target)]
        loss, _, _ = self.model(
            pad_sequence(features, batch_first=True).to(self.device), lengths[0],
            pad_sequence(target, batch_first=True, padding_value=-1).to(self.device), lengths[1],
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return loss.item()

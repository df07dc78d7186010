"""Training of the ECAPA-TDNN attacker on a data directory (original speech, or anonymized for a semi-informed one).

The recipe is the VoicePrivacy Challenge 2024's, [vpc24]: random crops of 3 s, additive angular margin, Adam, 10 epochs
of 256, a held-out tenth of the utterances. Differs from [vpc24]:
  * the learning rate warms up, peaks and decays; there, a cyclic schedule of 65,000 steps never leaves its warm-up
    (about 2e-3 after the last epoch, which is our peak);
  * the best epoch on the held-out part is kept, not the last;
  * everything is seeded: one seed, one model (bit for bit on a CPU);
  * features are computed once, so the 80 dB floor is the utterance's and not the crop's;
  * utterances shorter than a crop are repeated instead of dropped; speakers come from `utt2spk`, not from file names.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from ..config import digest, save, to_dict
from ..errors import UserError
from ..log import get_logger, progress
from ..seed import generator, key
from .encoders import SAMPLE_RATE, EcapaModelConfig, LogMel, build_ecapa

if TYPE_CHECKING:
    from ..data.datadir import DataDir

log = get_logger(__name__)


@dataclass(frozen=True)
class EcapaTrainConfig:
    """How to train; the defaults are the full-size attacker."""

    model: EcapaModelConfig = field(default_factory=EcapaModelConfig)
    crop_s: float = 3.0  # seconds
    batch_size: int = 256  # crops
    epochs: int = 10  # an epoch draws duration / crop_s crops (at least one) of each utterance
    max_lr: float = 2e-3  # at the end of the warm-up
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 2e-6
    max_grad_norm: float = 5.0
    margin: float = 0.2  # radians
    scale: float = 30.0
    dev_share: float = 0.1  # of the utterances, held out
    speeds: tuple[float, ...] = (1.0,)  # each factor but 1 adds every speaker once more, as a new speaker

    def __post_init__(self) -> None:
        if self.batch_size < 4 or self.epochs < 1 or self.crop_s < 0.1 or not self.speeds:
            raise UserError(
                f"batch_size {self.batch_size}, epochs {self.epochs}, crop_s {self.crop_s}, speeds {self.speeds}",
                expected="at least 4 crops of at least 0.1 s, one epoch, one speed",
            )


@dataclass(frozen=True)
class Segments:
    """Stretches of the feature file with their speakers: (N,) arrays each, in frames."""

    start: np.ndarray
    frames: np.ndarray
    speaker: np.ndarray

    def take(self, rows: np.ndarray) -> Segments:
        """The segments of these indices, in their order."""
        return Segments(self.start[rows], self.frames[rows], self.speaker[rows])


def train(data: DataDir, out: Path, config: EcapaTrainConfig, seed: int, device: str = "cpu") -> None:
    """Train an attacker; called again after a kill, it goes on after the last finished epoch.

    Args:
        data: a data directory of contract "audio" or better; `utt2spk` names the classes.
        out: gets `model.safetensors` (best epoch), `config.yaml` (its sizes), `train.yaml` and `train.log`.
        config: see `EcapaTrainConfig`.
        seed: decides the weights, the held-out part and every crop.
        device: torch device.

    Raises:
        UserError: if there are fewer than two speakers, or the loss diverges.
    """
    out.mkdir(parents=True, exist_ok=True)
    speakers = sorted(set(data.table("utt2spk").values()))
    if len(speakers) < 2:
        raise UserError(
            f"{len(speakers)} speaker(s)", path=data.path / "utt2spk", expected="two or more to train"
        )
    features, whole = _features(data, speakers, out, config)
    crop = round(config.crop_s * 100)
    training, dev = split(whole, config.dev_share, crop, generator(seed, "asv", "split", "held out"))
    trainer = _Trainer(config, len(speakers) * len(config.speeds), seed, device)
    identity = digest([to_dict(config), seed, str(device), whole.start.tolist(), whole.speaker.tolist()])
    first = trainer.resume(out / "checkpoint.pt", identity)
    save(config, out / "train.yaml")
    save(config.model, out / "config.yaml")
    for epoch in range(first, config.epochs):
        trainer.epoch(epoch, features, training, dev, crop)
        if trainer.best_epoch == epoch:
            partial = out / "model.safetensors.partial"
            partial.write_bytes(to_bytes(trainer.model.state_dict()))
            partial.replace(out / "model.safetensors")
        trainer.checkpoint(out / "checkpoint.pt", identity, epoch + 1)
        (out / "train.log").write_text("".join(f"{line}\n" for line in trainer.lines), encoding="utf-8")
    for name in ("checkpoint.pt", "features.f16", "features.npy"):
        (out / name).unlink(missing_ok=True)


def split(whole: Segments, share: float, crop: int, rng: np.random.Generator) -> tuple[Segments, Segments]:
    """Hold out utterances at random, never a speaker's last one; speakers are shared by both parts, as in [vpc24].

    Where that leaves nothing to hold out (one utterance a speaker), the end of every utterance is held out instead: a
    crop or `share` of it, whichever is longer, but never more than half.

    Returns:
        training and held-out segments; no frame is in both.
    """
    wanted = max(1, round(share * len(whole.start)))
    left = Counter(whole.speaker.tolist())
    held = np.zeros(len(whole.start), bool)
    for row in rng.permutation(len(whole.start)):
        if held.sum() == wanted:
            break
        if left[whole.speaker[row]] > 1:
            left[whole.speaker[row]] -= 1
            held[row] = True
    if held.any():
        return whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
    tail = np.minimum(whole.frames // 2, np.maximum(crop, np.round(share * whole.frames).astype(int)))
    body = whole.frames - tail
    return Segments(whole.start, body, whole.speaker), Segments(whole.start + body, tail, whole.speaker)


def learning_rate(step: int, steps: int, config: EcapaTrainConfig) -> float:
    """Linear warm-up to `max_lr`, then half a cosine to 1 % of it; `step` counts from 0 to `steps` - 1."""
    rise = max(1, round(config.warmup * steps))
    if step < rise:
        return config.max_lr * (step + 1) / rise
    phase = (step - rise) / max(1, steps - 1 - rise)
    return config.max_lr * (0.505 + 0.495 * math.cos(math.pi * phase))


def crops(
    features: np.ndarray, segments: Segments, length: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One random crop of each segment, repeating the shorter ones.

    Returns:
        (B, length, mel_bands) float16 log-mel features and (B,) speaker indices.
    """
    room = np.where(segments.frames >= length, segments.frames - length + 1, segments.frames)
    offset = (rng.random(len(room)) * room).astype(np.int64)
    inside = (offset[:, None] + np.arange(length)) % segments.frames[:, None]
    batch = features[segments.start[:, None] + inside]
    return torch.from_numpy(np.ascontiguousarray(batch)), torch.from_numpy(segments.speaker)


def _features(
    data: DataDir, speakers: list[str], out: Path, config: EcapaTrainConfig
) -> tuple[np.ndarray, Segments]:
    """Compute (or find, after a kill) the features of all utterances at all speeds: one float16 file, memory-mapped.

    Half precision keeps decibels to 0.06; 360 hours take 21 GB on disk and none in memory beyond the page cache.
    """
    index, values = out / "features.npy", out / "features.f16"
    if not index.exists():
        rows = []
        utt2spk = data.table("utt2spk")
        log_mel = LogMel(config.model.mel_bands)
        with open(values, "wb") as file:
            for utt in progress(data.utts, total=len(data.utts), desc="features"):
                wav = data.load(utt)
                for copy, speed in enumerate(config.speeds):
                    changed = wav if speed == 1 else soxr.resample(wav, SAMPLE_RATE * speed, SAMPLE_RATE)
                    (feature,) = log_mel([log_mel.condition(changed)])
                    file.write(feature.half().numpy().tobytes())
                    rows.append((len(feature), copy * len(speakers) + speakers.index(utt2spk[utt])))
        with open(index.with_suffix(".partial"), "wb") as file:
            np.save(file, np.array(rows, np.int64))
        index.with_suffix(".partial").replace(index)
    frames, speaker = np.load(index).T
    features = np.memmap(values, np.float16, "r", shape=(int(frames.sum()), config.model.mel_bands))
    return features, Segments(np.cumsum(frames) - frames, frames, speaker)


class _Trainer:
    """Model, classifier, optimizer and the state that a checkpoint holds."""

    def __init__(self, config: EcapaTrainConfig, classes: int, seed: int, device: str) -> None:
        from speechbrain.lobes.models.ECAPA_TDNN import Classifier
        from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

        self.config, self.seed, self.device = config, seed, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "asv", "ecapa", "weights") % 2**63)
            self.model = build_ecapa(config.model).to(device)
            classifier = Classifier(config.model.embedding_dim, out_neurons=classes)
        self.classifier = classifier.to(device)  # cosines with one weight vector a speaker
        self.loss = LogSoftmaxWrapper(AdditiveAngularMargin(margin=config.margin, scale=config.scale))
        self.parameters = [*self.model.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.max_lr, weight_decay=config.weight_decay)
        self.best_loss, self.best_epoch = math.inf, -1
        self.lines: list[str] = []

    def _modules(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"model": self.model, "classifier": self.classifier, "optimizer": self.optimizer}

    def checkpoint(self, path: Path, identity: str, epochs: int) -> None:
        """Save the state after `epochs` finished epochs, atomically."""
        state = {name: module.state_dict() for name, module in self._modules().items()}
        state |= {"identity": identity, "epochs": epochs, "lines": self.lines}
        state |= {"best_loss": self.best_loss, "best_epoch": self.best_epoch}
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path, identity: str) -> int:
        """Load a checkpoint of the same training; returns the number of finished epochs."""
        if not path.exists():
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != identity:
            log.warning("%s is of another training: starting anew", path)
            return 0
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.best_loss, self.best_epoch, self.lines = state["best_loss"], state["best_epoch"], state["lines"]
        log.info("going on after epoch %d of %d", state["epochs"], self.config.epochs)
        return state["epochs"]

    def epoch(self, epoch: int, features: np.ndarray, training: Segments, dev: Segments, crop: int) -> None:
        """One pass over the training part, then the held-out part; appends a line to `lines`."""
        began = time.monotonic()
        rng = generator(self.seed, "asv", f"epoch {epoch}", "crops")
        rows = rng.permutation(
            np.repeat(np.arange(len(training.start)), np.maximum(1, training.frames // crop))
        )
        # Equal parts, so that no batch is too small for batch normalisation.
        batches = np.array_split(rows, -(-len(rows) // self.config.batch_size))
        total, rate = 0.0, 0.0
        self.model.train()
        work = _prefetch(features, training, batches, crop, rng)
        for step, (batch, target) in enumerate(progress(work, total=len(batches), desc=f"epoch {epoch + 1}")):
            rate = learning_rate(epoch * len(batches) + step, self.config.epochs * len(batches), self.config)
            total += self._step(batch, target, rate) * len(target)
        dev_loss, dev_error = self._evaluate(features, dev, crop)
        if not math.isfinite(total + dev_loss):
            raise UserError(f"the loss diverged in epoch {epoch + 1}", hint="lower max_lr")
        if dev_loss < self.best_loss:
            self.best_loss, self.best_epoch = dev_loss, epoch
        seconds = time.monotonic() - began
        line = (
            f"epoch {epoch + 1}/{self.config.epochs} steps {len(batches)} loss {total / len(rows):.4f} "
            f"dev_loss {dev_loss:.4f} dev_error {100 * dev_error:.2f}% lr {rate:.3g} seconds {seconds:.1f}"
        )
        log.info(line)
        self.lines.append(line)

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, F, mel_bands) decibels -> (B, 1, speakers) cosines; the mean of each crop is removed."""
        batch = batch.to(self.device).float()
        return self.classifier(self.model(batch - batch.mean(dim=1, keepdim=True)))

    def _step(self, batch: torch.Tensor, target: torch.Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(self._logits(batch), target[:, None].to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def _evaluate(self, features: np.ndarray, dev: Segments, crop: int) -> tuple[float, float]:
        """Mean loss and classification error on the held-out part; the same crops in every epoch."""
        self.model.eval()
        rng = generator(self.seed, "asv", "dev", "crops")
        parts = -(-len(dev.start) // self.config.batch_size)
        loss, errors = 0.0, 0
        for rows in np.array_split(np.arange(len(dev.start)), parts):
            batch, target = crops(features, dev.take(rows), crop, rng)
            logits, target = self._logits(batch), target.to(self.device)
            loss += self.loss(logits, target[:, None]).item() * len(rows)
            errors += int((logits[:, 0].argmax(dim=1) != target).sum())
        return loss / len(dev.start), errors / len(dev.start)


def _prefetch(
    features: np.ndarray, segments: Segments, batches: list[np.ndarray], crop: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The crops of each batch; the next one is read from disk while the model works on this one."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for rows in batches:
            following = pool.submit(crops, features, segments.take(rows), crop, rng)
            if pending is not None:
                yield pending.result()
            pending = following
        yield pending.result()

"""Training of an attacker's speaker model on a data directory (original speech, or anonymized for a semi-informed one).

The recipe is the VoicePrivacy Challenge 2024's, [vpc24]: random crops of 3 s, additive angular margin, Adam, 10 epochs
of 256, a held-out tenth of the utterances. Where [vpc24] defeats its own intention, `protocol: sound` does what was
intended and `protocol: vpc2024` what is done there; docs/attackers.md has each difference with its effect.

| | sound | vpc2024 |
|---|---|---|
| learning rate | warm-up, peak, decay | the start of a triangle of 2 x 65,000 steps: a rise without a peak |
| model kept | best epoch on the held-out part | last epoch |
| held out | utterances, never a speaker's last | the end of a shuffled list of utterances |
| short utterances | repeated up to a crop | dropped |
| crops of an utterance | duration / crop | its whole crops above a mean amplitude of 5e-4 |
| gradient clipping | yes | none (there: before the gradients exist) |
| silent ends | cut | kept |

Differs from [vpc24] under both: everything is seeded (one seed, one model, bit for bit on a CPU); features are computed
once, so the 80 dB floor is the utterance's and not the crop's; the batches of an epoch have equal sizes; speakers come
from `utt2spk`, not from file names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from ..config import digest, save, to_dict
from ..errors import UserError, suggest
from ..log import progress
from ..seed import generator, key
from .crops import Segments, crops, cut, loud_crops, split
from .encoders import SAMPLE_RATE, LogMel
from .speaker_nets import NetConfig, build, load_net
from .training import Resumable, warm_cosine, write_weights

if TYPE_CHECKING:
    from ..data.datadir import DataDir

PROTOCOLS = ("sound", "vpc2024")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the full-size attacker."""

    model: NetConfig = field(default_factory=NetConfig)
    protocol: str = "sound"  # sound | vpc2024: see the table above
    precision: str = (
        "fp32"  # fp32 | bf16: activations in bfloat16 | auto: bf16 where the device multiplies it
    )
    crop_s: float = 3.0  # seconds
    batch_size: int = 256  # crops
    epochs: int = 10  # an epoch draws duration / crop_s crops (at least one) of each utterance
    max_lr: float = 2e-3  # sound: at the end of the warm-up; vpc2024: at the top of the triangle
    warmup: float = 0.1  # sound: share of all steps
    cycle_steps: int = 65000  # vpc2024: from the bottom of the triangle to its top
    weight_decay: float = 2e-6
    max_grad_norm: float = 5.0  # sound
    margin: float = 0.2  # radians
    scale: float = 30.0
    dev_share: float = 0.1  # of the utterances, held out
    speeds: tuple[float, ...] = (1.0,)  # each factor but 1 adds every speaker once more, as a new speaker

    def __post_init__(self) -> None:
        for name, known in ((self.protocol, PROTOCOLS), (self.precision, (*TYPES, "auto"))):
            if name not in known:
                raise UserError(f"unknown protocol or precision '{name}'{suggest(name, known)}")
        if self.batch_size < 4 or self.epochs < 1 or self.crop_s < 0.1 or not self.speeds:
            raise UserError(
                f"batch_size {self.batch_size}, epochs {self.epochs}, crop_s {self.crop_s}, speeds {self.speeds}",
                expected="at least 4 crops of at least 0.1 s, one epoch, one speed",
            )

    @property
    def sound(self) -> bool:
        """Whether the protocol is ours."""
        return self.protocol == "sound"


def speakers_of(data: DataDir) -> list[str]:
    """The classes of a training: the speakers of `utt2spk`, sorted.

    Raises:
        UserError: if there are fewer than two.
    """
    speakers = sorted(set(data.table("utt2spk").values()))
    if len(speakers) < 2:
        raise UserError(
            f"{len(speakers)} speaker(s)", path=data.path / "utt2spk", expected="two or more to train"
        )
    return speakers


def train(
    data: DataDir,
    out: Path,
    config: TrainConfig,
    seed: int,
    device: str = "cpu",
    start: Path | None = None,
) -> None:
    """Train an attacker; called again after a kill, it goes on after the last finished epoch.

    Args:
        data: a data directory of contract "audio" or better; `utt2spk` names the classes.
        out: gets `model.safetensors`, `config.yaml` (its sizes), `train.yaml` and `train.log`.
        config: see `TrainConfig`.
        seed: decides the weights, the held-out part and every crop.
        device: torch device.
        start: a model to fine-tune; None: from scratch.

    Raises:
        UserError: if there are fewer than two speakers, no utterance is long enough, `start` is of other sizes, or the
            loss diverges.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = replace(config, precision=resolved(config.precision, device))
    speakers = speakers_of(data)
    trainer = _Trainer(config, len(speakers) * len(config.speeds), seed, device, start)
    features, whole = _features(data, speakers, out, config)
    crop = round(config.crop_s * 100)
    rng = generator(seed, "asv", "split", "held out")
    if config.sound:
        training, dev = split(whole, config.dev_share, crop, rng)
    else:
        training, dev = cut(whole, config.dev_share, rng)
    parts = [to_dict(config), seed, str(device), trainer.origin, whole.start.tolist(), whole.speaker.tolist()]
    identity = digest(parts)
    first = trainer.resume(out / "checkpoint.pt", identity)
    save(config, out / "train.yaml")
    save(config.model, out / "config.yaml")
    for epoch in range(first, config.epochs):
        trainer.epoch(epoch, features, training, dev, crop)
        if trainer.best_epoch == epoch or not config.sound:
            write_weights(trainer.model, out / "model.safetensors")
        trainer.checkpoint(out / "checkpoint.pt", identity, epoch + 1)
    for name in ("checkpoint.pt", "features.f16", "features.npy"):
        (out / name).unlink(missing_ok=True)


def resolved(precision: str, device: str) -> str:
    """What `auto` means on this device; without instructions for it, bfloat16 is slower than float32."""
    if precision != "auto":
        return precision
    fast = torch.cuda.is_bf16_supported() if "cuda" in str(device) else torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of a step, counted from 0 to `steps` - 1.

    sound: linear warm-up to `max_lr`, then half a cosine to 1 % of it. vpc2024: a triangle between 1e-8 and `max_lr`
    that takes `cycle_steps` to its top, however many steps there are.
    """
    if not config.sound:
        phase = (step + 1) / config.cycle_steps % 2
        return 1e-8 + (config.max_lr - 1e-8) * min(phase, 2 - phase)
    return warm_cosine(step, steps, config.max_lr, config.warmup)


def _features(
    data: DataDir, speakers: list[str], out: Path, config: TrainConfig
) -> tuple[np.ndarray, Segments]:
    """Compute (or find, after a kill) the features of all utterances at all speeds: one float16 file, memory-mapped.

    Half precision keeps decibels to 0.06; 360 hours take 21 GB on disk and none in memory beyond the page cache.

    Raises:
        UserError: if no utterance is long and loud enough for a crop (protocol vpc2024).
    """
    index, values = out / "features.npy", out / "features.f16"
    if not index.exists():
        rows = []
        utt2spk, number = data.table("utt2spk"), {speaker: i for i, speaker in enumerate(speakers)}
        log_mel = LogMel(config.model.mel_bands)
        with open(values, "wb") as file:
            for utt in progress(data.utts, total=len(data.utts), desc="features"):
                wav = data.load(utt)
                for copy, speed in enumerate(config.speeds):
                    changed = wav if speed == 1 else soxr.resample(wav, SAMPLE_RATE * speed, SAMPLE_RATE)
                    draws = None if config.sound else loud_crops(changed, config.crop_s)
                    if draws == 0:
                        continue
                    (feature,) = log_mel([log_mel.condition(changed) if config.sound else changed])
                    file.write(feature.half().numpy().tobytes())
                    draws = max(1, len(feature) // round(100 * config.crop_s)) if draws is None else draws
                    rows.append((len(feature), copy * len(speakers) + number[utt2spk[utt]], draws))
        if len(rows) < 2:
            raise UserError(
                "no two utterances with a loud crop", path=data.path, expected=f"{config.crop_s} s each"
            )
        with open(index.with_suffix(".partial"), "wb") as file:
            np.save(file, np.array(rows, np.int64))
        index.with_suffix(".partial").replace(index)
    frames, speaker, draws = np.load(index).T
    features = np.memmap(values, np.float16, "r", shape=(int(frames.sum()), config.model.mel_bands))
    return features, Segments(np.cumsum(frames) - frames, frames, speaker, draws)


class _Trainer(Resumable):
    """Model, classifier, optimizer and the state that a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, classes: int, seed: int, device: str, start: Path | None = None
    ) -> None:
        from speechbrain.lobes.models.ECAPA_TDNN import Classifier
        from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

        self.config, self.seed = config, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "asv", "ecapa", "weights") % 2**63)
            self.model, self.origin = build(config.model), None
            classifier = Classifier(config.model.embedding_dim, out_neurons=classes)
        if start is not None:
            sizes, self.model, self.origin = load_net(start)
            if sizes != config.model:
                raise UserError(
                    f"cannot be fine-tuned as {config.model}", path=start, expected="the same sizes"
                )
        self.model = self.model.to(device)
        self.classifier = classifier.to(device)  # cosines with one weight vector a speaker
        self.loss = LogSoftmaxWrapper(AdditiveAngularMargin(margin=config.margin, scale=config.scale))
        self.parameters = [*self.model.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=config.max_lr, weight_decay=config.weight_decay, fused=True
        )
        self.best_loss, self.best_epoch = math.inf, -1
        modules = {"model": self.model, "classifier": self.classifier, "optimizer": self.optimizer}
        super().__init__(modules, ("best_loss", "best_epoch"), device)

    def epoch(self, epoch: int, features: np.ndarray, training: Segments, dev: Segments, crop: int) -> None:
        """One pass over the training part, then the held-out part; appends a line to `lines`."""
        began = time.monotonic()
        rng = generator(self.seed, "asv", f"epoch {epoch}", "crops")
        rows = rng.permutation(np.repeat(np.arange(len(training.start)), training.draws))
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
        self.say(
            f"epoch {epoch + 1}/{self.config.epochs} steps {len(batches)} loss {total / len(rows):.4f} "
            f"dev_loss {dev_loss:.4f} dev_error {100 * dev_error:.2f}% lr {rate:.3g} seconds {seconds:.1f}"
        )

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, F, mel_bands) decibels -> (B, 1, speakers) cosines; the mean of each crop is removed."""
        batch = batch.to(self.device).float()
        centred = batch - batch.mean(dim=1, keepdim=True)
        return self.classifier(self.model(centred.to(TYPES[self.config.precision])).float())

    def _step(self, batch: torch.Tensor, target: torch.Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(self._logits(batch), target[:, None].to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.sound:
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

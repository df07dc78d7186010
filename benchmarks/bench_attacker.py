"""Speed of the attackers: an epoch of training against SpeechBrain's stock way; embeddings in batches, one by one.

The baseline is SpeechBrain's speaker recipe as VoicePrivacy runs it: a `Brain`, a `DynamicItemDataset` that reads a
random crop from each WAV file in every epoch, `Fbank` and `InputNormalization` on the fly, `ECAPA_TDNN` and its
classifier as they come. Ours computes the features once (its seconds are in the line, not in the ratio of epochs) and
builds the same model with the replacements of `speaker_nets`. Same data, model, crops, batches, loss and optimizer.

python benchmarks/bench_attacker.py [--repeats 2] [--threads 2] [--size mini] [--precision fp32]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from espnet_musa import config
from espnet_musa.config import ROOT
from espnet_musa.data.datadir import DataDir, write_datadir
from espnet_musa.evaluators import ecapa_train
from espnet_musa.evaluators.ecapa_train import TrainConfig, speakers_of
from espnet_musa.evaluators.encoders import SAMPLE_RATE, LogMel, NetEncoder


def corpus(place: Path, speakers: int, utts: int, seconds: tuple[float, float]) -> DataDir:
    """Noise with a slow amplitude: as long as speech, and cheaper to make."""
    rng = np.random.default_rng(0)
    (place / "wav").mkdir(parents=True)
    tables: dict[str, dict] = {"wav.scp": {}, "utt2spk": {}, "utt2dur": {}, "spk2gender": {}}
    for s in range(speakers):
        tables["spk2gender"][f"s{s:02}"] = "fm"[s % 2]
        for u in range(utts):
            frames = round(rng.uniform(*seconds) * SAMPLE_RATE)
            path = place / "wav" / f"s{s:02}-{u:02}.wav"
            envelope = 0.2 + 0.1 * np.sin(np.arange(frames) / 1500)
            sf.write(path, envelope * rng.standard_normal(frames).clip(-3, 3) / 3, SAMPLE_RATE, "PCM_16")
            tables["wav.scp"][path.stem] = str(path)
            tables["utt2spk"][path.stem] = f"s{s:02}"
            tables["utt2dur"][path.stem] = frames / SAMPLE_RATE
    write_datadir(place, tables, {"corpus": "noise", "role": "attack_train"})
    return DataDir.read(place, "audio")


class Ours:
    """Our trainer; `epoch` trains one."""

    def __init__(self, data: DataDir, settings: TrainConfig, place: Path) -> None:
        speakers = speakers_of(data)
        LogMel(settings.model.mel_bands)  # imports SpeechBrain
        start = time.perf_counter()
        self.features, self.segments = ecapa_train._features(data, speakers, place, settings)
        self.features_s = time.perf_counter() - start
        self.trainer = ecapa_train._Trainer(settings, len(speakers), 0, "cpu")
        self.trainer._evaluate = lambda *_: (0.0, 0.0)  # the baseline has no held-out part either
        self.crop = round(100 * settings.crop_s)

    def epoch(self) -> None:
        """One pass."""
        self.trainer.epoch(0, self.features, self.segments, self.segments, self.crop)


def stock(data: DataDir, settings: TrainConfig, draws: np.ndarray) -> Callable[[], None]:
    """SpeechBrain's stock training: what to call for an epoch with `draws` crops of each utterance."""
    import speechbrain as sb
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
    from speechbrain.processing.features import InputNormalization

    speakers, utt2spk = speakers_of(data), data.table("utt2spk")
    length, size = round(settings.crop_s * SAMPLE_RATE), settings.model
    rows = {
        f"{utt}_{k}": {"wav": str(data.audio_path(utt)), "spk": speakers.index(utt2spk[utt])}
        for utt, count in zip(data.utts, draws, strict=True)
        for k in range(count)
    }

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("sig")
    def crop(wav: str) -> torch.Tensor:
        frames = sf.info(wav).frames
        first = np.random.randint(max(1, frames - length + 1))
        part, _ = sf.read(wav, length, first, dtype="float32")
        return torch.from_numpy(np.resize(part, length))

    class Speaker(sb.Brain):
        def compute_forward(self, batch, stage):
            wavs, lens = batch.sig
            features = self.modules.compute_features(wavs)
            features = self.modules.mean_var_norm(features, lens)
            return self.modules.classifier(self.modules.embedding_model(features))

        def compute_objectives(self, predictions, batch, stage):
            return self.hparams.compute_cost(predictions, batch.spk[:, None])

    net = ECAPA_TDNN(
        size.mel_bands, channels=[size.channels] * 4 + [size.pooled_channels],
        kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1], attention_channels=size.attention_channels,
        res2net_scale=size.res2net_scale, se_channels=size.se_channels, lin_neurons=size.embedding_dim,
    )  # fmt: skip
    modules = {
        "compute_features": Fbank(n_mels=size.mel_bands),
        "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
        "embedding_model": net,
        "classifier": Classifier(size.embedding_dim, out_neurons=len(speakers)),
    }
    cost = LogSoftmaxWrapper(AdditiveAngularMargin(margin=settings.margin, scale=settings.scale))
    brain = Speaker(
        modules,
        opt_class=lambda p: torch.optim.Adam(p, lr=settings.max_lr, weight_decay=settings.weight_decay),
        hparams={"compute_cost": cost},
    )
    dataset = DynamicItemDataset(rows, [crop], ["id", "sig", "spk"])
    batches = -(-len(rows) // settings.batch_size)
    loader = {"batch_size": -(-len(rows) // batches), "shuffle": True}
    return lambda: brain.fit(range(1), dataset, train_loader_kwargs=loader, progressbar=False)


def compare(
    what: str, ours: Callable[[], object], baseline: Callable[[], object], repeats: int, **more
) -> None:
    """Alternate the two, keep the best of each, print one JSON line; one unmeasured call of each comes first."""
    best = [np.inf, np.inf]
    for turn in range(repeats + 1):
        for i, run in enumerate((ours, baseline)):
            start = time.perf_counter()
            run()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    line = {"what": what, "ours_s": round(best[0], 3), "baseline_s": round(best[1], 3)}
    print(json.dumps({**line, "ratio": round(best[1] / best[0], 2), **more}), flush=True)


def main() -> None:
    """Print one JSON line per comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many runs counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=("mini", "full"), default="mini", help="of the model")
    parser.add_argument("--precision", choices=ecapa_train.PRECISIONS, default="fp32", help="of ours")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    name = {"mini": "asv_ecapa_mini", "full": "asv_ecapa"}[args.size]
    settings = config.load(TrainConfig, ROOT / "conf" / "train" / f"{name}.yaml")
    settings = replace(settings, speeds=(1.0,), precision=args.precision, batch_size=32)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shape = (16, 6, (2.0, 6.0)) if args.size == "mini" else (8, 4, (3.0, 6.0))
        data = corpus(place / "data", *shape)
        (place / "work").mkdir()
        ours = Ours(data, settings, place / "work")
        crops = int(ours.segments.draws.sum())
        what = f"training epoch, {args.size} ECAPA-TDNN, {crops} crops of {settings.crop_s:g} s, {args.precision}"
        theirs = stock(data, settings, ours.segments.draws)
        compare(what, ours.epoch, theirs, args.repeats, features_once_s=round(ours.features_s, 3))
        config.save(settings.model, place / "model" / "config.yaml")
        weights = ecapa_train.to_bytes(ours.trainer.model.state_dict())
        (place / "model" / "model.safetensors").write_bytes(weights)
        encoder, wavs = NetEncoder(place / "model"), sorted((data.load(utt) for utt in data.utts), key=len)
        compare(
            f"embedding {len(wavs)} utterances in batches, {args.size} ECAPA-TDNN",
            lambda: encoder.embed(wavs), lambda: [encoder.embed([wav]) for wav in wavs], args.repeats,
        )  # fmt: skip


if __name__ == "__main__":
    main()

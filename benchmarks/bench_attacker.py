"""Speed of the attackers: an epoch of training against SpeechBrain's stock way; embeddings in batches, one by one.

The baseline is SpeechBrain's speaker recipe as VoicePrivacy 2024 runs it: a `Brain`, a `DynamicItemDataset` that reads
a random crop from a WAV file for each row in every epoch, `Fbank` and `InputNormalization` on the fly, `ECAPA_TDNN` and
its classifier as they come, then the rows of the held-out tenth. No augmentation (SpeechBrain's own recipe for VoxCeleb
has one, which is several times the work for other data), no checkpoint on either side. Ours has computed the features
once (its seconds are in the line, not in the ratio of epochs), computes the network with `tdnn`, and evaluates one crop
of each held-out utterance. Same data, model, number of crops, batches, loss and optimizer.

Seconds and ratio are of CPU time, all threads together, which other work on the machine disturbs least; `ratio_wall` is
of the time that passes.

python benchmarks/bench_attacker.py [--repeats 3] [--threads 2] [--size mini] [--precision fp32 bf16]
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
from espnet_musa.evaluators.crops import split
from espnet_musa.evaluators.ecapa_train import TrainConfig, speakers_of
from espnet_musa.evaluators.encoders import SAMPLE_RATE, LogMel, NetEncoder
from espnet_musa.evaluators.training import write_weights


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
        place.mkdir()
        start = time.perf_counter()
        self.features, whole = ecapa_train._features(data, speakers, place, settings)
        self.features_s = time.perf_counter() - start
        self.crop = round(100 * settings.crop_s)
        self.parts = split(whole, settings.dev_share, self.crop, np.random.default_rng(0))
        # The rows of the stock recipe: the utterances of the two parts, each as often as it has crops.
        self.rows = [
            np.repeat(np.array(data.utts)[np.searchsorted(whole.start, part.start)], part.draws)
            for part in self.parts
        ]
        self.trainer = ecapa_train._Trainer(settings, len(speakers), 0, "cpu")

    def epoch(self) -> None:
        """One pass."""
        self.trainer.epoch(0, self.features, *self.parts, self.crop)


def stock(data: DataDir, settings: TrainConfig, rows: list[np.ndarray]) -> Callable[[], None]:
    """SpeechBrain's stock training: what to call for an epoch over these utterances, training and held-out ones."""
    import speechbrain as sb
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
    from speechbrain.processing.features import InputNormalization

    speakers, utt2spk = speakers_of(data), data.table("utt2spk")
    length, size = round(settings.crop_s * SAMPLE_RATE), settings.model

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
    sets = [
        DynamicItemDataset(
            {
                f"{utt}_{k}": {"wav": str(data.audio_path(utt)), "spk": speakers.index(utt2spk[utt])}
                for k, utt in enumerate(part)
            },
            [crop],
            ["id", "sig", "spk"],
        )
        for part in rows
    ]
    batches = -(-len(rows[0]) // settings.batch_size)
    loader = {"batch_size": -(-len(rows[0]) // batches)}
    return lambda: brain.fit(
        range(1),
        *sets,
        train_loader_kwargs=loader | {"shuffle": True},
        valid_loader_kwargs=loader,
        progressbar=False,
    )


def compare(what: str, runs: dict[str, Callable[[], object]], repeats: int, **more) -> None:
    """Alternate the runs, the baseline last, keep the best of each, print one JSON line for each of the others.

    One unmeasured call of each comes first.
    """
    best = {name: [np.inf, np.inf] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time(), time.perf_counter()
            run()
            spent = time.process_time() - start[0], time.perf_counter() - start[1]
            if turn:
                best[name] = [min(pair) for pair in zip(best[name], spent, strict=True)]
    *ours, (_, (cpu, wall)) = best.items()
    for name, (cpu_s, wall_s) in ours:
        line = {
            "what": f"{what}, {name}".rstrip(", "),
            "ours_s": round(cpu_s, 3),
            "baseline_s": round(cpu, 3),
        }
        ratios = {"ratio": round(cpu / cpu_s, 2), "ratio_wall": round(wall / wall_s, 2)}
        print(json.dumps({**line, **ratios, **more}), flush=True)


def main() -> None:
    """Print one JSON line per comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=("mini", "full"), default="mini", help="of the model")
    known = tuple(ecapa_train.TYPES)
    parser.add_argument("--precision", choices=known, nargs="+", default=known, help="of ours")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    name = {"mini": "asv_ecapa_mini", "full": "asv_ecapa"}[args.size]
    settings = config.load(TrainConfig, ROOT / "conf" / "train" / f"{name}.yaml")
    settings = replace(settings, speeds=(1.0,), batch_size=32)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shape = (16, 6, (2.0, 6.0)) if args.size == "mini" else (8, 4, (3.0, 6.0))
        data = corpus(place / "data", *shape)
        ours = {p: Ours(data, replace(settings, precision=p), place / p) for p in args.precision}
        one = ours[args.precision[0]]
        runs = {name: side.epoch for name, side in ours.items()} | {"stock": stock(data, settings, one.rows)}
        what = f"training epoch, {args.size} ECAPA-TDNN, {len(one.rows[0])} crops of {settings.crop_s:g} s"
        compare(what, runs, args.repeats, features_once_s=round(one.features_s, 3))
        config.save(settings.model, place / "model" / "config.yaml")
        write_weights(one.trainer.model, place / "model" / "model.safetensors")
        encoder, wavs = NetEncoder(place / "model"), sorted((data.load(utt) for utt in data.utts), key=len)
        runs = {"": lambda: encoder.embed(wavs), "one by one": lambda: [encoder.embed([wav]) for wav in wavs]}
        compare(f"embedding {len(wavs)} utterances in batches, {args.size} ECAPA-TDNN", runs, args.repeats)


if __name__ == "__main__":
    main()

"""What stage 4 does differently for a codec and for a vocoder; `train.py` has what they share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..codec import archive, vocoder_archive
from ..codec.config import VocoderConfig
from ..config import to_dict
from ..data.datadir import DataDir
from ..errors import UserError
from ..tokenizer import store
from .train_config import Job
from .train_f0 import VOICES, save_voices, track

if TYPE_CHECKING:
    from torch import nn

CODEBOOK = "codebook.safetensors"  # of the acoustic model, for the time of a training


class CodecTraining:
    """MUSA's codec, with teacher tokens if a loss wants them.

    Args:
        job: what is trained.
        root: the recipe's directory.
    """

    conf = "codec_conf"

    def __init__(self, job: Job, root: Path) -> None:
        self.job, self.root = job, root
        self.tokens = job.tokens if job.conf.lambda_sem else None

    @property
    def inputs(self) -> list[tuple[str, str, str]]:
        """Besides audio and speakers, of the files that are written: name, input, ESPnet's type."""
        found = [("tokens.scp", "semantic", "kaldi_ark")] if self.tokens else []
        return [*found, ("f0.scp", "f0", "kaldi_ark")] if self.job.conf.sourced else found

    @property
    def task(self) -> Any:
        """ESPnet's task."""
        from ..tasks.musa import MusaTask

        return MusaTask

    def track(self, sets: list[DataDir], place: Path) -> dict[str, str]:
        """F0 of all utterances, utterance -> <ark>:<offset>, in Hz; none for a decoder that does not render it."""
        return track(sets, place, self.job.f0, normalize=False) if self.job.conf.sourced else {}

    def options(self, partial: Path, n_speakers: int, n_tokens: int) -> dict[str, Any]:
        """Options of the task that depend on the data."""
        own = self.job.settings["codec_conf"] | {"n_speakers": n_speakers, "n_tokens": n_tokens}
        return {"codec_conf": own}

    def publish(
        self,
        partial: Path,
        model: nn.Module,
        facts: dict[str, Any],
        sets: Iterable[DataDir],
        device: str,
    ) -> None:
        """The archive with its speakers."""
        import torch

        from ..codec.speaker_table import embed_speakers

        generator = model.codec.generator.to(device).eval()
        conf = model.codec.generator_conf
        speakers = embed_speakers(generator, sets)
        if generator.centered:
            mean = speakers.embeddings.mean(axis=0)
            generator.recenter(torch.from_numpy(mean))
            speakers = replace(speakers, embeddings=speakers.embeddings - mean)
        archive.save(partial, generator_conf=conf, state=generator.state_dict(), facts=facts)
        archive.save_speakers(partial, speakers)


class VocoderTraining:
    """The vocoder of B5 and B6, with its acoustic model's codes and F0; see `CodecTraining`."""

    conf = "vocoder_conf"
    inputs = (("tokens.scp", "tokens", "kaldi_ark"), ("f0.scp", "f0", "kaldi_ark"))

    def __init__(self, job: Job, root: Path) -> None:
        self.job, self.root, self.tokens = job, root, job.tokens
        self.sourced = job.conf.generator_conf.get("backbone") == "source_filter"
        self.acoustic = root / "exp" / "tokens" / job.tokens / store.MODEL

    @property
    def task(self) -> Any:
        """ESPnet's task."""
        from ..tasks.vocoder import VocoderTask

        return VocoderTask

    def track(self, sets: list[DataDir], place: Path) -> dict[str, str]:
        """F0 of all utterances, utterance -> <ark>:<offset>; for a vocoder that renders Hz in Hz, and its voices'."""
        f0 = track(sets, place, self.job.f0, normalize=not (self.sourced or self.job.conf.compat))
        if self.sourced:
            save_voices(sets, place)
        return f0

    def options(self, partial: Path, n_speakers: int, n_tokens: int) -> dict[str, Any]:
        """Options of the task that depend on the data; leaves the codebook in `partial`.

        Raises:
            UserError: if the tokens are those of a tokenizer that has no codebook to speak with.
        """
        from safetensors.torch import save_file

        codebook = getattr(store.load(self.acoustic, "cpu"), "codebook", None)
        if codebook is None:
            raise UserError(
                f"the tokenizer of '{self.tokens}' has no codebook for a vocoder", path=self.acoustic,
                expected="tokens of an acoustic model (tokenizer: vq_bottleneck)",
            )  # fmt: skip
        save_file({"codebook": codebook.detach().float().contiguous()}, partial / CODEBOOK)
        sizes = {"n_speakers": n_speakers, "n_codes": len(codebook), "code_dim": codebook.shape[1]}
        own = self.job.settings.get("vocoder_conf", {}) | sizes
        voices = str(partial / VOICES) if self.sourced else None  # written by `save_voices`
        return {"vocoder_conf": own, "codebook": str(partial / CODEBOOK), "voices": voices}

    def publish(
        self,
        partial: Path,
        model: nn.Module,
        facts: dict[str, Any],
        sets: Iterable[DataDir],
        device: str,
    ) -> None:
        """The archive with its speakers and the acoustic model; config.yaml no longer names what only training read."""
        genders = {spk: g for data in sets for spk, g in data.tables.get("spk2gender", {}).items()}
        speakers = sorted({spk for data in sets for spk in data.table("utt2spk").values()})
        facts = facts | {"f0": to_dict(self.job.f0), "peak": self.job.settings.get("peak", 0.95)}
        facts |= {"speakers": {spk: genders.get(spk, "") for spk in speakers}}
        generator = model.codec.generator
        vocoder_archive.save(
            partial, generator_conf=model.codec.generator_conf, state=generator.state_dict(), facts=facts
        )
        shutil.copytree(
            self.acoustic, partial / vocoder_archive.ACOUSTIC, dirs_exist_ok=True,
            ignore=lambda _, names: [name for name in names if not vocoder_archive.of_acoustic(name)],
        )  # fmt: skip
        for name in (CODEBOOK, VOICES):
            (partial / name).unlink(missing_ok=True)
        file = partial / "config.yaml"
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) | {"codebook": None, "voices": None}
        file.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")


def training_of(job: Job, root: Path) -> CodecTraining | VocoderTraining:
    """The one of the two that a configuration asks for."""
    return (VocoderTraining if isinstance(job.conf, VocoderConfig) else CodecTraining)(job, root)

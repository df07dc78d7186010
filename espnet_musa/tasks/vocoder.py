"""The vocoder of B5 and B6 as an ESPnet task; `python -m espnet_musa.tasks.vocoder` takes ESPnet's training options.

Stage 4 calls it with data files that it writes (`pipeline/train.py`). Besides ESPnet's keys a training configuration
may hold `segment_length`, `peak` and `f0_conf`; `vocoder_conf` are the keyword arguments of `VqBnVocoder`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.gan_codec.abs_gan_codec import AbsGANCodec
from espnet2.tasks.gan_codec import GANCodecTask
from espnet2.train.class_choices import ClassChoices
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str_or_none
from torch import Tensor

from ..codec.frames import fit_frames, frames_of
from ..codec.vocoder import Vocoder
from ..codec.vqbn import VqBnVocoder
from ..errors import UserError
from .musa import DEFAULTS, MusaModel, MusaTask
from .preprocessor import VocoderPreprocessor
from .sampling import LanguageSampling
from .trainer import LoggedTask, MusaTrainer

vocoder_choices = ClassChoices(
    "vocoder", classes={"vqbn": VqBnVocoder}, type_check=AbsGANCodec, default="vqbn"
)


class VocoderModel(MusaModel):
    """A vocoder in the place of ESPnet's codec."""

    def listen(self, wav: Tensor, data: dict[str, Any]) -> dict[str, Tensor]:
        """What TensorBoard gets of an utterance (T,): made with its speaker's voice, and with the next one's."""
        frames = frames_of(len(wav))
        codes = torch.from_numpy(fit_frames(np.asarray(data["tokens"], np.int64), frames)).to(wav.device)
        f0 = torch.from_numpy(np.array(data["f0"][:frames], np.float32)).to(wav.device)
        own = int(data["sids"][0])
        z = self.codec.heard(f0[None], torch.tensor([own], device=wav.device))
        voices = {"reconstructed": own, "anonymized": (own + 1) % self.codec.generator.n_speakers}
        return {
            name: self.codec.generator(codes[None], z, torch.tensor([voice], device=wav.device))[0]
            for name, voice in voices.items()
        }


class VocoderTask(LanguageSampling, LoggedTask, GANCodecTask):
    """Two optimizers (generator, discriminators), four inputs.

    | name | ESPnet type | content |
    |---|---|---|
    | audio | sound | 16 kHz |
    | sids | text_int | the speaker's number, 0 to n_speakers - 1 |
    | tokens | kaldi_ark | content codes of the acoustic model, one each 320 samples |
    | f0 | kaldi_ark | z-scores over the utterance's voiced frames, 0 where unvoiced, (F,); with `compat` or pulses Hz |
    """

    trainer = MusaTrainer
    class_choices_list = [vocoder_choices]  # noqa: RUF012 (ESPnet's name and type)
    build_collate_fn = MusaTask.build_collate_fn

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """ESPnet's options of a GAN codec, and those of the vocoder; defaults that suit them."""
        super().add_task_arguments(parser)
        parser.add_argument("--segment_length", type=int, default=16320, help="samples of a crop")
        parser.add_argument("--peak", type=float, default=0.95, help="of each utterance; 0: as it is")
        parser.add_argument("--f0_conf", action=NestedDictAction, default={}, help="tracker, floor, ceiling")
        parser.add_argument(
            "--codebook",
            type=str_or_none,
            default=None,
            help="safetensors with `codebook` (Q, C); none: zero",
        )
        parser.add_argument(
            "--voices",
            type=str_or_none,
            default=None,
            help="safetensors with `f0_mean` and `f0_sd` (S,) in Hz, for backbone source_filter; none: any",
        )
        parser.set_defaults(**DEFAULTS)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any]:
        """Crops of audio, codes and F0."""
        return VocoderPreprocessor(
            train, args.segment_length, args.vocoder_conf.get("n_speakers", 0), args.peak
        )

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that must be there."""
        return ("sids", "tokens", "f0") if inference else ("audio", "sids", "tokens", "f0")

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> VocoderModel:
        """The model with the acoustic model's codebook; without discriminators, their turn is skipped.

        Raises:
            UserError: if the codebook, or the F0 of the voices, is not there or of another size.
        """
        vocoder = vocoder_choices.get_class(args.vocoder)(**args.vocoder_conf)
        if args.codebook is not None:
            _fill(vocoder.generator, "codebook", Path(args.codebook))
        if args.voices is not None:
            for name in ("f0_mean", "f0_sd"):
                _fill(vocoder.generator, name, Path(args.voices))
        if not vocoder.adversarial:
            args.skip_discriminator_prob = 1.0
        return VocoderModel(codec=vocoder, **args.model_conf)


def _fill(generator: Vocoder, name: str, path: Path) -> None:
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"no such {name}", path=path)
    value, own = load_file(path).get(name), getattr(generator, name)
    if value is None or value.shape != own.shape:
        found = "none" if value is None else tuple(value.shape)
        raise UserError(f"its {name} is {found}", path=path, expected=f"'{name}' of {tuple(own.shape)}")
    own.copy_(value)


if __name__ == "__main__":
    VocoderTask.main()

"""MUSA as an ESPnet task; `python -m espnet_musa.tasks.musa` takes the options of ESPnet's training commands.

Stage 4 calls it with data files that it writes (`pipeline/train.py`). Besides ESPnet's keys a training configuration
may hold `segment_length` and `language_temperature`; `codec_conf` are the keyword arguments of `MusaCodec`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from espnet2.gan_codec.abs_gan_codec import AbsGANCodec
from espnet2.gan_codec.espnet_model import ESPnetGANCodecModel
from espnet2.tasks.gan_codec import GANCodecTask
from espnet2.train.class_choices import ClassChoices
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.utils.nested_dict_action import NestedDictAction
from torch import Tensor

from ..codec.musa import MusaCodec
from .preprocessor import IGNORED, MusaPreprocessor
from .sampling import LanguageSampling
from .trainer import LoggedTask, MusaTrainer

codec_choices = ClassChoices("codec", classes={"musa": MusaCodec}, type_check=AbsGANCodec, default="musa")

# ESPnet's defaults are made for recognition: batches sorted by length and cut to it, attention plots, clipping.
DEFAULTS = {
    "batch_type": "unsorted",
    "shuffle_within_batch": True,  # new batches in every epoch
    "drop_last_iter": True,  # all of them full
    "optim": "adamw",
    "optim2": "adamw",
    "grad_clip": 0.0,  # none (O25)
    "unused_parameters": True,  # the turns of a step use different parts of the model
    "best_model_criterion": [("valid", "rec", "min")],
    "keep_nbest_models": [1],
    "use_matplotlib": False,
    "num_att_plot": 0,
}


class MusaModel(ESPnetGANCodecModel):
    """ESPnet's codec model, which hands only `audio` on; this one hands on the whole batch."""

    def forward(self, audio: Tensor, forward_generator: bool = True, **batch: Tensor) -> dict[str, Any]:
        """The generator's or the discriminators' turn; see `MusaCodec.forward`."""
        return self.codec(forward_generator=forward_generator, audio=audio, **batch)

    def listen(self, wav: Tensor, data: dict[str, Any]) -> dict[str, Tensor]:
        """What TensorBoard gets of an utterance (T,): reconstructed, and with the zero vector for s."""
        codes, s = self.codec.generator.encode(wav[None])
        decode = self.codec.generator.decode
        return {"reconstructed": decode(codes, s)[0], "anonymized": decode(codes, None)[0]}


class MusaTask(LanguageSampling, LoggedTask, GANCodecTask):
    """Two optimizers (generator, discriminators), and inputs: audio, speaker ids, teacher tokens, F0.

    | name | ESPnet type | content |
    |---|---|---|
    | audio | sound | 16 kHz |
    | sids | text_int | the speaker's number, 0 to n_speakers - 1 |
    | semantic | kaldi_ark | teacher tokens, one a frame; may be absent where lambda_sem is 0 |
    | f0 | kaldi_ark | Hz, 0 where unvoiced, one a frame; for a decoder that renders it |
    """

    trainer = MusaTrainer
    class_choices_list = [codec_choices]  # noqa: RUF012 (ESPnet's name and type)

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """ESPnet's options of a GAN codec, and the length of the crops; defaults that suit them."""
        super().add_task_arguments(parser)
        parser.add_argument("--segment_length", type=int, default=32000, help="samples of a crop")
        parser.add_argument("--f0_conf", action=NestedDictAction, default={}, help="tracker, floor, ceiling")
        parser.set_defaults(**DEFAULTS)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any]:
        """Crops of audio and tokens."""
        return MusaPreprocessor(train, args.segment_length, args.codec_conf.get("n_speakers", 0))

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> CommonCollateFn:
        """Integers are padded with a label that no loss counts; ESPnet's codec task pads with 0, a token."""
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=IGNORED)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that must be there."""
        return ("audio",) if inference else ("audio", "sids")

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that may be there."""
        return () if inference else ("semantic", "f0")

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> MusaModel:
        """The model; without discriminators, ESPnet's trainer is told to skip their turn."""
        codec = codec_choices.get_class(args.codec)(**args.codec_conf)
        if not codec.adversarial:
            args.skip_discriminator_prob = 1.0
        return MusaModel(codec=codec, **args.model_conf)


if __name__ == "__main__":
    MusaTask.main()

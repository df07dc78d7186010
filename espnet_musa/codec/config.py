"""`codec_conf` of a training configuration, readable without torch: a typing error shows before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError, suggest

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class CodecConfig:
    """The codec and the weights of its losses (equation 10); the defaults are the paper's.

    A weight of zero leaves its term out, with what only that term needs.
    """

    generator_conf: dict[str, Any]  # keyword arguments of MusaGenerator
    discriminator_conf: dict[str, Any] = field(default_factory=dict)  # of MusaDiscriminator
    n_speakers: int = 0  # stage 4 counts them
    n_tokens: int = 0  # stage 4 asks the tokenizer
    lambda_rec: float = 45.0  # of the whole bracket of equation 5
    lambda_adv: float = 1.0  # adversarial, equation 7
    lambda_fm: float = 1.0  # feature matching, equation 8
    lambda_com: float = 0.1  # commitment, equation 9, summed over the quantizers (O10)
    lambda_spk: float = 1.0  # speaker identity and segment consistency, equation 2
    lambda_sem: float = 1.0  # teacher tokens from the first quantizer, equation 4
    lambda_f0: float = 10.0  # octaves of F0 where voiced; only the backbone source_filter finds it
    lambda_voiced: float = 1.0  # cross entropy of voicing, likewise
    reconstruction_conf: dict[str, Any] = field(default_factory=dict)  # of ReconstructionLoss (O20)
    precision: str = "float32"  # float32 | bfloat16: mixed; losses and codebooks stay as they are

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"unknown precision '{self.precision}'{suggest(self.precision, PRECISIONS)}")
        weights = {name: value for name, value in vars(self).items() if name.startswith("lambda_")}
        if min(weights.values()) < 0:
            raise UserError(f"negative weights: {weights}")

    @property
    def adversarial(self) -> bool:
        """Whether there are discriminators."""
        return bool(self.lambda_adv or self.lambda_fm)

    @property
    def sourced(self) -> bool:
        """Whether the decoder renders F0, so that training wants it."""
        return self.generator_conf.get("backbone") == "source_filter"


@dataclass(frozen=True)
class VocoderConfig:
    """`vocoder_conf`: the vocoder of B5 and B6 and the weights of its losses; the defaults are the published ones.

    A weight of zero leaves its term out, with what only that term needs.
    """

    generator_conf: dict[str, Any] = field(
        default_factory=dict
    )  # of Vocoder: backbone, decoder_conf, sample_rate
    discriminator_conf: dict[str, Any] = field(
        default_factory=lambda: {"stft_n_ffts": []}
    )  # of MusaDiscriminator; without STFT it is HiFi-GAN's: MPD and MSD
    n_speakers: int = 0  # stage 4 counts them
    n_codes: int = 0  # stage 4 asks the acoustic model
    code_dim: int = 0  # likewise
    lambda_rec: float = 45.0  # log-mel L1
    lambda_adv: float = 1.0  # adversarial, least squares
    lambda_fm: float = 2.0  # feature matching
    reconstruction_conf: dict[str, Any] = field(
        default_factory=lambda: {"wave_weight": 0.0, "mel_square_weight": 0.0}
    )  # of ReconstructionLoss
    compat: bool = False  # z-scores of F0 over the whole batch, as published, instead of over each utterance
    precision: str = "float32"  # float32 | bfloat16: mixed; losses stay as they are

    __post_init__ = CodecConfig.__post_init__

    @property
    def adversarial(self) -> bool:
        """Whether there are discriminators."""
        return bool(self.lambda_adv or self.lambda_fm)


@dataclass(frozen=True)
class F0Config:
    """`f0_conf` of a training: how F0 is found (see `f0.extract`), in training and afterwards; B5's settings."""

    tracker: str = "yaapt"  # yaapt | harvest | dio | praat
    floor: float = 60.0  # Hz
    ceiling: float = 400.0  # Hz

"""The vocoder of B5 and B6 as ESPnet trains it: generator, discriminators, HiFi-GAN's losses.

ESPnet's trainer takes two turns a batch, discriminators first, each a call of `forward`; the second reuses what the
generator made in the first.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from espnet2.gan_codec.abs_gan_codec import AbsGANCodec
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor

from .config import VocoderConfig
from .discriminators import MusaDiscriminator
from .gan import NoDiscriminator, Stats, discriminator_terms, generator_terms
from .losses import ReconstructionLoss
from .mel import cleared
from .vocoder import Vocoder, pooled


class VqBnVocoder(AbsGANCodec):
    """The vocoder with its losses; every weight and conf is a field of `VocoderConfig`.

    Args:
        conf: fields of `VocoderConfig`.

    Attributes:
        generator: of class `Vocoder`.
        discriminator: of class `MusaDiscriminator`, or something empty if `adversarial` is false.
        generator_conf: keyword arguments that build this generator.
    """

    def __init__(self, **conf: Any) -> None:
        super().__init__()
        self.config = own = VocoderConfig(**conf)
        sizes = {"n_codes": own.n_codes, "code_dim": own.code_dim, "n_speakers": own.n_speakers}
        self.generator_conf = own.generator_conf | sizes
        self.generator = Vocoder(**self.generator_conf)
        self.adversarial = own.adversarial
        self.discriminator = (
            MusaDiscriminator(**own.discriminator_conf) if own.adversarial else NoDiscriminator()
        )
        self.reconstruction = ReconstructionLoss(self.generator.sample_rate, **own.reconstruction_conf)
        self.fs = self.generator.sample_rate
        self._cache: tuple[Tensor, Tensor] | None = None  # ESPnet's trainer resets it by this name

    def meta_info(self) -> dict[str, Any]:
        """What ESPnet asks a codec for: rate (Hz), number of code streams, hop (samples), sizes of the codebooks."""
        return {
            "fs": self.fs, "num_streams": 1, "frame_shift": self.generator.hop,
            "code_size_per_stream": [self.generator.n_codes],
        }  # fmt: skip

    def forward(
        self,
        forward_generator: bool,
        audio: Tensor,
        sids: Tensor,
        tokens: Tensor,
        f0: Tensor,
        audio_lengths: Tensor | None = None,
        **unused: Tensor,
    ) -> dict[str, Any]:
        """One turn.

        Args:
            forward_generator: the generator's turn, not the discriminators'.
            audio: (B, T) what is to be made, zero behind an item's end.
            sids: (B, 1) speakers.
            tokens: (B, F) content codes; -1: padding.
            f0: (B, F) z-scores, 0 where unvoiced; Hz with `compat` or a decoder with a source.
            audio_lengths: (B,) samples of each segment; None: T.
            unused: lengths that ESPnet adds for every input.

        Returns:
            ESPnet's `loss`, `stats`, `weight` (B) and `optim_idx` (0 generator, 1 discriminators).
        """
        lower = self.config.precision == "bfloat16"
        with torch.autocast(audio.device.type, torch.bfloat16) if lower else nullcontext():
            if not forward_generator and not self.adversarial:  # in validation; training skips this turn
                loss, stats = 0 * self.discriminator.nothing.sum(), {}
            else:
                made = self._generate(audio, sids[:, 0], tokens, f0, audio_lengths)
                if forward_generator:
                    loss, stats = self._generator_loss(made, audio)
                else:
                    loss, stats = discriminator_terms(self.discriminator, audio, made)
        stats["loss" if forward_generator else "d_loss"] = loss
        stats = {name: value.detach().float() for name, value in stats.items()}
        loss, stats, weight = force_gatherable((loss, stats, len(audio)), audio.device)
        return {"loss": loss, "stats": stats, "weight": weight, "optim_idx": 0 if forward_generator else 1}

    def _generate(
        self, audio: Tensor, sids: Tensor, tokens: Tensor, f0: Tensor, lengths: Tensor | None
    ) -> Tensor:
        """(B, T): made in the first of a batch's two turns, handed over in the second."""
        if self._cache is not None and self._cache[0] is audio:
            made, self._cache = self._cache[1], None
            return made
        # Without lengths a batch of full segments spares the masks.
        lengths = None if lengths is None or bool((lengths == audio.shape[1]).all()) else lengths
        frames = None if lengths is None else -(-lengths // self.generator.hop)
        made = self.generator(tokens.clamp(min=0), self.heard(f0, sids), sids, frames)
        made = cleared(made.float()[:, : audio.shape[1]], lengths)
        self._cache = (audio, made) if self.adversarial else None
        return made

    def heard(self, f0: Tensor, sids: Tensor) -> Tensor:
        """F0 (B, F) of the training data -> what the generator hears of it.

        A decoder with a source renders F0 in Hz, which it can only learn from if they are those of the recording. So
        its z-scores are by the statistics of the voice here, those of an utterance being left to later.
        """
        if self.config.compat:
            return pooled(f0)
        return self.generator.z_scores(f0, sids) if self.generator.sourced else f0

    def _generator_loss(self, made: Tensor, audio: Tensor) -> tuple[Tensor, Stats]:
        """Log-mel distance, adversarial loss and feature matching."""
        terms, stats = [], {}
        if self.config.lambda_rec:
            rec = self.reconstruction(made, audio)
            terms.append(self.config.lambda_rec * rec.total)
            stats |= {"rec": rec.total, "wave": rec.wave, "mel": rec.mel, "mel_square": rec.mel_square}
        if self.adversarial:
            lambdas = self.config.lambda_adv, self.config.lambda_fm
            more, named = generator_terms(self.discriminator, audio, made, lambdas)
            terms, stats = terms + more, stats | named
        return torch.stack(terms).sum(), stats

    def encode(self, x: Tensor, **unused: Any) -> Tensor:
        """A vocoder encodes nothing; the acoustic model does.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the acoustic model of conf/tokens encodes")

    def decode(self, x: Tensor, f0: Tensor, sids: Tensor) -> Tensor:
        """ESPnet's interface: codes (1, B, F), F0 in z-scores (B, F), speakers (B,) -> waveforms (B, 1, F * hop)."""
        return self.generator(x[0], f0, sids)[:, None]

"""MUSA as ESPnet trains it: generator, discriminators, and equations 2 to 10.

ESPnet's trainer takes two turns a batch, discriminators first, each a call of `forward`. The second turn reuses what
the generator made in the first: twice the work otherwise, and every codebook would move twice.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from espnet2.gan_codec.abs_gan_codec import AbsGANCodec
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor
from torch.nn import functional as F

from .config import CodecConfig
from .discriminators import MusaDiscriminator
from .gan import NoDiscriminator, Stats, discriminator_terms, generator_terms
from .generator import GeneratorOutput, MusaGenerator
from .losses import ReconstructionLoss
from .pitched import REFERENCE


class MusaCodec(AbsGANCodec):
    """The codec with its losses; every weight and conf is a field of `CodecConfig`.

    ESPnet's first optimizer holds `generator` alone, so the speaker encoder and the heads of the losses live in there.

    Args:
        conf: fields of `CodecConfig`.

    Attributes:
        generator: of class `MusaGenerator`; without the heads that belong to terms of weight zero.
        discriminator: of class `MusaDiscriminator`, or something empty if `adversarial` is false.
        generator_conf: keyword arguments that build this generator.
    """

    def __init__(self, **conf: Any) -> None:
        super().__init__()
        self.config = own = CodecConfig(**conf)
        n_speakers = own.n_speakers if own.lambda_spk or own.generator_conf.get("gradient_reversal") else 0
        n_tokens = own.n_tokens if own.lambda_sem else 0
        self.generator_conf = own.generator_conf | {"n_speakers": n_speakers, "n_tokens": n_tokens}
        self.generator = MusaGenerator(**self.generator_conf)
        self.adversarial = own.adversarial
        self.discriminator = (
            MusaDiscriminator(**own.discriminator_conf) if own.adversarial else NoDiscriminator()
        )
        self.reconstruction = ReconstructionLoss(self.generator.sample_rate, **own.reconstruction_conf)
        self.fs = self.generator.sample_rate
        self._cache: tuple[Tensor, GeneratorOutput] | None = None  # ESPnet's trainer resets it by this name

    def meta_info(self) -> dict[str, Any]:
        """What ESPnet asks a codec for: rate (Hz), number of code streams, hop (samples), sizes of the codebooks."""
        sizes = list(self.generator.quantizer.codebook_sizes)
        return {
            "fs": self.fs, "num_streams": len(sizes), "frame_shift": self.generator.hop, "code_size_per_stream": sizes,
        }  # fmt: skip

    def forward(
        self,
        forward_generator: bool,
        audio: Tensor,
        audio2: Tensor,
        sids: Tensor,
        semantic: Tensor | None = None,
        f0: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio2_lengths: Tensor | None = None,
        **unused: Tensor,
    ) -> dict[str, Any]:
        """One turn.

        Args:
            forward_generator: the generator's turn, not the discriminators'.
            audio: (B, T) the segment that is encoded and reconstructed.
            audio2: (B, T2) another segment of each recording.
            sids: (B, 1) speakers; -1: unknown, which no loss counts.
            semantic: (B, F) teacher tokens; -1: none.
            f0: (B, F) Hz, 0 where unvoiced, for a decoder that renders it.
            audio_lengths: (B,) samples of each segment; None: T.
            audio2_lengths: (B,) likewise.
            unused: lengths that ESPnet adds for every input.

        Returns:
            ESPnet's `loss`, `stats`, `weight` (B) and `optim_idx` (0 generator, 1 discriminators).
        """
        lower = self.config.precision == "bfloat16"
        with torch.autocast(audio.device.type, torch.bfloat16) if lower else nullcontext():
            if not forward_generator and not self.adversarial:  # in validation; training skips this turn
                loss, stats = 0 * self.discriminator.nothing.sum(), {}
            else:
                out = self._generate(audio, audio2, audio_lengths, audio2_lengths, f0)
                if forward_generator:
                    loss, stats = self._generator_loss(out, audio, sids[:, 0], semantic, f0)
                else:
                    loss, stats = self._discriminator_loss(out, audio)
        stats["loss" if forward_generator else "d_loss"] = loss
        stats = {name: value.detach().float() for name, value in stats.items()}
        loss, stats, weight = force_gatherable((loss, stats, len(audio)), audio.device)
        return {"loss": loss, "stats": stats, "weight": weight, "optim_idx": 0 if forward_generator else 1}

    def _generate(
        self,
        audio: Tensor,
        audio2: Tensor,
        lengths: Tensor | None,
        lengths2: Tensor | None,
        f0: Tensor | None,
    ) -> GeneratorOutput:
        """The generator's output for a batch: made in the first of its two turns, handed over in the second."""
        if self._cache is not None and self._cache[0] is audio:
            out, self._cache = self._cache[1], None
            return out
        if not self.config.lambda_spk:  # nobody will look at s2
            audio2, lengths2 = audio2[:, :1], None
        # Without lengths a batch of full segments spares the masks.
        lengths, lengths2 = (
            None if own is None or bool((own == wav.shape[1]).all()) else own
            for own, wav in ((lengths, audio), (lengths2, audio2))
        )
        out = self.generator(audio, audio2, lengths, lengths2, f0)
        self._cache = (audio, out) if self.adversarial else None
        return out

    def _discriminator_loss(self, out: GeneratorOutput, audio: Tensor) -> tuple[Tensor, Stats]:
        """Equation 6."""
        return discriminator_terms(self.discriminator, audio, out.wav)

    def _generator_loss(
        self, out: GeneratorOutput, audio: Tensor, sids: Tensor, semantic: Tensor | None, f0: Tensor | None
    ) -> tuple[Tensor, Stats]:
        """Equation 10, and the reversed speaker classifier if there is one."""
        # Where the decoder got no s, it cannot know the target: what counts there is to sound like speech.
        kept = out.kept if self.training and self.generator.speaker_dropout_prob else slice(None)
        terms = [self.config.lambda_com * out.quantized.commitment]
        stats = {"com": out.quantized.commitment}
        for more, named in (
            self._reconstruction_loss(out.wav[kept], audio[kept]),
            self._adversarial_loss(out.wav, audio, kept),
            self._speaker_loss(out, sids),
            self._semantic_loss(out, semantic),
            self._pitch_loss(out.found, f0),
        ):
            terms += more
            stats |= named
        stats |= {f"usage_{i}": share for i, share in enumerate(out.quantized.usage, start=1)}
        return torch.stack(terms).sum(), stats

    def _reconstruction_loss(self, fake: Tensor, real: Tensor) -> tuple[list[Tensor], Stats]:
        """Equation 5 on (B, T)."""
        if not self.config.lambda_rec or not len(fake):
            return [], {}
        rec = self.reconstruction(fake, real)
        stats = {"rec": rec.total, "wave": rec.wave, "mel": rec.mel, "mel_square": rec.mel_square}
        return [self.config.lambda_rec * rec.total], stats

    def _adversarial_loss(
        self, fake: Tensor, real: Tensor, kept: Tensor | slice
    ) -> tuple[list[Tensor], Stats]:
        """Equations 7 and 8 on (B, T); features are matched for the items `kept`."""
        if not self.adversarial:
            return [], {}
        lambdas = self.config.lambda_adv, self.config.lambda_fm
        return generator_terms(self.discriminator, real, fake, lambdas, kept)

    def _speaker_loss(self, out: GeneratorOutput, sids: Tensor) -> tuple[list[Tensor], Stats]:
        """Equation 2: identity of s1 and s2, and their cosine; and identity behind the gradient reversal."""
        terms, stats = [], {}
        if self.config.lambda_spk and out.speaker_logits is not None:
            identity, accuracy = classify(out.speaker_logits, sids.repeat(2))
            cosine = F.cosine_similarity(out.s1.float(), out.s2.float()).mean()
            terms.append(self.config.lambda_spk * (identity - cosine))
            stats |= {"spk_id": identity, "spk_acc": accuracy, "spk_cos": cosine}
        if out.reversal_logits is not None:
            reversal, accuracy = classify(out.reversal_logits, sids)
            terms.append(reversal)
            stats |= {"rev": reversal, "rev_acc": accuracy}
        return terms, stats

    def _semantic_loss(self, out: GeneratorOutput, semantic: Tensor | None) -> tuple[list[Tensor], Stats]:
        """Equation 4; the teacher may have a frame more or fewer than the codec."""
        if out.token_logits is None or semantic is None:
            return [], {}
        frames = out.token_logits.shape[2]
        labels = F.pad(semantic, (0, max(0, frames - semantic.shape[1])), value=-1)[:, :frames]
        loss, accuracy = classify(out.token_logits, labels)
        return [self.config.lambda_sem * loss], {"sem": loss, "sem_acc": accuracy}

    def _pitch_loss(self, found: Tensor | None, f0: Tensor | None) -> tuple[list[Tensor], Stats]:
        """Octaves where voiced, and voicing, of what the decoder found (B, 2, F) in place of F0 (B, F) in Hz."""
        if found is None or f0 is None:
            return [], {}
        voiced = f0 > 0
        octaves = (f0.clamp(min=1.0) / REFERENCE).log2()
        error = ((found[:, 0] - octaves).abs() * voiced).sum() / voiced.sum().clamp(min=1)
        unsure = F.binary_cross_entropy_with_logits(found[:, 1], voiced.float())
        terms = [self.config.lambda_f0 * error, self.config.lambda_voiced * unsure]
        return terms, {"f0": error, "voiced": unsure}

    def encode(self, x: Tensor, **unused: Any) -> Tensor:
        """ESPnet's interface: waveforms (B, 1, T) -> codes (Q, B, F)."""
        return self.generator.encode(x[:, 0])[0]

    def decode(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """ESPnet's interface: codes (Q, B, F) -> waveforms (B, 1, F * hop), anonymized unless s (B, D) is given."""
        return self.generator.decode(x, s)[:, None]


def classify(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy (nats) and accuracy over the labels that are not -1; both 0 where all are.

    Args:
        logits: (B, C) or (B, C, F).
        labels: (B,) or (B, F).
    """
    valid = labels != -1
    count = valid.sum().clamp(min=1)
    loss = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum") / count
    return loss, ((logits.argmax(dim=1) == labels) & valid).sum() / count

"""The generator of MUSA: speech encoder, speaker encoder, residual bottleneck, decoder, and the heads of its losses.

Serial disentanglement: x = E_c(wav), s = E_s(wav); the bottleneck quantizes x - s, the decoder gets the sum of the
codes plus s. Anonymized speech is decoded from the codes alone, a zero vector in place of s.

What the equations imply (section 1.2 of the codecs' specification): the bottleneck passes the decoder's gradient
straight through, so with `speaker_fusion: add` the paths of s through the bottleneck (-1) and around it (+1) cancel and
the reconstruction never trains E_s; only the speaker losses and, through x - s, the semantic and commitment losses do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError, suggest
from .mel import cleared, inside
from .pitched import PitchedDecoder
from .quantizer import Quantized, ResidualBottleneck
from .remedies import InstanceNorm, Perturbation, reverse_gradient, warp_formants
from .seanet import SeanetDecoder, SeanetEncoder
from .speaker import SpeakerEncoder
from .spectral import SpectralDecoder, SpectralEncoder

BACKBONES = ("seanet", "spectral", "source_filter")
FUSIONS = ("add", "concat", "none")


class GeneratorOutput(NamedTuple):
    """What a training step needs.

    Attributes:
        wav: (B, T) reconstruction, as long as the input.
        s1: (B, D) speaker embedding of the encoded segment: subtracted, and given to the decoder.
        s2: (B, D) of the second segment of the same recording.
        quantized: of the bottleneck.
        speaker_logits: (2 B, n_speakers), of s1 and then of s2; None without speaker encoder or classifier.
        token_logits: (B, n_tokens, F) from the first quantizer; None without semantic head.
        reversal_logits: (B, n_speakers) behind the gradient reversal; None if that is off.
        kept: (B,) boolean, False where `speaker_dropout_prob` took s from the decoder.
        found: (B, 2, F) octaves and voicing of `PitchedDecoder.find`; None with another decoder.
    """

    wav: Tensor
    s1: Tensor
    s2: Tensor
    quantized: Quantized
    speaker_logits: Tensor | None
    token_logits: Tensor | None
    reversal_logits: Tensor | None
    kept: Tensor
    found: Tensor | None = None


def _build(part: type[nn.Module], what: str, conf: dict[str, Any], **fixed: Any) -> Any:
    """part(**fixed, **conf), with a message for a user if a key of the configuration does not fit."""
    try:
        return part(**fixed, **conf)
    except TypeError as error:
        raise UserError(f"{what}: {error}") from error


def _backbone(
    name: str, encoder_conf: dict[str, Any], decoder_conf: dict[str, Any], dimension: int, sample_rate: int
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder; a `UserError` if their hops differ."""
    if name == "seanet":
        encoder = _build(SeanetEncoder, "encoder_conf", encoder_conf, dimension=dimension)
        decoder = _build(SeanetDecoder, "decoder_conf", decoder_conf, dimension=dimension)
    else:
        fixed = {"dimension": dimension, "sample_rate": sample_rate}
        encoder = _build(SpectralEncoder, "encoder_conf", encoder_conf, **fixed)
        if name == "source_filter":
            decoder = _build(PitchedDecoder, "decoder_conf", decoder_conf, **fixed)
        else:
            decoder = _build(SpectralDecoder, "decoder_conf", decoder_conf, dimension=dimension)
    if encoder.hop != decoder.hop:
        raise UserError(
            f"the encoder's hop is {encoder.hop}, the decoder's {decoder.hop}", expected="the same"
        )
    return encoder, decoder


class MusaGenerator(nn.Module):
    """See the module's description.

    Args:
        sample_rate: Hz.
        backbone: "seanet" (the paper's), "spectral" (for CPUs), or "source_filter": the spectral encoder, and a decoder
            that finds F0 in the codes and renders it (`PitchedDecoder`).
        encoder_conf: settings of `SeanetEncoder` or `SpectralEncoder`, without dimension.
        decoder_conf: settings of the decoder, without dimension.
        dimension: D of frames, codes and s.
        quantizer_conf: settings of `ResidualBottleneck`, without dimension.
        speaker_conf: settings of `SpeakerEncoder`, without dimension and rate.
        speaker_fusion: how the decoder gets s. "add": to every frame (section III-C, the inverse of equation 3);
            "concat": beside every frame, then a layer from 2 D to D: the reconstruction trains E_s; "none": there is
            no speaker encoder, all embeddings are zero.
        n_speakers: classes of the speaker classifier; 0: no classifier.
        n_tokens: classes of the semantic head; 0: no head.
        instance_norm: normalise the frames over time in place of subtracting s (see `without_speaker`); with "add" the
            reconstruction then trains E_s.
        warp_range: in training, move the formants at E_c's input by a random factor within 1 +- warp_range.
        perturbation: fields of `Perturbation`, with which the encoder, not of backbone "seanet", hears other voices in
            training than those it shall help to reconstruct.
        centered: s is told from the mean training speaker's, so that a zero vector is that speaker's voice; see
            `center`.
        gradient_reversal: weight of a speaker classifier on the time mean of the quantized frames, reversed.
        speaker_dropout_prob: in training, share of items whose decoder gets zero for s (O29).
        detach_speaker: no loss but the speaker losses reaches E_s.

    Raises:
        UserError: for an unknown name, a key that does not fit, encoder and decoder of different hops.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        backbone: str = "seanet",
        encoder_conf: dict[str, Any] | None = None,
        decoder_conf: dict[str, Any] | None = None,
        dimension: int = 512,
        quantizer_conf: dict[str, Any] | None = None,
        speaker_conf: dict[str, Any] | None = None,
        speaker_fusion: str = "add",
        n_speakers: int = 0,
        n_tokens: int = 0,
        instance_norm: bool = False,
        warp_range: float = 0.0,
        perturbation: dict[str, float] | None = None,
        centered: bool = False,
        gradient_reversal: float = 0.0,
        speaker_dropout_prob: float = 0.0,
        detach_speaker: bool = False,
    ) -> None:
        super().__init__()
        for name, known in ((backbone, BACKBONES), (speaker_fusion, FUSIONS)):
            if name not in known:
                raise UserError(f"unknown backbone or speaker_fusion '{name}'{suggest(name, known)}")
        if not (0 <= warp_range < 1 and 0 <= speaker_dropout_prob <= 1 and gradient_reversal >= 0):
            raise UserError(
                f"warp_range {warp_range}, speaker_dropout_prob {speaker_dropout_prob}, "
                f"gradient_reversal {gradient_reversal}",
                expected="0 <= warp_range < 1, a probability, a weight that is not negative",
            )
        self.sample_rate, self.dimension, self.speaker_fusion = sample_rate, dimension, speaker_fusion
        self.warp_range, self.gradient_reversal = warp_range, gradient_reversal
        self.speaker_dropout_prob, self.detach_speaker = speaker_dropout_prob, detach_speaker
        self.perturbation = None
        if perturbation:
            if backbone == "seanet":
                raise UserError(
                    "perturbation with backbone 'seanet'", expected="an encoder that hears spectra"
                )
            self.perturbation = _build(Perturbation, "perturbation", perturbation)
        self.centered = centered
        if centered:
            self.register_buffer("center", torch.zeros(dimension))
        self.encoder, self.decoder = _backbone(
            backbone, encoder_conf or {}, decoder_conf or {}, dimension, sample_rate
        )
        self.hop: int = self.encoder.hop
        self.quantizer = _build(
            ResidualBottleneck, "quantizer_conf", quantizer_conf or {}, dimension=dimension
        )
        self.instance_norm = InstanceNorm() if instance_norm else None
        self.speaker_encoder = self.fusion = None
        if speaker_fusion != "none":
            fixed = {"dim": dimension, "sample_rate": sample_rate}
            self.speaker_encoder = _build(SpeakerEncoder, "speaker_conf", speaker_conf or {}, **fixed)
        if speaker_fusion == "concat":
            self.fusion = nn.Conv1d(2 * dimension, dimension, 1)
        self._heads(n_speakers, n_tokens)

    def _heads(self, n_speakers: int, n_tokens: int) -> None:
        """What only the losses use: an archive drops it."""
        width = self.dimension
        self.speaker_classifier = self.token_head = self.reversal_classifier = None
        if n_speakers and self.speaker_encoder is not None:
            self.speaker_classifier = nn.Linear(width, n_speakers)
        if n_tokens:
            self.token_head = nn.Conv1d(width, n_tokens, 1)
        if self.gradient_reversal and not n_speakers:
            raise UserError("gradient_reversal without speakers", expected="n_speakers above 0")
        if self.gradient_reversal:
            layers = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_speakers)
            self.reversal_classifier = nn.Sequential(*layers)

    def speaker(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor:
        """E_s: wav (B, T), lengths (B,) in samples or None -> s (B, D); zeros without speaker encoder."""
        if self.speaker_encoder is None:
            return wav.new_zeros(wav.shape[0], self.dimension)
        s = self.speaker_encoder(wav, lengths)
        return s - self.center if self.centered else s

    @torch.no_grad()
    def recenter(self, mean: Tensor) -> None:
        """Tell s from `mean` (D,) from now on, the mean s of the training speakers: once, after training.

        What is decoded with s stays the same; a zero vector, of which the decoder knew nothing, becomes a mean voice.
        """
        self.center.add_(mean.to(self.center))

    def frame_lengths(self, lengths: Tensor | None) -> Tensor | None:
        """Samples (B,) -> frames (B,): ceil(samples / hop)."""
        return None if lengths is None else -(-lengths // self.hop)

    def frames(
        self, wav: Tensor, lengths: Tensor | None = None, perturbation: Perturbation | None = None
    ) -> Tensor:
        """E_c: wav (B, T), T >= 1, lengths (B,) in samples or None -> x (B, D, ceil(T / hop)).

        Every recording is continued with zeros up to a whole frame (O28).
        """
        wav = F.pad(cleared(wav, lengths), (0, -wav.shape[1] % self.hop))
        how = {} if perturbation is None else {"perturbation": perturbation}
        return self.encoder(wav[:, None], self.frame_lengths(lengths), **how)

    def without_speaker(
        self,
        x: Tensor,
        s: Tensor,
        frame_lengths: Tensor | None = None,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """What the bottleneck quantizes (equation 3): x (B, D, F) minus s (B, D), normalised if so configured.

        Normalising over time takes any constant away, s among them: it need not be subtracted before, and subtracted
        afterwards it would put the speaker into the codes.

        Args:
            x: of `frames`, or a block of it.
            s: of `speaker`.
            frame_lengths: (B,) frames of each item; None: F.
            statistics: of the whole recording if x is a block: `remedies.FrameStatistics.result()`. Only used with
                `instance_norm`.
        """
        if self.instance_norm is not None:
            return self.instance_norm(x, frame_lengths, statistics)
        return x - (s + self.center if self.centered else s)[:, :, None]

    def fuse(self, q: Tensor, s: Tensor | None) -> Tensor:
        """Input of the decoder: q (B, D, F) and s (B, D) or None (zero) -> (B, D, F). Frame by frame."""
        if self.centered:
            s = self.center.expand(len(q), -1) if s is None else s + self.center
        if self.fusion is not None:
            s = q.new_zeros(q.shape[0], self.dimension) if s is None else s
            return self.fusion(torch.cat([q, s[:, :, None].expand_as(q)], dim=1))
        return q if s is None or self.speaker_encoder is None else q + s[:, :, None]

    @torch.no_grad()
    def encode(
        self,
        wav: Tensor,
        lengths: Tensor | None = None,
        s: Tensor | None = None,
        n_quantizers: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Waveforms to codes and speaker embeddings.

        Args:
            wav: (B, T), T >= 1.
            lengths: (B,) samples of each item, 1 to T; None: T.
            s: (B, D) to subtract; None: the recording's own.
            n_quantizers: of the first quantizers; None: all.

        Returns:
            codes (n_quantizers, B, ceil(T / hop)), of no meaning behind an item's end, and s (B, D).
        """
        s = self.speaker(wav, lengths) if s is None else s
        x = self.without_speaker(self.frames(wav, lengths), s, self.frame_lengths(lengths))
        return self.quantizer.encode(x, n_quantizers), s

    @torch.no_grad()
    def decode(self, codes: Tensor, s: Tensor | None = None, frame_lengths: Tensor | None = None) -> Tensor:
        """Codes to waveforms.

        Args:
            codes: (n, B, F) of the first n quantizers, 0 <= n <= Q.
            s: (B, D); None: a zero vector, that is anonymized.
            frame_lengths: (B,) frames of each item, 1 to F; None: F.

        Returns:
            (B, F * hop).
        """
        return self.decoder(self.fuse(self.quantizer.decode(codes), s), frame_lengths)[:, 0]

    def forward(
        self,
        wav: Tensor,
        wav2: Tensor,
        lengths: Tensor | None = None,
        lengths2: Tensor | None = None,
        f0: Tensor | None = None,
    ) -> GeneratorOutput:
        """Reconstruct a segment; wav (B, T) is encoded, wav2 (B, T2) is another segment of the same recording.

        Args:
            wav: (B, T), T >= 1.
            wav2: (B, T2): only its speaker embedding is used.
            lengths: (B,) samples of each item of wav; None: T.
            lengths2: (B,) samples of each item of wav2; None: T2.
            f0: (B, ceil(T / hop)) Hz, 0 where unvoiced, that a decoder with pulses renders; None: what it finds.
        """
        s1, s2 = self.speaker(wav, lengths), self.speaker(wav2, lengths2)
        s = s1.detach() if self.detach_speaker else s1
        warp = self.training and self.warp_range > 0
        perturbation = self.perturbation if self.training else None
        x = self.frames(warp_formants(wav, self.warp_range) if warp else wav, lengths, perturbation)
        frame_lengths = self.frame_lengths(lengths)
        mask = inside(frame_lengths, x.shape[2])
        quantized = self.quantizer(self.without_speaker(x, s, frame_lengths), mask)
        kept = torch.ones(len(wav), dtype=torch.bool, device=wav.device)
        if self.training and self.speaker_dropout_prob:
            kept = torch.rand(len(wav), device=wav.device) >= self.speaker_dropout_prob
        fused = self.fuse(quantized.q, s * kept[:, None])
        if f0 is None:
            found, made = None, self.decoder(fused, frame_lengths)
        else:
            found = self.decoder.find(fused, frame_lengths)
            made = self.decoder.rendered(fused, f0, frame_lengths)
        return GeneratorOutput(
            wav=made[:, 0, : wav.shape[1]].float(),
            s1=s1,
            s2=s2,
            quantized=quantized,
            speaker_logits=None
            if self.speaker_classifier is None
            else self.speaker_classifier(torch.cat([s1, s2])),
            token_logits=None if self.token_head is None else self.token_head(quantized.q1),
            reversal_logits=self._reversal_logits(quantized.q, mask),
            kept=kept,
            found=found,
        )

    def _reversal_logits(self, q: Tensor, mask: Tensor | None) -> Tensor | None:
        """Speaker logits (B, n_speakers) of the time mean of q (B, D, F), with reversed gradient."""
        if self.reversal_classifier is None:
            return None
        weight = q.new_ones(1, 1, q.shape[2]) if mask is None else mask[:, None].to(q.dtype)
        mean = (q * weight).sum(dim=2) / weight.sum(dim=2)
        return self.reversal_classifier(reverse_gradient(mean, self.gradient_reversal))

"""The recipe's own recognizer: an ESPnet CTC model over sentencepiece units, made by `recipe_train`.

Only the parts of ESPnet that are needed are imported: its task module would take ten seconds and reach for the network.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from ...config import load
from ...errors import UserError, suggest
from . import SAMPLE_RATE, collapse

if TYPE_CHECKING:
    import sentencepiece
    from espnet2.asr.espnet_model import ESPnetASRModel

ENCODERS = {  # ESPnet's names
    "rnn": ("espnet2.asr.encoder.rnn_encoder", "RNNEncoder"),
    "transformer": ("espnet2.asr.encoder.transformer_encoder", "TransformerEncoder"),
    "conformer": ("espnet2.asr.encoder.conformer_encoder", "ConformerEncoder"),
    "e_branchformer": ("espnet2.asr.encoder.e_branchformer_encoder", "EBranchformerEncoder"),
}
UNITS = ("char", "unigram", "bpe")
WINDOW = 400  # samples of a frame (25 ms)


@dataclass(frozen=True)
class AsrTrainConfig:
    """Model and training; entries that end in `_conf` hold the arguments of ESPnet's classes."""

    languages: tuple[str, ...] = ()  # of utt2lang, to train on; none: all that have transcripts
    language: str = "en"  # of training sets without utt2lang
    units: str = "char"  # of sentencepiece: char, unigram or bpe
    vocabulary: int = 500  # pieces, unless units is char
    mel_bands: int = 40
    hop: int = 160  # samples between frames
    stack: int = 3  # frames that make one input of the encoder
    encoder: str = "rnn"
    encoder_conf: dict[str, Any] = field(default_factory=dict)
    specaug_conf: dict[str, Any] = field(default_factory=dict)
    speeds: tuple[float, ...] = (1.0,)  # each factor adds all utterances at that speed
    batch_size: int = 8  # utterances
    epochs: int = 30
    max_lr: float = 3e-3
    warmup: float = 0.2  # share of all steps
    weight_decay: float = 1e-4
    max_grad_norm: float = 5.0

    def __post_init__(self) -> None:
        for name, known in ((self.encoder, ENCODERS), (self.units, UNITS)):
            if name not in known:
                raise UserError(f"unknown encoder or unit '{name}'{suggest(name, known)}")
        if min(self.batch_size, self.epochs, self.stack, self.hop, len(self.speeds)) < 1:
            raise UserError("batch_size, epochs, stack, hop, speeds", expected="at least one of each")


def build(config: AsrTrainConfig, pieces: Sequence[str]) -> ESPnetASRModel:
    """An untrained ESPnet model on stacked features: (B, F, stack mel_bands) -> CTC over blank and pieces.

    Raises:
        UserError: for arguments that the encoder does not know.
    """
    import importlib

    from espnet2.asr.ctc import CTC
    from espnet2.asr.espnet_model import ESPnetASRModel
    from espnet2.asr.specaug.specaug import SpecAug

    module, name = ENCODERS[config.encoder]
    try:
        encoder = getattr(importlib.import_module(module), name)(
            config.stack * config.mel_bands, **config.encoder_conf
        )
        specaug = SpecAug(**config.specaug_conf) if config.specaug_conf else None
    except Exception as error:  # TypeError, or one of typeguard's
        raise UserError(f"ESPnet's {name} or SpecAug: {error}", expected="their arguments") from error
    tokens = ["<blank>", *pieces, "<sos/eos>"]
    logging.disable(logging.WARNING)  # that CTC alone needs no decoder
    try:
        return ESPnetASRModel(
            len(tokens), tokens, None, specaug, None, None, encoder, None, None,
            CTC(len(tokens), encoder.output_size()), None, ctc_weight=1.0, report_cer=False, report_wer=False,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)


class Features:
    """ESPnet's log-mel front end, mean and variance of the utterance removed, neighbouring frames stacked."""

    def __init__(self, config: AsrTrainConfig) -> None:
        from espnet2.asr.frontend.default import DefaultFrontend

        self._stack, self._shortest = config.stack, WINDOW
        self._frontend = DefaultFrontend(
            fs=SAMPLE_RATE, n_fft=512, win_length=WINDOW, hop_length=config.hop, n_mels=config.mel_bands
        )

    @torch.no_grad()  # no inference tensors: training learns from these
    def __call__(self, wav: np.ndarray) -> torch.Tensor:
        """(T,) waveform -> (F, stack mel_bands); utterance by utterance, so that no padding is heard."""
        wav = np.pad(wav, (0, max(0, self._shortest - len(wav))))
        frames, _ = self._frontend(
            torch.from_numpy(np.ascontiguousarray(wav))[None], torch.tensor([len(wav)])
        )
        frames = frames[0]
        frames = (frames - frames.mean(dim=0)) / frames.std(dim=0).clamp(min=1e-3)
        frames = torch.nn.functional.pad(frames, (0, 0, 0, -len(frames) % self._stack))
        return frames.reshape(-1, self._stack * frames.shape[1])


def read_pieces(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The units of a trained model.

    Raises:
        UserError: if the file is missing or damaged.
    """
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise UserError(
            "missing or not a sentencepiece model", path=path, hint="run stage 'attack' again"
        ) from error


class RecipeCtc:
    """ESPnet CTC model of stage 7, greedy decoding without a language model.

    Differs from ESPnet where it lets padding leak into an utterance: features are computed utterance by utterance, and
    encoders with convolutions (all but `rnn`) get one utterance at a time. Its recurrent encoder keeps dropout on while
    recognizing, which makes texts random; here it is off.

    Args:
        model_dir: written by `recipe_train.train`.
        device: torch device.
    """

    def __init__(self, model_dir: Path, device: str = "cpu") -> None:
        from espnet.nets.pytorch_backend.rnn.encoders import RNNP

        config: AsrTrainConfig = load(AsrTrainConfig, model_dir / "config.yaml")
        self._pieces = read_pieces(model_dir / "units.model")
        pieces = [self._pieces.id_to_piece(i) for i in range(len(self._pieces))]
        weights = model_dir / "model.safetensors"
        self._model = build(config, pieces)
        try:
            self._model.load_state_dict(load_file(weights))
        except (OSError, RuntimeError) as error:
            raise UserError(f"missing, or not of config.yaml: {error}", path=weights) from error
        self._model.to(device).eval()
        for module in self._model.modules():
            if isinstance(module, RNNP):
                module.dropout = 0.0  # it ignores eval() and would go on dropping at random
        self._features, self._device = Features(config), device
        self._alone = config.encoder != "rnn"
        self.languages = frozenset(config.languages)
        self.batch_s = 120.0 if device == "cpu" else 1200.0
        self.about = f"CTC over {config.units} units, trained by the recipe, greedy, no language model"

    @torch.inference_mode()
    def transcribe(self, wavs: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
        """See `Recognizer`."""
        features = [self._features(wav) for wav in wavs]
        order = sorted(range(len(wavs)), key=lambda i: -len(features[i]))  # as packed sequences need it
        texts = [""] * len(wavs)
        for batch in [[i] for i in order] if self._alone else [order]:
            lengths = torch.tensor([len(features[i]) for i in batch])
            padded = pad_sequence([features[i] for i in batch], batch_first=True)
            hidden, frames = self._model.encode(padded.to(self._device), lengths.to(self._device))
            for i, path, count in zip(batch, self._model.ctc.argmax(hidden), frames.tolist(), strict=True):
                units = [u - 1 for u in collapse(path[:count].tolist()) if u <= len(self._pieces)]
                texts[i] = self._pieces.decode(units)
        return texts

"""wav2vec 2.0 with a CTC head as SpeechBrain publishes it: the recognizer of the VoicePrivacy Challenge 2024."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import layer_norm

from ... import models
from ...errors import UserError
from ..wav2vec2 import below, build, read_weights
from . import collapse

HINT = "fetch it again (conf/models.yaml says where)"
SHORTEST = 400  # samples: what the convolutions need for one frame


class Wav2vec2Ctc:
    """`speechbrain/asr-wav2vec2-librispeech`, greedy decoding without a language model, from a local directory.

    wav2vec 2.0 large (960 h, self-trained) with normalised input and output, linear layers with leaky ReLU, CTC over
    characters. The directory holds `wav2vec2.ckpt`, `asr.ckpt` (the head) and `tokenizer.ckpt` (the characters).

    Differs from [vpc24]: means and variances of the two normalisations are the utterance's own; there they include the
    zeros that pad it to the longest of its batch of eight, so the WER depends on the batch (1.802 to 1.807 % for the
    same speech).

    Args:
        model: a name of `conf/models.yaml` or a directory.
        device: torch device.
    """

    languages = frozenset({"en"})

    def __init__(self, model: str, device: str = "cpu") -> None:
        place = models.find(model)
        self._labels = _labels(place / "tokenizer.ckpt")
        weights = place / "wav2vec2.ckpt"
        self._encoder = build(below(read_weights(weights, HINT), "model."), weights).to(device)
        self._head = _head(place / "asr.ckpt", len(self._labels)).to(device)
        self._device = device
        self.batch_s = 20.0 if device == "cpu" else 300.0
        self.about = f"wav2vec 2.0 CTC '{place.name}', greedy, no language model"

    @torch.inference_mode()
    def transcribe(self, wavs: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
        """See `Recognizer`."""
        lengths = torch.tensor([max(len(wav), SHORTEST) for wav in wavs])
        padded = torch.zeros(len(wavs), int(lengths.max()))
        for row, wav in zip(padded, wavs, strict=True):
            row[: len(wav)] = layer_norm(torch.from_numpy(np.ascontiguousarray(wav)), wav.shape)
        hidden, frames = self._encoder(padded.to(self._device), lengths.to(self._device))
        texts = []
        for row, count in zip(hidden, frames.tolist(), strict=True):
            own = row[:count]
            path = self._head(layer_norm(own, own.shape)).argmax(dim=-1)
            texts.append("".join(self._labels[i] for i in collapse(path.tolist())))
        return texts


def _labels(path: Path) -> list[str]:
    """The characters by index, written as Python literals: `'A' => 7` a line, then a rule and other settings."""
    from speechbrain.dataio.encoder import CTCTextEncoder

    encoder = CTCTextEncoder()
    encoder.ignore_len()
    try:
        encoder.load(path)
        return [str(encoder.ind2lab[i]) for i in range(len(encoder.ind2lab))]
    except (OSError, ValueError, SyntaxError, KeyError, RuntimeError) as error:
        raise UserError(f"not SpeechBrain's list of characters: {error}", path=path, hint=HINT) from error


def _head(path: Path, labels: int) -> nn.Module:
    """SpeechBrain's layers behind the encoder, sized by their weights: (F, D) -> (F, labels)."""
    from speechbrain.lobes.models.VanillaNN import VanillaNN
    from speechbrain.nnet.linear import Linear

    state = read_weights(path, HINT)
    hidden = [value for name, value in state.items() if name.startswith("0.") and name.endswith("weight")]
    if not hidden or "1.w.weight" not in state:
        raise UserError("not the weights of linear layers and a CTC output", path=path, hint=HINT)
    width, neurons = hidden[0].shape[1], hidden[0].shape[0]
    layers = VanillaNN([None, None, width], dnn_blocks=len(hidden), dnn_neurons=neurons)
    head = nn.ModuleList([layers, Linear(input_size=neurons, n_neurons=labels)])
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"the weights do not fit {labels} characters: {error}", path=path, hint=HINT
        ) from error
    return nn.Sequential(*head).eval()
